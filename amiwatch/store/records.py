"""
What the store keeps, as values, and how a network becomes a key.

Rule 1: no I/O. Instants are seconds since the epoch (UTC), durations seconds.

Rows that are read by the hundred thousand are named tuples of what SQLite returns (texts, numbers): a frozen dataclass
costs six times as much to make. What the daemon works with holds ``ipaddress`` objects.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import NamedTuple

from amiwatch.judgement.networks import network4, network6, source_key
from amiwatch.judgement.values import IPV6_PREFIX, TEXT_LIMIT, Evidence, IPAddress, IPNetwork

ATTEMPT_BUCKET = 600
"""Seconds that one row of ``attempts`` sums up: a flood must not fill the disk (10,000 events/s raw are 3 GB/h)."""

TIMES_LIMIT = 600
"""Characters of the times in one row of ``attempts`` above which no more are added (some 100 attempts in ten minutes):
a source that nothing bans must not fill the disk."""

TIME_UNIT = 0.01
"""Seconds that the numbers of these times count."""

MAX_EVIDENCE = 20
"""Events kept with one ban: enough to explain it, and 3 KB at most."""

MAX_REASON = 500
"""Longest reason, comment or detail that is stored, in characters."""

VERBS = ("ban", "confirm", "unban", "unban-all", "allow", "disallow", "forget", "panic", "resume", "reload", "tiers")
"""What a request may ask for."""


FOR_EVER = 0
"""``Request.seconds`` of a ban without an end."""


class StoredBan(NamedTuple):
    """An open ban, as the daemon reads it back at start."""

    sort_key: bytes
    at: float
    until: float | None
    """None is for ever."""
    level: int
    rule: str
    is_enforced: bool
    """False: it was recorded in observe mode and must not enter the kernel."""
    is_proven: bool
    """False: forged UDP packets could have brought it about."""

    @property
    def network(self) -> IPNetwork:
        """What is banned."""
        return key_network(self.sort_key)

    @property
    def source(self) -> int | None:
        """The ``source_key`` of a ban of one source; None for other networks."""
        return _key_source(self.sort_key)


class StoredOffender(NamedTuple):
    """Where a network stands on the ladder, as the daemon reads it back at start."""

    sort_key: bytes
    first_at: float
    last_at: float
    until: float
    """When its longest ban ends or ended, also if it was lifted before: decay on the ladder counts from here."""
    level: int
    """Rung of the last ban that had one; 0 after a pardon."""
    bans: int

    @property
    def network(self) -> IPNetwork:
        """Who it is."""
        return key_network(self.sort_key)

    @property
    def source(self) -> int:
        """His ``source_key``."""
        found = _key_source(self.sort_key)
        return source_key(self.network.network_address) if found is None else found


class StoredTrust(NamedTuple):
    """Trust that a login earned and that has not run out."""

    network: IPNetwork
    account: str
    since: float
    until: float
    last_at: float


class LearnedPort(NamedTuple):
    """A port of Asterisk that its events told."""

    protocol: str
    """``udp`` or ``tcp``."""
    port: int
    pbx: str
    at: float
    """When it was learned, by the daemon that learned it last."""


@dataclass(frozen=True, slots=True)
class AttemptCount:
    """
    Attempts of one source that look alike, summed up by the daemon.

    ``first_at`` and ``last_at`` lie in the same ten minutes (``ATTEMPT_BUCKET``); sums of the same ten minutes may be
    handed over in pieces, the store adds them up.
    """

    pbx: str
    source: IPAddress | IPNetwork
    """An IPv4 address, or the /64 of an IPv6 source."""
    account: str
    service: str
    transport: str
    outcome: str
    """``success`` counts for no view of attackers; other words are the judgement's own."""
    count: int
    first_at: float
    last_at: float
    times: tuple[float, ...] = ()
    """When each of them was, as far as that is known."""
    answers: int = 0
    """How many of those with an account that does not exist were answered with a password."""


@dataclass(frozen=True, slots=True)
class Request:
    """What somebody asked for, and what became of it."""

    id: int
    at: float
    asked_by: str
    verb: str
    """One of ``VERBS``."""
    target: str
    """A network, an address or a name; empty where the verb needs none."""
    seconds: int | None
    """How long; None is the default of the verb."""
    comment: str
    finished_at: float | None = None
    """None: it waits for the daemon."""
    is_done: bool | None = None
    """False: it was refused or failed; ``outcome`` says why."""
    outcome: str | None = None
    is_forced: bool = False
    """Do it although it may cut off somebody who should not be."""
    confirm: int | None = None
    """Seconds within which it must be confirmed; None: it need not be."""


@dataclass(frozen=True, slots=True)
class Panic:
    """Since when nothing is dropped, because a person said so."""

    at: float
    until: float | None
    """None: until somebody resumes."""
    asked_by: str
    comment: str


@dataclass(frozen=True, slots=True)
class Trial:
    """A ban by hand that ends at its deadline unless somebody confirms it."""

    network: IPNetwork
    at: float
    deadline: float
    until: float | None
    """Its end once confirmed; None is for ever."""
    rule: str
    reason: str
    asked_by: str


@dataclass(frozen=True, slots=True)
class AllowEntry:
    """A network or DNS name that is never banned."""

    target: str
    comment: str
    at: float
    until: float | None
    """None is for ever."""
    added_by: str


@dataclass(frozen=True, slots=True)
class Status:
    """What the daemon says of itself, every few seconds."""

    pid: int
    started_at: float
    heartbeat_at: float
    mode: str
    """``enforce`` or ``observe``."""
    version: str
    firewall: str
    counters: Mapping[str, int | float | str | bool | None] = field(default_factory=dict)


