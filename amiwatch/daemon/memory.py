"""
What the daemon and its database know of each other: at the start, after a crash, and when the database comes late.

Rule 1: what can't be read now is read later; the banning goes on without it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from contextlib import suppress
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

from amiwatch.ami.client import LinkState
from amiwatch.errors import StoreError
from amiwatch.judgement.networks import source_key
from amiwatch.judgement.values import FORCED, Ban, IPNetwork
from amiwatch.store.reader import Reader
from amiwatch.store.records import Status, StoredBan
from amiwatch.store.writer import Store

if TYPE_CHECKING:
    from amiwatch.daemon.watch import Daemon

log = logging.getLogger(__name__)

PUT_SLICE = 500
"""Rows put into the store's queue between two turns of the event loop: some 5 ms."""

LEARN_SLICE = 1_000
"""Rows taken over between two turns of the event loop: some 5 ms."""

STORE_CROWDED = 50_000
"""Rows that wait for the disk from which on a chore that writes by the hundred thousand waits, too."""


class Memory:
    """Takes over what the database knows, and tells it what it missed."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._strange_store: bool | None = None
        self._knows_bans = False
        """The database's bans were taken over: what else the kernel holds is unknown to it."""
        self.is_complete = False
        """All that the database knew at the start was taken over."""

    def store_opened(self, is_new: bool) -> None:
        """Note that there is another database than at the start; ``catch_up`` makes acquaintance."""
        self._strange_store = is_new
        self._daemon.counting.begin_all()

    @property
    def is_in_empty_store(self) -> bool:
        """Tell whether the database was made anew, and has not been told yet what we know."""
        return bool(self._strange_store)

    async def recall(self, store: Store, known: set[IPNetwork] | None = None) -> None:
        """Take over what the database knows; its bans are added to ``known``."""
        await self.recall_bans(store, known)
        await self.recall_people(store)

    async def recall_bans(self, store: Store, known: set[IPNetwork] | None = None) -> None:
        """Take over the bans in force; with ``known``, add them to it and keep what the ledger has already."""
        self._knows_bans = await _is_learned(self._learn_bans(store, known))
        # What the rule is to drop is told before it is placed.
        self._knows_bans &= await _is_learned(self._daemon.guard.recall(store))
        self._daemon.protect()
        # Before the kernel gets any of them.
        await _is_learned(self._daemon.hold.recall(store))

    async def recall_people(self, store: Store) -> None:
        """Take over offences, trust, and when our predecessor lived last."""
        self.is_complete = await _is_learned(self._learn_people(store)) and self._knows_bans

    async def catch_up(self, store: Store) -> None:
        """Make acquaintance with a database that came late or could not be read, if there is one now."""
        if self._strange_store is not None or (not self.is_complete and store.is_working):
            await self._make_acquaintance(store)

    async def _make_acquaintance(self, store: Store) -> None:
        """Learn what a database knows that came late, and tell it what it does not know."""
        daemon, ledger = self._daemon, self._daemon.judge.ledger
        is_new = self._strange_store
        ours = []
        for number, (network, _) in enumerate(ledger.wanted(daemon.now())):
            ours.append(network)
            await self.breathe(number)
        if is_new:
            for entry in daemon.allowlist.stored:
                store.put_allow(entry)
            daemon.guard.tell(store)
        daemon.hold.tell(store)
        # What is on its way to the disk is no news to it.
        await daemon.settle()
        try:
            await store.flush()
        except StoreError:
            return  # said by the store; tried again
        self._strange_store = None
        known: set[IPNetwork] = set()
        await self.recall(store, known)
        if not self.is_complete:
            return
        for network in ours:
            until = ledger.until(network)
            if network not in known and until is not None:
                await self._put_recovered(network, None if until == inf else until - daemon.now())
        daemon.allowlist.networks = {}
        await daemon.allowlist.refresh()

    async def adopt(self, network: IPNetwork, seconds: int | None) -> bool:
        """Take an entry of our set that nobody remembers into the ledger; False if it must go."""
        judge = self._daemon.judge
        if judge.allowed.overlapping(network) is not None:
            return False
        judge.ledger.put(network, None if seconds is None else self._daemon.now() + seconds)
        if self._knows_bans:  # else the database may know it: that is seen when it can be read
            await self._put_recovered(network, seconds)
        return True

    async def _put_recovered(self, network: IPNetwork, seconds: float | None) -> None:
        """Record a ban that the database does not know; wait where the disk is far behind."""
        store, now = self._daemon.store, self._daemon.now
        if store is None:
            return
        ban = Ban(
            network=network,
            address=network.network_address,
            at=now.utc(now()),
            seconds=None if seconds is None else max(1, round(seconds)),
            level=0,
            rule="recovered",
            reason="in force, but unknown to the database: banned just before a crash, or added by hand",
        )
        store.put_ban(ban, pbx="", origin="recovered", is_enforced=self._daemon.is_enforcing)
        await self.breathe(store.waiting)

    async def breathe(self, count: int) -> None:
        """Give the others a turn now and then, and the disk time, in a chore that writes ``count`` rows."""
        store = self._daemon.store
        if count % PUT_SLICE == 0:
            await asyncio.sleep(0)
        if store is not None and store.waiting > STORE_CROWDED and store.is_working:
            with suppress(StoreError):  # said by the store
                await store.flush()

    async def _learn_bans(self, store: Store, known: set[IPNetwork] | None) -> None:
        daemon, ledger = self._daemon, self._daemon.judge.ledger
        now = daemon.now()
        shift = daemon.now.utc(now) - now
        async for bans in store.active_ban_chunks(now + shift, rows=LEARN_SLICE):
            for ban in bans:
                if known is not None:
                    known.add(ban.network)
                    if ban.network in ledger:
                        continue
                if ban.rule == FORCED:
                    daemon.hold.forced.add(ban.network)
                if ban.is_enforced or not daemon.is_enforcing:
                    self._want(ban, end_of(ban.at, ban.until, now, shift))
            await asyncio.sleep(0)

    def _want(self, ban: StoredBan, until: float | None) -> None:
        judge, source = self._daemon.judge, ban.source
        if source is None:
            judge.ledger.put(ban.network, until, is_proven=ban.is_proven)
        else:
            judge.ledger.put_source(source, until, is_proven=ban.is_proven)
            if ban.level and until is not None:
                judge.neighbours.note(source, until, is_proven=ban.is_proven)

    async def _learn_people(self, store: Store) -> None:
        daemon, judge = self._daemon, self._daemon.judge
        now = daemon.now()
        shift = daemon.now.utc(now) - now
        since, limit = now + shift - 2 * judge.policy.decay, judge.policy.max_offenders
        async for offenders in store.offender_chunks(since, rows=LEARN_SLICE, limit=limit):
            for offender in offenders:
                last = end_of(offender.last_at, offender.until, now, shift) or now
                judge.ladder.remember(offender.source, offender.level, last)
            await asyncio.sleep(0)
        for trust in await store.trust(now + shift):
            at = min(now, trust.last_at - shift)
            judge.trust.grant(source_key(trust.network.network_address), trust.account, at)
        judge.trust.unsaved()
        if not self.is_complete:
            self._put_absence(store, await asyncio.to_thread(_last_status, daemon.settings.database))

    def _put_absence(self, store: Store, before: Status | None) -> None:
        """Record that nobody listened since the last sign of life of our predecessor."""
        daemon = self._daemon
        if before is None or before.heartbeat_at > daemon.now.utc(daemon.started_at):
            return
        for name in daemon.settings.pbxs():
            store.put_gap_begin(name, before.heartbeat_at, "amiwatch did not run")
            if daemon.links.get(name) is LinkState.HEARING:
                store.put_gap_end(name, daemon.hearing_since[name])


async def _is_learned(learning: Awaitable[None]) -> bool:
    try:
        await learning
    except (StoreError, ValueError, LookupError) as error:  # the latter two: rows that we never wrote
        log.warning("database not read now, the banning goes on without it reason=%s", error)
        return False
    return True


def end_of(at: float, until: float | None, now: float, shift: float) -> float | None:
    """Translate an end from the store; a clock that was set back meanwhile makes nothing longer than it was."""
    return None if until is None else min(until - shift, now + (until - at))


def _last_status(path: Path) -> Status | None:
    with Reader(path) as reader:
        return reader.status()
