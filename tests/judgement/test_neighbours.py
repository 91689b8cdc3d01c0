"""A /24 with several banned addresses: its others are suspected sooner, and nothing more."""

import pytest

from amiwatch.judgement.neighbours import MAX_HOSTS, MAX_NETWORKS, Neighbours
from amiwatch.judgement.rules import HOUR, OFFICE, Policy
from amiwatch.judgement.values import UNKNOWN
from amiwatch.testing.builders import Case
from tests.judgement.stories import Story, logs_in, new_session, one

NEW = "203.0.113.200"
NEIGHBOURS = Policy().bad_neighbours


def bad_neighbourhood(story: Story, number: int = NEIGHBOURS, *, transport: str = "TCP") -> None:
    for host in range(number):
        source, accounts = f"203.0.113.{host + 1}", [str(each) for each in range(100, 106)]
        story.tries(Case.UNKNOWN_ACCOUNT, accounts, every=1, source=source, transport=transport)


def tries_until_banned(story: Story, source: str, **details: str) -> int:
    before = len(story.bans)
    for number in range(40):
        story.wait(1)
        story.attempt(Case.UNKNOWN_ACCOUNT_ANSWERED, account=str(200 + number), source=source, **details)
        if len(story.bans) > before:
            return number + 1
    return 40


@pytest.mark.parametrize("transport", ["UDP", "TCP"])
def test_a_scanner_in_a_bad_neighbourhood_needs_half_as_many_accounts(transport: str) -> None:
    story = Story()
    alone = tries_until_banned(Story(), NEW, transport=transport)
    bad_neighbourhood(story, NEIGHBOURS - 1)
    assert tries_until_banned(story, NEW, transport=transport) == alone
    assert tries_until_banned(story, "203.0.113.201", transport=transport) == (alone + 1) // 2
    assert tries_until_banned(story, "198.51.100.201", transport=transport) == alone  # another /24
    assert {ban.network.prefixlen for ban in story.bans} == {32}


def test_a_neighbourhood_that_forged_packets_made_bad_lowers_no_limit_of_proven_evidence() -> None:
    story = Story()
    bad_neighbourhood(story, transport="UDP")
    assert tries_until_banned(story, NEW, transport="TLS") == tries_until_banned(Story(), NEW, transport="TLS")
    assert "neighbours" not in story.bans[-1].reason
    assert tries_until_banned(story, "203.0.113.201") == 3
    # One forged packet in its name makes no proof of what a strange office did.
    story.tries(Case.UNKNOWN_ACCOUNT, ["21", "22"], every=20, source="203.0.113.202", transport="TLS")
    before = len(story.bans)
    story.attempt(Case.UNKNOWN_ACCOUNT, account="22", source="203.0.113.202")
    assert len(story.bans) == before


def test_the_reason_names_the_lower_limit() -> None:
    story = Story()
    bad_neighbourhood(story)
    tries_until_banned(story, NEW)
    assert "(limit 3 in 10 s)" in story.bans[-1].reason
    assert f"{NEIGHBOURS} of its neighbours are banned" in story.bans[-1].reason


def test_a_trusted_neighbour_keeps_its_patience() -> None:
    alone, story = Story(), Story()
    logs_in(alone, NEW, transport="TLS")
    bad_neighbourhood(story)
    logs_in(story, NEW, transport="TLS")
    expected = tries_until_banned(alone, NEW, transport="TLS")
    assert tries_until_banned(story, NEW, transport="TLS") == expected > 10


def test_passwords_and_silence_count_as_they_do_elsewhere() -> None:
    story = Story()
    bad_neighbourhood(story)
    before = len(story.bans)
    story.tries(Case.WRONG_PASSWORD, ["1001"] * 5, every=3, source=NEW, transport="TCP")
    story.tries(Case.UNMATCHED, [""] * 5, every=3, source="203.0.113.201")
    assert len(story.bans) == before


def test_a_neighbourhood_is_good_again_when_its_bans_are_over() -> None:
    neighbours = Neighbours(NEIGHBOURS)
    for host in range(NEIGHBOURS):
        neighbours.note(host, HOUR, is_proven=True)
    assert neighbours.are_bad(200, HOUR - 1, is_proven=True)
    assert not neighbours.are_bad(200, HOUR, is_proven=True)
    assert not neighbours.are_bad(256, 0, is_proven=True)


def test_a_lifted_ban_makes_no_neighbour() -> None:
    neighbours = Neighbours(NEIGHBOURS)
    for host in range(NEIGHBOURS):
        neighbours.note(host, HOUR, is_proven=True)
    neighbours.forget(0)
    neighbours.forget(0)
    neighbours.forget(2**31)
    assert not neighbours.are_bad(200, 0, is_proven=True)


def test_ipv6_sources_have_no_neighbours_here() -> None:
    neighbours = Neighbours(NEIGHBOURS)
    for number in range(10):
        neighbours.note(~number, HOUR, is_proven=True)
    assert len(neighbours) == 0


def test_memory_of_neighbours_is_bounded() -> None:
    neighbours = Neighbours(NEIGHBOURS)
    for number in range(MAX_NETWORKS + 100):
        neighbours.note(number << 8, HOUR, is_proven=True)
    for host in range(256):
        neighbours.note(host, HOUR, is_proven=True)
    assert len(neighbours) == MAX_NETWORKS
    assert len(neighbours._networks[0].hosts) == MAX_HOSTS


def unnamed_tries(story: Story, number: int, *, every: float) -> None:
    """Let somebody try accounts on a FreePBX that does not name him."""
    for _ in range(number):
        story.wait(every)
        details = {"account": UNKNOWN, "source": NEW, "session": new_session(), "transport": "TCP"}
        story.see(one("ChallengeSent", **details), one("ChallengeResponseFailed", **details))


def test_a_scanner_that_freepbx_does_not_name_needs_half_as_many_attempts() -> None:
    alone, story = Story(), Story()
    unnamed_tries(alone, 7, every=4)
    assert not alone.bans
    bad_neighbourhood(story)
    before = len(story.bans)
    unnamed_tries(story, 3, every=4)
    assert len(story.bans) == before
    unnamed_tries(story, 1, every=4)
    assert len(story.bans) == before + 1
    assert "its neighbours are banned" in story.bans[-1].reason


def test_half_is_enough_whatever_rows_are_in_force() -> None:
    story = Story(rules=tuple(rule for rule in OFFICE if rule.name in ("scan_day", "attempts")))
    bad_neighbourhood(story)
    before = len(story.bans)
    unnamed_tries(story, 4, every=2)
    assert [ban.rule for ban in story.bans[before:]] == ["attempts"]


def test_a_phone_with_a_deleted_account_in_a_bad_neighbourhood_is_a_phone() -> None:
    story = Story()
    bad_neighbourhood(story)
    before = len(story.bans)
    unnamed_tries(story, 100, every=30)
    assert len(story.bans) == before
