"""Who is never banned: gathered from the settings, the database, name servers and this machine."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from ipaddress import ip_network
from typing import TYPE_CHECKING

from amiwatch.daemon.host import lookup, safe_networks
from amiwatch.errors import StoreError
from amiwatch.judgement.safe import PRIVATE
from amiwatch.judgement.values import IPAddress, IPNetwork
from amiwatch.store.records import AllowEntry

if TYPE_CHECKING:
    from amiwatch.daemon.watch import Daemon

log = logging.getLogger(__name__)

REFRESH_TIME = 60.0
"""Seconds between two looks at the machine's own addresses and the allowlist's names."""

ASK_AGAIN = 5.0
"""The same while no name server has answered for a name: its answer may have come late."""


class Allowlist:
    """The networks that are never banned, each with the words that say why."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self.networks: dict[IPNetwork, str] = {}
        self.stored: Sequence[AllowEntry] = ()
        """The database's part, as it was read last."""
        self.resolved: dict[str, list[IPAddress]] = {}
        """Last known addresses of names, for as long as a name server is silent."""
        self.unanswered: frozenset[str] = frozenset()
        """Names for which no name server has answered yet."""
        self._lost: frozenset[str] = frozenset()
        """Names of which it was said that they are not resolved."""
        self._refreshing = asyncio.Lock()

    @property
    def pause(self) -> float:
        """Return the seconds until the next look."""
        return ASK_AGAIN if self.unanswered else REFRESH_TIME

    async def refresh(self) -> None:
        """Gather who is never banned, and lift the bans that this contradicts."""
        judge = self._daemon.judge
        async with self._refreshing:  # an older answer of a name server must not come last
            networks = await self._gathered()
            news = networks.keys() - self.networks.keys()
            self.networks = networks
            judge.allow(networks)
            for network in news:
                for banned in set(judge.ledger.touching(network)) - self._daemon.hold.forced:
                    self._daemon.lift(banned, by="allowlist", reason=f"{network} is never banned: {networks[network]}")
                await asyncio.sleep(0)

    async def _gathered(self) -> dict[IPNetwork, str]:
        settings = self._daemon.settings
        allowed: dict[IPNetwork, str] = dict(PRIVATE) if settings.allow_private else {}
        names = {name: f"the name {name!r}" for name in settings.allowlist.names}
        allowed |= dict.fromkeys(settings.allowlist.networks, "AMIWATCH_ALLOWLIST")
        for entry in await self._from_store():
            try:
                allowed[ip_network(entry.target)] = f"allowed by {entry.added_by}: {entry.comment}".rstrip(": ")
            except ValueError:
                names[entry.target] = f"the name {entry.target!r}"
        names |= {pbx.host: f"the PBX {pbx.host!r}" for pbx in settings.pbxs().values()}
        found = dict(zip(names, await asyncio.gather(*map(lookup, names)), strict=True))
        self.unanswered = frozenset(name for name, addresses in found.items() if addresses is None)
        self._say_lost(frozenset(name for name, addresses in found.items() if not addresses))
        self.resolved = {name: addresses or self.resolved.get(name, []) for name, addresses in found.items()}
        for name, addresses in self.resolved.items():
            allowed |= {ip_network(address): names[name] for address in addresses}
        return allowed | await safe_networks()

    def _say_lost(self, lost: frozenset[str]) -> None:
        for name in sorted(lost - self._lost):
            why = "no name server answers" if name in self.unanswered else "it has no address"
            known = ",".join(map(str, self.resolved.get(name, [])))
            log.warning("allowlist name not resolved name=%r reason=%s last_known=%s", name, why, known or "none")
        for name in sorted(self._lost - lost):
            log.info("allowlist name resolved name=%r", name)
        self._lost = lost

    async def _from_store(self) -> Sequence[AllowEntry]:
        """Return the database's part; what it was, as long as it can't be read."""
        now = self._daemon.now.utc(self._daemon.now())
        store = self._daemon.store
        if store is not None and not self._daemon.memory.is_in_empty_store:
            try:
                self.stored = await store.allowlist(now)
            except StoreError as error:
                log.error("allowlist not read from the database, the last known one stays reason=%s", error)
        return [entry for entry in self.stored if entry.until is None or entry.until > now]
