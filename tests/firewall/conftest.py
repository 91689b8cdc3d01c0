import os
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import count

import pytest

from amiwatch.firewall.ipset import IpsetFirewall
from amiwatch.testing.netns import Wire

SBIN = f"{os.environ['PATH']}:/usr/sbin:/sbin"
"""Where programs are; ordinary users have no sbin in their PATH."""

_numbers = count()


@pytest.fixture
def iptables_present():
    if not shutil.which("iptables", path=SBIN):
        pytest.skip("iptables is not installed")


@asynccontextmanager
async def fresh_ipset(maxelem: int = 1000) -> AsyncIterator[IpsetFirewall]:
    """Open sets that no other test has seen, and leave none behind."""
    firewall = IpsetFirewall(prefix=f"test{next(_numbers)}-", maxelem=maxelem)
    await firewall.open()
    try:
        yield firewall
    finally:
        try:
            await firewall.remove_sets()
        finally:
            await firewall.close()


@pytest.fixture
async def ipset() -> AsyncIterator[IpsetFirewall]:
    async with fresh_ipset() as firewall:
        yield firewall


@pytest.fixture
def wire() -> Iterator[Wire]:
    with Wire() as cable:
        yield cable
