"""
The settings: read once, checked once, frozen.

Rule 1: whatever is wrong is said at once, one sentence for each mistake, in the words of where it was written.

Rule 2: every layer keeps its texts as they are and each field reads its own, so that the environment, a ``.env``, a
secret and a TOML file may all write the same thing. (pydantic-settings' own layers decode JSON on the way, fill in
``${...}``, pass over unknown variables, and can't say which of them a wrong value came from.)

Rule 3: the value of a secret is never in a mistake or a warning.
"""

from __future__ import annotations

import difflib
import io
import json
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from datetime import timedelta
from ipaddress import IPv6Address, ip_address, ip_interface, ip_network
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeAlias, get_args

from dotenv.parser import Binding, parse_stream
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    PrivateAttr,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from amiwatch.errors import ConfigurationError
from amiwatch.judgement.rules import POLICIES, Measure, Policy
from amiwatch.judgement.sources import HISTORY
from amiwatch.judgement.values import IPNetwork

PREFIX = "AMIWATCH_"
DELIMITER = "__"

DEFAULT_CONFIG = Path("/etc/amiwatch/amiwatch.toml")
"""Read if it is there; another one is named by ``AMIWATCH_CONFIG`` or ``--config``."""

SECRETS_DIRECTORY = Path("/run/secrets")
"""Where Docker and Podman put secrets. Those of systemd are in ``$CREDENTIALS_DIRECTORY``."""

MAX_FILE = 1 << 20
"""Octets read of a file: a hundred times what anybody writes, and an end to a pipe or a device that has none."""

MAX_DURATION = 3650 * 86400
"""Ten years, in seconds: longer is a slip of the pen, and the arithmetic of dates has an end."""

UINT32 = 2**32 - 1
"""The largest ``maxelem`` of a kernel set."""

RULES = tuple(dict.fromkeys(rule.name for rules in POLICIES.values() for rule in rules))
"""The names of all rows of all policies."""

FirewallName = Literal["ipset", "none"]
ModeName = Literal["enforce", "observe"]
DropRule = Literal["managed", "manual"]
LogLevel = Literal["debug", "info", "warning", "error"]
LoginKind = Literal["md5", "plain"]

# ── texts to values ──────────────────────────────────────────────────────────────────────────────────────────────────

_UNITS: Final = {"w": 604800, "d": 86400, "h": 3600, "m": 60, "s": 1}
_DURATION = re.compile("".join(rf"(?:(?P<{unit}>[0-9]{{1,12}}){unit})?" for unit in _UNITS))
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_DNS_NAME = re.compile(rf"(?=.{{1,253}}\Z)(?:{_LABEL}\.)*(?![0-9]+\Z){_LABEL}")
_PBX_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_SET_NAME = re.compile(r"[a-z][a-z0-9_-]{0,23}")
_PORT = re.compile(r"([0-9]{1,5})(?:[-:]([0-9]{1,5}))?(?:/(?:udp|tcp))?")


class Mistakes(ValueError):
    """Several mistakes in the value of one setting, one sentence each."""

    def __init__(self, sentences: Sequence[str]) -> None:
        self.sentences = sentences
        super().__init__("; ".join(sentences))


class Allowlist(NamedTuple):
    """Who is never banned, by the settings."""

    networks: tuple[IPNetwork, ...] = ()
    names: tuple[str, ...] = ()
    """DNS names in lower case, to be resolved by whoever does I/O."""


def parse_duration(text: str, *, least: int = 1, most: int = MAX_DURATION) -> int:
    """Read ``90``, ``10s``, ``10m``, ``1h30m``, ``24h``, ``7d`` or ``2w``. Returns seconds; raises ValueError."""
    bare = text.strip()
    found = _DURATION.fullmatch(bare)
    if not bare or (not found and not re.fullmatch(r"[0-9]{1,12}", bare)):
        raise ValueError(f"{text!r} is no duration; write 90, 10m, 24h or 7d")
    seconds = sum(int(found[unit] or 0) * size for unit, size in _UNITS.items()) if found else int(bare)
    if not least <= seconds <= most:
        raise ValueError(f"{text!r} is out of range; write {duration_text(least)} to {duration_text(most)}")
    return seconds


def duration_text(seconds: int) -> str:
    """Write seconds as ``parse_duration`` reads them, with as few units as possible: 5400 is ``1h30m``."""
    parts = []
    for unit in "dhms":
        amount, seconds = divmod(seconds, _UNITS[unit])
        if amount:
            parts.append(f"{amount}{unit}")
    if parts == ["1d"]:
        return "24h"  # as everybody writes it
    return "".join(parts) or "0s"


