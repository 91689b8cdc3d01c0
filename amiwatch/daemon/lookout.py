"""Notices that somebody changed our sets or rules: the kernel tells of rules, for sets it must be asked."""

from __future__ import annotations

import asyncio
from time import perf_counter

from amiwatch.daemon.enforcer import Enforcer
from amiwatch.firewall.monitor import Monitor, watch
from amiwatch.firewall.table import RULES

LOOK_TIME = 1.5
"""Seconds between two looks where nothing was told: a flushed set is full again, and a rule back, within 5 s."""

QUIET_TIME = 0.7
"""Seconds of quiet after which whoever changes rules has finished: iptables -F and -X, firewalld and ufw go in steps,
and one of them fails if our chain stands again in between."""

LONGEST_CHANGE = 2.0
"""Seconds after which we wait no longer for quiet: somebody may change rules all the time."""

SHARE = 50
"""A look is followed by a rest of so many times its own length: 2 % of a processor beside somebody who changes rules
all the time, far less on a quiet host."""

LONGEST_REST = 2.0
"""Seconds: on a busy machine, where a look takes long, the next one must still put a rule back within 5 s."""


class Lookout:
    """Looks whether the kernel still holds what the enforcer put there; ``turn`` is called again and again."""

    def __init__(self, enforcer: Enforcer) -> None:
        self._enforcer = enforcer
        self._disturbed = asyncio.Event()
        self._monitor: Monitor | None = None
        self._is_open = False

    async def turn(self) -> None:
        """Wait until something was told or ``LOOK_TIME`` is over, look, and put right what is wrong."""
        self._open()
        is_told = await self._is_told(LOOK_TIME)
        began = perf_counter()
        if is_told or not await self._enforcer.look():
            if is_told:
                self._enforcer.rule.note_change()
            await self._until_quiet()
            began = perf_counter()
            await self._enforcer.recheck()
        await asyncio.sleep(min(SHARE * (perf_counter() - began), LONGEST_REST))

    def close(self) -> None:
        """Listen no longer; safe to repeat."""
        if self._monitor is not None:
            self._monitor.close()
        self._monitor, self._is_open = None, False

    def _open(self) -> None:
        """Listen, where there is a kernel that tells."""
        if not self._is_open and self._enforcer.firewall.name in RULES:
            self._monitor = watch(self._disturbed.set)
        self._is_open = True

    async def _until_quiet(self) -> None:
        end = perf_counter() + LONGEST_CHANGE
        while (left := end - perf_counter()) > 0 and await self._is_told(min(QUIET_TIME, left)):
            pass

    async def _is_told(self, seconds: float) -> bool:
        """Wait so long for something to be told."""
        try:
            async with asyncio.timeout(seconds):
                await self._disturbed.wait()
        except TimeoutError:
            return False
        self._disturbed.clear()
        return True
