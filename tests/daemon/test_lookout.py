"""How soon the kernel is looked at again."""

from __future__ import annotations

import asyncio

import pytest

from amiwatch.daemon import lookout
from amiwatch.daemon.lookout import Lookout
from amiwatch.testing.firewall import FakeFirewall
from tests.daemon.conftest import PATIENCE


class SlowEnforcer:
    """The kernel takes its time, as on a machine where many others want to run."""

    def __init__(self) -> None:
        self.firewall = FakeFirewall()
        self.looks = 0

    async def look(self) -> bool:
        self.looks += 1
        await asyncio.sleep(0.5)
        return True


async def test_a_slow_look_does_not_put_off_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its share of a processor, a look of half a second would be followed by a rest of 25 s."""
    monkeypatch.setattr(lookout, "LOOK_TIME", 0.01)
    enforcer = SlowEnforcer()
    async with asyncio.timeout(PATIENCE):
        await Lookout(enforcer).turn()  # type: ignore[arg-type]
    assert enforcer.looks == 1
