"""
Our pytest fixtures. pytest loads this file through an entry point wherever amiwatch is installed.

Rule: everything of ours is imported inside the fixtures, so that a run which uses none of them pays nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING

import pytest

async_fixture = pytest.fixture
with suppress(ImportError):  # so that the fixture also works in pytest-asyncio's strict mode
    async_fixture = import_module("pytest_asyncio").fixture

if TYPE_CHECKING:
    from amiwatch.testing.asterisk import FakeAsterisk
    from amiwatch.testing.clock import Clock
    from amiwatch.testing.firewall import FakeFirewall


@async_fixture
async def fake_asterisk() -> AsyncIterator[FakeAsterisk]:
    """Run a manager server on a free port of 127.0.0.1, with the user ``amiwatch`` (secret ``secret``)."""
    from amiwatch.testing.asterisk import FakeAsterisk

    async with FakeAsterisk() as pbx:
        yield pbx


@pytest.fixture
def fake_firewall() -> FakeFirewall:
    """Return a firewall in memory that keeps the contract of the real ones."""
    from amiwatch.testing.firewall import FakeFirewall

    return FakeFirewall()


@pytest.fixture
def clock() -> Clock:
    """Return a clock that stands still until the test turns it."""
    from amiwatch.testing.clock import Clock

    return Clock()
