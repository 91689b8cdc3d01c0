import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from ipaddress import ip_address

import pytest

from amiwatch.cli.ssh import callers
from amiwatch.firewall import libnftables
from amiwatch.store.note import note_path
from amiwatch.testing.netns import Wire
from tests.cli.conftest import make_ban
from tests.firewall.conftest import run

NOBODY = {"SSH_CONNECTION": "", "SSH_CLIENT": ""}


def test_a_panic_is_said_by_everything_that_shows_bans_until_it_is_over(call, fill):
    fill(lambda store: store.put_ban(make_ban(), pbx="", origin="rule", is_enforced=True))
    assert (
        call("panic", "-c", "the phones are dead").stdout == "nothing is dropped until 'amiwatch resume'; 1 ban held\n"
    )
    shown = call("status")
    assert shown.stdout.startswith("PANIC: nothing is dropped since ")
    assert ": the phones are dead\n" in shown.stdout
    assert "1 open, all held" in shown.stdout
    listed = call("bans")
    assert listed.stderr.startswith("amiwatch: PANIC: nothing is dropped since ")
    assert "203.0.113.7" in listed.stdout
    assert call("why", "203.0.113.7").stderr.startswith("amiwatch: PANIC: nothing is dropped since ")
    checked = call("check")
    assert checked.exit_code != 0
    assert "PANIC: nothing is dropped since " in checked.stdout
    held = json.loads(call("status", "--json").stdout)["panic"]
    assert (held["comment"], held["until"]) == ("the phones are dead", None)
    assert call("resume").stdout == "1 ban in force again\n"
    assert "PANIC" not in call("status").stdout + call("bans").stderr
    assert call("resume").exit_code == 1


def test_a_panic_for_a_time_says_so(call):
    assert "for 2 h, or until 'amiwatch resume'" in call("panic", "--for", "2h").stdout
    assert json.loads(call("status", "--json").stdout)["panic"]["until"]
    assert call("panic", "--for", "soon").exit_code == 2


def test_a_locked_database_keeps_nobody_from_panic(call, path, fill):
    fill(lambda store: store.put_ban(make_ban(), pbx="", origin="rule", is_enforced=True))
    with closing(sqlite3.connect(path, isolation_level=None)) as lock:
        lock.execute("BEGIN EXCLUSIVE")
        result = call("panic")
        assert result.exit_code == 0
        assert str(note_path(path)) in result.stdout
        assert "locked" in result.stderr
        lock.execute("ROLLBACK")
    assert call("status").stdout.startswith("PANIC")
    assert call("resume").stdout == "1 ban in force again\n"
    assert not note_path(path).exists()


def test_a_broken_database_keeps_nobody_from_panic(call, path):
    path.write_bytes(b"no database at all, but long enough to be looked at" * 100)
    result = call("panic")
    assert result.exit_code == 0
    assert "no database" in result.stderr
    assert note_path(path).exists()


def test_where_nothing_can_be_written_the_way_out_is_named(call, tmp_path):
    result = call("panic", AMIWATCH_DATABASE=str(tmp_path / "nowhere" / "amiwatch.db"))
    assert result.exit_code == 74
    assert "systemctl stop amiwatch" in result.stderr


@pytest.mark.kernel
@pytest.mark.parametrize("kind", ["ipset", "nftables"])
@pytest.mark.parametrize("has_database", [True, False], ids=["", "database locked"])
def test_a_panic_empties_the_sets_that_somebody_elses_rule_uses(call, path, kind: str, has_database: bool):
    if why := libnftables.missing():
        pytest.skip(why)
    prefix = "panic"
    settings = {"AMIWATCH_FIREWALL": kind, "AMIWATCH_SET_NAME": prefix, "AMIWATCH_DROP_RULE": "manual"}
    assert call("firewall", "install", **settings).exit_code == 0
    if kind == "ipset":
        rule = ["-m", "set", "--match-set", f"{prefix}4", "src", "-j", "DROP"]
        run("iptables", "-w", "-A", "INPUT", *rule)
    else:
        run("nft", f"add chain inet {prefix} mine {{ type filter hook prerouting priority -310; }}")
        run("nft", f"add rule inet {prefix} mine jump drop_any")
    try:
        with Wire() as wire, wire.receiver(5060) as pbx:

            def heard() -> list[bytes]:
                wire.send_from("198.51.100.7", 5060, b"banned")
                wire.send_from("198.51.100.8", 5060, b"honest")
                return list(iter(lambda: pbx.recv(2048), b"honest"))

            assert call("ban", "198.51.100.7", **settings).exit_code == 0
            assert heard() == []
            with closing(sqlite3.connect(path, isolation_level=None)) as lock:
                if not has_database:
                    lock.execute("BEGIN EXCLUSIVE")
                assert call("panic", **settings).exit_code == 0
                assert heard() == [b"banned"]
            assert call("resume", **settings).stdout == "1 ban in force again\n"
            assert heard() == []
    finally:
        if kind == "ipset":
            run("iptables", "-w", "-D", "INPUT", *rule)
        assert call("firewall", "remove", "--yes", **settings).exit_code == 0


