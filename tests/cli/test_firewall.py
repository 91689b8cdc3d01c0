"""``firewall`` and ``check`` against the real kernel, in a private network namespace."""

import json
import os
import shutil
import sqlite3
import subprocess
import time
from contextlib import closing

import pytest

from amiwatch.firewall import libnftables
from amiwatch.store.records import LearnedPort, Status
from amiwatch.testing.netns import Wire
from tests.firewall.conftest import SBIN


@pytest.fixture
def kernel(call):
    """Call the program with the real firewall; what it made is taken away afterwards."""

    def kernel(*arguments: str, **more: str):
        return call(*arguments, **{"AMIWATCH_FIREWALL": "ipset", "AMIWATCH_SET_NAME": "cli", **more})

    yield kernel
    assert kernel("firewall", "remove", "--yes").exit_code == 0


def test_a_dry_run_has_nothing_to_install(call):
    for command in ("install", "show", "remove"):
        result = call("firewall", command)
        assert result.exit_code == 0
        assert "dry run" in result.stdout
    assert json.loads(call("firewall", "show", "--json").stdout) == {"sets": [], "rules": [], "learned_ports": []}


@pytest.mark.kernel
def test_what_is_installed_is_shown_and_removed(kernel):
    assert kernel("firewall", "install").exit_code == 0
    assert kernel("firewall", "install").exit_code == 0
    assert kernel("firewall", "show").exit_code == 0
    shown = kernel("firewall", "show").stdout
    assert "set cli4            0 of 1000000 entries, used by 4 rules\n" in shown
    assert "rule IPv4           in raw PREROUTING, first; 0 packets" in shown
    state = json.loads(kernel("firewall", "show", "--json").stdout)
    assert {one["name"] for one in state["sets"]} == {"cli4", "cli6"}
    assert all(rule["is_present"] for rule in state["rules"])
    assert kernel("firewall", "remove").exit_code == 0
    result = kernel("firewall", "show")
    assert result.exit_code == 1
    assert "There are no sets" in result.stdout
    assert "missing: nothing is dropped" in result.stdout
    assert kernel("firewall", "show", "--json").exit_code == 1


@pytest.mark.kernel
def test_where_nothing_is_to_be_dropped_no_rule_is_missed_and_nothing_is_tested(kernel, fill):
    now = time.time()
    fill(lambda store: store.put_status(Status(os.getpid(), now, now, "observe", "1", "ipset", {})))
    kernel("firewall", "install", AMIWATCH_DROP_RULE="manual")
    assert "set          cli4: 0 of 1000000\n" in kernel("status").stdout
    assert "✓ rule      IPv4: none, and observe mode needs none" in kernel("check", AMIWATCH_MODE="observe").stdout
    assert kernel("firewall", "show").stderr.startswith("amiwatch: observe mode: nothing is dropped")
    tested = kernel("firewall", "test", AMIWATCH_DROP_RULE="manual")
    assert (tested.exit_code, tested.stdout) == (1, "")
    assert tested.stderr.startswith("amiwatch: observe mode: nothing is dropped")
    kernel("firewall", "install")

    fill(lambda store: store.put_status(Status(os.getpid(), 0, 0, "enforce", "1", "ipset", {})))
    kernel("panic")
    assert kernel("firewall", "show").stderr.startswith("amiwatch: PANIC: nothing is dropped since")
    tested = kernel("firewall", "test")
    assert (tested.exit_code, tested.stdout) == (1, "")
    assert tested.stderr.startswith("amiwatch: PANIC: nothing is dropped since")
    kernel("resume")
    assert not kernel("firewall", "show").stderr


@pytest.mark.kernel
def test_a_packet_of_who_is_banned_by_hand_is_dropped_and_counted(kernel):
    with Wire() as wire, wire.receiver(5060) as pbx:
        kernel("firewall", "install")
        assert kernel("ban", "198.51.100.7").exit_code == 0
        wire.send_from("198.51.100.7", 5060, b"banned")
        wire.send_from("198.51.100.8", 5060, b"honest")
        assert pbx.recv(2048) == b"honest"
        assert "1 packet dropped since it was banned" in kernel("why", "198.51.100.7").stdout
        assert "1 packet," in kernel("firewall", "show").stdout
        assert kernel("unban", "198.51.100.7").exit_code == 0
        wire.send_from("198.51.100.7", 5060, b"free again")
        assert pbx.recv(2048) == b"free again"


@pytest.mark.kernel
def test_bans_are_not_removed_without_a_yes(kernel):
    kernel("ban", "198.51.100.7")
    result = kernel("firewall", "remove")
    assert result.exit_code == 2
    assert "1 ban will be dropped no longer" in result.stderr
    assert json.loads(kernel("firewall", "show", "--json").stdout)["sets"][0]["count"] == 1