def _duration(value: object, least: int, most: int) -> int:
    if isinstance(value, timedelta):
        value = int(value.total_seconds())
    if not isinstance(value, int | str) or isinstance(value, bool):
        raise ValueError(f"{value!r} is no duration; write 90, 10m, 24h or 7d")
    return parse_duration(str(value), least=least, most=most)


def _seconds(least: int = 1, most: int = MAX_DURATION) -> BeforeValidator:
    return BeforeValidator(lambda value: _duration(value, least, most))


def _whole(least: int, most: int = UINT32) -> BeforeValidator:
    def read(value: object) -> int:
        text = str(value).strip().replace("_", "")
        if not re.fullmatch("[0-9]{1,12}", text):
            raise ValueError(f"{value!r} is no whole number; write {least} to {most}")
        if not least <= int(text) <= most:
            raise ValueError(f"{value!r} is out of range; write {least} to {most}")
        return int(text)

    return BeforeValidator(read)


def _share(value: object) -> float:
    text = str(value).strip()
    if not re.fullmatch(r"0|0?\.[0-9]{1,6}", text) or float(text) > 0.9:
        raise ValueError(f"{value!r} is no such share; write 0 to 0.9")
    return float(text)


def _yes_or_no(value: object) -> bool:
    word = str(value).strip().lower()
    if word in ("true", "yes", "on", "1"):
        return True
    if word in ("false", "no", "off", "0"):
        return False
    raise ValueError(f"{value!r} is neither; write true or false")


def _one_of(words: Iterable[str]) -> BeforeValidator:
    known = tuple(words)

    def read(value: object) -> str:
        word = str(value).strip().lower()
        if word not in known:
            raise ValueError(f"{value!r} is not known; write one of {', '.join(known)}")
        return word

    return BeforeValidator(read)


def _line(value: object) -> str:
    """Return a text that fits into one line of the AMI. What is wrong is said without the text: it may be a secret."""
    if not isinstance(value, str):
        raise ValueError("is no text; put it into quotes")
    if re.search(r"[\x00-\x1f\x7f]", value):
        raise ValueError("holds a line break or another control character; write it on one line")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("is not UTF-8") from None
    return value


def _secret(value: object) -> object:
    return value if isinstance(value, SecretStr) else _line(value)


def _host(value: object) -> str:
    text = _line(value).strip()
    if not text or re.search(r"[\s/]", text):
        raise ValueError(f"{value!r} is no host; write a name or an address, without port")
    return text.removeprefix("[").removesuffix("]")


def _matching(pattern: re.Pattern[str], wanted: str) -> BeforeValidator:
    def read(value: object) -> str:
        if not isinstance(value, str) or not pattern.fullmatch(value.strip()):
            raise ValueError(f"{value!r} is no such name; {wanted}")
        return value.strip()

    return BeforeValidator(read)


