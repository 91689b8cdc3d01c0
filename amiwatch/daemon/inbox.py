"""
What the AMI readers bring, on its way to the judge.

Rule 1: the reader never waits. A lone newcomer is judged on the spot, which is bounded, and the rest is queued; what is
too much is shed, repeats of banned sources first, and counted.

Rule 2: a refused block is never acted on. It is counted, and the first ones of a minute are kept.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterator, Sequence
from time import perf_counter
from typing import TYPE_CHECKING

from amiwatch.ami.wire import Item, Tampered
from amiwatch.judgement.networks import source_key
from amiwatch.judgement.values import TEXT_LIMIT, SecurityEvent

if TYPE_CHECKING:
    from amiwatch.daemon.watch import Daemon

log = logging.getLogger(__name__)

MAX_BACKLOG = 100_000
"""Events that wait for the judge (some 60 MB): eight seconds of the fastest Asterisk seen."""

CROWDED = 2_000
"""Waiting events from which on repeats of banned sources are shed at the door."""

SLICE = 48
"""Events judged between two turns of the event loop: some 6 ms even if each of them makes a ban."""

SAMPLES_A_MINUTE = 60
"""Tampered blocks kept in a minute; more are counted."""

STRANGE_RUN = 20
"""Blocks refused in a row from which on a new version of Asterisk is more likely than an attacker."""


class Inbox:
    """Takes what is heard, has it judged, and gives the verdicts to the daemon."""

    def __init__(self, daemon: Daemon) -> None:
        self.shed = 0
        """Events that were not judged, because too many waited."""
        self.tampered = 0
        self.waiting = 0
        """Items that wait for the judge."""
        self._daemon = daemon
        self._backlog: deque[tuple[str, float, Sequence[Item]]] = deque()
        self._wake = asyncio.Event()
        self._samples = 0
        self._strange = 0
        self._said_shed = 0
        self._said_tainted = 0

    def receive(self, pbx: str, items: Sequence[Item]) -> None:
        """Judge what a reader brought, or queue it where it is much."""
        received = perf_counter()
        if not self.waiting and len(items) <= SLICE:
            # Nobody waits: judged within the call, a newcomer is in the kernel two turns of the loop earlier.
            self._judge(pbx, received, items)
            return
        if self.waiting > CROWDED:
            items = self._thin_out(items)
        if items:
            self.waiting += len(items)
            self._backlog.append((pbx, received, items))
            self._wake.set()

    def _thin_out(self, items: Sequence[Item]) -> Sequence[Item]:
        """Shed repeats of banned sources; beyond the bound, everything."""
        now, is_banned = self._daemon.now(), self._daemon.judge.ledger.is_banned
        kept = [
            item
            for item in items
            if type(item) is not SecurityEvent or not is_banned(source_key(item.source), item.source, now)
        ][: max(0, MAX_BACKLOG - self.waiting)]
        self.shed += len(items) - len(kept)
        return kept

    async def run(self) -> None:
        """Have judged what was queued, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._backlog:
                pbx, received, items = self._backlog.popleft()
                for begin in range(0, len(items), SLICE):
                    part = items[begin : begin + SLICE]
                    self.waiting -= len(part)
                    self._judge(pbx, received, part)
                    # One turn for the readers and the firewall: Asterisk waits 100 ms at most.
                    await asyncio.sleep(0)

    def _judge(self, pbx: str, received: float, items: Sequence[Item]) -> None:
        remaining = iter(items)
        is_done = False
        while not is_done:
            with self._daemon.unhurt("judging an event"):
                self._judge_all(pbx, received, remaining)
                is_done = True

    def _judge_all(self, pbx: str, received: float, items: Iterator[Item]) -> None:
        judge, now, learn = self._daemon.judge, self._daemon.now(), self._daemon.guard.see
        judge.tally.pbx = pbx
        is_debug = log.isEnabledFor(logging.DEBUG)
        for item in items:
            if type(item) is SecurityEvent:
                self._strange = 0
                if is_debug:
                    log.debug("event pbx=%s %s", pbx, _brief(item))
                learn(item, pbx)
                if said := judge.see(item, now):
                    self._daemon.take(said, pbx, received)
            elif type(item) is Tampered:
                judge.refuse(item.session, now)
                self._refused(item, pbx, now)

    def _refused(self, block: Tampered, pbx: str, now: float) -> None:
        self.tampered += 1
        self._strange += 1
        self._samples += 1
        if self._samples == 1:
            log.warning("tampered block refused pbx=%s reason=%s block=%r", pbx, block.reason, block.block[:200])
        store = self._daemon.store
        if self._samples <= SAMPLES_A_MINUTE and store is not None:
            store.put_tampered(pbx, self._daemon.now.utc(now), block.block)
        if self._strange == STRANGE_RUN:
            log.error(
                "nothing but tampered blocks lately: if this Asterisk is newer than amiwatch, "
                "its events may have changed pbx=%s count=%d",
                pbx,
                self._strange,
            )

    def sum_up(self) -> None:
        """Say what came too often to be said one by one. Called once a minute."""
        if self._samples > 1:
            log.warning("tampered blocks refused within a minute count=%d", self._samples)
        self._samples = 0
        tainted = self._daemon.judge.counters.tainted
        if tainted > self._said_tainted:
            number = tainted - self._said_tainted
            log.warning("events not believed, they came right behind a tampered block count=%d", number)
        self._said_tainted = tainted
        if self.shed > self._said_shed:
            log.warning("events shed, too many waited count=%d", self.shed - self._said_shed)
        self._said_shed = self.shed


def _brief(event: SecurityEvent) -> str:
    return (
        f"kind={event.kind} service={event.service} source={event.source} transport={event.transport} "
        f"account={event.account[:TEXT_LIMIT]!r} session={event.session[:TEXT_LIMIT]!r} tainted={event.tainted}"
    )
