"""The proof of the firewall, on a host that is a network namespace."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_network
from pathlib import Path

import pytest

from amiwatch.cli.proof import BAN_TIME
from amiwatch.firewall import libnftables
from amiwatch.firewall.cable import NEAR
from amiwatch.firewall.nftables_rule import CHAINS
from amiwatch.firewall.protection import Protection
from amiwatch.firewall.scope import Scope
from amiwatch.firewall.table import make_firewall, make_rule
from tests.firewall.conftest import SBIN

pytestmark = pytest.mark.kernel

BANNED = ("198.51.100.254", "2001:db8:b:254::/64")


def administer(*command: str, text: str = "") -> str:
    run = subprocess.run(
        command, input=text, capture_output=True, text=True, check=True, env={**os.environ, "PATH": SBIN}
    )
    return run.stdout


@pytest.fixture(params=["ipset", "nftables"])
def host(request: pytest.FixtureRequest, environ: dict[str, str]) -> Iterator[dict[str, str]]:
    """A host whose firewall is set up, and its settings."""
    if why := libnftables.missing():
        pytest.skip(why)
    environ |= {"AMIWATCH_FIREWALL": request.param, "AMIWATCH_SET_NAME": "proof"}
    asyncio.run(take_down(request.param))
    asyncio.run(set_up(request.param))
    yield environ
    asyncio.run(take_down(request.param))


async def set_up(kind: str, ports: str = "voip", prefix: str = "proof") -> None:
    firewall = make_firewall(kind, prefix=prefix)
    await firewall.open()
    await make_rule(kind, prefix).install(Protection(Scope.parse(ports)))
    await firewall.close()


async def take_down(kind: str) -> None:
    firewall = make_firewall(kind, prefix="proof")
    await make_rule(kind, "proof").remove()
    await firewall.remove_sets()
    await firewall.close()


@pytest.fixture
def strict_host(host: dict[str, str]) -> Iterator[dict[str, str]]:
    """The same with one port, whose own firewall lets no stranger in: the test waits for its packets in vain."""
    host["AMIWATCH_PORTS"] = "5060/udp"
    asyncio.run(set_up(host["AMIWATCH_FIREWALL"], "5060/udp"))
    administer("nft", "-f", "-", text="table inet theirs { chain input { type filter hook input priority 0; drop; }; }")
    yield host
    administer("nft", "delete", "table", "inet", "theirs")


def entries(host: dict[str, str]) -> str:
    if host["AMIWATCH_FIREWALL"] == "ipset":
        return administer("ipset", "list", "proof4") + administer("ipset", "list", "proof6")
    return administer("nft", "list", "table", "inet", "proof")


def is_clean(host: dict[str, str]) -> bool:
    is_unplugged = NEAR not in [name for _, name in socket.if_nameindex()]
    return is_unplugged and not any(str(ip_network(text).network_address) in entries(host) for text in BANNED)


def until(is_true: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.02)  # nobody tells when another process has come so far


def test_it_is_proven_for_both_families_and_protocols(host: dict[str, str], program) -> None:
    result = program("firewall", "test")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    for where in ("IPv4 udp 5060", "IPv4 tcp 5060", "IPv6 udp 5060", "IPv6 tcp 5060"):
        (at,) = [number for number, line in enumerate(lines) if line.startswith(f"✓ {where}: ")]
        assert lines[at].endswith("1 packet dropped and counted")
        assert lines[at + 1].endswith("not banned: arrives")
    assert lines[-1] == "Proven: this host drops who is banned."
    assert is_clean(host)


def names_in_the_kernel() -> str:
    return administer("ipset", "list", "-n") + administer("nft", "list", "ruleset").lower()


def test_in_observe_mode_it_is_proven_with_sets_and_a_rule_of_its_own(host: dict[str, str], program) -> None:
    asyncio.run(take_down(host["AMIWATCH_FIREWALL"]))
    result = program("firewall", "test", AMIWATCH_MODE="observe")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("1 packet dropped and counted") == 4
    assert result.stdout.splitlines()[-1].startswith(
        "Proven: this host drops who is banned, as soon as it may. In obser"
    )
    assert "proof" not in names_in_the_kernel()


def test_what_a_killed_rehearsal_left_goes_with_the_next_test_and_with_the_rule(host: dict[str, str], program) -> None:
    kind = host["AMIWATCH_FIREWALL"]
    for command in (("firewall", "test"), ("firewall", "remove", "--yes")):
        asyncio.run(set_up(kind, prefix="proof-test"))
        assert "proof-test" in names_in_the_kernel()
        assert program(*command, AMIWATCH_MODE="observe").returncode == 0
        assert "proof-test" not in names_in_the_kernel()


def test_in_observe_mode_machines_are_told_that_it_is_a_rehearsal(host: dict[str, str], program) -> None:
    record = json.loads(program("firewall", "test", "--json", AMIWATCH_MODE="observe").stdout)
    assert (record["is_proven"], record["is_rehearsal"]) == (True, True)
    assert json.loads(program("firewall", "test", "--json").stdout)["is_rehearsal"] is False


def test_machines_get_each_trial(host: dict[str, str], program) -> None:
    record = json.loads(program("firewall", "test", "--json", AMIWATCH_PORTS="5080/udp").stdout)
    assert record["is_proven"] is False  # the rule is for other ports
    assert {trial["fault"]["kind"] for trial in record["trials"]} == {"wrong_rule"}
    asyncio.run(set_up(host["AMIWATCH_FIREWALL"], "5080/udp"))
    record = json.loads(program("firewall", "test", "--json", AMIWATCH_PORTS="5080/udp").stdout)
    assert record["is_proven"] is True
    assert [(one["family"], one["protocol"], one["port"], one["packets"]) for one in record["trials"]] == [
        (4, "udp", 5080, 1),
        (6, "udp", 5080, 1),
    ]


def test_a_strict_reverse_path_filter_does_not_matter(host: dict[str, str], program) -> None:
    switch = Path("/proc/sys/net/ipv4/conf/all/rp_filter")
    before = switch.read_text()
    switch.write_text("1")
    try:
        assert program("firewall", "test").returncode == 0
    finally:
        switch.write_text(before)


def test_an_own_firewall_that_drops_strangers_takes_nothing_from_the_proof(
    strict_host: dict[str, str], program
) -> None:
    result = program("firewall", "test")
    assert result.returncode == 0
    assert result.stdout.count("another rule of this host drops it, behind ours") == 2


def test_a_firewall_in_front_of_ours_is_told_from_ours(strict_host: dict[str, str], program) -> None:
    chain = "chain first { type filter hook prerouting priority -400; drop; }"
    administer("nft", "-f", "-", text=f"table inet in_front {{ {chain}; }}")
    try:
        result = program("firewall", "test")
    finally:
        administer("nft", "delete", "table", "inet", "in_front")
    assert result.returncode == 69
    assert "another rule of this host drops it before ours" in result.stderr


def test_without_the_rule_it_says_what_to_do(host: dict[str, str], program) -> None:
    if host["AMIWATCH_FIREWALL"] == "ipset":
        for table, chain in (("raw", "PREROUTING"), ("mangle", "INPUT"), ("mangle", "FORWARD")):
            for tables in ("iptables", "ip6tables"):
                administer(tables, "-t", table, "-F", chain)
    else:
        for chain in CHAINS:
            administer("nft", "flush", "chain", "inet", "proof", chain)
    result = program("firewall", "test")
    assert result.returncode == 69
    assert "Run amiwatch firewall install as root" in result.stderr
    assert result.stdout.count("✗") == 4
    assert is_clean(host)


def test_without_sets_nothing_is_made(host: dict[str, str], program) -> None:
    asyncio.run(take_down(host["AMIWATCH_FIREWALL"]))
    result = program("firewall", "test")
    assert result.returncode == 69
    assert "There are no sets yet" in result.stderr
    assert program("firewall", "show").returncode == 1


def test_without_rights_it_says_in_one_sentence_what_it_needs(host: dict[str, str], program) -> None:
    less = ("setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin", "--ambient-caps", "-sys_admin")
    result = program("firewall", "test", before=less)
    assert result.returncode == 77
    assert result.stderr.startswith("amiwatch: The test needs root (missing: CAP_SYS_ADMIN)")
    assert len(result.stderr.splitlines()) == 1


def test_two_tests_do_not_meet(host: dict[str, str], program) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind("\0amiwatch-firewall-test")
        result = program("firewall", "test")
    assert (result.returncode, result.stdout) == (75, "")
    assert "Another test of the firewall runs" in result.stderr
    assert program("firewall", "test").returncode == 0


def test_a_dry_run_is_not_tested(program) -> None:
    assert program("firewall", "test").returncode == 1


def test_a_ban_of_a_documentation_address_by_hand_is_left_alone(host: dict[str, str], program) -> None:
    if host["AMIWATCH_FIREWALL"] == "ipset":
        administer("ipset", "add", "proof4", BANNED[0], "timeout", "600")
    else:
        administer("nft", "add", "element", "inet", "proof", "proof4", f"{{ {BANNED[0]} timeout 10m }}")
    result = program("firewall", "test")
    assert result.returncode == 69
    assert f"{BANNED[0]}/32 is banned already" in result.stderr
    assert BANNED[0] in entries(host)


@pytest.fixture
def begun(strict_host: dict[str, str]):
    """Begin a test, and return once it is under way."""

    def begin() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "amiwatch", "firewall", "test"],
            env=strict_host,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        until(lambda: BANNED[0] in entries(strict_host))
        return process

    return begin


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)], ids=["TERM", "HUP", "INT"]
)
def test_a_signal_leaves_nothing_behind(begun, strict_host: dict[str, str], number: int, code: int) -> None:
    process = begun()
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == code
    assert "Traceback" not in said
    assert is_clean(strict_host)


def test_a_killed_test_leaves_a_ban_of_seconds_and_the_next_one_works(
    begun, strict_host: dict[str, str], program
) -> None:
    process = begun()
    process.kill()
    process.communicate(timeout=30)
    until(lambda: NEAR not in [name for _, name in socket.if_nameindex()])
    assert BANNED[0] in entries(strict_host)
    result = program("firewall", "test")
    assert result.returncode == 0, result.stderr
    assert is_clean(strict_host)
    assert BAN_TIME <= 10, "the daemon adopts what lasts longer"
