"""Who is never banned: gathered from the settings, the database, name servers and this machine."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from ipaddress import ip_network
from typing import TYPE_CHECKING

from amiwatch.daemon.host import resolve, safe_networks
from amiwatch.errors import StoreError
from amiwatch.judgement.safe import PRIVATE
from amiwatch.judgement.values import IPAddress, IPNetwork
from amiwatch.store.records import AllowEntry

if TYPE_CHECKING:
    from amiwatch.daemon.watch import Daemon

log = logging.getLogger(__name__)


class Allowlist:
    """The networks that are never banned, each with the words that say why."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self.networks: dict[IPNetwork, str] = {}
        self.stored: Sequence[AllowEntry] = ()
        """The database's part, as it was read last."""
        self.resolved: dict[str, list[IPAddress]] = {}
        """Last known addresses of names, for as long as a name server is silent."""
        self._refreshing = asyncio.Lock()

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
        names = list(settings.allowlist.names)
        allowed |= dict.fromkeys(settings.allowlist.networks, "AMIWATCH_ALLOWLIST")
        for entry in await self._from_store():
            try:
                allowed[ip_network(entry.target)] = f"allowed by {entry.added_by}: {entry.comment}".rstrip(": ")
            except ValueError:
                names.append(entry.target)
        names = list(dict.fromkeys([*names, *(pbx.host for pbx in settings.pbxs().values())]))
        found = dict(zip(names, await asyncio.gather(*map(resolve, names)), strict=True))
        self.resolved = {name: addresses or self.resolved.get(name, []) for name, addresses in found.items()}
        for name, addresses in self.resolved.items():
            allowed |= {ip_network(address): f"the name {name!r}" for address in addresses}
        return allowed | await safe_networks()

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
