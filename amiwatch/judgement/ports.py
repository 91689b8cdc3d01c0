"""
On which ports Asterisk listens, as its events tell.

Rule 1: a port that is learned closes to banned sources, so one packet that anybody may forge teaches nothing.
``LocalAddress`` is Asterisk's own word and the template of its headers is held, but where the sender is not proven, a
port counts only when it comes again. What came behind a broken block counts never.

Rule 2: bounded. Asterisk has a handful of ports; more means that something is wrong.
"""

from __future__ import annotations

from typing import NamedTuple

from amiwatch.judgement.values import PROVEN_TRANSPORTS, SecurityEvent

ENOUGH = 3
"""Unproven events that teach a port."""

MAX_CANDIDATES = 64
"""Ports that are watched or decided on; further ones are not looked at, and counted."""


class LocalPort(NamedTuple):
    """A port of Asterisk."""

    protocol: str
    """``udp`` or ``tcp``."""
    number: int


class LocalPorts:
    """Learns ports, one event after the other."""

    def __init__(self) -> None:
        self.overlooked = 0
        """Events of ports for which there was no room."""
        self._counts: dict[tuple[str, int], int] = {}
        """Transport and port to events seen; ``ENOUGH`` and more are learned."""
        self._learned: dict[LocalPort, str] = {}

    def see(self, event: SecurityEvent, pbx: str) -> None:
        """Look at an event; thousands come in a second, and nearly all of them tell what is known."""
        key = (event.transport or event.service, event.local_port)
        count = self._counts.get(key, 0)
        if count >= ENOUGH or event.tainted:
            return
        protocol = _protocol(event)
        if not protocol or not event.local_port:
            return
        if not count and len(self._counts) >= MAX_CANDIDATES:
            self.overlooked += 1
            return
        self._counts[key] = count = ENOUGH if _is_believed(event) else count + 1
        if count >= ENOUGH:
            self._learned[LocalPort(protocol, event.local_port)] = pbx

    def drain(self) -> dict[LocalPort, str]:
        """Return what was learned since the last call, each with the PBX that has it."""
        learned, self._learned = self._learned, {}
        return learned


def _protocol(event: SecurityEvent) -> str:
    if event.transport == "UDP":
        return "udp"
    return "tcp" if event.transport in PROVEN_TRANSPORTS or event.service == "AMI" else ""


def _is_believed(event: SecurityEvent) -> bool:
    """Tell whether one event suffices: its sender shook hands, or logged in with a password bound to his address."""
    return event.is_proven or (event.kind == "SuccessfulAuth" and event.service == "PJSIP" and event.used_password)