class BanRecord(NamedTuple):
    """One row of ``bans``."""

    id: int
    network: str
    address: str
    pbx: str
    at: float
    until: float | None
    level: int
    rule: str
    origin: str
    """``rule``, ``manual`` or ``recovered``."""
    service: str
    is_proven: int
    is_enforced: int
    reason: str
    banned_by: str
    ended_at: float | None
    """None: open (it may have run out: compare ``until``)."""
    ended_by: str | None
    ended_why: str | None
    """``expired``, ``replaced`` or the reason of an unban."""
    packets: int = 0
    """Dropped since the ban began, as the daemon wrote it last."""
    octets: int = 0


class AttemptRecord(NamedTuple):
    """One row of ``attempts``: ten minutes of one source and account."""

    id: int
    bucket: int
    address: str
    pbx: str
    account: str
    service: str
    transport: str
    outcome: str
    attempts: int
    first_at: float
    last_at: float
    answers: int
    """How many of those with an account that does not exist were answered with a password."""
    times: str
    """Hundredths of a second from ``bucket`` to each of the first attempts, with commas."""


class AlertRecord(NamedTuple):
    """One row of ``alerts``: the same thing within an hour, counted."""

    id: int
    at: float
    last_at: float
    times: int
    pbx: str
    kind: str
    address: str | None
    account: str
    reason: str


class EventRecord(NamedTuple):
    """A sum of attempts, or an alert."""

    type: str
    """``attempt`` or ``alert``."""
    at: float
    last_at: float
    times: int
    pbx: str
    what: str
    """The outcome of the attempts, or the kind of the alert."""
    address: str | None
    account: str
    service: str
    transport: str
    reason: str
    """Of an alert."""


class TriedRecord(NamedTuple):
    """An account that a source tried, with all attempts of one outcome."""

    account: str
    outcome: str
    attempts: int
    first_at: float
    last_at: float


class SourceRecord(NamedTuple):
    """A source that tried an account, with all attempts of one outcome."""

    address: str
    outcome: str
    attempts: int
    first_at: float
    last_at: float


class LinkRecord(NamedTuple):
    """A change of an AMI link."""

    id: int
    pbx: str
    at: float
    state: str
    detail: str


class GapRecord(NamedTuple):
    """A time in which we heard nothing of a PBX."""

    id: int
    pbx: str
    began_at: float
    ended_at: float | None
    """None: it lasts."""
    reason: str


class OffenderRecord(NamedTuple):
    """A source with its failed attempts since some instant."""

    address: str
    attempts: int
    accounts: int
    first_at: float
    last_at: float
    is_banned: int


class AccountRecord(NamedTuple):
    """An account with the failed attempts on it since some instant."""

    account: str
    attempts: int
    sources: int
    first_at: float
    last_at: float


def network_key(source: IPAddress | IPNetwork) -> bytes:
    """
    Return the sort key of a network: family, network address, prefix length, one byte each for the first and last.

    Keys sort by family, then address, a wider network before the narrower ones at its begin. So everything inside a
    network is one range (``key_range``), and the networks round an address are at most 129 exact keys
    (``covering_keys``): both are index lookups.
    """
    if isinstance(source, IPv4Address | IPv6Address):
        return bytes((source.version,)) + source.packed + bytes((source.max_prefixlen,))
    return bytes((source.version,)) + source.network_address.packed + bytes((source.prefixlen,))


def key_network(key: bytes) -> IPNetwork:
    """Return the network of a sort key (0.6 µs; from text it takes 3.4 µs)."""
    return (network4 if key[0] == 4 else network6)(int.from_bytes(key[1:-1], "big"), key[-1])


def _key_source(key: bytes) -> int | None:
    """Return the ``source_key`` of a sort key, or None for one of another width: without a network, for a million."""
    if key[0] == 4:
        return int.from_bytes(key[1:5], "big") if key[5] == 32 else None
    return ~int.from_bytes(key[1:9], "big") if key[17] == IPV6_PREFIX else None


def counted_network(network: IPNetwork) -> IPNetwork:
    """Return the network under which a source is counted: an IPv6 address counts as its /64."""
    return (
        network.supernet(new_prefix=IPV6_PREFIX)
        if network.version == 6 and network.prefixlen > IPV6_PREFIX
        else network
    )


def key_range(network: IPNetwork) -> tuple[bytes, bytes]:
    """Return the first and the last key of what lies inside a network, itself included."""
    return network_key(network), network_key(network.broadcast_address)


def covering_keys(network: IPNetwork) -> list[bytes]:
    """Return the keys of every network that holds all of this one, itself included, the widest first."""
    return [network_key(network.supernet(new_prefix=prefix)) for prefix in range(network.prefixlen + 1)]


def address_text(source: IPAddress | IPNetwork) -> str:
    """Write a source as people do: a single address without ``/32`` or ``/128``."""
    if isinstance(source, IPv4Network | IPv6Network) and source.prefixlen == source.max_prefixlen:
        return str(source.network_address)
    return str(source)


def bounded(text: str, limit: int = TEXT_LIMIT) -> str:
    """Cut a text, and make it one that SQLite can hold (lone surrogates become ``?``)."""
    return text[:limit].encode("utf-8", "replace").decode()


EVIDENCE_FIELDS = tuple(field.name for field in fields(Evidence))


def evidence_json(events: list[Evidence]) -> str:
    """Write the evidence of a ban; its first half and its last are kept where there is too much."""
    if len(events) > MAX_EVIDENCE:
        events = events[: MAX_EVIDENCE // 2] + events[-MAX_EVIDENCE // 2 :]
    return json.dumps([{name: getattr(event, name) for name in EVIDENCE_FIELDS} for event in events])


def evidence_from(text: str) -> list[Evidence]:
    """Read what ``evidence_json`` wrote."""
    return [Evidence(**event) for event in json.loads(text)]
