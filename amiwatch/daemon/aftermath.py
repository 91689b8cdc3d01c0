"""
After the ban is in the kernel: what stood already between the source and this host is cut.

Rule 1: never an ssh session: whoever tries a ban that shuts him out, and lets it be undone (``--confirm``), goes on in
his.

Rule 2: never in the way of a ban. It is done in a thread, for many sources at once, and a tenth of the time at most.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter

from amiwatch.daemon.listening import ssh_ports
from amiwatch.errors import FirewallError
from amiwatch.firewall import connections, sessions
from amiwatch.firewall.scope import Scope
from amiwatch.judgement.values import IPNetwork

log = logging.getLogger(__name__)

MAX_WAITING = 10_000
"""Sources that wait to be cut off: a flood of bans must not grow memory. The oldest are given up, whose sessions end by
themselves."""

BATCH = 1_000
"""Sources cut off in one go."""

FORWARDING = (Path("/proc/sys/net/ipv4/ip_forward"), Path("/proc/sys/net/ipv6/conf/all/forwarding"))

REST = 9
"""Rest after each go, in times of what it took."""


class Aftermath:
    """
    Ends TCP sessions of banned sources at the ports of ``scope``, and forgets their tracked connections.

    The latter only with ``forgets``: where a packet may be let through because it belongs to a known connection.
    """

    def __init__(self, scope: Callable[[], Scope], *, forgets: bool) -> None:
        self.sessions = 0
        """TCP sessions cut since the start."""
        self.connections = 0
        """Tracked connections forgotten since the start."""
        self.skipped = 0
        """Sources that were given up, because too many waited."""
        self._scope = scope
        self._forgets = forgets
        self._waiting: deque[IPNetwork] = deque()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._said: set[str] = set()
        self._can_cut = True

    def cut_off(self, network: IPNetwork) -> None:
        """Cut off a source that is banned now, soon; returns at once."""
        if len(self._waiting) >= MAX_WAITING:
            self._waiting.popleft()
            self.skipped += 1
            if self.skipped.bit_count() == 1:  # 1, 2, 4, 8, ...
                log.warning("sessions not cut, too many bans at once count=%d", self.skipped)
        self._waiting.append(network)
        self._idle.clear()
        self._wake.set()

    async def settle(self) -> None:
        """Wait until all who were banned so far are cut off."""
        await self._idle.wait()

    async def run(self) -> None:
        """Cut off who was banned, until cancelled."""
        while True:
            await self._wake.wait()
            begin = perf_counter()
            await self._turn()
            await asyncio.sleep(REST * (perf_counter() - begin))

    async def finish(self) -> None:
        """Cut off who waits, where nobody calls ``run``."""
        while self._waiting:
            await self._turn()

    async def _turn(self) -> None:
        await self._cut([self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))])
        if not self._waiting:
            self._wake.clear()
            self._idle.set()

    async def _cut(self, networks: Sequence[IPNetwork]) -> None:
        cut = await self._done(lambda: sessions.cut(networks, self._scope(), ssh_ports)) if self._can_cut else 0
        forgotten = 0
        if self._forgets and connections.are_tracked():
            forgotten = await self._done(lambda: connections.forget(networks))
        if cut or forgotten:
            log.info("sources cut off first=%s sessions=%d connections=%d", networks[0], cut, forgotten)
        self.sessions += cut
        self.connections += forgotten

    async def _done(self, work: Callable[[], int]) -> int:
        try:
            return await asyncio.to_thread(work)
        except FirewallError as error:
            self._can_cut = self._can_cut and not isinstance(error, sessions.CutUnsupported)
            if str(error) not in self._said:  # each fault once, and there are few
                self._said.add(str(error))
                log.warning("banned sources not cut off, their packets are dropped all the same reason=%s", error)
        return 0


def forwards() -> bool:
    """Tell whether this host forwards packets, and so may let those of a known connection pass by every rule."""
    return any(map(_is_on, FORWARDING))


def _is_on(switch: Path) -> bool:
    try:
        return switch.read_text(encoding="ascii").strip() == "1"
    except OSError:
        return False
