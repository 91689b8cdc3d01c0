"""
How fast the kernel sets are filled and read: ``python -m bench.firewall``, in a network namespace of its own.

Beside ours: pyroute2's own call and the ``ipset`` program, on the same kernel in the same run.
"""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from ipaddress import IPv4Network

from pyroute2 import AsyncIPSet
from rich.console import Console
from rich.table import Table

from amiwatch.errors import AmiwatchError
from amiwatch.firewall.base import Entry
from amiwatch.firewall.ipset import IpsetFirewall
from amiwatch.testing import netns

SINGLE = 5_000
PEER = 500
BULK = 100_000
HUGE = 1_000_000
NAME = "bench"


class Stall:
    """The longest time, in milliseconds, that the event loop kept a task waiting that only wanted its next turn."""

    def __init__(self) -> None:
        self.longest = 0.0

    async def watch(self) -> None:
        before = time.perf_counter()
        while True:
            await asyncio.sleep(0)
            now = time.perf_counter()
            self.longest = max(self.longest, (now - before) * 1e3)
            before = now


@asynccontextmanager
async def watched() -> AsyncIterator[Stall]:
    stall = Stall()
    watcher = asyncio.create_task(stall.watch(), name="stall")
    await asyncio.sleep(0)
    try:
        yield stall
    finally:
        watcher.cancel()


@asynccontextmanager
async def opened() -> AsyncIterator[IpsetFirewall]:
    firewall = IpsetFirewall(NAME, maxelem=HUGE + SINGLE)
    await firewall.open()
    try:
        yield firewall
    finally:
        await firewall.remove_sets()
        await firewall.close()


def bans(number: int) -> list[Entry]:
    return [Entry(IPv4Network(0x0A000000 + i), 3600) for i in range(number)]


async def each(number: int, work: Callable[[int], Awaitable[object]]) -> list[float]:
    """Return the milliseconds of each call, sorted."""
    taken = []
    for i in range(number):
        before = time.perf_counter()
        await work(i)
        taken.append((time.perf_counter() - before) * 1e3)
    return sorted(taken)


async def singles(table: Table) -> None:
    async with opened() as firewall:
        entries = [[entry] for entry in bans(SINGLE)]
        ours = await each(SINGLE, lambda i: firewall.add(entries[i]))
        table.add_row("one ban", *quantiles(ours), "0.1 ms (p50)")
        there = await each(SINGLE, lambda i: firewall.has(entries[i][0].network))
        table.add_row("is it banned?", *quantiles(there), "")
    async with opened(), AsyncIPSet() as library:
        theirs = await each(
            PEER,
            lambda i: library.add(f"{NAME}4", str(entries[i][0].network), etype="net", timeout=3600, exclusive=False),
        )
        table.add_row("  the same by pyroute2's add()", *quantiles(theirs), f"{ratio(theirs, ours)} times ours")
        programs = await each(
            PEER // 5, lambda i: asyncio.to_thread(ipset, f"add -exist {NAME}4 192.0.2.{i} timeout 3600")
        )
        table.add_row("  the same by the ipset program", *quantiles(programs), f"{ratio(programs, ours)} times ours")


async def bulk(table: Table, number: int, limit: str) -> None:
    crowd = bans(number)
    async with opened() as firewall, watched() as stall:
        seconds = await timed(firewall.add(crowd))
        table.add_row(f"{number:,} bans", f"{seconds:.2f} s", f"stall {stall.longest:.1f} ms", limit)
        for what, work in (("list", firewall.entries()), ("states of", firewall.states())):
            stall.longest = 0.0
            seconds = await timed(work)
            goal = "0.5 s" if (what, number) == ("list", BULK) else ""
            table.add_row(f"  {what} {number:,}", f"{seconds:.3f} s", f"stall {stall.longest:.1f} ms", goal)
        stall.longest = 0.0
        seconds = await timed(firewall.remove(entry.network for entry in crowd))
        table.add_row(f"  remove {number:,}", f"{seconds:.2f} s", f"stall {stall.longest:.1f} ms", "")
    async with opened():
        lines = "".join(f"add {NAME}4 {entry.network} timeout 3600\n" for entry in crowd)
        seconds = await timed(asyncio.to_thread(ipset, "restore -exist", lines))
        table.add_row(f"  {number:,} by 'ipset restore'", f"{seconds:.2f} s", "", "")


async def timed(work: Awaitable[object]) -> float:
    before = time.perf_counter()
    result = await work
    taken = time.perf_counter() - before
    del result
    return taken


def ipset(arguments: str, text: str = "") -> None:
    subprocess.run(["ipset", *arguments.split()], input=text, text=True, check=True, env={"PATH": SBIN})


SBIN = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


def quantiles(taken: list[float]) -> tuple[str, str]:
    return f"p50 {taken[len(taken) // 2]:.3f} ms", f"p99 {taken[len(taken) * 99 // 100]:.3f} ms"


def ratio(theirs: list[float], ours: list[float]) -> str:
    return f"{theirs[len(theirs) // 2] / ours[len(ours) // 2]:.0f}"


async def run() -> None:
    table = Table("what", "", "", "goal", title="kernel sets", box=None)
    await singles(table)
    await bulk(table, BULK, "0.7 s")
    await bulk(table, HUGE, "10 s, stall 20 ms")
    Console(width=100).print(table)


def main() -> int:
    try:
        netns.enter()
        asyncio.run(run())
    except (netns.NamespaceRefused, AmiwatchError) as exc:
        print(exc, file=sys.stderr)
        return 69
    return 0


if __name__ == "__main__":
    sys.exit(main())
