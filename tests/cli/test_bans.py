import csv
import io
import json
import subprocess
import sys

import pytest

from tests.cli.conftest import HOSTILE, make_ban


@pytest.fixture
def three(fill) -> None:
    """An open ban, one for ever of a whole network, one that was lifted."""

    def put(store) -> None:
        for ban in (
            make_ban("203.0.113.7", ago=30),
            make_ban("198.51.100.0/24", seconds=None, rule="manual", reason="=1+1"),
            make_ban("2001:db8:1:2::/64", ago=10),
        ):
            store.put_ban(ban, pbx="pbx", origin="rule", is_enforced=True, by="alice")
        store.put_lift(make_ban("2001:db8:1:2::/64").network, at=make_ban(ago=0).at, by="bob", reason="mistake")

    fill(put)


def test_bans_that_last_are_listed_the_newest_first(call, three):
    result = call("bans")
    assert result.exit_code == 0
    head, *lines = result.stdout.splitlines()
    assert head.split() == ["NETWORK", "SINCE", "LEFT", "DROPPED", "RULE", "REASON"]
    assert [line.split()[0] for line in lines] == ["198.51.100.0/24", "203.0.113.7"]
    assert "for ever" in lines[0]


def test_all_bans_are_those_that_ended_too(call, three):
    lines = call("bans", "--all").stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["2001:db8:1:2::/64", "198.51.100.0/24", "203.0.113.7"]
    assert "lifted" in lines[1]


def test_an_address_finds_the_ban_of_the_network_around_it(call, three):
    result = call("bans", "198.51.100.77", "--json")
    assert [ban["network"] for ban in json.loads(result.stdout)] == ["198.51.100.0/24"]
    assert result.exit_code == 0


def test_an_address_that_is_not_banned_is_a_no(call, three):
    result = call("bans", "192.0.2.1")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "not banned" in result.stderr


def test_only_the_newest_are_listed_on_demand(call, three):
    assert len(json.loads(call("bans", "--limit", "1", "--json").stdout)) == 1
    assert len(json.loads(call("bans", "203.0.0.0/16", "--limit", "1", "--json").stdout)) == 1


def test_json_has_utc_and_whole_values(call, three):
    first = json.loads(call("bans", "--all", "--json").stdout)[0]
    assert first["network"] == "2001:db8:1:2::/64"
    assert first["since"].endswith("Z")
    assert (first["is_open"], first["is_enforced"], first["is_proven"]) == (False, True, False)
    assert (first["ended_by"], first["ended_why"], first["seconds_left"]) == ("bob", "mistake", None)


def test_csv_has_the_fields_of_the_json_and_no_formula(call, three):
    records = list(csv.DictReader(io.StringIO(call("bans", "--csv").stdout)))
    assert list(records[0]) == list(json.loads(call("bans", "--json").stdout)[0])
    assert records[0]["reason"] == "'=1+1"


def test_each_ban_shows_what_it_dropped(call, fill):
    def put(store) -> None:
        ban = make_ban()
        store.put_ban(ban, pbx="pbx", origin="rule", is_enforced=True)
        store.put_counters(ban.network, packets=41_207, octets=18_000_000, at=ban.at + 5)

    fill(put)
    assert "  41,207  " in call("bans").stdout
    (ban,) = json.loads(call("bans", "--json").stdout)
    assert (ban["packets_dropped"], ban["octets_dropped"]) == (41_207, 18_000_000)
    assert "dropped      41,207 packets of 1 ban" in call("status").stdout
    assert json.loads(call("status", "--json").stdout)["dropped"] == {"packets": 41_207, "bans": 1}


def test_an_observed_ban_says_so(call, fill):
    fill(lambda store: store.put_ban(make_ban(), pbx="pbx", origin="rule", is_enforced=False))
    assert "(would have banned)" in call("bans").stdout


def test_hostile_text_neither_colours_nor_moves_the_terminal(call, fill):
    fill(lambda store: store.put_ban(make_ban(reason=HOSTILE), pbx="pbx", origin="rule", is_enforced=True))
    for option in ((), ("--csv",), ("--json",)):
        text = call("bans", *option).stdout
        assert all(line.isprintable() for line in text.splitlines())
        assert "[bold]x[/bold]" in text


def test_both_forms_at_once_are_a_mistake(call, three):
    assert call("bans", "--json", "--csv").exit_code == 2


def test_a_database_that_is_missing_is_said_in_one_sentence(call, path):
    result = call("bans")
    assert result.exit_code == 74
    assert result.stderr.startswith("amiwatch: There is no database")
    assert result.stderr.count("\n") == 1


def test_nobody_banned_is_no_fault(call, fill):
    fill(lambda store: None)
    result = call("bans")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "Nobody is banned.\n")
    assert json.loads(call("bans", "--json").stdout) == []


def test_what_is_no_address_is_refused(call, three):
    result = call("bans", "nobody")
    assert result.exit_code == 2
    assert "'nobody'" in result.stderr


def test_a_settings_file_that_may_not_be_read_is_named_beside_the_missing_database(environ, tmp_path):
    file = tmp_path / ".env"
    file.mkdir()  # nobody can read that as a file, not even root
    done = subprocess.run(
        [sys.executable, "-m", "amiwatch", "bans"],
        env=environ,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 74
    assert ".env: can't be read" in done.stderr
