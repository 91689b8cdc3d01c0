"""
What the rule is to drop, and whom its limits never concern: the settings, what was learned, what a person switched on.

Rule 1: a learned port never closes ssh, whatever the events say.

Rule 2: what was learned outlives a restart; what is not seen any more is forgotten with everything else that is old.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

from amiwatch.daemon.listening import is_outgoing, ssh_ports
from amiwatch.firewall.protection import Protection, Tier
from amiwatch.firewall.scope import Ports, Scope, learns
from amiwatch.judgement.networks import key_network
from amiwatch.judgement.ports import LocalPort, LocalPorts
from amiwatch.judgement.safe import ALWAYS
from amiwatch.judgement.values import IPNetwork, SecurityEvent
from amiwatch.store.records import LearnedPort
from amiwatch.store.writer import Store

if TYPE_CHECKING:
    from amiwatch.config import Settings
    from amiwatch.daemon.watch import Daemon

log = logging.getLogger(__name__)

MAX_LEARNED = 16
"""Ports that are learned; an Asterisk has a handful. Somebody who can forge whole events closes no more than these to
those whom he gets banned."""


TIERS = "tiers"
"""The switch of the rate tiers."""


def protection(settings: Settings, learned: Iterable[LearnedPort], *, has_tiers: bool) -> Protection:
    """Put together what the rule is to drop."""
    scope, more = Scope.parse(settings.ports), [Ports(each.protocol, each.port, each.port) for each in learned]
    return Protection(
        scope.joined(more) if learns(settings.ports) else scope,
        tiers=Tier.parse(settings.tiers) if has_tiers else (),
        signatures=tuple(sorted(settings.signatures)),
        voip=Scope().joined(more),
    )


class Guard:
    """Learns Asterisk's ports from its events, and keeps what the rule is to drop up to date."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self.learned: dict[LocalPort, LearnedPort] = {}
        self.has_tiers = False
        self.is_ready = False
        """It is known who is never banned and who is trusted, so limits may be placed."""
        self._ports = LocalPorts()
        self._exempt_because: tuple[frozenset[int], frozenset[IPNetwork]] = (frozenset(), frozenset())
        self._exempt: frozenset[IPNetwork] = frozenset()
        self._is_learning = learns(daemon.settings.ports)
        self._is_full_said = False

    def see(self, event: SecurityEvent, pbx: str) -> None:
        """Look at an event: it tells a port of Asterisk."""
        if self._is_learning:
            self._ports.see(event, pbx)

    def protection(self) -> Protection:
        """Return what the rule is to drop now."""
        return protection(self._daemon.settings, self.learned.values(), has_tiers=self.has_tiers)

    def exempt(self) -> frozenset[IPNetwork]:
        """Return whom no limit may concern: who is never banned, and who logged in. Nobody while that is unknown."""
        if not self.is_ready:
            return frozenset()
        daemon = self._daemon
        because = (daemon.judge.trust.sources(daemon.now()), frozenset(daemon.allowlist.networks))
        (trusted, allowed), (before, allowed_before) = because, self._exempt_because
        if allowed != allowed_before or not self._exempt:
            self._exempt = allowed.union(ALWAYS, map(key_network, trusted))
        elif trusted != before:
            # Of 50,000 phones mostly a few come or go.
            gone = frozenset(map(key_network, before - trusted)) - allowed
            self._exempt = self._exempt - gone | frozenset(map(key_network, trusted - before))
        self._exempt_because = because
        return self._exempt

    async def switch_tiers(self, store: Store, *, is_on: bool, by: str) -> None:
        """Switch the rate tiers on or off, also for every later start. Raises StoreError if that can't be kept."""
        self.has_tiers = is_on
        store.put_switch(TIERS, is_on=is_on, at=self._daemon.now.utc(self._daemon.now()), by=by)
        await store.flush()

    async def recall(self, store: Store) -> None:
        """Take over what the database knows. Raises StoreError."""
        for port in await store.learned_ports():
            if len(self.learned) < MAX_LEARNED:
                self.learned.setdefault(LocalPort(port.protocol, port.port), port)
        self.has_tiers = (await store.switches()).get(TIERS, self.has_tiers)

    def tell(self, store: Store) -> None:
        """Put what is known into a database that was made anew."""
        for port in self.learned.values():
            store.put_learned_port(port)
        store.put_switch(TIERS, is_on=self.has_tiers, at=self._daemon.now.utc(self._daemon.now()), by="amiwatch")

    async def learn(self) -> bool:
        """Take over what the events told since the last call; tell whether something else is to be dropped now."""
        found = self._ports.drain()
        if not found:
            return False
        before = set(self.learned)
        for port, pbx in (await asyncio.to_thread(_fit, found, Scope.parse(self._daemon.settings.ports))).items():
            self._take(port, pbx)
        return self.learned.keys() != before

    def _take(self, port: LocalPort, pbx: str) -> None:
        if port not in self.learned:
            if len(self.learned) >= MAX_LEARNED:
                self._say_full(port)
                return
            log.info(
                "port of Asterisk learned, closed to the banned from now on protocol=%s port=%d pbx=%s", *port, pbx
            )
        now = self._daemon.now
        self.learned[port] = LearnedPort(*port, pbx, now.utc(now()))
        if self._daemon.store is not None:
            self._daemon.store.put_learned_port(self.learned[port])

    def _say_full(self, port: LocalPort) -> None:
        if not self._is_full_said:
            log.error(
                "more than %d ports learned, the next is not closed to the banned protocol=%s port=%d: name the ports "
                "of Asterisk in AMIWATCH_PORTS",
                MAX_LEARNED,
                *port,
            )
        self._is_full_said = True


def _fit(found: dict[LocalPort, str], scope: Scope) -> dict[LocalPort, str]:
    """Leave out what is closed anyway, what is ssh's, and the port of a connection that Asterisk itself made."""
    forbidden = ssh_ports()
    kept = {}
    for port, pbx in found.items():
        if port.number in forbidden:
            log.warning("port not learned, it is ssh's protocol=%s port=%d pbx=%s", *port, pbx)
        elif not scope.has(*port) and not (port.protocol == "tcp" and is_outgoing(port.number)):
            kept[port] = pbx
    return kept
