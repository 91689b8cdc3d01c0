import json

import pytest

from tests.cli.conftest import HOSTILE, make_alert, make_attempts


@pytest.fixture
def some(fill) -> None:
    def put(store) -> None:
        store.put_attempts(
            [
                make_attempts("203.0.113.7", account="100", ago=90),
                make_attempts("203.0.113.8", account="200", ago=30),
                make_attempts("2001:db8:1:2::5", account="100", ago=3 * 86400),
            ]
        )
        store.put_alert(make_alert("203.0.113.7"), pbx="pbx")

    fill(put)


def test_attempts_and_alerts_come_together_the_newest_first(call, some):
    events = json.loads(call("events", "--json").stdout)
    assert [(one["type"], one["address"]) for one in events] == [
        ("alert", "203.0.113.7"),
        ("attempt", "203.0.113.8"),
        ("attempt", "203.0.113.7"),
    ]
    assert events[1]["times"] == 3


def test_older_ones_are_asked_for(call, some):
    assert len(json.loads(call("events", "--since", "7d", "--json").stdout)) == 4
    assert len(json.loads(call("events", "--since", "all", "--json").stdout)) == 4
    assert call("events", "--since", "soon").exit_code == 2


def test_an_address_and_an_account_narrow_it_down(call, some):
    assert len(json.loads(call("events", "203.0.113.7", "--json").stdout)) == 2
    assert len(json.loads(call("events", "--account", "200", "--json").stdout)) == 1
    assert len(json.loads(call("events", "2001:db8:1:2::9", "--since", "7d", "--json").stdout)) == 1
    assert call("events", "192.0.2.1").exit_code == 1


def test_a_person_sees_a_table(call, some):
    head, first, *_ = call("events").stdout.splitlines()
    assert head.split() == ["LAST", "TIMES", "ADDRESS", "WHAT", "ACCOUNT"]
    assert "! phone" in first
    assert "old password" in first


def test_a_hostile_account_is_made_visible(call, fill):
    fill(lambda store: store.put_attempts([make_attempts(account=HOSTILE)]))
    text = call("events").stdout
    assert all(line.isprintable() for line in text.splitlines())
    assert len(text.splitlines()) == 2
