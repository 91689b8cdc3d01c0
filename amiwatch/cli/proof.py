"""``amiwatch firewall test``: the packet of a banned address is dropped, shown by sending one."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar

import typer

from amiwatch.cli.panic import OBSERVING, pause
from amiwatch.cli.text import counted, strong
from amiwatch.errors import AlreadyRunning, FirewallError, FirewallPermission, Refusal
from amiwatch.firewall.base import Entry, Firewall
from amiwatch.firewall.names import rehearsal_name
from amiwatch.firewall.protection import Protection
from amiwatch.firewall.rule import Rule
from amiwatch.firewall.scope import Ports
from amiwatch.judgement.values import IPAddress, source_network

if TYPE_CHECKING:
    from amiwatch.config import Settings
    from amiwatch.firewall.cable import Cable, Ends
    from amiwatch.firewall.diagnosis import Cause

BAN_TIME = 10
"""Seconds that a test's ban lasts if nobody lifts it. The daemon adopts no unknown entry that ends as soon as this."""

RIGHTS = {12: "CAP_NET_ADMIN", 13: "CAP_NET_RAW", 21: "CAP_SYS_ADMIN"}
"""Bits of ``CapEff`` (linux/capability.h): for the veth pair and the ban, for watching, for a namespace."""

COUNT_PATIENCE = 1.0
"""Seconds until the kernel's counter must have moved."""

USUAL = (Ports("udp", 5060, 5060), Ports("tcp", 5060, 5060))
"""What is tried where all ports are closed."""

HERE = {4: "192.0.2.{}", 6: "2001:db8:a:{}::1"}
BANNED = {4: "198.51.100.{}", 6: "2001:db8:b:{}::1"}
FREE = {4: "203.0.113.{}", 6: "2001:db8:c:{}::1"}
"""Documentation addresses (RFC 5737, RFC 3849), with a number that this host does not use."""

T = TypeVar("T")

REHEARSED = (
    "Proven: this host drops who is banned, as soon as it may. In observe mode nothing is put into the live sets, so "
    "it was tried with sets and a rule of the test's own, the same that enforce mode places; they are gone again."
)


class Means(NamedTuple):
    """What drops."""

    firewall: Firewall
    rule: Rule | None
    """None where it is the administrator's."""
    protection: Protection


Run = Callable[[Coroutine[Any, Any, Any]], Any]


@dataclass(frozen=True, slots=True)
class Trial:
    """One port, tried with one family."""

    family: int
    protocol: str
    port: int
    banned: str
    free: str
    packets: int
    """Dropped, as the kernel's counter of this very ban says."""
    did_banned_arrive: bool
    did_free_arrive: bool
    """The packet of an address that is not banned, sent right behind."""
    fault: Cause | None
    """What is wrong, where the packet was not dropped by us and the reason is known."""

    @property
    def is_dropped(self) -> bool:
        """Tell whether our rule dropped the packet."""
        return self.packets > 0 and not self.did_banned_arrive


