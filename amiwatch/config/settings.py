"""The settings: every field with its default, its bounds and the sentence that the documentation says of it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    PrivateAttr,
    SecretStr,
    model_validator,
)
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from amiwatch.config import texts
from amiwatch.config.texts import Allowlist, Mistakes
from amiwatch.errors import ConfigurationError
from amiwatch.judgement.crowds import MAX_CROWD
from amiwatch.judgement.neighbours import MAX_HOSTS
from amiwatch.judgement.rules import POLICIES, Measure, Policy, Rule
from amiwatch.judgement.sources import HISTORY
from amiwatch.judgement.trust import MAX_ACCOUNTS
from amiwatch.judgement.values import IPV6_PREFIX

PREFIX = "AMIWATCH_"
DELIMITER = "__"

RULES = tuple(dict.fromkeys(rule.name for rules in POLICIES.values() for rule in rules))
"""The names of all rows of all policies."""

FirewallName = Literal["ipset", "nftables", "auto", "none"]
ModeName = Literal["enforce", "observe"]
DropRule = Literal["managed", "manual"]
LogLevel = Literal["debug", "info", "warning", "error"]
LoginKind = Literal["md5", "plain"]

_PBX_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_SET_NAME = re.compile(r"[a-z][a-z0-9_-]{0,23}")

LAYERS: ContextVar[tuple[Mapping[str, Any], ...]] = ContextVar("layers", default=())
"""What ``Settings`` is built from, besides its arguments, while ``load()`` runs: the most important first."""


def _rule_name(value: object) -> str:
    if value not in RULES:
        raise ValueError(f"there is no such rule; the rules are {', '.join(RULES)}")
    return str(value)


DURATION: Final = "duration"
"""Marks the fields whose numbers are seconds, for those who write them down."""

Seconds: TypeAlias = Annotated[int, texts.seconds_between(), DURATION]
Flag: TypeAlias = Annotated[bool, BeforeValidator(texts.yes_or_no)]
Location: TypeAlias = Annotated[Path, BeforeValidator(texts.location)]
PbxName: TypeAlias = Annotated[str, texts.matching(_PBX_NAME, "write 1 to 32 of a-z, 0-9, _ and -")]

CROWD_LEAST = 4
"""Fewest sources that may be called a mass failure or a storm: so many fail together by chance."""

CAMPAIGN_LEAST = 5
"""Fewest addresses that may be banned for guessing at one account: so many people may mistype the same."""

POLICY = Policy()
"""Where the defaults of the judgement come from."""

_FROZEN = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=True)


GROUPS = ("ami", "pbx", "rules")
"""The fields of ``Settings`` that hold further settings."""


class AmiSettings(BaseModel):
    """One Asterisk and how to log in to its manager interface."""

    model_config = _FROZEN

    host: Annotated[str, BeforeValidator(texts.host)] = Field(
        default="127.0.0.1", description="Name or address of the Asterisk whose manager interface (AMI) is listened to."
    )
    port: Annotated[int, texts.whole(1, 65535)] = Field(default=5038, description="TCP port of the manager interface.")
    username: Annotated[str, BeforeValidator(texts.line)] = Field(
        default="amiwatch", description="The user of manager.conf; `read = security` is all that it needs."
    )
    secret: Annotated[SecretStr, BeforeValidator(texts.secret_line)] | None = Field(
        default=None,
        description="The secret of that user; needed to run. A secrets directory keeps it out of the environment.",
    )
    tls: Flag = Field(default=False, description="Connect with TLS (`tlsenable` and port 5039 in manager.conf).")
    ca_file: Location | None = Field(
        default=None, description="PEM file of the certificates to trust instead of the system's, for TLS."
    )
    verify: Flag = Field(default=True, description="Check the certificate; false trusts whoever answers, for TLS.")
    server_name: Annotated[str, BeforeValidator(texts.host)] | None = Field(
        default=None, description="The name that the certificate must have, if it is not the host, for TLS."
    )
    login: Annotated[LoginKind, texts.one_of(get_args(LoginKind))] = Field(
        default="md5", description="`md5` proves the secret by a challenge, `plain` sends it as it is."
    )
    name: PbxName = Field(default="pbx", description="What this Asterisk is called in the database and in messages.")


class RuleSettings(BaseModel):
    """What is changed in one row of the policy; None leaves it."""

    model_config = _FROZEN

    limit: Annotated[int, texts.whole(0, HISTORY)] | None = Field(
        default=None,
        description=f"How many of what the rule counts make an offender (1 to {HISTORY}); 0 switches it off.",
    )
    unproven_limit: Annotated[int, texts.whole(0, HISTORY)] | None = Field(
        default=None,
        description="The same where forged UDP packets could be among them, not less; 0 lets only proven ones ban.",
    )
    find_time: Seconds | None = Field(default=None, description="Duration within which they are counted.")

    def changed(self, rule: Rule) -> Rule:
        """Return the row with these numbers; a limit that is set alone moves the other one with it."""
        limit = rule.limit if self.limit is None else self.limit
        moved = rule.unproven_limit and min(HISTORY, rule.unproven_limit + limit - rule.limit)
        if self.limit and not rule.limit:
            moved = limit  # a row that was off
        unproven_limit = moved if self.unproven_limit is None else self.unproven_limit
        return replace(rule, limit=limit, unproven_limit=unproven_limit, find_time=self.find_time or rule.find_time)


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
    firewall: Annotated[FirewallName, texts.one_of(get_args(FirewallName))] = Field(
        default="ipset",
        description="`ipset`: the kernel's sets and a rule of iptables. `nftables`: a table of its own. `auto`: what "
        "works. `none`: a dry run, which drops nothing.",
    )
    mode: Annotated[ModeName, texts.one_of(get_args(ModeName))] = Field(
        default="enforce", description="`enforce` blocks; `observe` judges and records everything and blocks nothing."
    )
    set_name: Annotated[str, texts.matching(_SET_NAME, "write 1 to 24 of a-z, 0-9, _ and -, a letter first")] = Field(
        default="amiwatch", description="How the names of our kernel sets begin, and of the chain that drops."
    )
    set_size: Annotated[int, texts.whole(1)] = Field(
        default=1_000_000, description="Entries that each kernel set takes (a full set of a million costs about 40 MB)."
    )
    ports: Annotated[str, BeforeValidator(texts.port_list)] = Field(
        default="voip",
        description="Ports that are closed to banned addresses: `voip` (the usual ones, and each that Asterisk's "
        "events name), `all`, or a list like 5060,5061,10000-20000.",
    )
    tiers: Annotated[str, BeforeValidator(texts.tier_list)] = Field(
        default="3/60s,5/180s,10/300s,20/600s,100/3600s",
        description="New connections that a source without trust may make to the ports of Asterisk, each number in its "
        "time; `amiwatch firewall tiers on` switches them on.",
    )
    signatures: Annotated[frozenset[str], BeforeValidator(texts.signatures)] = Field(
        default=frozenset(),
        description="Names of scanners: a packet of a source without trust that carries one is dropped (not by "
        "nftables). `suggested`, or a list with commas.",
    )
    drop_rule: Annotated[DropRule, texts.one_of(get_args(DropRule))] = Field(
        default="managed", description="`managed` checks and places the rule that drops, `manual` leaves it to you."
    )
    reconcile_time: Annotated[int, texts.seconds_between(1, 3600), DURATION] = Field(
        default=2,
        description="Duration between two looks at what the kernel holds; up to 4s mends a flushed set in 5s.",
    )
    allowlist: Annotated[Allowlist, PlainValidator(texts.allowed), PlainSerializer(texts.allowed_texts)] = Field(
        default=Allowlist(),
        description="Addresses, networks and DNS names that are never banned, as a list with commas or in JSON.",
    )
    allow_private: Flag = Field(default=False, description="Never ban private networks (RFC 1918, RFC 4193).")
    policy: Annotated[str, texts.one_of(POLICIES)] = Field(
        default=POLICY.name,
        description="`office` for most; `closed` where every phone is known: one unknown account bans; `carrier` where "
        "many customers share an address: counts attempts by account.",
    )
    rules: dict[Annotated[str, BeforeValidator(_rule_name)], RuleSettings] = Field(
        default={}, description="Rows of the policy that are changed."
    )
    ban_time: Annotated[tuple[int, ...], BeforeValidator(texts.ladder), DURATION] = Field(
        default=POLICY.ladder,
        description="Durations of the first, second, ... ban of an offender; the last serves for all further ones.",
    )
    ban_jitter: Annotated[float, BeforeValidator(texts.share)] = Field(
        default=POLICY.jitter, description="Share (0 to 0.9) by which a ban is made longer or shorter at random."
    )
    decay: Seconds = Field(
        default=POLICY.decay, description="Quiet duration after which an offender falls by one rung."
    )
    trust_time: Annotated[int, texts.seconds_between(0), DURATION] = Field(
        default=POLICY.trust_time,
        description="Duration for which a successful login protects its source; 0s is no trust.",
    )
    trust_factor: Annotated[int, texts.whole(1, HISTORY)] = Field(
        default=POLICY.trust_factor, description="A trusted source may try this many times as many unknown accounts."
    )
    answer_time: Seconds = Field(
        default=POLICY.answer_time, description="Duration for which a challenge may stay unanswered before it counts."
    )
    unproven_ban_time: Annotated[tuple[int, ...], BeforeValidator(texts.ladder), DURATION] = Field(
        default=POLICY.unproven_ladder,
        description="The same for bans on evidence that forged UDP packets could make; never longer than those.",
    )
    unproven_bans: Annotated[int, texts.whole(0)] = Field(
        default=POLICY.unproven_bans,
        description="Most new bans per minute on evidence that forged UDP packets could make.",
    )
    unproven_share: Annotated[float, BeforeValidator(texts.share)] = Field(
        default=0.5,
        description="Share (0 to 0.9) of `SET_SIZE` that bans on such evidence may fill; the rest is for proven ones.",
    )
    ipv6_prefix: Annotated[int, texts.whole(48, IPV6_PREFIX)] = Field(
        default=POLICY.ipv6_prefix,
        description="Width of the IPv6 networks that are counted and banned as one, 48 to 64.",
    )
    tripwires: Annotated[frozenset[str], BeforeValidator(texts.accounts)] = Field(
        default=POLICY.tripwires,
        description="Accounts that nobody honest uses: one attempt on them bans, over UDP the second. A list with "
        "commas; `suggested` stands for names that no PBX has.",
    )
    ban_chan_sip: Flag = Field(
        default=POLICY.ban_chan_sip,
        description="Ban on events of chan_sip too, although the attacker chooses their addresses.",
    )
    bad_neighbours: Annotated[int, texts.whole(0, MAX_HOSTS)] = Field(
        default=POLICY.bad_neighbours,
        description=f"Banned addresses of one IPv4 /24 (up to {MAX_HOSTS}) from which on its others may try only half "
        "as many unknown accounts; 0 for never.",
    )
    shared_accounts: Annotated[int, texts.whole(0, MAX_ACCOUNTS)] = Field(
        default=POLICY.shared_accounts,
        description="Accounts that log in from one address within `TRUST_TIME` from which on no rule bans it, for that "
        "would stop them all; 0 for never.",
    )
    moved_time: Seconds = Field(
        default=POLICY.moved_time,
        description="Duration for which nobody may have logged in at a site's old address before its accounts, failing "
        "at another one, are a site that moved.",
    )
    mass_failure: Annotated[int, texts.none_or(CROWD_LEAST, MAX_CROWD)] = Field(
        default=POLICY.mass_failure,
        description="Quiet sources that begin to fail within a minute (or six tenths of them within 10 s), before they "
        "are excused as a mass failure; 0 for never.",
    )
    storm: Annotated[int, texts.none_or(CROWD_LEAST, MAX_CROWD)] = Field(
        default=POLICY.storm,
        description="The same for strangers whose packets could be forged, before bans without proof are held back; 0 "
        "for never.",
    )
    attacked_by: Annotated[int, texts.none_or(2, HISTORY)] = Field(
        default=POLICY.attacked_by,
        description="Addresses without trust that guess at one account before the alert `account_attacked`; 0 for "
        "never. The rule `campaign` says how many are banned.",
    )
    attacked_time: Seconds = Field(
        default=POLICY.attacked_time, description="Duration within which these addresses are counted."
    )
    found_after: Annotated[int, texts.whole(2, HISTORY)] = Field(
        default=POLICY.found_after,
        description="Wrong passwords for an account, or accounts guessed at, after which a login from there raises "
        "the alert `password_found` and earns no trust.",
    )
    alert_time: Seconds = Field(
        default=POLICY.alert_time,
        description="Duration for which an alert is not said again about the same source or account.",
    )
    alerts_a_minute: Annotated[int, texts.whole(1)] = Field(
        default=POLICY.alerts_a_minute,
        description="Most new alerts of one kind per minute about addresses or accounts, on evidence that nobody can "
        "forge and, apart, about trusted sources and about others; of `password_found` for each account.",
    )
    max_sources: Annotated[int, texts.whole(100)] = Field(
        default=POLICY.max_sources, description="Sources watched at once; each takes up to about 2 kB."
    )
    max_offenders: Annotated[int, texts.whole(100)] = Field(
        default=POLICY.max_offenders, description="Former offenders that are remembered."
    )
    max_trusted: Annotated[int, texts.whole(100)] = Field(
        default=POLICY.max_trusted, description="Trusted sources that are remembered."
    )
    keep: Annotated[int, texts.seconds_between(3600), DURATION] = Field(
        default=90 * 86400, description="Duration for which ended bans, attempts and alerts stay in the database."
    )
    max_attempt_rows: Annotated[int, texts.whole(1000)] = Field(
        default=2_000_000, description="Most rows of attempts in the database; beyond it the oldest go."
    )
    log_level: Annotated[LogLevel, texts.one_of(get_args(LogLevel))] = Field(
        default="info", description="How much is logged: `debug`, `info`, `warning` or `error`."
    )

    _warnings: tuple[str, ...] = PrivateAttr(())
    _unread: tuple[str, ...] = PrivateAttr(())
    _origins: Mapping[tuple[str, ...], str] = PrivateAttr({})

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is no mistake but should be looked at, one sentence each."""
        return self._warnings

    @property
    def unread(self) -> tuple[str, ...]:
        """Those of the warnings that name a file which is there and can't be read: what it says is not in force."""
        return self._unread

    @property
    def origins(self) -> Mapping[tuple[str, ...], str]:
        """Path of each setting that was set → what it is called where that was; without, its default holds."""
        return self._origins

    def pbxs(self) -> dict[str, AmiSettings]:
        """Return every Asterisk by its name. ``ami`` is one of them if it was set, or if it is the only one."""
        return {one.name: one for _, one in self.by_path()}

    def require_complete(self) -> None:
        """
        Raise ConfigurationError if no daemon may go by this: a file was not read, or an Asterisk can't be connected to.

        Who only looks is warned of it; a daemon without that file would ban whom it allows, and block in observe mode.
        """
        if self._unread:
            raise ConfigurationError(list(self._unread))
        self.require_ami()

    def require_ami(self) -> dict[str, AmiSettings]:
        """Return ``pbxs()`` if each can be connected to; else raise ConfigurationError."""
        mistakes = [
            f"{variable((*path, 'secret'))} is missing; write the secret of the user {one.username!r} of manager.conf"
            for path, one in self.by_path()
            if one.secret is None or not one.secret.get_secret_value()
        ]
        mistakes += [
            f"{variable((*path, 'ca_file'))}: {str(one.ca_file)!r} can't be read"
            for path, one in self.by_path()
            if one.ca_file and not os.access(one.ca_file, os.R_OK)
        ]
        if mistakes:
            raise ConfigurationError(mistakes)
        return self.pbxs()

    def judgement_policy(self) -> Policy:
        """Return the policy in force: the chosen one with the overrides."""
        return Policy(
            name=self.policy,
            rules=tuple(self.rules.get(rule.name, RuleSettings()).changed(rule) for rule in POLICIES[self.policy]),
            ladder=self.ban_time,
            unproven_ladder=self.unproven_ban_time,
            jitter=self.ban_jitter,
            decay=self.decay,
            trust_time=self.trust_time,
            trust_factor=self.trust_factor,
            answer_time=self.answer_time,
            unproven_bans=self.unproven_bans,
            unproven_entries=int(self.unproven_share * self.set_size),
            ipv6_prefix=self.ipv6_prefix,
            tripwires=self.tripwires,
            ban_chan_sip=self.ban_chan_sip,
            bad_neighbours=self.bad_neighbours,
            shared_accounts=self.shared_accounts,
            moved_time=self.moved_time,
            mass_failure=self.mass_failure,
            storm=self.storm,
            attacked_by=self.attacked_by,
            attacked_time=self.attacked_time,
            found_after=self.found_after,
            alert_time=self.alert_time,
            alerts_a_minute=self.alerts_a_minute,
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
        for rule in self.judgement_policy().rules:
            if rule.measure is Measure.ACCOUNTS and rule.limit * self.trust_factor > HISTORY:
                sentences.append(
                    f"{PREFIX}TRUST_FACTOR: {self.trust_factor} times the limit {rule.limit} of the rule "
                    f"{rule.name!r} is more than the {HISTORY} attempts that are kept of a source"
                )
            if rule.measure is Measure.ADDRESSES:
                sentences += _mistakes_of_campaign(rule)
            elif 0 < rule.unproven_limit < rule.limit:
                sentences.append(
                    f"{variable(('rules', rule.name, 'unproven_limit'))}: {rule.unproven_limit} is less than the limit "
                    f"{rule.limit}, but what could be forged must not ban sooner; write {rule.limit} or more, or 0"
                )
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
        return (init_settings, *(InitSettingsSource(settings_cls, dict(layer)) for layer in LAYERS.get()))


def _mistakes_of_campaign(rule: Rule) -> Iterator[str]:
    if rule.unproven_limit:
        path = variable(("rules", rule.name, "unproven_limit"))
        yield f"{path}: {rule.unproven_limit} would let one forged packet each ban any addresses; leave it out"
    if 0 < rule.limit < CAMPAIGN_LEAST:
        path = variable(("rules", rule.name, "limit"))
        yield f"{path}: {rule.limit} would ban people who mistype; write {CAMPAIGN_LEAST} or more, or 0"


def variable(path: Sequence[str]) -> str:
    return shown(PREFIX + DELIMITER.join(path).upper())


def shown(name: str) -> str:
    """Return a name that can neither break a line nor colour a terminal."""
    return name if name.isprintable() else ascii(name)
