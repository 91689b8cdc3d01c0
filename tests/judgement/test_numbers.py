"""Numbers of the policy that are about many sources, or about alerts: each changes what it says, also while it runs."""

from dataclasses import replace

import pytest

from amiwatch.judgement.rules import HOUR, MINUTE, OFFICE, Measure, Policy
from amiwatch.testing.builders import Case
from tests.judgement.stories import PHONE, Story, logs_in

NUMBERS = [str(number) for number in range(100, 110)]


def with_campaign(**changes: int) -> tuple:  # type: ignore[type-arg]
    return tuple(replace(rule, **changes) if rule.measure is Measure.ADDRESSES else rule for rule in OFFICE)


def guess_from(story: Story, addresses: int, *, every: float = 10, transport: str = "TLS") -> None:
    for number in range(addresses):
        story.wait(every)
        story.attempt(Case.WRONG_PASSWORD, source=f"198.51.100.{number + 1}", transport=transport)


@pytest.mark.parametrize("limit", [5, 40])
def test_so_many_addresses_are_a_campaign(limit: int) -> None:
    for addresses in (limit - 1, limit):
        story = Story(rules=with_campaign(limit=limit))
        guess_from(story, addresses)
        story.wait(11 * MINUTE)
        said = story.judge.sweep(story.now)
        assert len(said) == (addresses if addresses == limit else 0)


def test_a_campaign_that_is_slower_than_the_rule_bans_nobody_and_none_does_where_it_is_off() -> None:
    for rules in (with_campaign(find_time=60), with_campaign(limit=0)):
        story = Story(rules=rules)
        guess_from(story, 60)
        story.wait(11 * MINUTE)
        assert story.judge.sweep(story.now) == []
        assert story.kinds() == ["account_attacked"]


@pytest.mark.parametrize(("by", "within"), [(5, 10 * MINUTE), (96, HOUR)])
def test_an_account_is_called_attacked_by_so_many_within_so_long(by: int, within: int) -> None:
    for every, is_told in ((within / by, True), (within / (by - 1) * 1.01, False)):
        story = Story(attacked_by=by, attacked_time=within)
        guess_from(story, by, every=every, transport="UDP")
        assert story.kinds() == ["account_attacked"] * is_told
    story = Story(attacked_by=0)
    guess_from(story, 200)
    assert story.kinds() == []


def tries_beside(story: Story, banned: int) -> int:
    """Let so many of a /24 be banned; return how many accounts the next one may try."""
    for host in range(banned):
        story.tries(Case.UNKNOWN_ACCOUNT, NUMBERS, every=1, source=f"203.0.113.{host + 1}", transport="TCP")
    before = len(story.bans)
    for number, account in enumerate(NUMBERS, start=1):
        story.attempt(Case.UNKNOWN_ACCOUNT, account=account, source="203.0.113.200", transport="TCP")
        story.wait(1)
        if len(story.bans) > before:
            return number
    return 0


def test_a_neighbourhood_is_bad_from_so_many_bans_on_or_never() -> None:
    assert [tries_beside(Story(bad_neighbours=2), banned) for banned in (1, 2)] == [4, 2]
    assert [tries_beside(Story(bad_neighbours=8), banned) for banned in (7, 8)] == [4, 2]
    assert tries_beside(Story(bad_neighbours=0), 8) == 4


def test_a_running_judge_takes_another_number_for_the_neighbours_that_it_knows() -> None:
    story = Story(bad_neighbours=0)
    assert tries_beside(story, 2) == 4
    story.judge.adopt(Policy(bad_neighbours=2))
    story.tries(Case.UNKNOWN_ACCOUNT, NUMBERS[:2], every=1, source="203.0.113.201", transport="TCP")
    assert "203.0.113.201/32" in story.banned()


def test_an_address_is_shared_by_so_many_accounts_or_never() -> None:
    for shared, accounts, is_banned in ((5, 4, True), (5, 5, False), (0, 60, True)):
        story = Story(shared_accounts=shared)
        for number in range(accounts):
            logs_in(story, PHONE, str(1001 + number), transport="TLS")
        scan = [f"x{number}" for number in range(60)]
        story.tries(Case.UNKNOWN_ACCOUNT_ANSWERED, scan, every=1, source=PHONE, transport="TLS")
        assert bool(story.bans) is is_banned
        assert ("shared_address" in story.kinds()) is not is_banned


