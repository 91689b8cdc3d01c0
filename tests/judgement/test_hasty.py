"""Bans given in the seconds before it shows that everybody fails."""

from amiwatch.judgement.hasty import LIFT_TIME, MAX_HASTY
from amiwatch.judgement.rules import HOUR
from amiwatch.judgement.values import Ban, Lift
from amiwatch.testing.builders import Case
from tests.judgement.stories import ATTACKER, NOON, Story, logs_in

OFFICE = "192.0.2.7"
LOST = Case.UNKNOWN_ACCOUNT_ANSWERED


def office_fails(story: Story, source: str = OFFICE) -> None:
    """Let the phones of an office that never logged in all fail within two seconds."""
    story.tries(LOST, ["2001", "2002", "2003", "2004", "2005"], every=0.5, source=source, transport="TCP")


def others_fail(story: Story, *, number: int = 12, transport: str = "TCP") -> None:
    for host in range(number):
        story.wait(0.5)
        story.attempt(LOST, source=f"198.51.100.{host + 1}", account=str(1001 + host), transport=transport)


def lifts(story: Story) -> list[Lift]:
    return [verdict for verdict in story.verdicts if isinstance(verdict, Lift)]


def test_the_ban_of_an_office_is_lifted_when_everybody_else_fails_as_well() -> None:
    story = Story()
    office_fails(story)
    (ban,) = story.bans
    others_fail(story)
    assert story.kinds() == ["mass_failure"]
    assert "1 of the last minute was lifted" in story.alerts[0].reason
    (lift,) = lifts(story)
    assert (lift.network, str(lift.address)) == (ban.network, OFFICE)
    assert repr(ban.rule) in lift.reason
    assert not story.judge.ledger.is_banned(int(lift.address), lift.address, story.now)
    office_fails(story)
    assert len(story.bans) == 1  # it goes on failing as it did, and is of the crowd


def test_a_lifted_ban_is_no_offence() -> None:
    story = Story()
    office_fails(story)
    others_fail(story)
    assert story.judge.ladder.level(int(lifts(story)[0].address), story.now) == 0
    story.wait(HOUR)
    office_fails(story)
    assert [ban.level for ban in story.bans] == [1, 1]


def test_a_lifted_ban_leaves_older_offences_standing() -> None:
    story = Story()
    office_fails(story)
    story.wait(2 * HOUR)
    for host in (1, 2):
        logs_in(story, f"198.51.100.{host}", str(1000 + host))
    office_fails(story)
    others_fail(story)
    (lift,) = lifts(story)
    assert [ban.level for ban in story.bans] == [1, 2]
    assert story.judge.ladder.level(int(lift.address), story.now) == 1


def test_a_scanner_that_is_no_better_after_its_ban_was_lifted_is_banned_again() -> None:
    story = Story()
    story.tries(LOST, [str(number) for number in range(100, 106)], every=0.5, transport="TCP")
    others_fail(story)
    assert len(lifts(story)) == 1
    story.tries(LOST, [str(number) for number in range(106, 120)], every=0.5, transport="TCP")
    assert len(story.bans) == 2


def test_a_ban_of_two_minutes_ago_is_not_lifted() -> None:
    story = Story()
    office_fails(story)
    story.wait(2 * LIFT_TIME)
    others_fail(story)
    assert story.kinds() == ["mass_failure"]
    assert not lifts(story)


def test_who_was_banned_longer_ago_or_failed_before_is_not_of_the_crowd() -> None:
    story = Story()
    office_fails(story)
    story.wait(LIFT_TIME + 1)
    story.attempt(LOST, account="2001", transport="TCP")
    story.wait(5 * 60)
    office_fails(story, ATTACKER)
    others_fail(story)
    assert len(story.bans) == 2
    assert not lifts(story)


def test_a_guesser_at_the_manager_and_a_cracker_stay_banned() -> None:
    story = Story()
    story.tries(Case.AMI_WRONG_SECRET, ["admin"] * 3, every=1, source=ATTACKER)
    story.tries(Case.WRONG_PASSWORD, ["1001"] * 12, every=1, source=OFFICE, transport="TCP")
    others_fail(story)
    assert len(story.bans) == 2
    assert not lifts(story)


def test_a_storm_that_could_be_forged_lifts_no_proven_ban() -> None:
    story = Story()
    office_fails(story)
    for host in range(40):
        story.wait(0.1)
        story.attempt(LOST, source=f"198.51.100.{host + 1}", account="100")
    assert story.kinds() == ["unproven_storm"]
    assert not lifts(story)


def test_what_a_person_changed_meanwhile_is_left_alone() -> None:
    story = Story()
    office_fails(story)
    (ban,) = story.bans
    story.judge.ledger.put(ban.network, None)  # banned for ever by hand
    others_fail(story)
    assert not lifts(story)
    assert ban.network in story.judge.ledger


def test_bans_kept_to_be_lifted_are_bounded() -> None:
    story = Story()
    for number in range(MAX_HASTY + 50):
        story.tries(Case.AMI_WRONG_SECRET, ["admin"] * 3, every=0, source=f"198.18.{number // 250}.{number % 250 + 1}")
    assert len(story.bans) == MAX_HASTY + 50
    assert len(story.judge._verdicts._hasty) == MAX_HASTY
    story.wait(HOUR)
    story.tries(Case.AMI_WRONG_SECRET, ["admin"] * 3, every=0)
    assert len(story.judge._verdicts._hasty) == 1
    assert isinstance(story.bans[0], Ban)
    assert story.now > NOON
