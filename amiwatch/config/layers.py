"""
Where settings come from: the environment, a ``.env``, secrets, a TOML file.

Rule 1: whatever is wrong is said at once, one sentence for each mistake, in the words of where it was written.

Rule 2: every layer keeps its texts as they are and each field reads its own, so that all layers may write the same
thing. (pydantic-settings' own layers decode JSON on the way, fill in ``${...}``, pass over unknown variables, and can't
say which of them a wrong value came from; merging and checking is theirs.)

Rule 3: the value of a secret is never in a mistake or a warning.
"""

from __future__ import annotations

import difflib
import io
import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_interface
from itertools import takewhile
from pathlib import Path
from typing import Any

from dotenv.parser import Binding, parse_stream
from pydantic import ValidationError

from amiwatch.config.settings import (
    DELIMITER,
    GROUPS,
    LAYERS,
    PREFIX,
    RULES,
    AmiSettings,
    RuleSettings,
    Settings,
    shown,
    variable,
)
from amiwatch.config.texts import Allowlist, Mistakes, duration_text, location, network_or_name, words_of
from amiwatch.errors import ConfigurationError
from amiwatch.judgement.rules import Rule

DEFAULT_CONFIG = Path("/etc/amiwatch/amiwatch.toml")
"""Read if it is there; another one is named by ``AMIWATCH_CONFIG`` or ``--config``."""

SECRETS_DIRECTORY = Path("/run/secrets")
"""Where Docker and Podman put secrets. Those of systemd are in ``$CREDENTIALS_DIRECTORY``."""

MAX_FILE = 1 << 20
"""Octets read of a file: a hundred times what anybody writes, and an end to a pipe or a device that has none."""

TWINS = {
    "ignoreip": "allowlist",
    "maxretry": "rules__scan__limit",
    "findtime": "rules__scan__find_time",
    "bantime": "ban_time",
}
"""What fail2ban calls it, and what we do."""


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
        return f"{variable(path)} ({self.file})" if self.file else variable(path)

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
    if unknown := [f"{given.called(path)}: {fault}" for path in given.values if (fault := _fault(path, given))]:
        raise ConfigurationError(reader.mistakes + unknown)
    token = LAYERS.set(tuple(layer.tree() for layer in reader.layers))
    try:
        settings = Settings(**overrides)
    except ValidationError as error:
        reader.mistakes += _sentences(error, [given, *reader.layers])
    finally:
        LAYERS.reset(token)
    if reader.mistakes:
        raise ConfigurationError(reader.mistakes)
    settings._unread = tuple(reader.unread)  # noqa: SLF001 (frozen for others)
    layers = [given, *reader.layers]
    settings._origins = {path: one.called(path) for one in reversed(layers) for path in one.values}  # noqa: SLF001
    settings._warnings = (*reader.unread, *reader.warnings, *_doubts(settings, layers))  # noqa: SLF001
    return settings


class _Reader:
    """Reads the sources one after the other, the most important first, and gathers what is wrong."""

    def __init__(self) -> None:
        self.layers: list[_Layer] = []
        self.mistakes: list[str] = []
        self.warnings: list[str] = []
        self.unread: list[str] = []
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
            self.config = self.config or location(text)
        except ValueError as error:
            self.mistakes.append(f"{variable(['config'])}: {error}")

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
            self.mistakes.append(f"{path}: {_fault_of_toml(error, text)}")
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
            found = self.mistakes if is_named else self.unread
            found.append(f"{path}: can't be read ({error.strerror}); what it says is not in force")
        return None

    def _warn_if_open(self, path: Path) -> None:
        if any(one[-1] == "secret" for one in self.layers[-1].values) and path.stat().st_mode & 0o004:
            self.warnings.append(f"{path}: holds a secret and everybody can read it; chmod o-rwx {path}")


def _fault_of_toml(error: tomllib.TOMLDecodeError, text: str) -> str:
    """Say where a file can't be read, and how it is written. The faulty text is not shown: it may be a secret."""
    what, _, place = str(error).rstrip(")").rpartition(" (at ")
    if place == "end of document":
        place = f"line {max(1, len(text.splitlines()))}, its end"
    return f'{place}: {what}; write name = "text", name = 12 or name = ["one", "two"]'


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


def _fault(path: tuple[str, ...], layer: _Layer) -> str:
    """Say what is wrong with the name of a setting; empty if it is known."""
    known = {
        DELIMITER.join(one): one for one in _known(path[1] if path[0] in ("pbx", "rules") and path[1:] else "name")
    }
    flat = DELIMITER.join(path)
    if known.get(flat) == path:
        return ""
    if flat in GROUPS:
        example = next(one for one in known.values() if one[0] == flat)
        return f"is a group of settings; write for example {_written(example, layer)}"
    near = [TWINS[flat]] if flat in TWINS else difflib.get_close_matches(flat, known, n=1, cutoff=0.6)
    if not near:
        return "there is no such setting"
    return f"there is no such setting; did you mean {_written(known[near[0]], layer)}?"


def _written(path: Sequence[str], layer: _Layer) -> str:
    return shown(".".join(path)) if layer.is_toml else variable(path)


def _known(name: str) -> Iterator[tuple[str, ...]]:
    """Yield the path of every setting, with ``name`` for the PBX or the rule, and of each rule of the policies."""
    yield from ((one,) for one in Settings.model_fields if one not in GROUPS)
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
    if settings.ban_chan_sip:
        yield (
            f"{variable(['ban_chan_sip'])}: chan_sip reports whatever address the sender writes into Via, so "
            "anybody can have those banned who are neither trusted nor allowed; move the phones to PJSIP"
        )
    yield from _doubts_of_rules(settings, layers)
    for path, one in settings.by_path():
        if one.tls and not one.verify:
            yield f"{variable((*path, 'verify'))}: whoever answers in the place of {one.host!r} is trusted"
        if one.login == "plain" and not one.tls and not _is_loopback(one.host):
            yield f"{variable((*path, 'login'))}: the secret goes to {one.host!r} readable; use md5, or TLS"


def _doubts_of_rules(settings: Settings, layers: Sequence[_Layer]) -> Iterator[str]:
    """Yield limits that were set and can't decide, for a longer window has a lower one."""
    rows = [rule for rule in settings.judgement_policy().rules if rule.limit]
    for rule in rows:
        path = ("rules", rule.name, "limit")
        layer = next((layer for layer in layers if path in layer.values), None)
        sooner = next((other for other in rows if _decides_before(other, rule)), None)
        if layer and sooner:
            yield (
                f"{layer.called(path)}: {rule.limit} in {duration_text(rule.find_time)} never decides, for the rule "
                f"{sooner.name!r} does at {sooner.limit} in {duration_text(sooner.find_time)}; raise that, too"
            )


def _decides_before(one: Rule, other: Rule) -> bool:
    is_wider = one.measure is other.measure and one.find_time >= other.find_time and one.unless <= other.unless
    return is_wider and one.limit < other.limit and one.unproven_limit <= other.unproven_limit


def _doubts_of_allowlist(layers: Sequence[_Layer]) -> Iterator[str]:
    layer = next((layer for layer in layers if ("allowlist",) in layer.values), None)
    value = layer.values["allowlist",] if layer else ()
    if not layer or isinstance(value, Allowlist):
        return
    for word in words_of(value):
        found = network_or_name(word)
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