@pytest.mark.kernel
def test_a_rule_that_is_left_to_the_administrator_is_not_placed(kernel):
    assert "left to you" in kernel("firewall", "install", AMIWATCH_DROP_RULE="manual").stdout
    assert not any(rule["is_present"] for rule in json.loads(kernel("firewall", "show", "--json").stdout)["rules"])
    shown = kernel("firewall", "show", AMIWATCH_DROP_RULE="manual")
    assert shown.exit_code == 1
    assert "left to you" in shown.stdout
    use = ["PREROUTING", "-t", "raw", "-m", "set", "--match-set"]
    for number, program in ((4, "iptables"), (6, "ip6tables")):
        subprocess.run([program, "-A", *use, f"cli{number}", "src", "-j", "DROP"], check=True)
    shown = kernel("firewall", "show", AMIWATCH_DROP_RULE="manual")
    for number, program in ((4, "iptables"), (6, "ip6tables")):
        subprocess.run([program, "-D", *use, f"cli{number}", "src", "-j", "DROP"], check=True)
    assert shown.exit_code == 0


@pytest.mark.kernel
def test_other_ports_than_the_settings_say_are_noticed(kernel):
    kernel("firewall", "install", AMIWATCH_PORTS="5080/udp")
    assert "not what AMIWATCH_PORTS and the ports learned say" in kernel("firewall", "show").stdout
    assert "does not drop what AMIWATCH_PORTS" in kernel("check").stdout


@pytest.mark.kernel
def test_a_request_that_the_kernel_refuses_is_withdrawn(kernel, path):
    subprocess.run(["ipset", "create", "cli4", "hash:ip"], check=True)
    result = kernel("ban", "198.51.100.7")
    assert result.exit_code == 69
    assert "is not ours to use" in result.stderr
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT state FROM request_audit").fetchall() == [("refused",)]
    assert kernel("firewall", "remove").exit_code == 69
    subprocess.run(["ipset", "destroy", "cli4"], check=True)


@pytest.mark.kernel
def test_without_rights_the_kernel_is_not_touched_and_the_code_says_why(program):
    alone = ("unshare", "--user", "--map-root-user")
    if subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        pytest.skip("the kernel allows no user namespace here")
    done = program("firewall", "install", before=alone, AMIWATCH_FIREWALL="ipset")
    assert done.returncode == 77
    assert done.stderr.startswith("amiwatch: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.kernel
def test_the_commands_work_with_nftables_as_with_ipset(call):
    if why := libnftables.missing():
        pytest.skip(why)

    def kernel(*arguments: str, **more: str):
        return call(*arguments, AMIWATCH_FIREWALL="nftables", AMIWATCH_SET_NAME="clinft", **more)

    try:
        assert kernel("firewall", "install").exit_code == 0
        shown = kernel("firewall", "show")
        assert shown.exit_code == 0
        assert "set clinft4         0 of 1000000 entries, used by 6 rules" in shown.stdout
        assert "in the table inet clinft, first; 0 packets" in shown.stdout
        checked = kernel("check").stdout
        assert "works here, and is what bans here" in checked
        assert "first in the table inet clinft" in checked
        with Wire() as wire, wire.receiver(5060) as pbx:
            assert kernel("ban", "198.51.100.7").exit_code == 0
            wire.send_from("198.51.100.7", 5060, b"banned")
            wire.send_from("198.51.100.8", 5060, b"honest")
            assert pbx.recv(2048) == b"honest"
            assert "1 packet dropped since it was banned" in kernel("why", "198.51.100.7").stdout
    finally:
        assert kernel("firewall", "remove", "--yes").exit_code == 0
    assert kernel("firewall", "show").exit_code == 1


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("backend", "make", "take"),
    [
        ("ipset", ["ipset", "create", "cli4", "hash:ip"], ["ipset", "destroy", "cli4"]),
        (
            "nftables",
            ["nft", "add table inet cli; add set inet cli cli4 { type inet_service; }"],
            ["nft", "delete table inet cli"],
        ),
    ],
)
def test_a_set_of_our_name_that_somebody_else_made_is_bad(kernel, backend: str, make: list[str], take: list[str]):
    subprocess.run(make, check=True, env={"PATH": SBIN})
    try:
        checked = " ".join(kernel("check", AMIWATCH_FIREWALL=backend).stdout.split())
    finally:
        subprocess.run(take, check=True, env={"PATH": SBIN})
    assert "✗ sets The set 'cli4'" in checked
    assert "is not ours to use" in checked
    assert "give amiwatch another set name" in checked


@pytest.mark.kernel
def test_a_daemon_with_another_firewall_than_the_settings_is_bad(kernel, fill):
    now = time.time()
    fill(lambda store: store.put_status(Status(os.getpid(), now, now, "enforce", "1", "nftables", {})))
    checked = " ".join(kernel("check").stdout.split())
    assert "✗ firewall the daemon that runs uses nftables, these settings say ipset" in checked
    assert "the daemon that runs uses" not in kernel("check", AMIWATCH_FIREWALL="nftables").stdout


