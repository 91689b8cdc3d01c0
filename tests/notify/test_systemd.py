"""What systemd hears, on a real datagram socket."""

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from amiwatch.notify import systemd


def bound(address: str) -> socket.socket:
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(address)
    manager.settimeout(5)
    return manager


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with bound(str(tmp_path / "notify")) as sock:
        yield sock


@pytest.fixture
def environ(manager: socket.socket) -> dict[str, str]:
    return {"NOTIFY_SOCKET": manager.getsockname()}


def test_systemd_hears_that_we_are_ready(manager, environ):
    assert systemd.notify(systemd.READY, environ)
    assert manager.recv(1024) == b"READY=1"


def test_an_abstract_socket_is_reached_by_its_at_sign():
    name = f"amiwatch-test-{os.getpid()}-{time.monotonic_ns()}"
    with bound("\0" + name) as manager:
        assert systemd.notify(systemd.STOPPING, {"NOTIFY_SOCKET": "@" + name})
        assert manager.recv(1024) == b"STOPPING=1"


@pytest.mark.parametrize("address", ["", "relative/path", "vsock:2:1234"])
def test_without_an_address_we_can_reach_nobody_is_told(address):
    assert not systemd.notify(systemd.READY, {"NOTIFY_SOCKET": address})


def test_outside_systemd_nobody_is_told():
    assert not systemd.notify(systemd.READY, {})


def test_a_service_manager_that_went_away_is_no_error(tmp_path):
    assert not systemd.notify(systemd.ALIVE, {"NOTIFY_SOCKET": str(tmp_path / "nobody")})


def test_a_path_longer_than_the_kernel_takes_is_no_error():
    assert not systemd.notify(systemd.ALIVE, {"NOTIFY_SOCKET": "/" + "x" * 200})


def test_a_service_manager_that_does_not_read_never_blocks_us(manager, environ):
    taken = 0
    while systemd.notify(systemd.ALIVE, environ):  # returns False once the socket is full, and does not hang
        taken += 1
        assert taken < 100_000
    assert taken > 0


def test_several_assignments_travel_in_one_message(manager, environ):
    assert systemd.notify(f"{systemd.READY}\n{systemd.status('2 PBXs, 17 bans')}", environ)
    assert manager.recv(1024).split(b"\n") == [b"READY=1", b"STATUS=2 PBXs, 17 bans"]


def test_a_status_with_line_ends_can_not_forge_a_message():
    assert systemd.status("account 'x\nSTOPPING=1\r\x1b[31m'") == "STATUS=account 'x STOPPING=1  [31m'"


def test_a_status_stays_one_short_line():
    assert len(systemd.status("x" * 10_000)) == len("STATUS=") + systemd.STATUS_LIMIT


def test_a_reload_carries_the_monotonic_instant_in_microseconds():
    assert systemd.reloading(12.5) == "RELOADING=1\nMONOTONIC_USEC=12500000"


def test_the_watchdog_is_fed_twice_as_often_as_systemd_demands():
    assert systemd.watchdog_interval({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}) == 15.0
    assert systemd.watchdog_interval({"WATCHDOG_USEC": "30000000"}) == 15.0


@pytest.mark.parametrize("microseconds", ["", "0", "-5", "soon", "²"])
def test_without_a_sensible_limit_there_is_no_watchdog(microseconds):
    assert systemd.watchdog_interval({"WATCHDOG_USEC": microseconds}) is None


def test_the_watchdog_of_another_process_is_none_of_ours():
    assert systemd.watchdog_interval({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}) is None
