"""
What we want and what is: keeps the kernel's sets like the ledger.

Rule 1: the ledger is right. What it has and the kernel lacks is added; what the kernel has and nobody knows was banned
by us before a crash, and is adopted.

Rule 2: a failed add is no lost ban, and a failed removal no lost unban: reconcile tries again.

Rule 3: a listing is old when it arrives. What was lifted since is neither adopted nor put back.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from math import inf
from time import perf_counter

from amiwatch.daemon.rulekeeper import RuleKeeper
from amiwatch.errors import FirewallError
from amiwatch.firewall.base import MAX_TIMEOUT, Entry, Firewall, parts
from amiwatch.firewall.protection import Protection
from amiwatch.firewall.rule import Rule
from amiwatch.judgement.ledger import PART, Ledger
from amiwatch.judgement.values import BY_HAND, Ban, IPNetwork

log = logging.getLogger(__name__)

FULL_LISTING = 600.0
"""Seconds between two full comparisons, which also find entries that were swapped one for one and timeouts that
somebody changed; between them only the numbers of entries are compared, which costs microseconds."""

REARM = 3600.0
"""A kernel timeout may be this much shorter, in seconds, than we want before it is set again."""

SLICE = 2_000
"""Entries handled between two turns of the event loop: some 5 ms, and what one nftables message takes."""

AT_ONCE = 150
"""Orders carried out between two turns of the event loop: to log and record one takes 30 microseconds."""

LONG_LISTING = 50_000
"""Entries from which on a start does not wait for the comparison, where the kernel holds about as many as we want."""

SHARE = 50
"""A full comparison that took a second is not made again for so many: nftables lists a million for a minute."""

ENDING = 10
"""An unknown entry with no more seconds left than this is let go: a ban of ours that ended while the kernel, which got
it later, still counts."""


@dataclass(frozen=True, slots=True)
class Order:
    """A ban on its way to the kernel, and when its event came in (``perf_counter``)."""

    ban: Ban
    pbx: str
    received: float
    by: str = ""
    """Who asked for a ban by hand."""


@dataclass(frozen=True, slots=True)
class Done:
    """An order that was tried: ``seconds`` from the event to the kernel, None if the kernel does not have it."""

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
        adopted: Callable[[IPNetwork, int | None], Awaitable[bool]],
        evicted: Callable[[IPNetwork], None],
        is_enforcing: bool = True,
        rule: Rule | None = None,
        protection: Protection | None = None,
        exempt: Callable[[], Collection[IPNetwork]] = tuple,
    ) -> None:
        self.firewall = firewall
        self.is_enforcing = is_enforcing
        """False: nothing may be in the kernel (observe mode)."""
        self.is_held = False
        """A person stopped everything: nothing may be in the kernel until somebody lets it go on."""
        self.has_trouble = False
        self._ledger = ledger
        self._now = now
        self._done = done
        self._adopted = adopted
        self._evicted = evicted
        self.rule = RuleKeeper(
            firewall,
            rule,
            protection=protection or Protection(),
            exempt=exempt,
            is_blocking=lambda: self.is_blocking,
        )
        self._orders: deque[Order] = deque()
        self._under_way = 0
        """Orders that the kernel is being told of just now."""
        self._lifts: dict[IPNetwork, None] = {}
        """What must leave the kernel; it stays here until the kernel did it."""
        self._leaving: dict[IPNetwork, None] = {}
        """What the kernel is being told to let go just now."""
        self._gone: dict[IPNetwork, None] = {}
        """What was lifted since the last listing began, or was still to leave then."""
        self._victims: list[IPNetwork] = []
        self._wake = asyncio.Event()
        self._closing = asyncio.Lock()
        """Held by whoever compares ledger and kernel."""
        self._waiters: list[asyncio.Future[None]] = []
        self._is_listing_due = True
        self._listed_at = 0.0
        self._listing_took = 0.0
        self._mismatches = 0
        self._witnesses: dict[int, IPNetwork] = {}
        """For each family a ban that the kernel got: where it is gone, all may be."""
        self.look_took = 0.0
        """Seconds that the kernel needed to tell the numbers of entries; it walks over all of them."""

    @property
    def is_blocking(self) -> bool:
        """Tell whether what the ledger wants is to be in the kernel."""
        return self.is_enforcing and not self.is_held

    @property
    def has_orders(self) -> bool:
        """Tell whether bans are on their way whose outcome was not told yet."""
        return bool(self._orders or self._under_way)

    @property
    def _pending(self) -> int:
        """Changes that the kernel may have made or not."""
        return len(self._orders) + self._under_way + len(self._lifts) + len(self._leaving)

    def order(self, order: Order, *, is_alone: bool = False) -> None:
        """
        Put a ban into the kernel as soon as may be; returns at once.

        A ban that ``is_alone`` gets there within this call, if the kernel answers at once, which takes microseconds;
        many go together in one message.
        """
        is_idle = not self._pending
        if is_alone and is_idle and self.is_blocking and self.firewall.add_now(_entry(order.ban)):
            self._witnesses[order.ban.network.version] = order.ban.network
            self._done([Done(order, perf_counter() - order.received)])
            return
        self._orders.append(order)
        self._wake.set()

    def lift(self, network: IPNetwork) -> None:
        """Take a network out of the kernel as soon as may be; returns at once."""
        self._lifts[network] = self._gone[network] = None
        self._wake.set()

    async def settle(self) -> None:
        """Wait until all that was ordered so far was tried."""
        if not self._pending:
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self._wake.set()
        await waiter

    async def run(self) -> None:
        """Carry orders out, many in one message, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            waiters, self._waiters = self._waiters, []
            orders, self._orders = self._orders, deque()
            lifts = self._leaving = self._lifts
            self._lifts, self._under_way = {}, len(orders)
            while orders:
                await self._ban([orders.popleft() for _ in range(min(AT_ONCE, len(orders)))])
                self._under_way = len(orders)
                await asyncio.sleep(0)
            for part in parts(lifts, AT_ONCE):
                await self._release(part)
            self._leaving = {}
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

    async def _ban(self, orders: list[Order]) -> None:
        # A ban and its lifting may have been ordered in either order: the ledger knows how it ended.
        orders = [order for order in orders if order.ban.network in self._ledger]
        is_added = True
        if orders and self.is_blocking:
            is_added = await self._is_done(self._add([_entry(order.ban) for order in orders]))
        at, is_in = perf_counter(), is_added and self.is_blocking
        if is_in and orders:
            self._witnesses[orders[-1].ban.network.version] = orders[-1].ban.network
        self._done(
            [
                Done(order, at - order.received if is_in and order.ban.network in self._ledger else None)
                for order in orders
            ]
        )
        self._tell_evicted()

    async def _release(self, lifts: list[IPNetwork]) -> None:
        lifts = [network for network in lifts if network not in self._ledger]
        if lifts and not await self._is_done(self.firewall.remove(lifts)):
            self._lifts.update(dict.fromkeys(lifts))

    async def _is_done(self, work: Awaitable[object]) -> bool:
        try:
            await work
        except FirewallError as error:
            self._complain(error)
            self._is_listing_due = True
            return False
        return True

    async def _add(self, entries: list[Entry]) -> None:
        rejected = await self.firewall.add(entries)
        for entry in rejected:
            await self._make_room(entry, tries=len(rejected) + 1)

    async def _make_room(self, entry: Entry, *, tries: int) -> None:
        """Give up bans that end soonest for one that the full set refused; it may be the one that ends soonest."""
        for _ in range(tries):  # each of the others that were refused may come up first, and frees nothing
            if entry.network not in self._ledger:
                return
            victim = self._ledger.soonest(entry.network.version) or entry.network
            self._ledger.drop(victim)
            self._victims.append(victim)
            if victim == entry.network:
                return
            self._lifts[victim] = self._gone[victim] = None
            await self.firewall.remove([victim])
            self._lifts.pop(victim, None)
            if not await self.firewall.add([entry]):
                return
        raise FirewallError(f"The set is full and has no room for {entry.network}: raise AMIWATCH_SET_SIZE.")

    def _tell_evicted(self) -> None:
        """Tell of bans that were given up, after they were told of as bans."""
        victims, self._victims = self._victims, []
        for network in victims:
            self._evicted(network)

    # Panic.

    async def hold(self) -> None:
        """
        Let nothing be dropped from now on: empty the sets with one call, and keep them so; the ledger stays.

        Raises FirewallError if the kernel refuses; that it is to be empty stays, and ``reconcile`` tries again.
        """
        self.is_held = self._is_listing_due = True
        await self.firewall.clear()
        # What was on its way to the kernel meanwhile.
        await self.settle()
        async with self._closing:
            await self._clear()
            if self.rule.protection.has_limits:
                await self.rule.keep_exempt()
                await self._check_rule()

    async def resume(self) -> None:
        """Put back what has time left, with the time that is left, and the limits."""
        self.is_held, self._is_listing_due = False, True
        await (self.recheck() if self.rule.protection.has_limits else self.reconcile())
        await self.rule.keep_exempt()

    # Reconcile.

    async def begin(self) -> None:
        """Open the firewall and make it hold what the ledger wants. Raises FirewallError."""
        await self.firewall.open()
        held = sum(state.count for state in await self.firewall.states())
        # Where a long list is there already, hearing is more urgent: the first reconcile compares entry by entry.
        if not self.is_blocking or held < max(LONG_LISTING, len(self._ledger) * 99 // 100):
            await self._restore()
        await self._check_rule()

    async def reconcile(self) -> None:
        """Close the gap between ledger and kernel; said once when it fails, tried again at the next call."""
        async with self._closing:
            await self._reconcile()

    async def recheck(self) -> None:
        """Reconcile, and put the rule right: somebody has changed something."""
        async with self._closing:
            await self._reconcile()
            if self.has_trouble:  # a set of our name may be somebody else's
                return
            try:
                await self._check_rule()
            except FirewallError as error:
                self._complain(error)

    async def look(self) -> bool:
        """
        Ask the kernel for a ban of each family (microseconds), and for the rule now and then.

        What is missing in a set is put back at once. False if the rule must be put right: ``recheck``, when whoever
        changes rules has finished.
        """
        async with self._closing:
            if not await self._is_untouched():
                await self._reconcile()
            return await self.rule.is_right()

    async def _is_untouched(self) -> bool:
        if not self.is_blocking:
            return True
        try:
            for network in list(self._witnesses.values()):
                until = self._ledger.until(network)
                # What ends soon, or was lifted, tells nothing.
                if until is not None and until > self._now() + ENDING and not await self.firewall.has(network):
                    return False
        except FirewallError:
            return False  # reconcile says what is wrong
        return True

    async def _reconcile(self) -> None:
        if self._lifts:
            self._wake.set()
        try:
            began, pending = perf_counter(), self._pending
            states = await self.firewall.states()
            self.look_took = perf_counter() - began
            if len(states) < 2:
                level = logging.DEBUG if self.has_trouble else logging.ERROR
                log.log(level, "set missing, made anew found=%s", ",".join(state.name for state in states) or "none")
                await self.firewall.open()
                await self._restore()
            elif self._is_suspicious(sum(state.count for state in states), pending=pending):
                await self._restore()
            if self._has_rule and {state.family for state in states if not state.references} - self.rule.needless:
                await self.rule.note_unused()
            if self.has_trouble:
                log.warning("firewall works again backend=%s", self.firewall.name)
            self.has_trouble = False
        except FirewallError as error:
            self._complain(error)
        self._tell_evicted()

    def _is_suspicious(self, count: int, *, pending: int) -> bool:
        """
        Tell whether a full comparison is due: something failed, the numbers differ, or the last is long ago.

        ``pending`` changes were on their way when it was counted.
        """
        wanted, pending = len(self._ledger) if self.is_blocking else 0, pending + self._pending
        gap = max(wanted - pending - count, count - wanted - pending, 0)
        # The kernel's timeouts and ours differ by up to a second: a small difference must last to count.
        self._mismatches = self._mismatches + 1 if gap else 0
        is_large = gap > wanted // 100
        is_old = perf_counter() - self._listed_at > max(FULL_LISTING, SHARE * self._listing_took)
        return self._is_listing_due or self._mismatches > 1 or is_large or is_old

    async def _restore(self) -> None:
        """Compare entry by entry; add what is missing or ends too soon, adopt or remove what is unknown."""
        self._is_listing_due = True  # until all of it was done
        self._gone = {**self._leaving, **self._lifts}
        if not self.is_blocking:
            await self._clear()
            return
        held, unknown = await self._compared()
        now, restored = self._now(), 0
        for part in parts(self._ledger.wanted(now), SLICE):
            late = self._now() - now
            missing = [
                Entry(network, None if left is None else max(1, round(left - late)))
                for network, left in part
                if not held.has_taken(network)
            ]
            restored += await self._put_back(missing)
            self._witnesses |= {network.version: network for network, _ in (part[0], part[-1])}
            await asyncio.sleep(0)
        if stale := [network for network in self._gone if network not in self._ledger]:
            await self.firewall.remove(stale)  # lifted in these very moments, and maybe put back by us
        if restored:
            log.info("entries restored count=%d", restored)
        if self.is_blocking:
            await self._sort_out(unknown)
            self._is_listing_due = False

    async def _compared(self) -> tuple[_Held, list[Entry]]:
        """List what the kernel holds: the networks that are as we want them, and what nobody wants."""
        began, now = perf_counter(), self._now()
        held = _Held()
        unknown: list[Entry] = []

        def compare(entries: Sequence[Entry]) -> None:
            for entry in entries:
                until = self._ledger.until(entry.network)
                if until is None:
                    unknown.append(entry)
                elif _is_right(entry, until - now):
                    held.add(entry.network)

        await self.firewall.walk(compare)
        self._listed_at = perf_counter()
        self._listing_took = self._listed_at - began
        return held, unknown

    async def _put_back(self, missing: list[Entry]) -> int:
        if not self.is_blocking:  # since a moment ago
            return 0
        if self._gone:  # something was lifted while we compared: the ledger knows what
            missing = [entry for entry in missing if entry.network in self._ledger]
        if missing:
            await self._add(missing)
        return len(missing)

    async def _sort_out(self, unknown: Iterable[Entry]) -> None:
        """Adopt entries of ours that nobody remembers; remove those that must not be."""
        refused: list[IPNetwork] = []
        adopted = 0
        for number, entry in enumerate(unknown):
            if number % SLICE == SLICE - 1:
                await asyncio.sleep(0)
            if not self._is_stranger(entry):
                continue
            if await self._adopted(entry.network, entry.seconds):
                adopted += 1
            else:
                refused.append(entry.network)
        if refused:
            await self.firewall.remove(refused)
        if adopted:
            log.warning("unknown entries adopted count=%d", adopted)

    def _is_stranger(self, entry: Entry) -> bool:
        """Tell whether nobody remembers an entry: between its listing and now it may have been banned or lifted."""
        network = entry.network
        if network in self._ledger or network in self._gone or network in self._lifts:
            return False
        return entry.seconds is None or entry.seconds > ENDING

    async def _clear(self) -> None:
        """Empty the sets, for nothing may be blocked."""
        count = sum(state.count for state in await self.firewall.states())
        if count:
            await self.firewall.clear()
            why = "panic" if self.is_held else "observe mode"
            log.warning("entries taken out of the kernel: %s blocks nothing count=%d", why, count)
        self._listed_at, self._is_listing_due = perf_counter(), False

    async def _check_rule(self) -> None:
        if self._has_rule:
            await self.rule.check()

    @property
    def _has_rule(self) -> bool:
        """Tell whether there is anything for a rule to drop."""
        return self.firewall.name != "none" and self.is_enforcing

    def _complain(self, error: FirewallError) -> None:
        if not self.has_trouble:
            log.error("bans are not enforced now, trying again reason=%s", error)
        self.has_trouble = True


def _entry(ban: Ban) -> Entry:
    # A person may prolong a ban, which goes on counting; a rule bans only who is not banned.
    return Entry(ban.network, ban.seconds, is_new=ban.rule not in BY_HAND)


def _is_right(entry: Entry, left: float) -> bool:
    """Tell whether an entry ends when it should, give or take; ``left`` is infinity for no end."""
    if entry.seconds is None:
        return left == inf
    return left < inf and entry.seconds >= min(left, MAX_TIMEOUT) - REARM


class _Held:
    """
    Networks that the kernel holds, as numbers: a million of those take a tenth of what a million networks take.

    In several sets, for one on its way to a million copies itself for 17 ms.
    """

    def __init__(self) -> None:
        self._parts: list[set[int]] = []

    def add(self, network: IPNetwork) -> None:
        if not self._parts or len(self._parts[-1]) >= PART:
            self._parts.append(set())
        self._parts[-1].add(_number(network))

    def has_taken(self, network: IPNetwork) -> bool:
        """Take a network out, and tell whether it was in; to let go of a million at once would take 100 ms."""
        number = _number(network) if self._parts else 0
        for part in self._parts:
            if number in part:
                part.remove(number)
                return True
        return False


def _number(network: IPNetwork) -> int:
    return int(network.network_address) << 9 | network.prefixlen << 1 | (network.version == 6)
