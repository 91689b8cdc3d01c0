"""However the links are, the daemon ends when it is told to."""

import asyncio

import pytest

from amiwatch.testing.firewall import FakeFirewall
from tests.daemon.conftest import PATIENCE, Start


@pytest.mark.parametrize("trouble", ["nothing", "hang_up", "gone", "frozen"])
async def test_it_stops_at_once_whatever_the_link_does_and_says_so(
    watched: Start, trouble: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "amiwatch")
    async with watched(FakeFirewall()) as it:
        if trouble == "hang_up":
            it.pbx.hang_up()
        elif trouble == "gone":
            await it.pbx.stop()
        elif trouble == "frozen":
            it.pbx.freeze()
        if trouble in {"hang_up", "gone"}:
            await it.watcher.until(lambda: "lost" in it.watcher.links)
        it.daemon.stop()
        async with asyncio.timeout(PATIENCE):
            await it.task
        assert "stopping, the kernel keeps its bans bans=0" in caplog.messages
