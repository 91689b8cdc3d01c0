import json
import os
import pwd
import sqlite3
import subprocess
from contextlib import closing

import pytest

from amiwatch.cli.asking import asker, is_alive
from amiwatch.store.records import Status
from tests.cli.conftest import make_attempts, make_ban


def audit(path) -> list[tuple]:
    with closing(sqlite3.connect(path)) as db:
        return db.execute("SELECT verb, target, asked_by, state FROM request_audit ORDER BY id").fetchall()


def test_without_a_daemon_a_ban_is_carried_out_at_once_and_audited(call, path):
    result = call("ban", "203.0.113.7", "--for", "2h", "--comment", "rang all night")
    assert (result.exit_code, result.stdout) == (0, "203.0.113.7/32 banned for 2 h\n")
    ban = json.loads(call("bans", "--json").stdout)[0]
    assert (ban["network"], ban["rule"], ban["reason"]) == ("203.0.113.7/32", "manual", "rang all night")
    assert ban["seconds_left"] in range(7190, 7201)
    assert [row[:2] + row[3:] for row in audit(path)] == [("ban", "203.0.113.7/32", "done")]


def test_a_ban_may_last_for_ever_or_as_long_as_a_first_offence(call):
    assert "for ever" in call("ban", "203.0.113.7", "--for", "ever").stdout
    assert "1 h" in call("ban", "203.0.113.8").stdout
    assert call("ban", "203.0.113.9", "--for", "soon").exit_code == 2


def test_nobody_gives_a_sign_of_life_by_asking(call):
    call("ban", "203.0.113.7")
    assert call("status").exit_code == 1


def test_who_is_never_banned_is_not_banned_by_hand_either(call):
    result = call("ban", "127.0.0.1")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("amiwatch: 127.0.0.1/32 is never banned: ")
    assert result.stderr.count("127.0.0.1") == 1


def test_an_unban_ends_a_ban_and_a_second_one_is_a_no(call, fill):
    fill(lambda store: store.put_ban(make_ban(), pbx="", origin="rule", is_enforced=True))
    assert call("unban", "203.0.113.7").stdout == "203.0.113.7/32 unbanned\n"
    assert call("bans", "203.0.113.7").exit_code == 1
    again = call("unban", "203.0.113.7")
    assert (again.exit_code, again.stderr) == (1, "amiwatch: 203.0.113.7/32 was not banned\n")
    network = call("unban", "203.0.113.0/24")
    assert network.stderr == "amiwatch: 203.0.113.0/24 was not banned, nor anything inside it\n"


def test_all_are_unbanned_only_by_who_is_sure(call, fill):
    fill(
        lambda store: (
            [store.put_ban(make_ban(f"203.0.113.{n}"), pbx="", origin="rule", is_enforced=True) for n in range(3)]
            and None
        )
    )
    assert call("unban", "--all").exit_code == 2
    assert len(json.loads(call("bans", "--json").stdout)) == 3
    assert call("unban", "--all", "--yes").stdout == "3 bans lifted\n"
    assert json.loads(call("bans", "--json").stdout) == []


def test_a_very_wide_network_is_unbanned_only_by_who_is_sure(call):
    for target in ("203.0.113.7", "203.0.113.8", "192.0.2.7"):
        call("ban", target)
    assert call("unban", "192.0.0.0/4").exit_code == 2
    assert len(json.loads(call("bans", "--json").stdout)) == 3
    lifted = "192.0.0.0/4 itself was not banned; 3 bans inside it lifted\n"
    assert call("unban", "192.0.0.0/4", "--yes").stdout == lifted


@pytest.mark.parametrize("arguments", [["unban"], ["unban", "203.0.113.7", "--all"], ["allow"], ["ban"], ["ban", "x"]])
def test_half_a_command_is_a_mistake_and_leaves_no_trace(call, path, arguments: list[str]):
    assert call(*arguments).exit_code == 2
    assert not path.exists()


