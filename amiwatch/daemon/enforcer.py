"""
What we want and what is: keeps the kernel's sets like the ledger.

Rule 1: the ledger is right. What it has and the kernel lacks is added; what the kernel has and nobody knows was banned
by us before a crash, and is adopted.

Rule 2: a failed add is no lost ban: reconcile tries again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from time import perf_counter

from amiwatch.errors import FirewallError, FirewallPermission
from amiwatch.firewall.base import MAX_TIMEOUT, Entry, Firewall
from amiwatch.firewall.rule import DropRule
from amiwatch.firewall.scope import Scope
from amiwatch.judgement.ledger import Ledger
from amiwatch.judgement.values import Ban, IPNetwork

log = logging.getLogger(__name__)

FULL_LISTING = 600.0
"""Seconds between two full comparisons, which also find entries that were swapped one for one and timeouts that
somebody changed; between them only the numbers of entries are compared, which costs microseconds."""

REARM = 3600.0
"""A kernel timeout may be this much shorter, in seconds, than we want before it is set again."""

SLICE = 20_000
"""Entries handled between two turns of the event loop: some 20 ms."""


@dataclass(frozen=True, slots=True)
class Order:
    """A ban on its way to the kernel, and when its event came in (``perf_counter``)."""

    ban: Ban
    pbx: str
    received: float


@dataclass(frozen=True, slots=True)
class Done:
    """An order that was carried out, or not: ``seconds`` from the event to the kernel, None if it is not there."""

    order: Order
    seconds: float | None


class Enforcer:
    """Owns the firewall: nobody else changes it while the daemon runs."""

    def __init__(
        self,
        firewall: Firewall,
        ledger: Ledger,
        *,
        now: Callable[[], float],
        done: Callable[[list[Done]], None],
        adopted: Callable[[IPNetwork, int | None], bool],
        evicted: Callable[[IPNetwork], None],
        is_enforcing: bool = True,
        rule: DropRule | None = None,
        scope: Scope | None = None,
    ) -> None:
        self.firewall = firewall
        self.is_enforcing = is_enforcing
        """False: nothing may be in the kernel (observe mode)."""
        self.has_trouble = False
        self._ledger = ledger
        self._now = now
        self._done = done
        self._adopted = adopted
        self._evicted = evicted
        self._rule = rule
        self._scope = scope or Scope()
        self._orders: deque[Order] = deque()
        self._lifts: deque[IPNetwork] = deque()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._listed_at = 0.0
        self._mismatches = 0
        self._is_rule_said = False
        self._needless: set[int] = set()
        """Families that need no rule here."""

    def order(self, order: Order) -> None:
        """Put a ban into the kernel as soon as may be; returns at once."""
        self._orders.append(order)
        self._idle.clear()
        self._wake.set()

    def lift(self, network: IPNetwork) -> None:
        """Take a network out of the kernel as soon as may be; returns at once."""
        self._lifts.append(network)
        self._idle.clear()
        self._wake.set()

    async def settle(self) -> None:
        """Wait until all that was ordered was tried."""
        await self._idle.wait()

    async def run(self) -> None:
        """Carry orders out, many in one message, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            orders, self._orders = list(self._orders), deque()
            lifts, self._lifts = list(self._lifts), deque()
            # A ban and its lifting may have been ordered in either order: the ledger knows how it ended.
            orders = [order for order in orders if order.ban.network in self._ledger]
            lifts = [network for network in lifts if network not in self._ledger]
            await self._carry_out(orders, lifts)
            if not self._orders and not self._lifts:
                self._idle.set()

    async def _carry_out(self, orders: list[Order], lifts: list[IPNetwork]) -> None:
        try:
            if lifts:
                await self.firewall.remove(lifts)
            if orders and self.is_enforcing:
                await self._add([_entry(order.ban) for order in orders])
        except FirewallError as error:
            self._complain(error)
            self._done([Done(order, None) for order in orders])
            return
        at = perf_counter()
        self._done([Done(order, at - order.received) for order in orders])

    async def _add(self, entries: list[Entry]) -> None:
        rejected = await self.firewall.add(entries)
        if rejected:
            await self._make_room(rejected)

    async def _make_room(self, rejected: list[Entry]) -> None:
        """Give up the bans that end soonest for those that the full set refused."""
        for entry in rejected:
            victim = self._ledger.soonest(entry.network.version)
            if victim is None or victim == entry.network:
                continue
            self._ledger.drop(victim)
            self._evicted(victim)
            await self.firewall.remove([victim])
            if await self.firewall.add([entry]):
                raise FirewallError(f"The set is full and has no room for {entry.network}: raise AMIWATCH_SET_SIZE.")

    # Reconcile.

    async def begin(self) -> None:
        """Open the firewall and make it hold what the ledger wants. Raises FirewallError."""
        await self.firewall.open()
        await self._restore()
        await self._check_rule()

    async def reconcile(self) -> None:
        """Close the gap between ledger and kernel; said once when it fails, tried again at the next call."""
        try:
            states = await self.firewall.states()
            if len(states) < 2:
                log.error("set missing, made anew found=%s", ",".join(state.name for state in states) or "none")
                await self.firewall.open()
                await self._restore()
            elif self._is_suspicious(sum(state.count for state in states)):
                await self._restore()
            if {state.family for state in states if not state.references} - self._needless:
                await self._check_rule()
            if self.has_trouble:
                log.warning("firewall works again backend=%s", self.firewall.name)
            self.has_trouble = False
        except FirewallError as error:
            self._complain(error)

    def _is_suspicious(self, count: int) -> bool:
        """Tell whether a full comparison is due: the numbers differ, or the last one is long ago."""
        if self._orders or self._lifts:
            return False
        wanted = len(self._ledger) if self.is_enforcing else 0
        # The kernel's timeouts and ours differ by up to a second: a small difference must last to count.
        self._mismatches = self._mismatches + 1 if count != wanted else 0
        is_large = abs(count - wanted) > wanted // 100
        return self._mismatches > 1 or is_large or perf_counter() - self._listed_at > FULL_LISTING

    async def _restore(self) -> None:
        """Compare entry by entry; add what is missing or ends too soon, adopt or remove what is unknown."""
        found = {entry.network: entry for entry in await self.firewall.entries()}
        self._listed_at = perf_counter()
        if not self.is_enforcing:
            await self._clear(found)
            return
        now = self._now()
        missing: list[Entry] = []
        for number, (network, left) in enumerate(self._ledger.wanted(now)):
            entry = found.pop(network, None)
            if entry is None or _ends_too_soon(entry, left):
                missing.append(Entry(network, None if left is None else max(1, round(left))))
            if number % SLICE == SLICE - 1:
                await asyncio.sleep(0)
        if missing:
            await self._add(missing)
            log.info("entries restored count=%d", len(missing))
        await self._sort_out(found.values())

    async def _sort_out(self, unknown: Iterable[Entry]) -> None:
        """Adopt entries of ours that nobody remembers; remove those that must not be."""
        # Between listing and now, orders may have been carried out: what the ledger has is not unknown.
        strangers = [entry for entry in unknown if entry.network not in self._ledger]
        refused = [entry.network for entry in strangers if not self._adopted(entry.network, entry.seconds)]
        if refused:
            await self.firewall.remove(refused)
        if adopted := len(strangers) - len(refused):
            log.warning("unknown entries adopted count=%d", adopted)

    async def _clear(self, found: Iterable[IPNetwork]) -> None:
        networks = list(found)
        if networks:
            await self.firewall.remove(networks)
            log.warning("entries taken out of the kernel: observe mode blocks nothing count=%d", len(networks))

    async def _check_rule(self) -> None:
        """Place the drop rule, or say that it is missing; without it nothing is dropped."""
        if self.firewall.name == "none" or not self.is_enforcing:
            return
        if not await self._unused():
            self._is_rule_said = False
            return
        if self._rule is not None:
            try:
                await self._rule.install(self._scope)
            except FirewallPermission:
                self._rule = None  # asking again every second would change nothing
            else:
                # A machine without IPv6 gets no rule for it, and needs none.
                self._needless = await self._unused()
                log.info("drop rule placed prefix=%s", self._rule.prefix)
                return
        if not self._is_rule_said:
            self._is_rule_said = True
            log.error("no rule uses our sets, so nothing is dropped: run 'amiwatch firewall install' as root")

    async def _unused(self) -> set[int]:
        """Return the families whose set no rule uses."""
        unused = {state.family for state in await self.firewall.states() if not state.references}
        return unused - self._needless

    def _complain(self, error: FirewallError) -> None:
        if not self.has_trouble:
            log.error("bans are not enforced now, trying again reason=%s", error)
        self.has_trouble = True


def _entry(ban: Ban) -> Entry:
    return Entry(ban.network, ban.seconds)


def _ends_too_soon(entry: Entry, wanted: float | None) -> bool:
    if entry.seconds is None:
        return wanted is not None
    if wanted is None:
        return True
    return entry.seconds < min(wanted, MAX_TIMEOUT) - REARM
