import json
import time

import pytest

from amiwatch.judgement.values import source_network
from amiwatch.store.records import AllowEntry
from tests.cli.conftest import HOSTILE, make_alert, make_attempts, make_ban


@pytest.fixture
def offender(fill) -> None:
    def put(store) -> None:
        store.put_ban(make_ban(ago=9000), pbx="pbx", origin="rule", is_enforced=True)
        store.put_ban(make_ban(account="alice"), pbx="pbx", origin="rule", is_enforced=True)
        store.put_attempts([make_attempts(account="alice", count=7), make_attempts(account="bob", count=2)])
        store.put_alert(make_alert(), pbx="pbx")
        now = time.time()
        store.put_trust(source_network(make_ban().address), "300", now - 50, now + 5000, now - 50)

    fill(put)


def test_the_story_of_a_banned_address_is_whole(call, offender):
    result = call("why", "203.0.113.7")
    assert result.exit_code == 0
    story = result.stdout
    assert story.startswith("203.0.113.7 is banned since ")
    for part in (
        "rule 'scan', step 1 of the ladder, seen by pbx: 5 unknown accounts in 41 s",
        "InvalidAccountID PJSIP/UDP account 'alice' from 203.0.113.7 port 5060",
        "earlier",
        "'alice': 7 attempts unknown",
        "phone: a phone with an old password",
        "logged in as '300'",
        "amiwatch unban 203.0.113.7",
        "amiwatch allow 203.0.113.7",
    ):
        assert part in story


def test_machines_get_the_story_as_one_object(call, offender):
    story = json.loads(call("why", "203.0.113.7", "--json").stdout)
    assert (story["is_banned"], story["is_known"], story["network"]) == (True, True, "203.0.113.7/32")
    assert story["ban"]["rule"] == "scan"
    assert len(story["bans"]) == 2
    assert story["evidence"][0]["at"].endswith("Z")
    assert [one["account"] for one in story["tried"]] == ["alice", "bob"]
    assert story["trust"][0]["account"] == "300"


def test_an_address_that_was_never_seen_is_a_no(call, offender):
    result = call("why", "198.51.100.1")
    assert result.exit_code == 1
    assert "198.51.100.1 was never seen." in result.stdout
    assert "amiwatch ban 198.51.100.1" in result.stdout


def test_an_address_inside_a_banned_network_is_told_of_it(call, fill):
    ban = make_ban("198.51.100.0/24", seconds=None)
    fill(lambda store: store.put_ban(ban, pbx="pbx", origin="rule", is_enforced=True))
    story = call("why", "198.51.100.5").stdout
    assert "for ever, because 198.51.100.0/24 is." in story
    assert "amiwatch unban 198.51.100.0/24" in story
    assert "not banned as a whole, but 1 ban inside it" in call("why", "198.51.0.0/16").stdout


def test_an_address_inside_a_network_that_was_banned_is_told_which(call, fill):
    def put(store) -> None:
        for text, ago in (("198.51.100.0/24", 60), ("203.0.113.0/24", 9000)):
            store.put_ban(make_ban(text, ago=ago), pbx="pbx", origin="rule", is_enforced=True)
        store.put_lift(make_ban("198.51.100.0/24").network, at=time.time(), by="bob", reason="mistake")

    fill(put)
    story = call("why", "198.51.100.5").stdout
    assert story.startswith("198.51.100.5 is not banned; 198.51.100.0/24 was, until its ban was lifted.\n")
    assert "why then" in story
    assert call("why", "203.0.113.5").stdout.startswith(
        "203.0.113.5 is not banned; 203.0.113.0/24 was, until its ban expired.\n"
    )
    assert call("why", "198.51.100.0/24").stdout.startswith("198.51.100.0/24 is not banned.\n")


def test_who_is_never_banned_is_told_why(call, fill):
    fill(lambda store: store.put_allow(AllowEntry("198.51.100.0/24", "the office", time.time(), None, "alice")))
    assert "198.51.100.0/24 is allowed by alice (the office)" in call("why", "198.51.100.9").stdout
    assert "loopback" in call("why", "127.0.0.9").stdout
    settings = {"AMIWATCH_ALLOWLIST": "192.0.2.0/24"}
    assert "on the allowlist of the settings" in call("why", "192.0.2.1", **settings).stdout
    assert "private" in call("why", "10.0.0.1", AMIWATCH_ALLOW_PRIVATE="true").stdout


def test_an_ipv6_address_stands_for_its_64(call, fill):
    fill(lambda store: store.put_ban(make_ban("2001:db8:1:2::/64"), pbx="pbx", origin="rule", is_enforced=True))
    assert call("why", "2001:db8:1:2::99").stdout.startswith("2001:db8:1:2::/64 is banned since")


def test_hostile_text_is_visible_and_bounded(call, fill):
    def put(store) -> None:
        store.put_ban(make_ban(reason=HOSTILE, account=HOSTILE), pbx="pbx", origin="rule", is_enforced=True)
        store.put_attempts([make_attempts(account=f"{HOSTILE}{number}") for number in range(50)])
        store.put_alert(make_alert(account=HOSTILE, reason=HOSTILE), pbx="pbx")

    fill(put)
    text = call("why", "203.0.113.7").stdout
    assert all(line.isprintable() for line in text.splitlines())
    assert "and 40 more" in text
