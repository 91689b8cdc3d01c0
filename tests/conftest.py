"""
Every test runs in a private network namespace.

Before the first test module is imported, and before any thread is started, the whole pytest process moves into a new
network namespace with nothing but loopback in it (``amiwatch.testing.netns.enter``): as root directly, as an ordinary
user through a user namespace that gives rights over this network and nothing else. So ``pytest`` is the same command
for both; tests marked ``kernel`` use the real ipset and the real iptables; and no test can touch the host's firewall or
send a packet anywhere.

Where the kernel refuses (some containers, hardened kernels), tests marked ``kernel`` are skipped and say why; all
others run as they would.

A busy machine is no fault of what is tested: Hypothesis sets no deadlines, and tries the same examples at each run of
CI, so that what it finds by chance refuses nobody else's change.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from amiwatch.testing import netns

try:
    netns.enter()
    REFUSED = ""
except netns.NamespaceRefused as exc:
    REFUSED = str(exc)

settings.register_profile(
    "amiwatch", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize="CI" in os.environ
)
settings.load_profile("amiwatch")


def pytest_report_header() -> str:
    return f"network: the host's own, kernel tests skipped: {REFUSED}" if REFUSED else "network: a private namespace"


def pytest_runtest_setup(item: pytest.Item) -> None:
    if REFUSED and item.get_closest_marker("kernel"):
        pytest.skip(REFUSED)


@pytest.fixture
def wire() -> Iterator[netns.Wire]:
    """A cable to addresses elsewhere, from which packets come that are real."""
    with netns.Wire() as cable:
        yield cable


@pytest.fixture
def both_firewalls() -> None:
    """Skip where one of the two firewalls can't be had."""
    from amiwatch.firewall import libnftables
    from tests.firewall.conftest import SBIN

    if why := libnftables.missing():
        pytest.skip(why)
    if not shutil.which("iptables", path=SBIN):
        pytest.skip("iptables is not installed")
