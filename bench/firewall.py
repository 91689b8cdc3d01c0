"""
How fast kernel sets are filled and read. ``python -m bench.firewall [ipset|nftables] [--all]``, in a network namespace.

Beside ours: the library and the program that everybody else uses, on the same kernel in the same run.
"""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from ipaddress import IPv4Network, IPv6Network
from typing import NamedTuple

from pyroute2 import AsyncIPSet
from rich.console import Console
from rich.table import Table

from amiwatch.errors import AmiwatchError
from amiwatch.firewall import libnftables
from amiwatch.firewall.base import Entry
from amiwatch.firewall.ipset import IpsetFirewall
from amiwatch.firewall.nftables import NftablesFirewall
from amiwatch.testing import netns
from bench.stall import watched

SINGLE = 5_000
PEER = 500
BULK = 100_000
HUGE = 1_000_000
NAME = "bench"
NEIGHBOURS = 10_000
FOREIGN = 1_000

SBIN = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"

Firewall = IpsetFirewall | NftablesFirewall
Work = Callable[[int], Awaitable[object]]


class Backend(NamedTuple):
    """A backend, and how others do the same."""

    firewall: type[Firewall]
    library: Callable[[AsyncExitStack], Awaitable[Work]]
    """Return what bans the i-th address."""
    library_name: str
    program: tuple[str, ...]
    line: Callable[[str], str]
    """What the program reads to ban an address."""


async def _pyroute2(stack: AsyncExitStack) -> Work:
    library = await stack.enter_async_context(AsyncIPSet())
    return lambda i: library.add(f"{NAME}4", f"192.0.2.{i % 256}/32", etype="net", timeout=3600, exclusive=False)


async def _libnftables(_: AsyncExitStack) -> Work:
    async def ban(i: int) -> None:
        libnftables.run(f"add element inet {NAME} {NAME}4 {{ 192.0.2.{i % 256} }}")

    return ban


BACKENDS: Mapping[str, Backend] = {
    "ipset": Backend(
        IpsetFirewall,
        _pyroute2,
        "pyroute2's add()",
        ("ipset", "restore", "-exist"),
        lambda address: f"add {NAME}4 {address} timeout 3600",
    ),
    "nftables": Backend(
        NftablesFirewall,
        _libnftables,
        "libnftables",
        ("nft", "-f", "-"),
        lambda address: f"add element inet {NAME} {NAME}4 {{ {address} timeout 3600s }}",
    ),
}


@asynccontextmanager
async def opened(backend: Backend) -> AsyncIterator[Firewall]:
    firewall = backend.firewall(NAME, maxelem=HUGE + SINGLE)
    await firewall.open()
    try:
        yield firewall
    finally:
        await firewall.remove_sets()
        await firewall.close()


def bans(number: int) -> list[Entry]:
    return [Entry(IPv4Network(0x0A000000 + i), 3600) for i in range(number)]


async def each(number: int, work: Work) -> list[float]:
    """Return the milliseconds of each call, sorted."""
    taken = []
    for i in range(number):
        before = time.perf_counter()
        await work(i)
        taken.append((time.perf_counter() - before) * 1e3)
    return sorted(taken)


def now(firewall: Firewall, entry: Entry) -> float:
    """Return the milliseconds that one ban takes within the call."""
    before = time.perf_counter()
    if not firewall.add_now(entry):
        raise SystemExit("a ban was refused")
    return (time.perf_counter() - before) * 1e3


async def singles(table: Table, backend: Backend) -> None:
    async with opened(backend) as firewall, AsyncExitStack() as stack:
        crowd = bans(SINGLE)
        ours = sorted(now(firewall, entry) for entry in crowd)
        table.add_row("one ban, within the call", *quantiles(ours), "0.5 ms (p50), 3 ms (p99)")
        await firewall.remove(entry.network for entry in crowd)
        table.add_row("one ban, awaited", *quantiles(await each(SINGLE, lambda i: firewall.add([crowd[i]]))), "")
        table.add_row("is it banned?", *quantiles(await each(SINGLE, lambda i: firewall.has(crowd[i].network))), "")
        again = await each(PEER, lambda i: firewall.add([crowd[i]]))
        table.add_row("a new time for one ban", *quantiles(again), "")
        theirs = await each(PEER, await backend.library(stack))
        table.add_row(f"  one ban by {backend.library_name}", *quantiles(theirs), f"{ratio(theirs, ours)} times ours")
        programs = await each(
            PEER // 5, lambda i: asyncio.to_thread(run, backend.program, backend.line(f"192.0.2.{i}"))
        )
        name = backend.program[0]
        table.add_row(f"  one ban by the program {name}", *quantiles(programs), f"{ratio(programs, ours)} times ours")


