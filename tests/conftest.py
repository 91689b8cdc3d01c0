"""
Every test runs in a private network namespace.

Before the first test module is imported, and before any thread is started, the whole pytest process moves into a new
network namespace with nothing but loopback in it (``amiwatch.testing.netns.enter``): as root directly, as an ordinary
user through a user namespace that gives rights over this network and nothing else. So ``pytest`` is the same command
for both; tests marked ``kernel`` use the real ipset and the real iptables; and no test can touch the host's firewall or
send a packet anywhere.

Where the kernel refuses (some containers, hardened kernels), tests marked ``kernel`` are skipped and say why; all
others run as they would.
"""

from __future__ import annotations

import pytest

from amiwatch.testing import netns

try:
    netns.enter()
    REFUSED = ""
except netns.NamespaceRefused as exc:
    REFUSED = str(exc)


def pytest_report_header() -> str:
    return f"network: the host's own, kernel tests skipped: {REFUSED}" if REFUSED else "network: a private namespace"


def pytest_runtest_setup(item: pytest.Item) -> None:
    if REFUSED and item.get_closest_marker("kernel"):
        pytest.skip(REFUSED)
