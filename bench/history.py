"""
How exact is the replay of one's own history: ``python -m bench.history [--seed 7] [--only NAME] [--week]``.

Each small world is judged live and stored as the daemon does it, once a second; then the rows are judged again. Counted
are the networks that both ban, those whose rule and moment (within 5 s) agree, and those that only one of them bans.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path
from random import Random

from amiwatch.judgement.history import Rerun, events_of
from amiwatch.judgement.judge import Judge
from amiwatch.judgement.rules import Policy
from amiwatch.store.history import counts_of, past_attempts
from amiwatch.store.reader import Reader
from amiwatch.store.writer import Store
from amiwatch.testing.world import World
from amiwatch.testing.worlds import SMALL, mixed_week, small

SAVE_TIME = 1.0
"""Seconds between two handovers to the store, as the daemon has it."""

CLOSE = 5.0
"""Seconds that two moments may differ and still be called the same."""


async def live(world: World, path: Path) -> Rerun:
    """Judge a world as it comes, and store what was counted."""
    rerun, saved, now = Rerun(Judge(Policy(), random=Random(0))), 0.0, 0.0
    async with await Store.open(path, max_waiting=10**9) as store:
        for event in world.events():
            now = max(now, event.at)
            list(rerun.see(event, now))
            if now >= saved + SAVE_TIME:
                saved = now
                store.put_attempts(counts_of(rerun.judge.tally.drain()))
        list(rerun.wait(now + 60))
        store.put_attempts(counts_of(rerun.judge.tally.drain()))
        await store.flush()
    return rerun


def again(path: Path) -> tuple[Rerun, float]:
    """Judge what was stored; return also the attempts a second."""
    rerun, now, number, begin = Rerun(Judge(Policy(), random=Random(0))), 0.0, 0, time.perf_counter()
    with Reader(path) as reader:
        for number, event in enumerate(events_of(past_attempts(reader, since=0.0, until=1e12)), start=1):  # noqa: B007
            now = max(now, event.at)
            list(rerun.see(event, now))
    list(rerun.wait(now + 60))
    return rerun, number / (time.perf_counter() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--only", metavar="NAME")
    parser.add_argument("--week", action="store_true", help="a mixed week instead of the small worlds")
    options = parser.parse_args()
    names = ["week"] if options.week else [options.only] if options.only else list(SMALL)
    print(f"{'world':34} {'both':>5} {'agree':>6} {'only live':>10} {'only again':>11} {'bytes':>12} {'events/s':>9}")
    sums = [0, 0, 0, 0]
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "amiwatch.db"
            world = mixed_week(options.seed) if options.week else small(name, options.seed)
            before = asyncio.run(live(world, path)).first
            rerun, speed = again(path)
            after = rerun.first
            both = before.keys() & after.keys()
            agree = sum(
                before[one].rule == after[one].rule and abs(before[one].at - after[one].at) <= CLOSE for one in both
            )
            row = [len(both), agree, len(before.keys() - both), len(after.keys() - both)]
            sums = [total + part for total, part in zip(sums, row, strict=True)]
            size = path.stat().st_size
        print(f"{name:34} {row[0]:5} {row[1]:6} {row[2]:10} {row[3]:11} {size:12,} {speed:9,.0f}", flush=True)
    print(f"{'all':34} {sums[0]:5} {sums[1]:6} {sums[2]:10} {sums[3]:11}")


if __name__ == "__main__":
    main()