async def networks(table: Table, backend: Backend) -> None:
    """Show what networks cost beside many others: a set of intervals takes 50 ms for one more beside 10,000."""
    kinds = {
        "one IPv6 /64": lambda i: IPv6Network(((0x20010DB8 << 96) + (i << 64), 64)),
        "one IPv4 /24 by hand": lambda i: IPv4Network(((10 << 24) + (i << 8), 24)),
    }
    for what, network in kinds.items():
        async with opened(backend) as firewall:
            await firewall.add([Entry(network(i), 3600) for i in range(NEIGHBOURS)])
            more = [[Entry(network(NEIGHBOURS + i), 3600)] for i in range(PEER)]
            taken = await each(PEER, lambda i, firewall=firewall, more=more: firewall.add(more[i]))  # type: ignore[misc]
            table.add_row(f"{what} beside {NEIGHBOURS:,}", *quantiles(taken), "")


async def neighbours(table: Table) -> None:
    """Show what somebody else's sets cost: libnftables reads all of them before each command."""
    for number in range(FOREIGN // 10):
        sets = "".join(f"add set inet other{number} s{each} {{ type ipv4_addr; }}\n" for each in range(10))
        libnftables.run(f"add table inet other{number}\n{sets}")
    async with opened(BACKENDS["nftables"]) as firewall, AsyncExitStack() as stack:
        ours = sorted(now(firewall, entry) for entry in bans(PEER))
        table.add_row(f"one ban beside {FOREIGN:,} sets of others", *quantiles(ours), "")
        theirs = await each(PEER // 10, await _libnftables(stack))
        table.add_row("  the same by libnftables", *quantiles(theirs), f"{ratio(theirs, ours)} times ours")
    for number in range(FOREIGN // 10):
        libnftables.run(f"delete table inet other{number}")


async def bulk(table: Table, backend: Backend, number: int, limits: Mapping[str, str]) -> None:
    crowd = bans(number)
    gc.freeze()  # of ours, not of theirs: no firewall keeps a million entries for the collector to walk over
    async with opened(backend) as firewall:
        works = {
            "bans": lambda: firewall.add(crowd),
            "states of": firewall.states,
            "walk over": lambda: firewall.walk(len),
            "list": firewall.entries,
            "remove": lambda: firewall.remove(entry.network for entry in crowd),
        }
        if number > BULK:
            del works["list"]  # the same as walking, and a million objects kept
            if backend is BACKENDS["nftables"] and "--all" not in sys.argv:
                del works["walk over"]  # about a minute
        for what, work in works.items():
            async with watched() as stall:
                seconds = await timed(work())
            name = f"{number:,} bans" if what == "bans" else f"  {what} {number:,}"
            table.add_row(name, f"{seconds:.2f} s", str(stall), limits.get(what, ""))
    async with opened(backend):
        lines = "\n".join(backend.line(str(entry.network.network_address)) for entry in crowd)
        seconds = await timed(asyncio.to_thread(run, backend.program, lines))
        table.add_row(f"  {number:,} by {' '.join(backend.program)!r}", f"{seconds:.2f} s", "", "")


async def timed(work: Awaitable[object]) -> float:
    before = time.perf_counter()
    result = await work
    taken = time.perf_counter() - before
    del result
    return taken


def run(program: tuple[str, ...], text: str) -> None:
    subprocess.run(program, input=text + "\n", text=True, check=True, env={"PATH": SBIN})


def quantiles(taken: list[float]) -> tuple[str, str]:
    return f"p50 {taken[len(taken) // 2]:.3f} ms", f"p99 {taken[len(taken) * 99 // 100]:.3f} ms"


def ratio(theirs: list[float], ours: list[float]) -> str:
    return f"{theirs[len(theirs) // 2] / ours[len(ours) // 2]:.0f}"


async def report(name: str) -> None:
    table = Table("what", "", "", "goal", title=name, box=None)
    backend = BACKENDS[name]
    await singles(table, backend)
    await networks(table, backend)
    if name == "nftables":
        await neighbours(table)
    await bulk(table, backend, BULK, {"bans": "1 s", "list": "0.5 s"})
    await bulk(table, backend, HUGE, {"bans": "15 s, stall 20 ms"})
    Console(width=130).print(table)


def main(names: list[str]) -> int:
    try:
        netns.enter()
        for name in names or BACKENDS:
            asyncio.run(report(name))
    except (netns.NamespaceRefused, AmiwatchError) as exc:
        print(f"Skipped: {exc}", file=sys.stderr)
        return 69
    return 0


if __name__ == "__main__":
    sys.exit(main([word for word in sys.argv[1:] if word in BACKENDS]))