@pytest.mark.kernel
def test_settings_that_can_not_be_read_keep_nobody_from_panic(call):
    settings = {"AMIWATCH_FIREWALL": "ipset", "AMIWATCH_SET_NAME": "panic2"}
    try:
        assert call("ban", "198.51.100.7", **settings).exit_code == 0
        result = call("panic", **settings, AMIWATCH_MODE="perhaps")
        assert result.exit_code == 78
        assert "the kernel's sets are empty now" in result.stderr
        assert "set panic24" in call("firewall", "show", **settings).stdout
        assert " 0 of " in call("firewall", "show", **settings).stdout
    finally:
        assert call("firewall", "remove", "--yes", **settings).exit_code == 0


def test_a_ban_on_trial_is_confirmed_by_name_or_with_all(call):
    assert "if it is confirmed within 1 min" in call("ban", "203.0.113.7", "--for", "2h", "--confirm", "60s").stdout
    (ban,) = json.loads(call("bans", "--json").stdout)
    assert ban["seconds_left"] <= 60
    assert call("confirm", "203.0.113.8").exit_code == 1
    assert call("confirm", "203.0.113.7").stdout.startswith("203.0.113.7/32 banned for ")
    (ban,) = json.loads(call("bans", "--json").stdout)
    assert ban["seconds_left"] > 7000
    assert call("confirm").exit_code == 1


@pytest.mark.parametrize("variable", ["SSH_CONNECTION", "SSH_CLIENT"])
@pytest.mark.parametrize(
    ("client", "target"), [("198.51.100.9", "198.51.100.0/24"), ("2001:db8:5::9", "2001:db8:5::77")]
)
def test_nobody_bans_himself_unless_he_insists(call, path, variable, client, target):
    environment = {**NOBODY, variable: f"{client} 50022 192.0.2.1 22"}
    result = call("ban", target, **environment)
    assert result.exit_code == 1
    assert f"you are logged in from {client}" in result.stderr
    assert "--force" in result.stderr
    assert not path.exists()
    assert call("ban", target, "--force", **environment).exit_code == 0


def test_an_insisting_person_still_can_not_ban_the_loopback(call):
    result = call("ban", "127.0.0.1", "--force")
    assert result.exit_code == 1
    assert "is never banned" in result.stderr


def test_what_is_too_wide_is_banned_by_who_insists(call):
    result = call("ban", "203.0.0.0/15")
    assert result.exit_code == 1
    assert "--force" in result.stderr
    assert call("ban", "203.0.0.0/15", "--force").exit_code == 0
    assert json.loads(call("bans", "--json").stdout)[0]["rule"] == "forced"


def test_the_login_behind_sudo_is_found_in_the_shell_before_it():
    """What sudo does: the variable is gone from the program's own environment, and the shell before it has it."""
    script = "from amiwatch.cli.ssh import callers; import os; print(*callers(environ={}))"
    shell = f'"{sys.executable}" -c "{script}"; true'
    environment = {**os.environ, "SSH_CONNECTION": "203.0.113.77 50022 192.0.2.1 22"}
    done = subprocess.run(["sh", "-c", shell], env=environment, capture_output=True, text=True, check=True)
    assert "203.0.113.77" in done.stdout.split()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("203.0.113.7 1 192.0.2.1 22", {"203.0.113.7"}),
        ("::ffff:203.0.113.7 1 ::1 22", {"203.0.113.7"}),
        ("fe80::1%eth0 1 fe80::2 22", {"fe80::1"}),
        ("nonsense", set()),
        ("", set()),
    ],
)
def test_the_client_is_the_first_word(text, expected, tmp_path):
    found = callers({"SSH_CONNECTION": text}, proc=tmp_path)
    assert found == {ip_address(each) for each in expected}
