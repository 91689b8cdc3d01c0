"""
The daemon: joins judgement and edges, and sends verdicts on their way.

Rule 1: block first, record right behind. A ban is put to the store when the kernel has it (or refused it).
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from time import perf_counter

from amiwatch import __version__
from amiwatch.ami.client import AmiClient, Link, LinkState
from amiwatch.ami.wire import Item
from amiwatch.config import AmiSettings, Settings, load
from amiwatch.daemon.aftermath import Aftermath, forwards
from amiwatch.daemon.allowlist import Allowlist
from amiwatch.daemon.books import Books
from amiwatch.daemon.clock import SteadyClock
from amiwatch.daemon.collector import CALM_TIME, Collector
from amiwatch.daemon.counting import Counting
from amiwatch.daemon.doubts import LOOK_TIME, Doubts
from amiwatch.daemon.enforcer import Done, Enforcer, Order
from amiwatch.daemon.guard import Guard
from amiwatch.daemon.hold import Hold
from amiwatch.daemon.inbox import Inbox
from amiwatch.daemon.lock import only_one
from amiwatch.daemon.lookout import Lookout
from amiwatch.daemon.memory import Memory
from amiwatch.daemon.petitions import FILLING, Clerk
from amiwatch.errors import ConfigurationError, StoreError
from amiwatch.firewall.base import Firewall
from amiwatch.firewall.leftovers import take_over
from amiwatch.firewall.table import make_firewall, make_rule
from amiwatch.judgement.judge import Judge
from amiwatch.judgement.networks import source_key
from amiwatch.judgement.reasons import duration
from amiwatch.judgement.values import BY_HAND, Alert, Ban, IPNetwork, Lift, Verdict
from amiwatch.notify import Listener
from amiwatch.notify.systemd import ALIVE, READY, STOPPING, notify, reloading, watchdog_interval
from amiwatch.store.writer import Store

log = logging.getLogger(__name__)

TICK = 0.25
"""Seconds between two looks at requests and ends of bans; a person waits for the answer."""

SAVE_TIME = 1.0
"""Seconds between two handovers of sums and status to the store, while something happens."""

FORGET_TIME = 6 * 3600.0
"""Seconds between two rounds of retention."""

COMMAND_TIME = 5.0
"""Seconds that a command which does a request itself waits for another one to finish; each takes a fraction of one."""

NEEDS_RESTART = frozenset(
    {
        "ami", "pbx", "database", "firewall", "mode", "set_name", "set_size", "ports", "drop_rule",
        "max_attempt_rows", "log_level",
    }
)  # fmt: skip
"""Settings that SIGHUP does not change: they say what is opened at the start."""

ALONE = 8
"""Bans of one call that go to the kernel within it, one by one (some 20 microseconds each); more go together."""

CALM_ROWS = 1_000
"""Rows that wait for the disk at most in a calm moment."""

LATENCIES = 1000
"""Newest bans whose way to the kernel is remembered."""


class Daemon:
    """
    Everything between the AMI links and the kernel.

    ``read_settings`` gives the settings anew for SIGHUP; ``firewall`` replaces what the settings name
    (who brings it sees to the rule); ``listeners`` are told of bans, alerts and links.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        read_settings: Callable[[], Settings] = load,
        firewall: Firewall | None = None,
        listeners: Sequence[Listener] = (),
    ) -> None:
        self.settings = settings
        self._read_settings = read_settings
        self.now = SteadyClock()
        self.judge = Judge(settings.judgement_policy())
        self.firewall = firewall or make_firewall(
            settings.firewall, prefix=settings.set_name, maxelem=settings.set_size
        )
        self.is_own_firewall = firewall is None and self.firewall.name != "none"
        """It was made from the settings, so what another one left under our name is ours, too."""
        self.is_enforcing = settings.mode == "enforce"
        self.listeners = list(listeners)
        self.latencies: deque[float] = deque(maxlen=LATENCIES)
        """Seconds from an event's arrival to its source's place in the kernel, of the newest bans."""
        self.faults = 0
        """Errors that nobody expected; each was logged, and all else went on."""
        self.restored_after = 0.0
        """Seconds from the begin of ``run`` until the kernel held all bans again."""
        self.started_at = self.now()
        self._stop = asyncio.Event()
        self._withdrawn: list[Lift] = []
        """Bans that the judge took back and the store does not know of yet."""
        self._reloading = asyncio.Event()
        self.links: dict[str, LinkState] = {}
        self.hearing_since: dict[str, float] = {}
        """When each link that hears began to, in UTC."""
        self.inbox = Inbox(self)
        self.memory = Memory(self)
        self.allowlist = Allowlist(self)
        self.books = Books(self)
        self.guard = Guard(self)
        self._clients: list[AmiClient] = []
        self.store: Store | None = None
        self._clerk: Clerk | None = None
        rule = None
        if firewall is None and settings.drop_rule == "managed":
            rule = make_rule(self.firewall.name, settings.set_name)
        self._enforcer = Enforcer(
            self.firewall,
            self.judge.ledger,
            now=self.now,
            done=self._record,
            adopted=self.memory.adopt,
            evicted=self._evicted,
            is_enforcing=self.is_enforcing,
            rule=rule,
            protection=self.guard.protection(),
            exempt=self.guard.exempt,
        )

        self.hold = Hold(self, self._enforcer)
        self.counting = Counting(self.firewall)
        self.aftermath = Aftermath(
            lambda: self._enforcer.rule.protection.scope, forgets=settings.drop_rule == "manual" or forwards()
        )
        self.doubts = Doubts(self.judge, self._enforcer, rule=rule, host=self._host, alert=self._alerted, now=self.now)
        self._lookout = Lookout(self._enforcer)
        self._collector = Collector()

    # What the AMI readers call. Nothing here waits.

    def receive(self, pbx: str, items: Sequence[Item]) -> None:
        """Judge what a reader brought, or queue it where it is much."""
        self.inbox.receive(pbx, items)

    def link_changed(self, pbx: str, state: LinkState, detail: str) -> None:
        """Record how a link is, and the gaps in which nothing was heard."""
        self.links[pbx] = state
        at = self.now.utc(self.now())
        if self.store is not None:
            self.store.put_link(pbx, at, state.value, detail)
            if state in {LinkState.LOST, LinkState.REFUSED, LinkState.DEAF}:
                heard = next((each.last_byte_at for each in self._clients if each.link.name == pbx), None)
                self.store.put_gap_begin(pbx, heard or at, detail)
            elif state is LinkState.HEARING:
                self.hearing_since[pbx] = at
                self.store.put_gap_end(pbx, at)
        self._tell(lambda listener: listener.link_changed(pbx, state.value, detail))

    def _tell(self, tell: Callable[[Listener], None]) -> None:
        for listener in self.listeners:
            with self.unhurt("a listener"):
                tell(listener)

    @contextmanager
    def unhurt(self, what: str) -> Iterator[None]:
        """Go on whatever happens inside: one error that nobody expected must not end the banning."""
        try:
            yield
        except Exception:  # said, counted, and reported to us by whoever reads it
            self.faults += 1
            is_loud = self.faults.bit_count() == 1  # 1, 2, 4, 8, ...
            log.log(
                logging.ERROR if is_loud else logging.DEBUG,
                "fault of amiwatch, please report it; everything else goes on what=%r count=%d",
                what,
                self.faults,
                exc_info=True,
            )

    # What the judge says.

    def take(self, verdicts: Sequence[Verdict], pbx: str, received: float) -> None:
        """Send verdicts on their way; ``received`` is when their event came in (``perf_counter``)."""
        is_alone = len(verdicts) <= ALONE and not self.inbox.waiting
        for verdict in verdicts:
            if isinstance(verdict, Ban):
                self._enforcer.order(Order(verdict, pbx, received), is_alone=is_alone)
            elif isinstance(verdict, Lift):
                self._withdraw(verdict)
            else:
                self._alerted(verdict, pbx)

    def _withdraw(self, lift: Lift) -> None:
        """Take a ban back that the judge has struck from the ledger; recorded after its ban, which may be under way."""
        self._withdrawn.append(lift)
        self._release(lift.network)
        if not self._enforcer.has_orders:
            self._record_withdrawn()
        log.warning("unbanned network=%s by='amiwatch' reason=%r", lift.network, lift.reason)
        self._tell(lambda listener: listener.lifted(lift.network))

    def _alerted(self, alert: Alert, pbx: str) -> None:
        log.warning(
            "alert kind=%s address=%s account=%r reason=%r", alert.kind, alert.address, alert.account, alert.reason
        )
        if self.store is not None:
            self.store.put_alert(replace(alert, at=self.now.utc(alert.at)), pbx=pbx)
        self._tell(lambda listener: listener.alerted(alert, pbx))

    # What the enforcer reports.

    def _record(self, done: list[Done]) -> None:
        for each in done:
            ban, pbx = each.order.ban, each.order.pbx
            is_enforced = self.is_enforcing and each.seconds is not None
            if is_enforced and each.seconds is not None:
                self.latencies.append(each.seconds)
                self.counting.begin(ban.network)
                self.doubts.begin(ban)
                if self.is_own_firewall:
                    self.aftermath.cut_off(ban.network)
            self._say_banned(ban, pbx, each.seconds)
            if self.store is not None:
                origin = "manual" if ban.rule in BY_HAND else "rule"
                # What the kernel refused is still wanted: reconcile brings it in, so it counts as enforced.
                self.store.put_ban(
                    replace(ban, at=self.now.utc(ban.at)),
                    pbx=pbx,
                    origin=origin,
                    is_enforced=self.is_enforcing,
                    by=each.order.by,
                )
        self._record_withdrawn()

    def _record_withdrawn(self) -> None:
        store, lifts, self._withdrawn = self.store, self._withdrawn, []
        if store is None:
            return
        for lift in lifts:
            store.put_lift(lift.network, at=self.now.utc(lift.at), by="amiwatch", reason=lift.reason)
            if not lift.level:
                store.put_pardon(lift.network)

    def _say_banned(self, ban: Ban, pbx: str, seconds: float | None) -> None:
        time = "for ever" if ban.seconds is None else duration(ban.seconds)
        if not self._enforcer.is_blocking:
            why = "observe mode" if not self.is_enforcing else "held by panic"
            log.info(
                "would have banned, %s network=%s for=%r rule=%s reason=%r",
                why,
                ban.network,
                time,
                ban.rule,
                ban.reason,
            )
        elif seconds is None:
            log.error("ban not enforced yet network=%s for=%r rule=%s", ban.network, time, ban.rule)
        else:
            log.info(
                "banned network=%s for=%r rule=%s level=%d ms=%.2f reason=%r",
                ban.network,
                time,
                ban.rule,
                ban.level,
                seconds * 1000,
                ban.reason,
            )
        self._tell(lambda listener: listener.banned(ban, pbx, seconds))

    def _evicted(self, network: IPNetwork) -> None:
        log.error("set full, ban given up early network=%s: raise AMIWATCH_SET_SIZE", network)
        if self.store is not None:
            self.store.put_lift(network, at=self.now.utc(self.now()), by="amiwatch", reason="evicted: the set is full")

    # Allowlist and lifting, also for the clerk.

    def lift(self, network: IPNetwork, *, by: str, reason: str) -> bool:
        """End the ban of exactly this network; tell whether there was one."""
        was_banned = self.judge.ledger.drop(network)
        self._release(network)
        if was_banned and self.store is not None:
            self.store.put_lift(network, at=self.now.utc(self.now()), by=by, reason=reason)
        if was_banned:
            log.info("unbanned network=%s by=%r reason=%r", network, by, reason)
            self._tell(lambda listener: listener.lifted(network))
        return was_banned

    def _release(self, network: IPNetwork) -> None:
        self.judge.neighbours.forget(source_key(network.network_address))
        self._enforcer.lift(network)
        self.hold.settle(network)
        self.hold.forced.discard(network)

    async def ban_by_hand(self, ban: Ban, *, by: str) -> None:
        """Ban because a person said so; back when the kernel has it."""
        self.judge.ledger.put(ban.network, None if ban.seconds is None else ban.at + ban.seconds)
        self._enforcer.order(Order(ban, "", perf_counter(), by))
        await self.settle()

    def protect(self) -> None:
        """Have dropped what is known now; the next look at the rule sees to it."""
        self._enforcer.rule.protect(self.guard.protection())

    async def protect_now(self) -> None:
        """Have dropped what is known now, before this returns if the kernel does it; else reconcile tries again."""
        self.protect()
        await self._enforcer.recheck()

    @property
    def places_rule(self) -> bool:
        """Tell whether the rule is ours to place, and the rights are there."""
        return self._enforcer.rule.places_rule

    @property
    def limits_refused(self) -> str:
        """Say why limits are not in the kernel; empty where they are, or nobody wants any."""
        return self._enforcer.rule.refused

    @property
    def limited(self) -> int:
        """How many packets tiers and signatures have dropped, a few seconds ago."""
        return self._enforcer.rule.limited

    @property
    def has_firewall_trouble(self) -> bool:
        """Tell whether the kernel refused something that is still to be tried again."""
        return self._enforcer.has_trouble

    async def settle(self) -> None:
        """Wait until the kernel has been told everything so far."""
        await self._enforcer.settle()

    async def flush(self) -> None:
        """Wait until everything so far is in the database. Raises StoreError."""
        if self.store is not None:
            self.books.hand_over(self.store)
            await self.store.flush()

    # Life.

    async def run(self) -> None:
        """Watch until ``stop`` is called or a signal comes. Raises what makes the start impossible."""
        pbxs = self.settings.require_ami()
        with only_one(self.settings.database):
            self._listen_to(signal.SIGHUP, self.reload)
            async with self._opened_store() as store:
                self._clerk = Clerk(self, store)
                async with self._restored(store), asyncio.TaskGroup() as group:
                    # After the bans, for a name server may be slow; before the first event.
                    await self.allowlist.refresh()
                    self.guard.is_ready = True
                    tasks = [group.create_task(work, name=name) for name, work in self._chores(store).items()]
                    for pbx in pbxs.values():
                        client = AmiClient(link_of(pbx), self)
                        self._clients.append(client)
                        tasks.append(group.create_task(client.run(), name=f"ami {pbx.name}"))
                    self._listen_to(signal.SIGTERM, self.stop)
                    self._listen_to(signal.SIGINT, self.stop)
                    notify(READY)
                    self.books.hand_over(store)
                    log.info("watching version=%s mode=%s pbxs=%s", __version__, self.settings.mode, ",".join(pbxs))
                    await self._stop.wait()
                    log.info("stopping, the kernel keeps its bans bans=%s", len(self.judge.ledger))
                    notify(STOPPING)
                    await self._wind_up(store)
                    for task in tasks:
                        task.cancel()

    def _chores(self, store: Store) -> dict[str, Coroutine[None, None, None]]:
        assert self._clerk is not None
        return {
            "consumer": self.inbox.run(),
            "enforcer": self._enforcer.run(),
            "aftermath": self.aftermath.run(),
            "counting": self._again("counting", lambda: self.counting.pause, lambda: self._count(store)),
            "doubts": self._again("doubts", lambda: LOOK_TIME, self.doubts.look),
            "reloader": self._reload(),
            "watchdog": self._watchdog(),
            "lookout": self._again("lookout", lambda: 0, self._lookout.turn),
            "reconcile": self._again("reconcile", self._pause, self._reconcile),
            "clerk": self._again("clerk", lambda: TICK, self._clerk.look),
            "hold": self._again("hold", lambda: TICK, self.hold.look),
            "saver": self._again("saver", lambda: SAVE_TIME, lambda: self._save(store)),
            "refresh": self._again("refresh", lambda: self.allowlist.pause, self._refresh),
            "tidy": self._again("tidy", lambda: CALM_TIME, self._tidy),
            "retention": self._again("retention", lambda: FORGET_TIME, lambda: self._forget(store)),
        }

    async def _again(self, name: str, every: Callable[[], float], work: Callable[[], Awaitable[None]]) -> None:
        """Do a chore every so many seconds, whatever became of it the last time."""
        while True:
            await asyncio.sleep(every())
            with self.unhurt(name):
                await work()

    async def attend_once(self) -> None:
        """
        Carry out the requests that wait and end: for the command line, where no daemon runs.

        Raises AlreadyRunning, FirewallError and StoreError. No sign of life is given, for nobody watches.
        """
        with only_one(self.settings.database, patience=COMMAND_TIME):
            async with self._opened_store() as store:
                await self.memory.recall(store)
                is_change = any(request.verb in FILLING for request in await store.pending_requests())
                async with self._opened_firewall(is_needed=is_change), asyncio.TaskGroup() as group:
                    await self.allowlist.refresh()
                    self.guard.is_ready = True
                    enforcing = group.create_task(self._enforcer.run(), name="enforcer")
                    await Clerk(self, store).look()
                    await self.hold.look()
                    await self.settle()
                    await self.aftermath.finish()
                    enforcing.cancel()
                await store.flush()

    def stop(self) -> None:
        """End ``run`` soon; bans stay in the kernel."""
        self._stop.set()

    def reload(self) -> None:
        """Read allowlist and policy again, soon; what is remembered stays."""
        self._reloading.set()

    async def reload_now(self) -> None:
        """Read the settings again. Raises ConfigurationError, and keeps the old ones."""
        old, new = self.settings, self._read_settings()
        new.require_complete()
        names = type(new).model_fields.keys() - NEEDS_RESTART
        # Copied from the old ones: what is open stays as it is, and as it is shown.
        settings = old.model_copy(update={name: getattr(new, name) for name in names})
        self.judge.adopt(settings.judgement_policy())
        self.settings = settings
        await self.allowlist.refresh()
        self.protect()
        log.info("settings read again policy=%s", settings.policy)
        if later := [name for name in sorted(NEEDS_RESTART) if getattr(old, name) != getattr(new, name)]:
            log.warning("settings changed that need a restart names=%s", ",".join(later))

    async def _reload(self) -> None:
        while True:
            await self._reloading.wait()
            self._reloading.clear()
            notify(reloading(time.monotonic()))
            with self.unhurt("reload"):
                try:
                    await self.reload_now()
                except ConfigurationError as error:
                    log.error("settings not read again, the old ones stay reason=%r", str(error))
            notify(READY)

    @staticmethod
    def _listen_to(number: signal.Signals, call: Callable[[], None]) -> None:
        with suppress(ValueError, RuntimeError):  # not in the main thread: an embedder listens himself
            asyncio.get_running_loop().add_signal_handler(number, call)

    @asynccontextmanager
    async def _opened_store(self) -> AsyncIterator[Store]:
        store = await Store.open_or_wait(
            self.settings.database,
            now=lambda: self.now.utc(self.now()),
            on_opened=self.memory.store_opened,
            max_attempt_rows=self.settings.max_attempt_rows,
        )
        async with store:
            self.store = store
            yield store

    @asynccontextmanager
    async def _restored(self, store: Store) -> AsyncIterator[None]:
        """Put the known bans into the kernel, and then take over the rest of what the database knows."""
        with self._collector:
            await self.memory.recall_bans(store)
            async with self._opened_firewall():
                if self.is_own_firewall:
                    await take_over(self.firewall.name, self.settings.set_name)
                await self.memory.recall_people(store)
                self._collector.begin()
                yield

    @asynccontextmanager
    async def _opened_firewall(self, *, is_needed: bool = True) -> AsyncIterator[None]:
        """Make the kernel drop what the ledger wants; if that is not needed, only ask for the rights."""
        try:
            await (self._enforcer.begin() if is_needed else self.firewall.states())
            self.restored_after = self.now() - self.started_at
            yield
        finally:
            self._lookout.close()
            await self.firewall.close()

    async def _wind_up(self, store: Store) -> None:
        """Carry out what is decided, and hand everything over to the store."""
        with suppress(TimeoutError):
            async with asyncio.timeout(0.2):
                await self._enforcer.settle()
        self.books.hand_over(store)

    def _pause(self) -> float:
        """Return the seconds until the next reconcile: it may cost 1 % of a processor (a million bans take 25 ms)."""
        return max(float(self.settings.reconcile_time), 100 * self._enforcer.look_took)

    async def _reconcile(self) -> None:
        self.take(self.judge.sweep(self.now()), "", perf_counter())
        self.judge.ledger.expire(self.now())
        if await self.guard.learn():
            self.protect()
        await self._enforcer.rule.keep_exempt()
        await self._enforcer.reconcile()

    async def _save(self, store: Store) -> None:
        await self.memory.catch_up(store)
        self.books.save(store)

    def _host(self, pbx: str) -> str:
        found = self.settings.pbxs().get(pbx)
        return found.host if found else ""

    async def _count(self, store: Store) -> None:
        await self.counting.look(store, self.now.utc(self.now()))

    async def _refresh(self) -> None:
        self.inbox.sum_up()
        await self.allowlist.refresh()

    async def _tidy(self) -> None:
        if not self.inbox.waiting and (self.store is None or self.store.waiting < CALM_ROWS):
            self._collector.tidy()

    async def _forget(self, store: Store) -> None:
        with suppress(StoreError):  # said by the store
            await store.forget(self.now.utc(self.now()) - self.settings.keep)

    async def _watchdog(self) -> None:
        interval = watchdog_interval()
        while interval is not None:
            notify(ALIVE)
            await asyncio.sleep(interval)


def link_of(pbx: AmiSettings) -> Link:
    """Translate the settings of a PBX for the client."""
    return Link(
        name=pbx.name,
        host=pbx.host,
        port=pbx.port,
        username=pbx.username,
        secret=pbx.secret.get_secret_value() if pbx.secret else "",
        tls=pbx.tls,
        ca_file=pbx.ca_file,
        server_name=pbx.server_name,
        verify=pbx.verify,
        md5=pbx.login == "md5",
    )
