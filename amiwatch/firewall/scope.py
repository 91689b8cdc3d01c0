"""Which packets of a banned address are dropped: those to the VoIP ports, to chosen ports, or all."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from amiwatch.errors import ConfigurationError

MULTIPORT = 15
"""Ports that one multiport match takes; a range counts as two (xt_multiport.h, XT_MULTI_PORTS)."""

_PORTS = re.compile(r"(\d{1,5})(?:[-:](\d{1,5}))?(?:/(udp|tcp))?")


class Ports(NamedTuple):
    """A range of ports of one protocol, both ends in it."""

    protocol: str
    """``udp`` or ``tcp``."""
    first: int
    last: int


VOIP_PORTS = (
    Ports("udp", 5060, 5061),  # SIP
    Ports("tcp", 5060, 5061),  # SIP, SIP over TLS
    Ports("udp", 4569, 4569),  # IAX2
    Ports("tcp", 5038, 5038),  # AMI
    Ports("tcp", 8088, 8089),  # SIP over WebSocket: Asterisk's HTTP and HTTPS
)


@dataclass(frozen=True, slots=True)
class Scope:
    """
    The ports that are closed to banned addresses; ``ports`` empty means everything, whatever the protocol.

    RTP is left open by default: its ports are thousands, and a banned address has no call.
    """

    ports: tuple[Ports, ...] = VOIP_PORTS

    @classmethod
    def parse(cls, text: str) -> Scope:
        """
        Read ``voip``, ``all``, or a comma list of ``voip``, ``5060``, ``5060-5069``, ``5060/udp`` (without: both).

        Raises ``ConfigurationError``.
        """
        words = [word.strip() for word in text.lower().split(",") if word.strip()]
        if words == ["all"]:
            return EVERYTHING
        ports = [found for word in words for found in _parsed(word)]
        if not ports:
            raise ConfigurationError([f"{text!r} names no ports: write 'voip', 'all', or for example 'voip,5080/udp'."])
        return cls(tuple(ports))

    def joined(self, more: Iterable[Ports]) -> Scope:
        """Return a scope with these ports, too."""
        return Scope((*self.ports, *more)) if self.ports else self

    def has(self, protocol: str, port: int) -> bool:
        """Tell whether a port is closed."""
        return not self.ports or any(
            each.protocol == protocol and each.first <= port <= each.last for each in self.ports
        )

    def matches(self) -> list[tuple[str, str]]:
        """Return protocol and ports, as iptables writes them, of each rule; two empty texts for everything."""
        if not self.ports:
            return [("", "")]
        return [
            (protocol, ",".join(group))
            for protocol in ("udp", "tcp")
            for group in _groups(_merged(ports for ports in self.ports if ports.protocol == protocol))
        ]


EVERYTHING = Scope(())


def learns(text: str) -> bool:
    """Tell whether the ports that Asterisk's events name are to be added to a scope that was written so."""
    return "voip" in [word.strip() for word in text.lower().split(",")]


def _parsed(word: str) -> list[Ports]:
    if word == "voip":
        return list(VOIP_PORTS)
    found = _PORTS.fullmatch(word)
    first = int(found[1]) if found else 0
    last = int(found[2] or first) if found else 0
    if not found or not 0 < first <= last <= 65535:
        raise ConfigurationError([f"{word!r} is no port: write 5060, 5060-5069 or 5060/udp, between 1 and 65535."])
    return [Ports(protocol, first, last) for protocol in ([found[3]] if found[3] else ["udp", "tcp"])]


def _merged(ports: Iterable[Ports]) -> Iterator[Ports]:
    """Join ranges that touch, in ascending order."""
    current: Ports | None = None
    for following in sorted(ports):
        if current and following.first <= current.last + 1:
            current = current._replace(last=max(current.last, following.last))
            continue
        if current:
            yield current
        current = following
    if current:
        yield current


def _groups(ports: Iterable[Ports]) -> Iterator[list[str]]:
    """Cut into what one multiport match takes."""
    group: list[str] = []
    taken = 0
    for _, first, last in ports:
        size = 1 if first == last else 2
        if taken + size > MULTIPORT:
            yield group
            group, taken = [], 0
        group.append(str(first) if size == 1 else f"{first}:{last}")
        taken += size
    if group:
        yield group