def _words(value: object, separator: str = r"[\s,]+") -> list[str]:
    """Split a list, however it is written: JSON, TOML, or a text with commas. Raises ValueError."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ValueError(f'{value!r} is no JSON list; write ["one", "two"], or one, two') from None
    if isinstance(value, str | int):
        value = re.split(separator, str(value).strip())
    if not isinstance(value, list | tuple | set | frozenset) or not all(isinstance(word, str | int) for word in value):
        raise ValueError("is no list of texts; write one, two")
    return [text for text in (str(word).strip() for word in value) if text]


def _each(words: Iterable[str], read: Callable[[str], Any]) -> list[Any]:
    """Read all words, so that all wrong ones are known. Raises Mistakes."""
    values, sentences = [], []
    for word in words:
        try:
            values.append(read(word))
        except ValueError as error:
            sentences.append(str(error))
    if sentences:
        raise Mistakes(sentences)
    return values


def _ladder(value: object) -> tuple[int, ...]:
    rungs = tuple(_each(_words(value), parse_duration))
    if not 0 < len(rungs) <= 20:
        raise ValueError("is no ladder; write 1 to 20 durations, for example 1h,24h,7d")
    return rungs


def _accounts(value: object) -> frozenset[str]:
    return frozenset(_words(value, separator=","))


def _allowed(value: object) -> Allowlist:
    if isinstance(value, Allowlist):
        return value
    found = dict.fromkeys(_each(_words(value), _network_or_name))
    return Allowlist(
        tuple(one for one in found if not isinstance(one, str)), tuple(one for one in found if isinstance(one, str))
    )


def _allowed_texts(allowlist: Allowlist) -> list[str]:
    return [*map(str, allowlist.networks), *allowlist.names]


def _network_or_name(word: str) -> IPNetwork | str:
    name = word.lower().removesuffix(".")
    if _DNS_NAME.fullmatch(name):
        return name
    try:
        if "/" not in word and isinstance(address := ip_address(word), IPv6Address) and address.ipv4_mapped:
            return ip_network(address.ipv4_mapped)
        return ip_network(word, strict=False)
    except ValueError:
        raise ValueError(
            f"{word!r} is no address, network or DNS name; write 192.0.2.7, 192.0.2.0/24 or office.example.com"
        ) from None


def _ports(value: object) -> str:
    words = [word.lower() for word in _words(value)]
    if not words or ("all" in words and len(words) > 1):
        raise ValueError(f"{value!r} names no ports; write voip, all, or for example 5060,5061,10000-20000")
    return ",".join(_each(words, _port))


def _port(word: str) -> str:
    found = _PORT.fullmatch(word)
    if word not in ("voip", "all") and not (found and 0 < int(found[1]) <= int(found[2] or found[1]) <= 65535):
        raise ValueError(f"{word!r} is no port; write 5060, 5060-5069 or 5060/udp, between 1 and 65535")
    return word


def _path(value: object) -> Path:
    if not isinstance(value, str | Path) or not str(value).strip() or "\0" in str(value):
        raise ValueError(f"{value!r} is no path of a file")
    try:
        return Path(value).expanduser()
    except RuntimeError:
        raise ValueError(f"{value!r} begins in the home of somebody who is not known here") from None


def _rule_name(value: object) -> str:
    if value not in RULES:
        raise ValueError(f"there is no such rule; the rules are {', '.join(RULES)}")
    return str(value)


DURATION: Final = "duration"
"""Marks the fields whose numbers are seconds, for those who write them down."""

Seconds: TypeAlias = Annotated[int, _seconds(), DURATION]
Flag: TypeAlias = Annotated[bool, BeforeValidator(_yes_or_no)]
Location: TypeAlias = Annotated[Path, BeforeValidator(_path)]
PbxName: TypeAlias = Annotated[str, _matching(_PBX_NAME, "write 1 to 32 of a-z, 0-9, _ and -")]

# ── the settings ─────────────────────────────────────────────────────────────────────────────────────────────────────

_POLICY = Policy()
_FROZEN = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=True)


class AmiSettings(BaseModel):
    """One Asterisk and how to log in to its manager interface."""

    model_config = _FROZEN

    host: Annotated[str, BeforeValidator(_host)] = Field(
        default="127.0.0.1", description="Name or address of the Asterisk whose manager interface (AMI) is listened to."
    )
    port: Annotated[int, _whole(1, 65535)] = Field(default=5038, description="TCP port of the manager interface.")
    username: Annotated[str, BeforeValidator(_line)] = Field(
        default="amiwatch", description="The user of manager.conf; `read = security` is all that it needs."
    )
    secret: Annotated[SecretStr, BeforeValidator(_secret)] | None = Field(
        default=None,
        description="The secret of that user; needed to run. A secrets directory keeps it out of the environment.",
    )
    tls: Flag = Field(default=False, description="Connect with TLS (`tlsenable` and port 5039 in manager.conf).")
    ca_file: Location | None = Field(
        default=None, description="PEM file of the certificates to trust instead of the system's, for TLS."
    )
    verify: Flag = Field(default=True, description="Check the certificate; false trusts whoever answers, for TLS.")
    server_name: Annotated[str, BeforeValidator(_host)] | None = Field(
        default=None, description="The name that the certificate must have, if it is not the host, for TLS."
    )
    login: Annotated[LoginKind, _one_of(get_args(LoginKind))] = Field(
        default="md5", description="`md5` proves the secret by a challenge, `plain` sends it as it is."
    )
    name: PbxName = Field(default="pbx", description="What this Asterisk is called in the database and in messages.")


class RuleSettings(BaseModel):
    """What is changed in one row of the policy; None leaves it."""

    model_config = _FROZEN

    limit: Annotated[int, _whole(0, HISTORY)] | None = Field(
        default=None,
        description=f"How many of what the rule counts make an offender (1 to {HISTORY}); 0 switches it off.",
    )
    find_time: Seconds | None = Field(default=None, description="Duration within which they are counted.")


class Settings(BaseSettings):
    """
    Everything that can be set. Durations are seconds.

    ``Settings(...)`` reads nothing but its arguments; ``load()`` reads the layers.
    """

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        validate_default=True,
        env_prefix=PREFIX,
        env_nested_delimiter=DELIMITER,
    )

    ami: AmiSettings = Field(default=AmiSettings(), description="One Asterisk.")
    pbx: dict[PbxName, AmiSettings] = Field(default={}, description="Several, by name.")
    database: Location = Field(
        default=Path("/var/lib/amiwatch/amiwatch.db"),
        description="File of the SQLite database; under systemd, $STATE_DIRECTORY/amiwatch.db.",
    )
    firewall: Annotated[FirewallName, _one_of(get_args(FirewallName))] = Field(
        default="ipset",
        description="`ipset` bans in the kernel's sets, `none` is a dry run that remembers bans and drops nothing.",
    )
    mode: Annotated[ModeName, _one_of(get_args(ModeName))] = Field(
        default="enforce", description="`enforce` blocks; `observe` judges and records everything and blocks nothing."
    )
    set_name: Annotated[str, _matching(_SET_NAME, "write 1 to 24 of a-z, 0-9, _ and -, a letter first")] = Field(
        default="amiwatch", description="How the names of our kernel sets begin, and of the chain that drops."
    )
    set_size: Annotated[int, _whole(1)] = Field(
        default=1_000_000, description="Entries that each kernel set takes (a full set of a million costs about 40 MB)."
    )
    ports: Annotated[str, BeforeValidator(_ports)] = Field(
        default="voip",
        description="Ports that are closed to banned addresses: `voip`, `all`, or a list like 5060,5061,10000-20000.",
    )
    drop_rule: Annotated[DropRule, _one_of(get_args(DropRule))] = Field(
        default="managed", description="`managed` checks and places the rule that drops, `manual` leaves it to you."
    )
    reconcile_time: Annotated[int, _seconds(1, 3600), DURATION] = Field(
        default=2,
        description="Duration between two looks at what the kernel holds; up to 4s mends a flushed set in 5s.",
    )
    allowlist: Annotated[Allowlist, PlainValidator(_allowed), PlainSerializer(_allowed_texts)] = Field(
        default=Allowlist(),
        description="Addresses, networks and DNS names that are never banned, as a list with commas or in JSON.",
    )
    allow_private: Flag = Field(default=False, description="Never ban private networks (RFC 1918, RFC 4193).")
    policy: Annotated[str, _one_of(POLICIES)] = Field(
        default=_POLICY.name,
        description="`office` for most; `closed` where every phone is known: the first unknown account bans.",
    )
    rules: dict[Annotated[str, BeforeValidator(_rule_name)], RuleSettings] = Field(
        default={}, description="Rows of the policy that are changed."
    )
    ban_time: Annotated[tuple[int, ...], BeforeValidator(_ladder), DURATION] = Field(
        default=_POLICY.ladder,
        description="Durations of the first, second, ... ban of an offender; the last serves for all further ones.",
    )
    ban_jitter: Annotated[float, BeforeValidator(_share)] = Field(
        default=_POLICY.jitter, description="Share (0 to 0.9) by which a ban is made longer or shorter at random."
    )
    decay: Seconds = Field(
        default=_POLICY.decay, description="Quiet duration after which an offender falls by one rung."
    )
    trust_time: Annotated[int, _seconds(0), DURATION] = Field(
        default=_POLICY.trust_time,
        description="Duration for which a successful login protects its source; 0s is no trust.",
    )
    trust_factor: Annotated[int, _whole(1, HISTORY)] = Field(
        default=_POLICY.trust_factor, description="A trusted source may try this many times as many unknown accounts."
    )
    answer_time: Seconds = Field(
        default=_POLICY.answer_time, description="Duration for which a challenge may stay unanswered before it counts."
    )
    unproven_bans: Annotated[int, _whole(0)] = Field(
        default=_POLICY.unproven_bans,
        description="Most new bans per minute on evidence that forged UDP packets could make.",
    )
    tripwires: Annotated[frozenset[str], BeforeValidator(_accounts)] = Field(
        default=_POLICY.tripwires,
        description="Accounts that nobody honest uses: one attempt on them bans. A list with commas.",
    )
    ban_chan_sip: Flag = Field(
        default=_POLICY.ban_chan_sip,
        description="Ban on events of chan_sip too, although the attacker chooses their addresses.",
    )
    max_sources: Annotated[int, _whole(100)] = Field(
        default=_POLICY.max_sources, description="Sources watched at once; each takes up to about 2 kB."
    )
    max_offenders: Annotated[int, _whole(100)] = Field(
        default=_POLICY.max_offenders, description="Former offenders that are remembered."
    )
    max_trusted: Annotated[int, _whole(100)] = Field(
        default=_POLICY.max_trusted, description="Trusted sources that are remembered."
    )
    keep: Annotated[int, _seconds(3600), DURATION] = Field(
        default=90 * 86400, description="Duration for which ended bans, attempts and alerts stay in the database."
    )
    max_attempt_rows: Annotated[int, _whole(1000)] = Field(
        default=2_000_000, description="Most rows of attempts in the database; beyond it the oldest go."
    )
    log_level: Annotated[LogLevel, _one_of(get_args(LogLevel))] = Field(
        default="info", description="How much is logged: `debug`, `info`, `warning` or `error`."
    )

    _warnings: tuple[str, ...] = PrivateAttr(())

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is no mistake but should be looked at, one sentence each."""
        return self._warnings

    def pbxs(self) -> dict[str, AmiSettings]:
        """Return every Asterisk by its name. ``ami`` is one of them if it was set, or if it is the only one."""
        return {one.name: one for _, one in self.by_path()}

    def require_ami(self) -> dict[str, AmiSettings]:
        """Return ``pbxs()`` if each can be connected to; else raise ConfigurationError."""
        mistakes = [
            f"{_variable((*path, 'secret'))} is missing; write the secret of the user {one.username!r} of manager.conf"
            for path, one in self.by_path()
            if one.secret is None or not one.secret.get_secret_value()
        ]
        mistakes += [
            f"{_variable((*path, 'ca_file'))}: {str(one.ca_file)!r} can't be read"
            for path, one in self.by_path()
            if one.ca_file and not os.access(one.ca_file, os.R_OK)
        ]
        if mistakes:
            raise ConfigurationError(mistakes)
        return self.pbxs()

    def judgement_policy(self) -> Policy:
        """Return the policy in force: the chosen one with the overrides."""
        rules = []
        for rule in POLICIES[self.policy]:
            change = self.rules.get(rule.name, RuleSettings())
            limit = rule.limit if change.limit is None else change.limit
            if limit:
                rules.append(replace(rule, limit=limit, find_time=change.find_time or rule.find_time))
        return Policy(
            name=self.policy,
            rules=tuple(rules),
            ladder=self.ban_time,
            jitter=self.ban_jitter,
            decay=self.decay,
            trust_time=self.trust_time,
            trust_factor=self.trust_factor,
            answer_time=self.answer_time,
            unproven_bans=self.unproven_bans,
            tripwires=self.tripwires,
            ban_chan_sip=self.ban_chan_sip,
            max_sources=self.max_sources,
            max_offenders=self.max_offenders,
            max_trusted=self.max_trusted,
        )

    @model_validator(mode="after")
    def _check_together(self) -> Settings:
        sentences = []
        names = [one.name for _, one in self.by_path()]
        if len(set(names)) < len(names):
            sentences.append(f"{PREFIX}PBX: two Asterisks have the same name; the names are {', '.join(names)}")
        sentences += [
            f"{PREFIX}TRUST_FACTOR: {self.trust_factor} times the limit {rule.limit} of the rule {rule.name!r} is more "
            f"than the {HISTORY} attempts that are kept of a source"
            for rule in self.judgement_policy().rules
            if rule.measure is Measure.ACCOUNTS and rule.limit * self.trust_factor > HISTORY
        ]
        if sentences:
            raise Mistakes(sentences)
        return self

    def by_path(self) -> list[tuple[tuple[str, ...], AmiSettings]]:
        """Pair every Asterisk with the path of its settings: ``("ami",)``, ``("pbx", "berlin")``."""
        several: list[tuple[tuple[str, ...], AmiSettings]] = [
            (("pbx", key), one if "name" in one.model_fields_set else one.model_copy(update={"name": key}))
            for key, one in self.pbx.items()
        ]
        if not several or "ami" in self.model_fields_set:
            several.insert(0, (("ami",), self.ami))
        return several

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take the arguments, then what ``load()`` read, and nothing that it did not."""
        return (init_settings, *(InitSettingsSource(settings_cls, layer.tree()) for layer in _LAYERS.get()))


# ── the layers ───────────────────────────────────────────────────────────────────────────────────────────────────────

TWINS = {
    "ignoreip": "allowlist",
    "maxretry": "rules__scan__limit",
    "findtime": "rules__scan__find_time",
    "bantime": "ban_time",
}
"""What fail2ban calls it, and what we do."""

_GROUPS = ("ami", "pbx", "rules")


@dataclass(frozen=True)
class _Layer:
    """What one source says: path of each setting to its value."""

    values: dict[tuple[str, ...], object]
    file: str = ""
    """Where it was read; empty for the environment."""
    is_toml: bool = False

    def called(self, path: Sequence[str]) -> str:
        """Name a setting as it is written there."""
        if self.is_toml:
            return f"{self.file}: {_written(path, self)}"
        return f"{_variable(path)} ({self.file})" if self.file else _variable(path)

    def tree(self) -> dict[str, Any]:
        root: dict[str, Any] = {}
        for path, value in self.values.items():
            place = root
            for part in path[:-1]:
                place = place.setdefault(part, {})
            place[path[-1]] = value
        return root

    def nearness(self, path: Sequence[str]) -> int:
        """Count the parts that a path shares with what was set here."""
        return max((_shared(path, one) for one in self.values), default=0)


_LAYERS: ContextVar[tuple[_Layer, ...]] = ContextVar("layers", default=())
"""What ``Settings`` is built from, besides its arguments, while ``load()`` runs."""


def load(
    *,
    config: Path | None = None,
    environ: Mapping[str, str] = os.environ,
    env_file: Path | None = Path(".env"),
    default_config: Path = DEFAULT_CONFIG,
    secrets_directory: Path = SECRETS_DIRECTORY,
    overrides: Mapping[str, object] | None = None,
) -> Settings:
    """
    Read the settings: overrides, environment, ``.env``, secrets, TOML; the first that says something counts.

    ``config`` is the TOML file; None leaves it to ``AMIWATCH_CONFIG`` and to the default file, which need not exist.
    Raises ConfigurationError with every mistake of every source.
    """
    reader = _Reader()
    reader.read_variables(environ)
    if env_file:
        reader.read_env_file(env_file)
    if "CREDENTIALS_DIRECTORY" in environ:
        reader.read_secrets(Path(environ["CREDENTIALS_DIRECTORY"]))
    reader.read_secrets(secrets_directory)
    named = config or reader.config
    reader.read_toml(named or default_config, is_named=named is not None)
    if state := environ.get("STATE_DIRECTORY", "").split(":")[0]:
        reader.layers.append(_Layer({("database",): Path(state) / "amiwatch.db"}))
    return _built(reader, dict(overrides or {}))


def _built(reader: _Reader, overrides: dict[str, Any]) -> Settings:
    given = _Layer(dict(_leaves(overrides)))
    token = _LAYERS.set(tuple(reader.layers))
    try:
        settings = Settings(**overrides)
    except ValidationError as error:
        reader.mistakes += _sentences(error, [given, *reader.layers])
    finally:
        _LAYERS.reset(token)
    if reader.mistakes:
        raise ConfigurationError(reader.mistakes)
    settings._warnings = (*reader.warnings, *_doubts(settings, [given, *reader.layers]))  # noqa: SLF001 (frozen for others)
    return settings


class _Reader:
    """Reads the sources one after the other, the most important first, and gathers what is wrong."""

    def __init__(self) -> None:
        self.layers: list[_Layer] = []
        self.mistakes: list[str] = []
        self.warnings: list[str] = []
        self.config: Path | None = None
        """The TOML file that a variable named."""

    def read_variables(self, variables: Mapping[str, str], file: str = "") -> None:
        """Take those with our prefix. An empty one counts as not set."""
        ours = {name: text for name, text in variables.items() if name.upper().startswith(PREFIX)}
        values: dict[tuple[str, ...], object] = {
            tuple(name[len(PREFIX) :].lower().split(DELIMITER)): text for name, text in ours.items()
        }
        if text := str(values.pop(("config",), "")):
            self._name_config(text)
        self._add(_Layer(values, file))

    def _name_config(self, text: str) -> None:
        try:
            self.config = self.config or _path(text)
        except ValueError as error:
            self.mistakes.append(f"{_variable(['config'])}: {error}")

    def read_env_file(self, path: Path) -> None:
        text = self._text(path, is_named=False)
        if text is None:
            return
        bindings = list(parse_stream(io.StringIO(text)))
        self.mistakes += [f"{path}: line {_line_number(one)} is no NAME=value" for one in bindings if one.error]
        self.read_variables({one.key: one.value or "" for one in bindings if one.key and not one.error}, str(path))
        self._warn_if_open(path)

    def read_secrets(self, directory: Path) -> None:
        """Read the files that are named like our variables; whitespace around a value is not part of it."""
        try:
            files = [one for one in sorted(directory.iterdir()) if one.name.upper().startswith(PREFIX)]
        except OSError:
            return
        texts = {one.name: self._text(one, is_named=False) for one in files if one.is_file()}
        self.read_variables({name: text.strip() for name, text in texts.items() if text}, str(directory))

    def read_toml(self, path: Path, *, is_named: bool) -> None:
        text = self._text(path, is_named=is_named)
        if text is None:
            return
        try:
            tables = tomllib.loads(text)
        except RecursionError:
            self.mistakes.append(f"{path}: is nested too deeply")
            return
        except tomllib.TOMLDecodeError as error:
            what, _, place = str(error).rstrip(")").rpartition(" (at ")
            self.mistakes.append(f"{path}: {place}: {what}")
            return
        self._add(_Layer(dict(_leaves(tables)), str(path), is_toml=True))
        self._warn_if_open(path)

    def _add(self, layer: _Layer) -> None:
        unknown = {path: fault for path in layer.values if (fault := _fault(path, layer))}
        self.mistakes += [f"{layer.called(path)}: {fault}" for path, fault in unknown.items()]
        values = {path: value for path, value in layer.values.items() if path not in unknown and value != ""}
        self.layers.append(replace(layer, values=values))

    def _text(self, path: Path, *, is_named: bool) -> str | None:
        """Read a file, or say why not and return None."""
        try:
            with path.open("rb") as file:
                octets = file.read(MAX_FILE + 1)
            if len(octets) <= MAX_FILE:
                return octets.decode()
            self.mistakes.append(f"{path}: is longer than {MAX_FILE} octets")
        except FileNotFoundError:
            if is_named:
                self.mistakes.append(f"{path}: there is no such file; it was named by --config or {PREFIX}CONFIG")
        except UnicodeDecodeError:
            self.mistakes.append(f"{path}: is not UTF-8")
        except OSError as error:
            found = self.mistakes if is_named else self.warnings
            found.append(f"{path}: can't be read ({error.strerror}); what it says is not in force")
        return None

    def _warn_if_open(self, path: Path) -> None:
        if any(one[-1] == "secret" for one in self.layers[-1].values) and path.stat().st_mode & 0o004:
            self.warnings.append(f"{path}: holds a secret and everybody can read it; chmod o-rwx {path}")


def _line_number(binding: Binding) -> int:
    """Return where it begins; dotenv counts the empty lines above as a part of it."""
    text = binding.original.string
    return binding.original.line + text[: len(text) - len(text.lstrip())].count("\n")


def _leaves(tables: Mapping[str, object], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    for key, value in tables.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*above, str(key)))
        else:
            yield (*above, str(key)), value


def _shared(one: Sequence[str], other: Sequence[str]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _variable(path: Sequence[str]) -> str:
    return _shown(PREFIX + DELIMITER.join(path).upper())


def _shown(name: str) -> str:
    """Return a name that can neither break a line nor colour a terminal."""
    return name if name.isprintable() else ascii(name)


def _fault(path: tuple[str, ...], layer: _Layer) -> str:
    """Say what is wrong with the name of a setting; empty if it is known."""
    known = {
        DELIMITER.join(one): one for one in _known(path[1] if path[0] in ("pbx", "rules") and path[1:] else "name")
    }
    flat = DELIMITER.join(path)
    if known.get(flat) == path:
        return ""
    if flat in _GROUPS:
        example = next(one for one in known.values() if one[0] == flat)
        return f"is a group of settings; write for example {_written(example, layer)}"
    near = [TWINS[flat]] if flat in TWINS else difflib.get_close_matches(flat, known, n=1, cutoff=0.6)
    if not near:
        return "there is no such setting"
    return f"there is no such setting; did you mean {_written(known[near[0]], layer)}?"


def _written(path: Sequence[str], layer: _Layer) -> str:
    return _shown(".".join(path)) if layer.is_toml else _variable(path)


def _known(name: str) -> Iterator[tuple[str, ...]]:
    """Yield the path of every setting, with ``name`` for the PBX or the rule, and of each rule of the policies."""
    yield from ((one,) for one in Settings.model_fields if one not in _GROUPS)
    yield from (("ami", one) for one in AmiSettings.model_fields)
    yield from (("pbx", name, one) for one in AmiSettings.model_fields)
    for rule in dict.fromkeys([*RULES, name]):
        yield from (("rules", rule, one) for one in RuleSettings.model_fields)


def _sentences(error: ValidationError, layers: Sequence[_Layer]) -> Iterator[str]:
    """Yield one sentence for each mistake, with the name of the setting as its source writes it."""
    for one in error.errors(include_url=False, include_input=False):
        cause = one.get("ctx", {}).get("error")
        path = [str(part) for part in one["loc"] if isinstance(part, str) and part != "[key]"]
        texts = cause.sentences if isinstance(cause, Mistakes) else [str(cause or one["msg"])]
        where = max(layers, key=lambda layer: layer.nearness(path)).called(path) + ": " if path else ""
        yield from (where + text for text in texts)


def _doubts(settings: Settings, layers: Sequence[_Layer]) -> Iterator[str]:
    """Yield what is no mistake, but perhaps not meant."""
    yield from _doubts_of_allowlist(layers)
    for path, one in settings.by_path():
        if one.tls and not one.verify:
            yield f"{_variable((*path, 'verify'))}: whoever answers in the place of {one.host!r} is trusted"
        if one.login == "plain" and not one.tls and not _is_loopback(one.host):
            yield f"{_variable((*path, 'login'))}: the secret goes to {one.host!r} readable; use md5, or TLS"


def _doubts_of_allowlist(layers: Sequence[_Layer]) -> Iterator[str]:
    layer = next((layer for layer in layers if ("allowlist",) in layer.values), None)
    value = layer.values["allowlist",] if layer else ()
    if not layer or isinstance(value, Allowlist):
        return
    for word in _words(value):
        found = _network_or_name(word)
        if isinstance(found, str):
            continue
        if "/" in word and found.network_address != ip_interface(word).ip:
            yield f"{layer.called(['allowlist'])}: {word!r} is taken as the network {found}"
        if not found.prefixlen:
            yield f"{layer.called(['allowlist'])}: {word!r} is everybody; nobody will be banned"


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


# ── the settings, written down ───────────────────────────────────────────────────────────────────────────────────────

COUNTED = {
    Measure.ATTEMPTS: "failed attempts",
    Measure.ACCOUNTS: "accounts that don't exist",
    Measure.GUESSES: "passwords on accounts that exist",
    Measure.UNANSWERED: "challenges that nobody answered",
    Measure.AMI: "failed logins to the manager",
    Measure.TRIPWIRE: "attempts on tripwire accounts",
}
"""What a rule counts, in words."""

_HEADINGS = {
    ("ami", "host"): "The Asterisk to listen to",
    ("database",): "What is kept, and what is blocked",
    ("allowlist",): "Who is never banned",
    ("policy",): "Who is banned, and for how long",
    ("keep",): "Housekeeping",
    ("rules", RULES[0], "limit"): f"The rows of the policy (here those of {_POLICY.name}); each is another window",
}
"""Path of the first setting under each heading of the example."""


class Described(NamedTuple):
    """A setting for people: how to write it, and what it is."""

    path: tuple[str, ...]
    default: str
    sentence: str


def described() -> Iterator[Described]:
    """Yield every setting with its default, those of rules with the numbers of the default policy."""
    for name, info in AmiSettings.model_fields.items():
        yield Described(("ami", name), _default_text(info), info.description or "")
    for name, info in Settings.model_fields.items():
        if name not in _GROUPS:
            yield Described((name,), _default_text(info), info.description or "")
    for rule in _POLICY.rules:
        limit = f"How many {COUNTED[rule.measure]} make a source an offender, at most {HISTORY}; 0 switches it off."
        yield Described(("rules", rule.name, "limit"), str(rule.limit), limit)
        since = "Duration within which they are counted."
        yield Described(("rules", rule.name, "find_time"), duration_text(rule.find_time), since)


def _default_text(info: FieldInfo) -> str:
    value = info.default
    if DURATION in info.metadata:
        return ",".join(map(duration_text, value if isinstance(value, tuple) else [value]))
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None or value in (Allowlist(), frozenset()) else str(value)


def example() -> str:
    """Return what ``.env.example`` holds; a test compares them."""
    lines = [
        "# The settings of amiwatch: copy this to .env in the directory where amiwatch runs, fill in the secret, and",
        "# let nobody else read it (chmod 600). The lines that are commented out show the defaults.",
        "#",
        "# Durations are written 90 (seconds), 10s, 10m, 1h30m, 24h, 7d or 2w. An empty value counts as not set. The",
        "# environment counts more than this file; docs/configuration.md says the rest.",
    ]
    for path, default, sentence in described():
        if path in _HEADINGS:
            lines += ["", f"## {_HEADINGS[path]}"]
        lines += ["", f"# {sentence} Default: {default or 'none'}."]
        lines.append(f"{'' if path == ('ami', 'secret') else '#'}{_variable(path)}={default}")
    several = [f"#{_variable(('pbx', 'berlin', name))}=" for name in AmiSettings.model_fields]
    lines += ["", "## Several Asterisks: the same settings as for one, after a name of your choice", "", *several]
    return "\n".join(lines) + "\n"


def settings_table() -> str:
    """Return the table of all settings but the rules' in ``docs/configuration.md``; a test compares them."""
    rows = [
        f"| `{_variable(path)}` | {f'`{default}`' if default else '–'} | {sentence} |"
        for path, default, sentence in described()
        if path[0] != "rules"
    ]
    return "\n".join(["| setting | default | what it is |", "|---|---|---|", *rows])


def rules_table() -> str:
    """Return the table of the policies in ``docs/configuration.md``; a test compares them."""
    lines = [f"| rule | counts | {' | '.join(POLICIES)} |", f"|---|---|{'---|' * len(POLICIES)}"]
    by_name = [{rule.name: rule for rule in rules} for rules in POLICIES.values()]
    for name in RULES:
        found = [rules.get(name) for rules in by_name]
        counts = next(COUNTED[rule.measure] for rule in found if rule)
        cells = [f"{rule.limit} in {duration_text(rule.find_time)}" if rule else "–" for rule in found]
        lines.append(f"| `{name}` | {counts} | {' | '.join(cells)} |")
    return "\n".join(lines)
