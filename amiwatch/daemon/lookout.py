"""Notices that somebody changed our sets or rules: the kernel tells of rules, for sets it must be asked."""

from __future__ import annotations

import asyncio
from time import perf_counter

from amiwatch.daemon.enforcer import Enforcer
from amiwatch.firewall.monitor import Monitor, watch
from amiwatch.firewall.table import RULES

LOOK_TIME = 2.0
"""Seconds between two looks where nothing was told: a flushed set is full again, and a rule back, within 5 s."""

STEPS_TIME = 0.1
"""Seconds that whoever changes rules gets to finish: firewalld and ufw do it in several steps."""

SHARE = 50
"""A look is followed by a rest of so many times its own length: 2 % of a processor beside somebody who changes rules
all the time, far less on a quiet host."""


class Lookout:
    """Looks whether the kernel still holds what the enforcer put there; ``turn`` is called again and again."""

    def __init__(self, enforcer: Enforcer) -> None:
        self._enforcer = enforcer
        self._disturbed = asyncio.Event()
        self._monitor: Monitor | None = None
        self._is_open = False

    async def turn(self) -> None:
        """Wait until something was told or ``LOOK_TIME`` is over, and look."""
        self._open()
        is_told = await self._is_told()
        began = perf_counter()
        await (self._enforcer.recheck() if is_told else self._enforcer.look())
        await asyncio.sleep(SHARE * (perf_counter() - began))

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

    async def _is_told(self) -> bool:
        try:
            async with asyncio.timeout(LOOK_TIME):
                await self._disturbed.wait()
        except TimeoutError:
            return False
        await asyncio.sleep(STEPS_TIME)
        self._disturbed.clear()
        return True