def move(story: Story, silence: float) -> None:
    for account in ("1001", "1002", "1003", "1004"):
        logs_in(story, "192.0.2.7", account)
    story.wait(silence)
    for _ in range(40):
        for account in ("1001", "1002", "1003", "1004"):
            story.attempt(Case.ENDPOINT_ACL, account=account, source="198.51.100.7")
        story.wait(30)


def test_a_site_has_moved_when_its_old_address_was_silent_for_so_long() -> None:
    for moved_time, is_banned in ((20, False), (2 * HOUR, True)):
        story = Story(moved_time=moved_time)
        move(story, 30)
        assert bool(story.bans) is is_banned
        assert ("site_moved" in story.kinds()) is not is_banned


def fail_together(story: Story, sources: int, *, every: float = 4, case: Case = Case.WRONG_PASSWORD) -> None:
    transport = "TLS" if case is Case.WRONG_PASSWORD else "UDP"
    for number in range(sources):
        details = {"account": str(1001 + number), "source": f"192.0.2.{number + 20}"}
        story.attempt(case, transport=transport, **details)
        story.wait(every)


@pytest.mark.parametrize(("number", "fast"), [(4, 4), (10, 6), (40, 24)])
def test_so_many_sources_are_a_mass_failure_or_none_ever(number: int, fast: int) -> None:
    for needed, seconds in ((number, MINUTE), (fast, 10)):
        for sources in (needed - 1, needed):
            story = Story(mass_failure=number)
            fail_together(story, sources, every=0.99 * seconds / needed)
            assert story.kinds() == ["mass_failure"] * (sources == needed)
    story = Story(mass_failure=0)
    fail_together(story, 200, every=0.1)
    assert story.kinds() == []


def test_so_many_strangers_are_a_storm_or_none_ever() -> None:
    for number in (10, 100):
        story = Story(storm=number)
        fail_together(story, number - 1, every=0.1, case=Case.UNKNOWN_ACCOUNT)
        assert story.kinds() == []
        story.attempt(Case.UNKNOWN_ACCOUNT, source="198.51.100.1")
        assert story.kinds() == ["unproven_storm"]
    story = Story(storm=0)
    fail_together(story, 200, every=0.1, case=Case.UNKNOWN_ACCOUNT)
    assert story.kinds() == []


def test_a_running_judge_takes_another_number_for_the_storm() -> None:
    story = Story(storm=100)
    fail_together(story, 50, every=0.1, case=Case.UNKNOWN_ACCOUNT)
    story.judge.adopt(Policy(storm=40))
    story.attempt(Case.UNKNOWN_ACCOUNT, source="198.51.100.1")
    assert story.kinds() == ["unproven_storm"]


@pytest.mark.parametrize("after", [2, 7])
def test_a_password_is_found_after_so_many_wrong_ones(after: int) -> None:
    for tries, is_told in ((after - 1, False), (after, True)):
        story = Story(found_after=after)
        story.tries(Case.WRONG_PASSWORD, ["1001"] * tries, every=3, transport="TLS")
        logs_in(story, "203.0.113.66", "1001", transport="TLS")
        assert ("password_found" in story.kinds()) is is_told


def test_an_alert_is_said_again_after_so_long() -> None:
    for pause, told in ((600, 6), (HOUR, 1)):
        story = Story(alert_time=pause)
        for _ in range(360):
            story.attempt(Case.FULL_AOR, source=PHONE)
            story.wait(10)
        assert story.kinds() == ["aor_full"] * told


def test_so_many_alerts_are_said_a_minute() -> None:
    story = Story(alerts_a_minute=7)
    for number in range(100):
        story.attempt(Case.FULL_AOR, account=str(number), source=PHONE)
    assert story.kinds() == ["aor_full"] * 7 + ["alert_ceiling"]
