"""
What the people of a simulated world are made of: who somebody is, what he sends, and where he lives.

Rule 1: everything is drawn from seeded generators; the same seed gives the same world to the byte.

Rule 2: addresses are those of documentation and benchmarks only (RFC 5737, 3849, 2544).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from heapq import merge
from ipaddress import IPv4Address, IPv6Address
from random import Random
from typing import NamedTuple

from amiwatch.judgement.values import IPAddress
from amiwatch.testing.builders import STEPS, UNKNOWN, Case, Step

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0


class Role(StrEnum):
    """What is to become of a source."""

    HONEST = "honest"
    """Must never be banned, whatever goes wrong with it."""
    ATTACKER = "attacker"
    """Must be banned, if it goes on for long enough."""
    PROBER = "prober"
    """Too few attempts to be anybody's loss: it may be banned or not."""
    UNDECIDABLE = "undecidable"
    """An attacker whose events are those of an honest source to the last detail, or the reverse: banned or not."""
    FORGER = "forger"
    """Has no address of his own: what he sends names others."""


class Dialogue(NamedTuple):
    """What one request, or one attempt, makes Asterisk say. Light: bytes and values are made of it when needed."""

    at: float
    """Seconds since the beginning of its world."""
    steps: Sequence[Step]
    account: str
    source: IPAddress
    port: int
    transport: str
    session: str
    rtt: float
    """Seconds until the answer to a challenge comes."""
    response: str
    """What was sent as the digest, in hex; no secret was ever put into it."""
    is_attempt: bool = False
    """Whether it is an attempt of somebody who should not make any."""
    copies: int = 0
    """How often its first request is repeated because the answer was lost."""


SCANNER_BAR, GUESSER_BAR, SLOW_BAR = 5, 10, 20
"""Attempts before the ban that are too many: of scanners, of who guesses passwords, and of who is slow or logs in."""

Life = Callable[[Random], Iterator[Dialogue]]
"""What somebody does, in order of time."""


@dataclass(frozen=True, slots=True, eq=False)
class Actor:
    """Somebody, with the label that a judge does not see."""

    name: str
    role: Role
    sources: Sequence[IPAddress]
    """The addresses that are his."""
    life: Life
    alerts: frozenset[str] = frozenset()
    """Alerts that are right about him."""
    must_alert: bool = False
    """Whether one of these alerts must come."""
    bar: int = SCANNER_BAR
    """How many attempts half of the attackers of his kind may make at most before they are banned."""


class Sender:
    """One address and port from which dialogues come."""

    def __init__(self, random: Random, source: IPAddress, transport: str = "UDP") -> None:
        self.source = source
        self.transport = transport
        self._random = random
        self._port = random.randint(1024, 65535)
        self._rtt = random.uniform(0.01, 0.2)

    def session(self, service: str = "PJSIP") -> str:
        """Make a new SessionID: a Call-ID; elsewhere a pointer, which is used again."""
        if service != "PJSIP":
            return f"0x7f3c{self._random.randrange(16):02x}0012a0"
        return f"{self._random.getrandbits(64):016x}@host"

    def __call__(
        self,
        at: float,
        what: Case | Sequence[Step],
        account: str,
        *,
        session: str = "",
        source: IPAddress | None = None,
        is_attempt: bool = False,
        copies: int = 0,
        response: str | None = None,
    ) -> Dialogue:
        steps = STEPS[what] if isinstance(what, Case) else what
        transport = "TCP" if steps[0].service == "AMI" else self.transport
        return Dialogue(
            at,
            steps,
            account,
            source or self.source,
            self._port,
            transport,
            session or self.session(steps[0].service),
            self._rtt,
            f"{self._random.getrandbits(128):032x}" if response is None else response,
            is_attempt,
            copies,
        )


class Place:
    """Where a world is populated: gives out addresses and extensions, and knows how long it lasts."""

    def __init__(self, seed: int | str, seconds: float, *, is_freepbx: bool = False) -> None:
        self.random = Random(f"{seed}/place")  # noqa: S311
        self.seconds = seconds
        self.is_freepbx = is_freepbx
        """Whether PJSIP may tell phones by ``auth_username`` (FreePBX's default): then it seldom names strangers."""
        self.extensions: list[str] = []
        """Accounts that exist, for those who guess at them."""
        known = [int(IPv4Address(net)) + host for net in ("192.0.2.0", "198.51.100.0", "203.0.113.0") for host in HOSTS]
        self.random.shuffle(known)
        self._free = known
        self._next = int(IPv4Address("198.18.0.0")) + self.random.randrange(1000)
        self._network4 = int(IPv4Address("198.19.255.0")) - 256 * 64
        self._networks = self.random.sample(range(1 << 16), 4096)

    def address(self) -> IPAddress:
        """Give out an IPv4 address; attackers and phones live in the same networks."""
        if self._free:
            return IPv4Address(self._free.pop())
        self._next += self.random.randint(1, 7)
        return IPv4Address(self._next)

    def network4(self) -> int:
        """Give out a /24 of its own, as a number; nobody else lives there."""
        self._network4 += 256
        return self._network4

    def network6(self) -> int:
        """Give out the first address of a /64, as a number."""
        return int(IPv6Address("2001:db8::")) + (self._networks.pop() << 64)

    def extension(self) -> str:
        """Give out an account that exists."""
        self.extensions.append(str(1001 + len(self.extensions)))
        return self.extensions[-1]

    def has_auth_names(self) -> bool:
        """Draw whether phones call themselves otherwise than their endpoint: only their answer tells who they are."""
        return self.is_freepbx and self.random.random() < 0.5

    def moment(self, begin: float = 0.0, end: float = 1.0) -> float:
        """Draw an instant from this part of its time."""
        return self.random.uniform(begin, end) * self.seconds


HOSTS = (*range(11, 255),)
"""Host numbers that are given out in a /24; those below are the PBX's and the documentation's."""


def together(*lives: Iterable[Dialogue]) -> Iterator[Dialogue]:
    """Let several live at once."""
    return merge(*lives, key=_at)


def _at(dialogue: Dialogue) -> float:
    return dialogue.at


# What builders.Case has no name for.

_AUTH_NAME = (Step("InvalidAccountID", account="tel-{}"), Step("ChallengeSent", account=UNKNOWN))
"""The first request of a phone that calls itself otherwise than its endpoint. It is seldom named, see ``World``."""

AUTH_NAME_LOGIN = (*_AUTH_NAME, Step("SuccessfulAuth"))
"""``auth_username``: who it is shows only in the answer."""

AUTH_NAME_WRONG = (*_AUTH_NAME, Step("ChallengeResponseFailed"))
AUTH_NAME_STALE = (*_AUTH_NAME, Step("ChallengeSent"), Step("SuccessfulAuth"))

ANOTHER_GUESS = (Step("ChallengeResponseFailed"),)
"""A guess that reuses the challenge of an earlier one; also every client's fate when the auth object is missing."""

UNKNOWN_GUESS = (Step("InvalidAccountID"), Step("ChallengeResponseFailed", account=UNKNOWN))
"""A guess at an account that does not exist, reusing a challenge."""

STALE_AOR = (
    Step("ChallengeSent"),
    Step("SuccessfulAuth"),
    Step("RequestNotSupported"),
)
"""A phone that logged in, whose AOR is gone."""
