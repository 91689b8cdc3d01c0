"""
How fast our nftables table is filled and read: ``python -m bench.nftables``, in a network namespace of its own.

Beside ours: libnftables itself and the ``nft`` program, on the same kernel in the same run.
"""

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from rich.console import Console
from rich.table import Table

from amiwatch.errors import AmiwatchError
from amiwatch.firewall import libnftables
from amiwatch.firewall.base import Entry
from amiwatch.firewall.nftables import NftablesFirewall
from amiwatch.testing import netns
from bench.firewall import BULK, HUGE, SBIN, SINGLE, bans, each, quantiles, ratio, timed, watched

PEER = 500
NAME = "bench"
FOREIGN = 1_000

LISTED = BULK
"""A million are not listed: the kernel walks over all that it told before for each piece, which takes over a minute."""


@asynccontextmanager
async def opened() -> AsyncIterator[NftablesFirewall]:
    firewall = NftablesFirewall(NAME, maxelem=HUGE + SINGLE)
    await firewall.open()
    try:
        yield firewall
    finally:
        await firewall.remove_sets()
        await firewall.close()


async def singles(table: Table) -> None:
    async with opened() as firewall:
        crowd = bans(SINGLE)
        ours = sorted(now(firewall, entry) for entry in crowd)
        table.add_row("one ban, within the call", *quantiles(ours), "0.5 ms (p50), 3 ms (p99)")
        await firewall.remove(entry.network for entry in crowd)
        awaited = await each(SINGLE, lambda i: firewall.add([crowd[i]]))
        table.add_row("one ban, awaited", *quantiles(awaited), "")
        there = await each(SINGLE, lambda i: firewall.has(crowd[i].network))
        table.add_row("is it banned?", *quantiles(there), "")
        again = await each(PEER, lambda i: firewall.add([crowd[i]]))
        table.add_row("a new time for one ban", *quantiles(again), "")
        theirs = await each(PEER, lambda i: by_library(f"add element inet {NAME} {NAME}4 {{ 192.0.2.{i % 256} }}"))
        table.add_row("  one ban by libnftables", *quantiles(theirs), f"{ratio(theirs, ours)} times ours")
        programs = await each(
            PEER // 5, lambda i: asyncio.to_thread(nft, f"add element inet {NAME} {NAME}4 {{ 192.0.2.{i} }}")
        )
        table.add_row("  one ban by the nft program", *quantiles(programs), f"{ratio(programs, ours)} times ours")
    await foreign(table)


def now(firewall: NftablesFirewall, entry: Entry) -> float:
    """Return the milliseconds that one ban takes."""
    before = time.perf_counter()
    if not firewall.add_now(entry):
        raise SystemExit("a ban was refused")
    return (time.perf_counter() - before) * 1e3


async def foreign(table: Table) -> None:
    """Show what somebody else's sets cost."""
    for number in range(FOREIGN // 10):
        sets = "".join(f"add set inet other{number} s{each} {{ type ipv4_addr; }}\n" for each in range(10))
        libnftables.run(f"add table inet other{number}\n{sets}")
    async with opened() as firewall:
        ours = sorted(now(firewall, entry) for entry in bans(PEER))
        table.add_row(f"one ban beside {FOREIGN:,} sets of others", *quantiles(ours), "")
        theirs = await each(PEER // 10, lambda i: by_library(f"add element inet {NAME} {NAME}4 {{ 192.0.2.{i} }}"))
        table.add_row("  the same by libnftables", *quantiles(theirs), f"{ratio(theirs, ours)} times ours")
    for number in range(FOREIGN // 10):
        libnftables.run(f"delete table inet other{number}")


async def by_library(script: str) -> None:
    libnftables.run(script)


async def bulk(table: Table, number: int, limit: str) -> None:
    crowd = bans(number)
    async with opened() as firewall, watched() as stall:
        seconds = await timed(firewall.add(crowd))
        table.add_row(f"{number:,} bans", f"{seconds:.2f} s", f"stall {stall.longest:.1f} ms", limit)
        stall.longest = 0.0
        seconds = await timed(firewall.states())
        table.add_row(f"  states of {number:,}", f"{seconds:.3f} s", f"stall {stall.longest:.1f} ms", "")
        if number <= LISTED:
            stall.longest = 0.0
            seconds = await timed(firewall.entries())
            table.add_row(f"  list {number:,}", f"{seconds:.3f} s", f"stall {stall.longest:.1f} ms", "0.5 s")
        stall.longest = 0.0
        seconds = await timed(firewall.remove(entry.network for entry in crowd))
        table.add_row(f"  remove {number:,}", f"{seconds:.2f} s", f"stall {stall.longest:.1f} ms", "")
    async with opened():
        elements = ",".join(f"{entry.network.network_address} timeout 3600s" for entry in crowd)
        seconds = await timed(asyncio.to_thread(nft, f"add element inet {NAME} {NAME}4 {{ {elements} }}"))
        table.add_row(f"  {number:,} by 'nft -f -'", f"{seconds:.2f} s", "", "")


def nft(script: str) -> None:
    subprocess.run(["nft", "-f", "-"], input=script, text=True, check=True, env={"PATH": SBIN})


async def run() -> None:
    table = Table("what", "", "", "goal", title="nftables", box=None)
    await singles(table)
    await bulk(table, BULK, "1 s")
    await bulk(table, HUGE, "15 s, stall 20 ms")
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
