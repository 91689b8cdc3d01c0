"""
What flows through amiwatch: security events in; bans, alerts and lifted bans out.

Rule 1: values are frozen; addresses are ``ipaddress`` objects, parsed once at the border.

Rule 2: instants (``at``, ``since``, ``until``, ``now``) are seconds since the epoch, UTC; durations are seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import NamedTuple

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

PROVEN_TRANSPORTS = frozenset({"TCP", "TLS", "WS", "WSS"})
"""Transports whose source address one forged packet can't fake (a handshake came back from it)."""

IPV6_PREFIX = 64
"""IPv6 sources are counted and banned by /64: one customer owns at least that much (RFC 6177)."""

UNKNOWN = "<unknown>"
"""What PJSIP writes instead of an account that it does not know."""

TEXT_LIMIT = 128
"""Longest text of an attacker that is kept, in characters: a Call-ID may have 64 KiB."""


class SecurityEvent(NamedTuple):
    """
    One genuine security event, as Asterisk reported it.

    A named tuple and not a dataclass: a flood makes 13,000 of them each second, and a frozen dataclass costs three
    times as much to make. Secrets (challenge, response, hashes) never get in; ``guess`` is a keyed hash of them, of
    use only to tell a new guess from a retransmission within this process.
    """

    kind: str
    """Asterisk's name of the event, for example ``InvalidAccountID``."""
    at: float
    """``EventTV``: Asterisk's own time of the event."""
    service: str
    """``PJSIP``, ``AMI``, ``SIP`` (chan_sip) or ``TEST``."""
    account: str
    """``AccountID``: an endpoint, the user of From, ``<unknown>``, or empty. Chosen by the sender."""
    session: str
    """``SessionID``: a Call-ID (chosen by the sender) or a pointer that is used again."""
    transport: str
    """``UDP``, ``TCP``, ``TLS``, ``WS``, ``WSS``; empty where Asterisk names none."""
    source: IPAddress
    """``RemoteAddress`` without its port, an IPv4-mapped one as IPv4."""
    port: int
    """The port of ``RemoteAddress``; may be 0."""
    local_port: int
    """The port of ``LocalAddress``; 0 where Asterisk prints none."""
    detail: str = ""
    """``ACLName``, ``RequestType`` or ``AttemptedTransport``, where the kind has one."""
    used_password: bool = False
    """``UsingPassword`` of a SuccessfulAuth."""
    guess: int = 0
    """Keyed hash of ``Response`` or ``ReceivedHash``; 0 where there is none."""
    tainted: bool = False
    """It came after a broken block, so an attacker may have written all of it: never acted on."""

    @property
    def is_proven(self) -> bool:
        """Tell whether the source address survived a handshake; chan_sip's never did (an attacker names it in Via)."""
        return self.service == "AMI" or (self.transport in PROVEN_TRANSPORTS and self.service != "SIP")


@dataclass(frozen=True, slots=True)
class Evidence:
    """One event as it is kept with a ban: bounded texts, no secrets."""

    at: float
    kind: str
    service: str
    account: str
    session: str
    transport: str
    address: str
    port: int

    @classmethod
    def of(cls, event: SecurityEvent) -> Evidence:
        """Cut an event to what is kept."""
        return cls(
            at=event.at,
            kind=event.kind,
            service=event.service,
            account=event.account[:TEXT_LIMIT],
            session=event.session[:TEXT_LIMIT],
            transport=event.transport,
            address=str(event.source),
            port=event.port,
        )


MANUAL, FORCED = "manual", "forced"
"""``Ban.rule`` of a ban by hand; of one that was meant although something spoke against it."""

BY_HAND = (MANUAL, FORCED)


@dataclass(frozen=True, slots=True)
class Ban:
    """A verdict: this network is to be dropped for so long, because of this."""

    network: IPNetwork
    address: IPAddress
    """The very source that was judged, inside ``network``."""
    at: float
    seconds: int | None
    """How long; None is for ever (by hand only)."""
    level: int
    """Rung of the ladder, from 1; 0 for a ban by hand."""
    rule: str
    """Name of the rule that decided (a row of ``judgement/rules.py``), or one of ``BY_HAND``, or ``recovered``."""
    reason: str
    """Why, in words and numbers."""
    service: str = ""
    is_proven: bool = True
    evidence: Sequence[Evidence] = ()


@dataclass(frozen=True, slots=True)
class Alert:
    """Something a person should know; nobody is dropped because of it."""

    at: float
    kind: str
    address: IPAddress | None
    account: str
    reason: str


@dataclass(frozen=True, slots=True)
class Lift:
    """A verdict: the ban of exactly this network turned out to be hasty, and ends now."""

    network: IPNetwork
    address: IPAddress
    """The very source that was judged, inside ``network``."""
    at: float
    level: int
    """Rung of the ladder on which the source stands now."""
    reason: str
    """Why, in words and numbers."""


Verdict = Ban | Alert | Lift


def source_network(address: IPAddress) -> IPNetwork:
    """Return the network that stands for a source: the address itself (IPv4), its /64 (IPv6)."""
    if isinstance(address, IPv4Address):
        return IPv4Network((int(address), 32))  # from numbers: a third of the time that an address object takes
    return IPv6Network((int(address) >> 64 << 64, IPV6_PREFIX))