@pytest.mark.kernel
def test_rules_of_the_older_iptables_beside_those_of_today_are_told(kernel):
    def legacy(*arguments: str) -> None:
        subprocess.run(["iptables-legacy", *arguments], check=True, env={"PATH": SBIN}, capture_output=True)

    if shutil.which("iptables-legacy", path=SBIN) is None or "legacy" in kernel("check").stdout:
        pytest.skip("there is no iptables-legacy beside another iptables")
    assert "✓ iptables  iptables v" in kernel("check").stdout
    legacy("-A", "INPUT", "-p", "tcp", "--dport", "9", "-j", "ACCEPT")
    try:
        checked = " ".join(kernel("check").stdout.split())
    finally:
        legacy("-D", "INPUT", "-p", "tcp", "--dport", "9", "-j", "ACCEPT")
    assert "; iptables-legacy has 1 rule, too, and both are in force" in checked
    assert "iptables-legacy" not in kernel("check").stdout


@pytest.mark.kernel
def test_auto_says_what_it_chose_and_why(kernel):
    said = kernel("firewall", "install", AMIWATCH_FIREWALL="auto").stdout
    assert said.startswith("Firewall: ipset, for the kernel has it, and iptables is there.\n")
    checked = kernel("check", AMIWATCH_FIREWALL="auto").stdout
    assert "works here, and is what bans here (auto: the kernel has it, and" in " ".join(checked.split())
    assert "(auto:" not in kernel("check").stdout


@pytest.mark.kernel
def test_ports_that_were_learned_are_closed_and_shown(kernel, fill):
    fill(lambda store: store.put_learned_port(LearnedPort("udp", 38000, "office", 1_795_345_200.0)))
    assert "udp 4569,5060:5061,38000" in kernel("firewall", "install").stdout
    shown = kernel("firewall", "show")
    assert shown.exit_code == 0
    assert "port learned        udp 38000, of office, 2026-11-22" in shown.stdout
    assert json.loads(kernel("firewall", "show", "--json").stdout)["learned_ports"][0]["port"] == 38000
    assert "38000" not in kernel("firewall", "install", AMIWATCH_PORTS="5060").stdout


@pytest.mark.kernel
def test_tiers_are_switched_on_shown_and_off_without_a_daemon(kernel):
    with Wire() as wire, wire.receiver(5060) as pbx:

        def arrived() -> int:
            for _ in range(6):
                with wire.far_socket("198.51.100.7") as caller:
                    caller.sendto(b"REGISTER", (wire.here[4], 5060))
            wire.send_from("203.0.113.9", 5060, b"the last")
            return sum(1 for _ in iter(lambda: pbx.recv(2048), b"the last"))

        kernel("allow", "203.0.113.9")
        switched = kernel("firewall", "tiers", "on")
        assert switched.exit_code == 0
        assert "rate tiers are on for sources without trust: 3 in 60 s" in switched.stdout
        assert arrived() == 3
        shown = kernel("firewall", "show")
        assert shown.exit_code == 0
        assert "tier 3 in 60 s, 1 source counted" in shown.stdout
        assert "3 packets" in next(line for line in shown.stdout.splitlines() if "tier 3 in 60 s" in line)
        assert "0 packets, 0 bytes dropped" in shown.stdout  # apart from bans
        assert "not what AMIWATCH_PORTS" not in shown.stdout
        assert json.loads(kernel("firewall", "show", "--json").stdout)["rules"][0]["limits"][0]["packets"] == 3
        assert kernel("firewall", "install").exit_code == 0
        assert arrived() == 0
        assert "rate tiers 3/60s" in kernel("check").stdout
        assert kernel("firewall", "tiers", "off").stdout == "rate tiers are off\n"
        assert arrived() == 6
    assert kernel("firewall", "tiers", "maybe").exit_code == 2


def test_tiers_in_a_dry_run_say_that_nothing_is_limited(call):
    assert "no rule is ours to place here" in call("firewall", "tiers", "on").stdout


@pytest.mark.kernel
def test_limits_wait_for_a_daemon_that_knows_who_is_exempt(kernel):
    installed = kernel("firewall", "install", AMIWATCH_SIGNATURES="suggested")
    assert "'amiwatch run' places them" in installed.stdout


@pytest.mark.kernel
def test_names_that_nftables_can_not_look_for_are_said(call):
    if why := libnftables.missing():
        pytest.skip(why)
    more = {"AMIWATCH_FIREWALL": "nftables", "AMIWATCH_SET_NAME": "clinames", "AMIWATCH_SIGNATURES": "suggested"}
    try:
        assert call("firewall", "install", **more).exit_code == 0
        assert "AMIWATCH_SIGNATURES has no effect" in call("firewall", "show", **more).stdout
        checked = " ".join(call("check", **more).stdout.split())
        assert "AMIWATCH_SIGNATURES has no effect: nftables can't search packets" in checked
    finally:
        assert call("firewall", "remove", "--yes", **more).exit_code == 0
