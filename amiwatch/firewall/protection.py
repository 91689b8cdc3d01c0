"""What a rule drops, as one value: packets of banned sources, and what sources without trust may not do."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from amiwatch.errors import ConfigurationError
from amiwatch.firewall.scope import Scope

MAX_WINDOW = 7_200
"""Longest window of a tier, in seconds: the name of its set ends in four digits, and the kernel remembers each source
for so long. Longer windows are the judgement's."""

MAX_TIERS = 8
"""Tiers that are taken: each costs two sets, and two lookups for a new connection."""

MAX_CONNECTIONS = 10_000
"""Most connections of a tier."""

WINDOW_SOURCES = 65_536
"""Sources that a tier counts at once in each family: a full ipset of them takes 4 MB, the five usual tiers 42 MB with
IPv6. Further ones are not counted, and so not dropped, for forged packets must not shut everybody out."""

MAX_EXEMPT = 200_000
"""Networks in a set of those exempt: more than trust and allowlist may hold."""

FIRST_OCTETS = 300
"""How far into a packet a name is looked for, in octets from the begin of its IP header."""

_TIER = re.compile(r"([0-9]{1,5})/([0-9]{1,4})s?")


class Tier(NamedTuple):
    """So many new connections may a source without trust make in so many seconds; more are dropped."""

    connections: int
    seconds: int

    @classmethod
    def parse(cls, text: str) -> tuple[Tier, ...]:
        """Read ``3/60s,5/180s``. Raises ``ConfigurationError``."""
        words = [word.strip() for word in text.split(",") if word.strip()]
        found = [_TIER.fullmatch(word) for word in words]
        tiers = tuple([cls(int(each[1]), int(each[2])) for each in found if each])
        if len(tiers) < len(words) or not all(tier.is_sound for tier in tiers) or len(tiers) > MAX_TIERS:
            raise ConfigurationError([f"{text!r} are no rate tiers: write for example 3/60s,100/3600s."])
        if len({tier.seconds for tier in tiers}) < len(tiers):
            raise ConfigurationError([f"{text!r} names a window twice: one number of connections for each."])
        return tuple(sorted(tiers, key=lambda tier: tier.seconds))

    @property
    def name(self) -> str:
        """Say it in words."""
        return f"{self.connections} in {self.seconds} s"

    @property
    def is_sound(self) -> bool:
        """Tell whether the kernel can hold it."""
        return 0 < self.connections <= MAX_CONNECTIONS and 0 < self.seconds <= MAX_WINDOW


@dataclass(frozen=True, slots=True)
class Protection:
    """All that ``Rule.install`` puts into the kernel beside the sets of bans."""

    scope: Scope = field(default_factory=Scope)
    """The ports that are closed to banned sources."""
    tiers: tuple[Tier, ...] = ()
    """Windows in which new connections of sources without trust are counted."""
    signatures: tuple[str, ...] = ()
    """Names that no packet of a source without trust may carry in its first ``FIRST_OCTETS`` octets."""
    voip: Scope = field(default_factory=Scope)
    """The ports that tiers and signatures look at where ``scope`` is everything: they must never lock anybody out."""

    @property
    def has_limits(self) -> bool:
        """Tell whether more is dropped than who is banned, so that some must be exempt."""
        return bool(self.tiers or self.signatures)

    @property
    def limited(self) -> Scope:
        """Return the ports that tiers and signatures look at."""
        return self.scope if self.scope.ports else self.voip

    def bare(self) -> Protection:
        """Return only what concerns the banned."""
        return replace(self, tiers=(), signatures=())


@dataclass(frozen=True, slots=True)
class Limit:
    """What a tier or a signature has dropped in one family."""

    name: str
    """``3 in 60 s``, or the signature."""
    kind: str
    """``tier`` or ``signature``."""
    packets: int = 0
    octets: int = 0
    sources: int = 0
    """How many a tier counts now."""


def windows(prefix: str, family: int, tiers: Iterable[Tier]) -> dict[Tier, str]:
    """Name the sets in which each tier counts the sources of a family."""
    return {tier: f"{prefix}{family}-{tier.seconds}s" for tier in tiers}


def exempt_name(prefix: str, family: int) -> str:
    """Name the set of those whom no tier and no signature concerns."""
    return f"{prefix}{family}-safe"


def nets_name(prefix: str, family: int) -> str:
    """Name the set of exempt networks where single addresses have their own."""
    return f"{prefix}{family}-nets"


def is_ours(prefix: str, name: str) -> bool:
    """Tell whether a set is one of those that limits need, also one that a crash left half made."""
    return re.fullmatch(rf"{re.escape(prefix)}[46]-(?:safe|nets|new|[0-9]{{1,4}}s)", name) is not None
