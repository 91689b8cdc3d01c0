"""How long the event loop is away from a task that only wants its next turn, for every benchmark with a loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import perf_counter, thread_time

TICK = 0.001
"""Seconds between two looks; to look at each turn would keep threads from the interpreter for 5 ms each time."""


class Stall:
    """The longest time that the loop was away, and the longest that it was busy: less, on a crowded machine."""

    def __init__(self) -> None:
        self.longest = self.busiest = 0.0

    async def watch(self) -> None:
        while True:
            began, worked = perf_counter(), thread_time()
            await asyncio.sleep(TICK)
            self.longest = max(self.longest, perf_counter() - began - TICK)
            self.busiest = max(self.busiest, thread_time() - worked)

    def __str__(self) -> str:
        return f"longest stall {self.longest * 1000:.0f} ms ({self.busiest * 1000:.0f} ms of it busy)"


@asynccontextmanager
async def watched() -> AsyncIterator[Stall]:
    """Watch the loop meanwhile."""
    stall = Stall()
    watcher = asyncio.create_task(stall.watch(), name="stall")
    await asyncio.sleep(0)
    try:
        yield stall
    finally:
        watcher.cancel()