def test_to_allow_lifts_the_ban_and_keeps_it_so_until_it_is_taken_back(call, fill):
    fill(lambda store: store.put_ban(make_ban(), pbx="", origin="rule", is_enforced=True))
    assert "1 ban lifted" in call("allow", "203.0.113.0/24", "--for", "8h", "-c", "the office").stdout
    assert call("ban", "203.0.113.7").exit_code == 1
    listed = json.loads(call("allow", "--list", "--json").stdout)
    assert [(one["target"], one["comment"]) for one in listed] == [("203.0.113.0/24", "the office")]
    assert "7h59m" in call("allow", "--list").stdout or "8h" in call("allow", "--list").stdout
    assert call("disallow", "203.0.113.0/24").exit_code == 0
    assert call("disallow", "203.0.113.0/24").exit_code == 1
    assert call("ban", "203.0.113.7").exit_code == 0


def test_what_is_neither_network_nor_name_is_not_allowed(call):
    assert call("allow", "not a name!").exit_code == 2


@pytest.mark.parametrize("command", ["ban", "unban", "allow"])
def test_an_address_with_the_prefix_of_a_network_is_refused_and_both_meanings_are_named(call, path, command: str):
    result = call(command, "198.51.100.1/24")
    assert result.exit_code == 2
    assert result.stderr.endswith("write 198.51.100.1 or 198.51.100.0/24.\n")
    assert result.stderr.count("\n") == 1
    assert not path.exists()


@pytest.mark.parametrize(("wide", "narrow"), [("0.0.0.0/0", "192.0.0.0/8"), ("2000::/3", "2001::/16")])
def test_a_very_wide_network_is_allowed_only_by_who_is_sure(call, wide: str, narrow: str):
    assert call("allow", narrow).exit_code == 0
    result = call("allow", wide)
    assert result.exit_code == 2
    assert "say --yes if you are sure" in result.stderr
    assert [one["target"] for one in json.loads(call("allow", "--list", "--json").stdout)] == [narrow]
    assert call("allow", wide, "--yes").exit_code == 0


def test_a_network_is_forgotten_wholly(call, fill, path):
    def put(store) -> None:
        store.put_ban(make_ban(ago=9000), pbx="", origin="rule", is_enforced=True)
        store.put_attempts([make_attempts(), make_attempts("198.51.100.1")])

    fill(put)
    assert "203.0.113.7" in call("forget", "203.0.113.7").stdout
    assert call("why", "203.0.113.7").exit_code == 1
    assert call("why", "198.51.100.1").exit_code == 0


def test_what_is_old_is_forgotten(call, fill):
    fill(lambda store: store.put_attempts([make_attempts(ago=40 * 86400), make_attempts("198.51.100.1")]))
    assert call("forget", "--older-than", "30d").stdout == "1 row older than 30 d deleted\n"
    assert call("forget", "203.0.113.7", "--older-than", "30d").exit_code == 2


def test_without_rights_a_request_waits_for_the_daemon_and_that_is_said(program, path):
    alone = ("unshare", "--user", "--map-root-user")
    if subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        pytest.skip("the kernel allows no user namespace here")
    done = program("ban", "203.0.113.7", before=alone, AMIWATCH_FIREWALL="ipset")
    assert (done.returncode, done.stdout) == (75, "")
    assert "waits for the daemon" in done.stderr
    assert [row[3] for row in audit(path)] == ["waiting"]


def test_the_audit_names_the_person_behind_sudo(monkeypatch):
    monkeypatch.setenv("SUDO_USER", "alice")
    name = asker().partition(" ")[0]
    assert name == ("alice" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name)
    monkeypatch.delenv("SUDO_USER")
    assert asker().startswith(pwd.getpwuid(os.getuid()).pw_name)


def test_a_comment_can_not_forge_a_line_of_the_log(call):
    call("ban", "203.0.113.7", "--comment", "x\n2026 ERROR all is lost\x1b[31m")
    assert json.loads(call("bans", "--json").stdout)[0]["reason"] == "x\\n2026 ERROR all is lost\\x1b[31m"


def test_a_daemon_lives_while_its_process_does_and_its_sign_is_fresh():
    from time import time

    def status(pid: int, ago: float) -> Status:
        return Status(pid, 0.0, time() - ago, "enforce", "0", "none")

    gone = subprocess.Popen(["true"])
    gone.wait()
    assert is_alive(status(os.getpid(), 5))
    assert is_alive(status(1, 5))
    assert not is_alive(status(os.getpid(), 31))
    assert not is_alive(status(gone.pid, 5))
