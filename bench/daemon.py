"""
The whole daemon on one core: bytes on the socket to addresses in the kernel, a flood, a restart, idleness.

``python -m bench.daemon [newcomers] [flood] [idle] [restart] [orders] [requests] [--firewall nftables] [--pause 5]
[--bans 1000000]``

Everything is real but Asterisk, whose part a second process plays: it writes to the socket and gives up, as Asterisk
does, when the reader does not read for 100 ms. It runs in a network namespace of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import multiprocessing
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from ipaddress import IPv4Address, IPv4Network
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter, process_time

from amiwatch.config import Settings, load
from amiwatch.daemon.watch import Daemon
from amiwatch.firewall.base import parts
from amiwatch.firewall.table import make_firewall, make_rule
from amiwatch.judgement.values import Alert, Ban, IPNetwork
from amiwatch.testing import netns
from amiwatch.testing.asterisk import FakeAsterisk
from amiwatch.testing.builders import event_bytes
from bench.stall import Stall, watched
from bench.store import fill

NEWCOMERS = 200
SET_SIZE = 2_000_000
ATTACKERS = 1_000
EVENTS = 50_000
ORDERS = 100


def address(number: int) -> str:
    """One of the attackers; benchmarks need more addresses than the documentation ranges have."""
    return str(IPv4Address("198.18.0.0") + number)


def event(number: int, session: int) -> bytes:
    return event_bytes(
        "InvalidAccountID",
        account=f"{session % 900 + 100}",
        source=address(number),
        session=f"{session}",
        transport="TCP",  # over UDP, so many newcomers would be taken for forged, and held back
    )


class Asterisk:
    """The process at the other end."""

    def __init__(self) -> None:
        # Not forked: a copy of a process with threads may wait for a lock that nobody holds any more.
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_play, args=(theirs,), daemon=True)
        self._process.start()
        self.port: int = self._pipe.recv()

    async def ask(self, what: str) -> list[float]:
        """Let it send something; return when it wrote what, by the monotonic clock that both share."""
        self._pipe.send(what)
        return await asyncio.to_thread(self._pipe.recv)

    def close(self) -> None:
        self._process.kill()
        self._process.join()


def _play(pipe: Connection) -> None:
    asyncio.run(_serve(pipe))


async def _serve(pipe: Connection) -> None:
    flood = b"".join(event(number % ATTACKERS, number) for number in range(EVENTS))
    async with FakeAsterisk(write_timeout=0.1) as pbx:
        pipe.send(pbx.port)
        while True:
            what = await asyncio.to_thread(pipe.recv)
            await pbx.wait_for_login()
            if what.startswith("newcomers"):
                times = []
                for number in range(NEWCOMERS):
                    await asyncio.sleep(float(what.split()[1]))
                    data = event(10_000 + number, number)
                    (session,) = pbx._sessions  # noqa: SLF001 - the time of the very write is wanted
                    times.append(perf_counter())
                    session._writer.write(data)  # noqa: SLF001
                pipe.send(times)
            elif what == "flood":
                began = perf_counter()
                await pbx.emit(flood)
                pipe.send([began, perf_counter(), float(pbx.counts["dropped"])])


class Stopwatch:
    """Notes when each ban was in the kernel."""

    def __init__(self) -> None:
        self.at: dict[str, float] = {}
        self.is_hearing = asyncio.Event()
        self.changed = asyncio.Event()

    def banned(self, ban: Ban, pbx: str, seconds: float | None) -> None:
        self.at[str(ban.address)] = perf_counter()
        self.changed.set()

    def lifted(self, network: IPNetwork) -> None: ...

    def alerted(self, alert: Alert, pbx: str) -> None: ...

    def link_changed(self, pbx: str, state: str, detail: str) -> None:
        if state == "hearing":
            self.is_hearing.set()

    async def until(self, count: int) -> None:
        while len(self.at) < count:
            self.changed.clear()
            await self.changed.wait()


def settings(port: int, folder: Path) -> Settings:
    return load(
        environ={
            "AMIWATCH_AMI__PORT": str(port),
            "AMIWATCH_AMI__SECRET": "secret",
            "AMIWATCH_DATABASE": str(folder / "bench.db"),
            "AMIWATCH_FIREWALL": OPTIONS.firewall,
            "AMIWATCH_SET_SIZE": str(SET_SIZE),
            "AMIWATCH_POLICY": "closed",
            "AMIWATCH_UNPROVEN_BANS": "1000000",
        },
        env_file=None,
        default_config=folder / "none.toml",
        secrets_directory=folder,
    )


@asynccontextmanager
async def running(port: int, folder: Path) -> AsyncIterator[tuple[Daemon, Stopwatch]]:
    watch = Stopwatch()
    daemon = Daemon(settings(port, folder), listeners=[watch])
    task = asyncio.create_task(daemon.run())
    waiter = asyncio.create_task(watch.is_hearing.wait())
    await asyncio.wait({task, waiter}, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        task.result()
    yield daemon, watch
    daemon.stop()
    await task


async def newcomers(folder: Path) -> None:
    asterisk = Asterisk()
    async with running(asterisk.port, folder) as (daemon, watch):
        sent = await asterisk.ask(f"newcomers {OPTIONS.pause / 1000}")
        await watch.until(NEWCOMERS)
        took = sorted((watch.at[address(10_000 + n)] - at) * 1000 for n, at in enumerate(sent))
    asterisk.close()
    print(
        f"event to kernel, {NEWCOMERS} new attackers {OPTIONS.pause} ms apart: "
        f"p50 {statistics.median(took):.3f} ms, p99 {took[int(len(took) * 0.99) - 1]:.3f} ms, max {took[-1]:.3f} ms "
        f"(of it inside the daemon p50 {statistics.median(daemon.latencies) * 1000:.3f} ms)"
    )


async def flood(folder: Path) -> None:
    rates, lags = [], []
    for number in range(3):
        path = folder / f"flood-{number}"
        path.mkdir()
        await clean()
        asterisk = Asterisk()
        async with running(asterisk.port, path) as (daemon, watch):
            cpu = process_time()
            stall = Stall()
            probe = asyncio.create_task(stall.watch())
            began, _, dropped = await asterisk.ask("flood")
            if dropped:
                print(f"flood: THE LINK WAS LOST, {stall}")
                probe.cancel()
                asterisk.close()
                continue
            await watch.until(ATTACKERS)
            while daemon.judge.counters.events + daemon.inbox.shed < EVENTS:  # noqa: ASYNC110 - counting must cost nothing
                await asyncio.sleep(0.001)
            ended = perf_counter()
            rates.append(EVENTS / (ended - began))
            lags.append((max(watch.at.values()) - began) * 1000)
            busy = process_time() - cpu
            probe.cancel()
            kernel = sum(state.count for state in await daemon.firewall.states())
            assert kernel >= ATTACKERS, f"only {kernel} in the kernel"
            print(
                f"flood of {EVENTS} events from {ATTACKERS} attackers: {rates[-1]:,.0f} events/s, "
                f"all in the kernel after {lags[-1]:.0f} ms of {1000 * (ended - began):.0f} ms, "
                f"shed {daemon.inbox.shed}, CPU {busy:.2f} s, {stall}, link kept"
            )
        asterisk.close()
    if rates:
        print(f"  median {statistics.median(rates):,.0f} events/s through the whole daemon")


async def clean() -> None:
    """Take rule and sets away, as a reboot does."""
    rule = make_rule(OPTIONS.firewall)
    assert rule is not None
    await rule.remove()
    firewall = make_firewall(OPTIONS.firewall)
    await firewall.remove_sets()
    await firewall.close()


async def restart(folder: Path) -> None:
    """Start with nothing in the kernel, as after a reboot, then with everything."""
    path = folder / "restart"
    path.mkdir()
    fill(path / "bench.db", OPTIONS.bans)
    await clean()
    asterisk = Asterisk()
    for what in ("reboot", "restart"):
        daemon = Daemon(settings(asterisk.port, path))
        watch = Stopwatch()
        daemon.listeners.append(watch)
        stall = Stall()
        probe = asyncio.create_task(stall.watch())
        began, cpu = perf_counter(), process_time()
        task = asyncio.create_task(daemon.run())
        waiter = asyncio.create_task(watch.is_hearing.wait())
        await asyncio.wait({task, waiter}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        everything = took(began, cpu)
        states = await daemon.firewall.states()
        assert sum(state.count for state in states) == OPTIONS.bans, states
        print(
            f"{what} with {OPTIONS.bans:,} bans: in the kernel after {daemon.restored_after:.2f} s, "
            f"hearing after {everything}, {stall}"
        )
        probe.cancel()
        daemon.stop()
        await task
    asterisk.close()
    await clean()


async def orders(folder: Path) -> None:
    """Ban very many at once, as the judge would order it if it could: some hundred in one call."""

    def ordered(daemon: Daemon, number: int) -> Ban:
        where, now = IPv4Address("10.0.0.0") + number, daemon.now()
        daemon.judge.ledger.put(IPv4Network(where), now + 86400)
        return Ban(IPv4Network(where), where, now, 86400, 1, "unknown accounts", "5 unknown accounts in 10 minutes")

    async with alone(folder / "orders") as daemon, watched() as stall:
        began, cpu = perf_counter(), process_time()
        for part in parts(range(OPTIONS.bans), ORDERS):
            daemon.take([ordered(daemon, number) for number in part], "", perf_counter())
            await asyncio.sleep(0)
        await daemon.settle()
        print(f"{OPTIONS.bans:,} bans ordered: in the kernel after {took(began, cpu)}, {stall}")
        await daemon.flush()
        lost = daemon.store.lost if daemon.store else OPTIONS.bans
        print(f"  on the disk after {took(began, cpu)}, {stall}; without a record {lost:,}")


async def requests(folder: Path) -> None:
    """Ban very many as a person asks for it: rows of ``requests``, each with an answer."""
    path = folder / "requests"
    async with alone(path) as daemon, watched() as stall:
        began, cpu = perf_counter(), process_time()
        await asyncio.to_thread(ask_for_bans, path / "bench.db")
        while await asyncio.to_thread(is_unanswered, path / "bench.db"):  # noqa: ASYNC110 - as another process would
            await asyncio.sleep(0.1)
        kernel = sum(state.count for state in await daemon.firewall.states())
        assert kernel == OPTIONS.bans, f"only {kernel} in the kernel"
        print(f"{OPTIONS.bans:,} bans asked for: enforced, recorded and answered after {took(began, cpu)}, {stall}")


def ask_for_bans(path: Path) -> None:
    sql = "INSERT INTO requests (at, asked_by, verb, target, seconds, comment) VALUES (0, 'bench', 'ban', ?, 86400, '')"
    with closing(sqlite3.connect(path, timeout=20)) as db, db:
        db.executemany(sql, ((str(IPv4Address("10.0.0.0") + number),) for number in range(OPTIONS.bans)))


def is_unanswered(path: Path) -> bool:
    with closing(sqlite3.connect(path, timeout=20)) as db:
        return db.execute("SELECT 1 FROM requests WHERE finished_at IS NULL LIMIT 1").fetchone() is not None


def took(began: float, cpu: float) -> str:
    return f"{perf_counter() - began:.1f} s (processor {process_time() - cpu:.1f} s)"


@asynccontextmanager
async def alone(path: Path) -> AsyncIterator[Daemon]:
    """Run a daemon to which nothing happens, and of which nobody is told."""
    path.mkdir()
    await clean()
    asterisk = Asterisk()
    async with running(asterisk.port, path) as (daemon, _):
        daemon.listeners.clear()
        yield daemon
    asterisk.close()
    await clean()


async def idle(folder: Path) -> None:
    """Look at the program itself, as it is when nothing happens."""
    asterisk = Asterisk()
    path = folder / "idle"
    path.mkdir()
    environ = {
        "AMIWATCH_AMI__PORT": str(asterisk.port),
        "AMIWATCH_AMI__SECRET": "secret",
        "AMIWATCH_DATABASE": str(path / "bench.db"),
    }
    program = subprocess.Popen(
        [sys.executable, "-m", "amiwatch", "run"], env=os.environ | environ, stderr=subprocess.DEVNULL
    )
    await asyncio.sleep(4)
    before = _cpu(program.pid)
    await asyncio.sleep(30)
    share = (_cpu(program.pid) - before) / 30
    resident = next(
        line.split()[1]
        for line in Path(f"/proc/{program.pid}/status").read_text().splitlines()
        if line.startswith("VmRSS")
    )
    began = perf_counter()
    program.terminate()
    program.wait()
    took = perf_counter() - began
    print(
        f"idle: RSS {int(resident) / 1024:.0f} MB, CPU {100 * share:.2f} % of a core (with the iptables that it asks), "
        f"stops in {took * 1000:.0f} ms"
    )
    asterisk.close()


def _cpu(pid: int) -> float:
    """Return the CPU seconds of a process and the children that it waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


PARTS = {
    "newcomers": newcomers, "flood": flood, "idle": idle, "restart": restart, "orders": orders, "requests": requests,
}  # fmt: skip


def parsed(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m bench.daemon")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"some of {', '.join(PARTS)}; without: all")
    parser.add_argument("--firewall", choices=["ipset", "nftables"], default="ipset")
    parser.add_argument("--pause", type=int, default=100, help="milliseconds between two new attackers")
    parser.add_argument("--bans", type=int, default=100_000, help="bans at once, or in the database at a start")
    return parser.parse_args(words)


OPTIONS = parsed(sys.argv[1:] if __name__ == "__main__" else [])


def main() -> int:
    logging.disable(logging.ERROR)
    try:
        netns.enter()
    except netns.NamespaceRefused as exc:
        print(f"Skipped: {exc}", file=sys.stderr)
        return 69
    with tempfile.TemporaryDirectory() as name:
        for part in OPTIONS.parts or PARTS:
            asyncio.run(PARTS[part](Path(name)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