def prove(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """
    Prove that a banned address is dropped: send a packet from one. Needs root.

    Harms nobody: documentation addresses, a network namespace of its own, a ban of seconds. Ends with 0 if it is
    proven, else with 69.
    """
    settings = context.obj.settings()
    if settings.firewall == "none":
        raise Refusal("AMIWATCH_FIREWALL is 'none', a dry run: nothing is dropped, so there is nothing to test.")
    if missing := missing_rights():
        raise FirewallPermission(
            f"The test needs root (missing: {', '.join(missing)}), for it makes a network namespace with a veth pair "
            "and bans a documentation address for some seconds."
        )
    why = pause(settings.database)
    is_rehearsal = settings.mode == "observe" if why is None else why == OBSERVING
    if why and (not is_rehearsal or settings.drop_rule == "manual"):
        raise Refusal(f"{why}; so there is nothing to test.")
    with _only_one(), _ended_by_signals():
        trials = trials_of(settings, _rehearsed if is_rehearsal else _live)
    if as_json:
        record = {
            "is_proven": all(trial.is_dropped for trial in trials),
            "is_rehearsal": is_rehearsal,
            "trials": [_record(one) for one in trials],
        }
        typer.echo(json.dumps(record, indent=2))
    else:
        for line in _lines(trials):
            typer.echo(line)
        if all(trial.family == 4 for trial in trials):
            typer.echo("  IPv6 is off for new interfaces of this host, so it was not tried")
    if wrong := [trial for trial in trials if not trial.is_dropped]:
        raise FirewallError(f"Banned addresses are not dropped: {_fault(wrong[0])}")
    if not as_json:
        typer.echo(REHEARSED if is_rehearsal else "Proven: this host drops who is banned.")


def missing_rights() -> list[str]:
    """Return the rights that the test needs and this process does not have."""
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("CapEff:"):
            rights = int(line.split()[1], 16)
            return [name for bit, name in RIGHTS.items() if not rights >> bit & 1]
    return list(RIGHTS.values())


def trials_of(settings: Settings, means: Callable[[Settings, Run], AbstractContextManager[Means]]) -> list[Trial]:
    """Try each protocol of the scope, with each family. Raises FirewallError; what was made is gone afterwards."""
    from amiwatch.firewall.cable import Cable
    from amiwatch.testing.netns import Namespace

    with ExitStack() as stack:
        run = stack.enter_context(asyncio.Runner()).run
        what = stack.enter_context(means(settings, run))
        elsewhere = _made(Namespace)
        stack.callback(elsewhere.close)
        ends = _ends()
        cable = stack.enter_context(Cable(elsewhere, ends))
        ground = _Ground(run, what.firewall, what.rule, what.protection, cable)
        return [ground.tried(each, port) for each in ends for port in _ports(what.protection)]


@contextmanager
def _live(settings: Settings, run: Run) -> Iterator[Means]:
    """Use what is there, whoever placed it."""
    from amiwatch.cli.firewall import wanted
    from amiwatch.firewall.table import make_firewall, make_rule

    firewall = make_firewall(settings.firewall, prefix=settings.set_name, maxelem=settings.set_size)
    rule = make_rule(firewall.name, settings.set_name) if settings.drop_rule == "managed" else None
    try:
        if len(run(firewall.states())) < 2:
            raise FirewallError(
                "There are no sets yet: 'amiwatch firewall install' makes them, and so does the daemon."
            )
        yield Means(firewall, rule, wanted(settings))
    finally:
        run(firewall.close())


@contextmanager
def _rehearsed(settings: Settings, run: Run) -> Iterator[Means]:
    """Make the same under another name, for nothing may be in the live sets; it is gone afterwards."""
    from amiwatch.cli.firewall import wanted
    from amiwatch.firewall.leftovers import remove
    from amiwatch.firewall.table import make_firewall, make_rule

    kind, name = make_firewall(settings.firewall, prefix=settings.set_name).name, rehearsal_name(settings.set_name)
    firewall, rule, protection = make_firewall(kind, prefix=name), make_rule(kind, name), wanted(settings).bare()
    assert rule is not None, "a dry run has nothing to test"
    run(remove(kind, name))  # a test that was killed left it
    try:
        run(firewall.open())
        run(rule.install(protection))
        yield Means(firewall, rule, protection)
    finally:
        run(firewall.close())
        run(remove(kind, name))


def _made(namespace: Callable[[], T]) -> T:
    try:
        return namespace()
    except OSError as exc:
        raise FirewallError(f"The kernel makes no network namespace for the test ({exc.strerror}).") from exc


def _ports(protection: Protection) -> list[Ports]:
    """Return one closed port of each protocol."""
    first = {ports.protocol: ports for ports in reversed(protection.scope.ports or USUAL)}
    return [first[protocol] for protocol in ("udp", "tcp") if protocol in first]


def _ends() -> list[Ends]:
    from amiwatch.firewall.cable import Ends, has_ipv6, own_addresses

    own, found = own_addresses(), []
    for family in (4, 6) if has_ipv6() else (4,):
        for number in range(254, 0, -1):
            here, *there = [ip_address(text[family].format(number)) for text in (HERE, BANNED, FREE)]
            if not own & {str(here), *map(str, there)}:
                found.append(Ends(here, tuple(there)))
                break
    return found


@dataclass(frozen=True)
class _Ground:
    """All that a trial needs."""

    run: Run
    firewall: Firewall
    rule: Rule | None
    protection: Protection
    cable: Cable

    def tried(self, ends: Ends, port: Ports) -> Trial:
        banned, free = ends.there
        with self._banned(banned):
            arrived = self.cable.arriving([banned, free], port.protocol, port.first)
            packets = self._counted(banned)
            is_proven = packets > 0 and banned not in arrived
            return Trial(
                banned.version,
                port.protocol,
                port.first,
                str(banned),
                str(free),
                packets,
                did_banned_arrive=banned in arrived,
                did_free_arrive=free in arrived,
                fault=None if is_proven else self._cause(banned, port),
            )

    @contextmanager
    def _banned(self, address: IPAddress) -> Iterator[None]:
        entry = Entry(source_network(address), BAN_TIME, is_new=True)
        found: Entry | None = self.run(self.firewall.entry(entry.network))
        if found is not None and (found.seconds is None or found.seconds > BAN_TIME):  # else a killed test left it
            raise FirewallError(f"{entry.network} is banned already: unban this documentation address first.")
        if self.run(self.firewall.add([entry])):
            raise FirewallError("The set is full and has no room for one more: raise AMIWATCH_SET_SIZE.")
        try:
            yield
        finally:
            self.run(self.firewall.remove([entry.network]))

    def _counted(self, address: IPAddress) -> int:
        deadline = time.monotonic() + COUNT_PATIENCE
        while True:
            entry = self.run(self.firewall.entry(source_network(address)))
            if (entry is not None and entry.packets) or time.monotonic() > deadline:
                return entry.packets if entry else 0
            time.sleep(0.02)

    def _cause(self, address: IPAddress, port: Ports) -> Cause | None:
        from amiwatch.firewall.diagnosis import Suspect, fault_here

        suspect = Suspect(source_network(address), port.protocol, port.first)
        found: Cause | None = self.run(fault_here(suspect, self.firewall, self.rule, self.protection))
        return found


@contextmanager
def _only_one() -> Iterator[None]:
    """Let no two tests of one network namespace meet: an abstract name belongs to one, and goes with its process."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as lock:
        try:
            lock.bind("\0amiwatch-firewall-test")
        except OSError as exc:
            raise AlreadyRunning("Another test of the firewall runs on this host: wait for it.") from exc
        yield


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and a closed terminal end the test as Ctrl-C does: everything is taken away first."""

    def end(number: int, _frame: object) -> None:
        raise typer.Exit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _lines(trials: list[Trial]) -> Iterator[str]:
    for trial in trials:
        where = f"IPv{trial.family} {trial.protocol} {trial.port}"
        if trial.is_dropped:
            dropped = counted(trial.packets, "packet")
            yield f"{strong('✓', 'green')} {where}: {trial.banned}, banned for the test: {dropped} dropped and counted"
        else:
            yield f"{strong('✗', 'red')} {where}: {trial.banned}, banned for the test: {_fault(trial)}"
        if trial.did_free_arrive:
            yield f"  {trial.free}, not banned: arrives"
        elif trial.is_dropped:
            yield f"  {trial.free}, not banned: another rule of this host drops it, behind ours; that is its right"


def _fault(trial: Trial) -> str:
    if trial.fault is not None:
        return f"{trial.fault.text}. {trial.fault.remedy}."
    if trial.did_banned_arrive:
        return "it arrives, though sets and rule are right. Look for a rule that accepts before ours: nft list ruleset."
    return "it does not arrive, but our rule did not count it: another rule of this host drops it before ours."


def _record(trial: Trial) -> dict[str, object]:
    fault = None if trial.fault is None else trial.fault._asdict()
    return {**asdict(trial), "is_dropped": trial.is_dropped, "fault": fault}
