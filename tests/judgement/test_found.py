"""Who guesses first and logs in then: an alarm always, in words that fit, and trust only where it may be a victim."""

from ipaddress import ip_address

import pytest

from amiwatch.judgement.found import MAX_FINDS, PROBATION, Finds, Found
from amiwatch.judgement.networks import source_key
from amiwatch.judgement.rules import DAY, HOUR
from amiwatch.testing.builders import Case
from tests.judgement.stories import ATTACKER, PHONE, Story, logs_in

SURE = Found(6, 1, is_phone=False, is_proven=True)


def accounts(story: Story, source: str = ATTACKER) -> list[str]:
    """List those that are trusted there."""
    return story.judge.trust.accounts(source_key(ip_address(source)), story.now)


def guesses_and_logs_in(story: Story, *pauses: float, source: str = ATTACKER, transport: str = "UDP") -> None:
    for pause in pauses:
        story.attempt(Case.WRONG_PASSWORD, source=source, transport=transport)
        story.wait(pause)
    logs_in(story, source, transport=transport)


def stays(story: Story, seconds: float, *, source: str = ATTACKER, transport: str = "UDP") -> None:
    """Log in every few minutes, as phones do."""
    for _ in range(int(seconds // 300)):
        story.wait(300)
        logs_in(story, source, transport=transport)


def test_tries_that_chance_puts_at_the_pace_of_a_phone_are_no_phones() -> None:
    """Two sources of simulated worlds, which drew their pauses from 5.5 to 16.5 seconds."""
    for pauses in ([16.1, 7.1, 16.2, 15.1, 15.3, 11.0], [15.7, 6.9, 15.2, 15.3, 10.6, 16.4, 14.0]):
        story = Story()
        guesses_and_logs_in(story, *pauses, transport="TCP")
        assert story.kinds() == ["password_found"]
        assert "phone" not in story.alerts[0].reason


@pytest.mark.parametrize("transport", ["UDP", "TLS"])
def test_a_success_after_guesses_at_the_pace_of_a_phone_is_an_alarm_that_says_both(transport: str) -> None:
    story = Story()
    guesses_and_logs_in(story, *[30.0] * 12, transport=transport)
    assert story.kinds() == ["broken_phone", "password_found"]
    reason = story.alerts[1].reason
    assert "somebody corrected its password, or a patient guesser found it" in reason
    assert ("over UDP, where a stranger can forge them" in reason) is (transport == "UDP")
    assert not story.bans


def test_a_phone_whose_password_was_corrected_is_trusted_a_day_later_and_told_once() -> None:
    story = Story()
    guesses_and_logs_in(story, *[30.0] * 200, source=PHONE, transport="TLS")
    stays(story, PROBATION - HOUR, source=PHONE, transport="TLS")
    assert not accounts(story, PHONE)
    stays(story, 2 * HOUR, source=PHONE, transport="TLS")
    assert accounts(story, PHONE)
    assert story.kinds().count("password_found") == 1
    assert "mistyped_password" not in story.kinds()


def test_a_phone_of_a_trusted_site_that_was_corrected_is_no_alarm() -> None:
    story = Story()
    logs_in(story, PHONE, "1000")
    guesses_and_logs_in(story, *[30.0] * 20, source=PHONE)
    assert story.kinds() == ["broken_phone"]
    assert accounts(story, PHONE) == ["1001", "1000"]


def test_who_hurried_over_a_proven_transport_is_told_daily_and_never_trusted_while_it_is_remembered() -> None:
    story = Story()
    guesses_and_logs_in(story, *[3.0] * 6, transport="TCP")
    stays(story, 3 * DAY + HOUR, transport="TCP")
    assert story.kinds() == ["password_found"] * 4
    assert not accounts(story)


@pytest.mark.parametrize("between", [0, 1, 5])
def test_a_phone_in_whose_name_somebody_guesses_is_not_without_trust_for_ever(between: int) -> None:
    """A stranger forges guesses before its first login, and goes on with it."""
    story = Story()
    for hour in range(30):
        for _ in range(6 if hour == 0 else between):
            story.attempt(Case.WRONG_PASSWORD, source=PHONE)
            story.wait(400)
        logs_in(story, PHONE)
        stays(story, HOUR - 400 * between, source=PHONE)
    assert accounts(story, PHONE)
    (alarm,) = (alert for alert in story.alerts if alert.kind == "password_found")
    assert "over UDP, where a stranger can forge them" in alarm.reason
    before = len(story.bans)  # until then it is banned like everybody in whose name somebody forges
    for _ in range(50):
        story.attempt(Case.UNKNOWN_ACCOUNT, account=f"x{story.now}", source=PHONE)
        story.wait(1)
    assert len(story.bans) == before


def test_another_password_of_the_same_source_is_another_alarm_and_its_own_day() -> None:
    story = Story()
    guesses_and_logs_in(story, *[3.0] * 6)
    stays(story, PROBATION + HOUR)
    assert accounts(story)
    story.tries(Case.WRONG_PASSWORD, ["1002"] * 6, every=3)
    logs_in(story, ATTACKER, "1002")
    assert [alert.account for alert in story.alerts if alert.kind == "password_found"] == ["1001", "1002"]
    assert accounts(story) == ["1001"]


def test_a_proven_cracker_who_comes_back_after_his_ban_is_on_no_probation() -> None:
    story = Story()
    story.tries(Case.WRONG_PASSWORD, ["1001"] * 8, every=2, transport="TLS")
    (ban,) = story.bans
    story.wait((ban.seconds or 0) + 1)
    logs_in(story, ATTACKER, transport="TLS")
    assert "forge" not in story.alerts[-1].reason
    stays(story, PROBATION + HOUR, transport="TLS")
    assert not accounts(story)


def test_a_storm_that_somebody_forges_excuses_no_password_that_he_finds() -> None:
    story = Story()
    for turn in range(12):
        for number in range(100):
            story.wait(0.01)
            story.attempt(Case.UNKNOWN_ACCOUNT, source=f"198.51.100.{number + 1}", account=str(100 + turn))
        story.attempt(Case.WRONG_PASSWORD)
        story.wait(16)
    assert story.kinds() == ["unproven_storm"]
    logs_in(story, ATTACKER)
    assert story.kinds()[-1] == "password_found"


def test_finds_are_bounded_and_the_oldest_go_first() -> None:
    finds = Finds()
    for number in range(MAX_FINDS + 10):
        assert not finds.is_over(number, "1001", SURE, number)
    assert len(finds) == MAX_FINDS


@pytest.mark.parametrize("every", [30, 150])
def test_a_phone_that_works_again_after_a_mass_failure_is_no_alarm_however_seldom_it_tried(every: int) -> None:
    story = Story()
    phones = [(f"192.0.2.{number}", str(1000 + number)) for number in range(20, 60)]
    for _ in range(900 // every):
        for source, account in phones:
            story.wait(every / len(phones))
            story.attempt(Case.WRONG_PASSWORD, source=source, account=account)
    for source, account in phones:
        logs_in(story, source, account)
    assert story.kinds() == ["mass_failure"]


def test_a_mass_failure_excuses_no_password_that_is_found_later() -> None:
    story = Story()
    for number in range(20, 60):
        story.attempt(Case.WRONG_PASSWORD, source=f"192.0.2.{number}", account=str(1000 + number))
    story.attempt(Case.WRONG_PASSWORD, account="1060")
    story.wait(HOUR)
    guesses_and_logs_in(story, *[3.0] * 6)
    assert story.kinds() == ["mass_failure", "password_found"]


@pytest.mark.parametrize("prefix", [48, 64])
@pytest.mark.parametrize("source", [ATTACKER, "2001:db8::66"])
def test_who_guessed_and_logs_in_though_he_is_banned_is_alarmed_at_once(source: str, prefix: int) -> None:
    """In observe mode nothing drops him; and a ban may not work."""
    story = Story(ipv6_prefix=prefix)
    story.tries(Case.WRONG_PASSWORD, ["1001"] * 10, every=1, source=source)
    assert len(story.bans) == 1
    for _ in range(3):
        logs_in(story, source)
        story.wait(60)
    assert story.kinds() == ["password_found"]
    assert not accounts(story, source)


def test_a_scanner_that_guessed_nothing_and_a_phone_beside_an_offender_raise_no_alarm_while_they_are_banned() -> None:
    story = Story()
    story.tries(Case.UNKNOWN_ACCOUNT, [str(number) for number in range(100, 105)], every=1)
    logs_in(story, PHONE, transport="TLS")
    story.tries(
        Case.UNKNOWN_ACCOUNT_ANSWERED, [f"x{number}" for number in range(40)], every=1, source=PHONE, transport="TLS"
    )
    assert len(story.bans) == 2
    for source in (ATTACKER, PHONE):
        logs_in(story, source, transport="TLS")
    assert "password_found" not in story.kinds()


# Many addresses, of which each guesses once.


def attacks(story: Story, *, hosts: int = 30, account: str = "1001", transport: str = "TLS") -> None:
    for host in range(hosts):
        story.attempt(Case.WRONG_PASSWORD, source=f"198.51.100.{host + 1}", account=account, transport=transport)
        story.wait(60)


@pytest.mark.parametrize("transport", ["UDP", "TLS"])
@pytest.mark.parametrize("tried", [0, 1])
def test_a_stranger_who_logs_in_with_an_account_under_attack_may_have_found_its_password(
    tried: int, transport: str
) -> None:
    story = Story()
    attacks(story, transport=transport)
    story.tries(Case.WRONG_PASSWORD, ["1001"] * tried, every=1, transport=transport)
    logs_in(story, ATTACKER, transport=transport)
    assert story.kinds()[-1] == "password_found"
    assert "a phone at a new address, or one of them found the password" in story.alerts[-1].reason
    assert not accounts(story)
    before = len(story.alerts)
    stays(story, PROBATION + HOUR, transport=transport)
    assert accounts(story)
    assert len(story.alerts) == before


def test_where_phones_are_known_they_log_in_with_an_account_under_attack_as_ever() -> None:
    story = Story()
    logs_in(story, PHONE)
    logs_in(story, "192.0.2.102", "1002")
    attacks(story)
    for source in (PHONE, "192.0.2.102"):
        logs_in(story, source)
    logs_in(story, "192.0.2.103", "1003")  # another account
    assert story.kinds() == ["account_attacked"]


def test_a_phone_that_roams_while_its_account_is_attacked_is_one_alarm() -> None:
    story = Story()
    attacks(story)
    for host in range(10):
        logs_in(story, f"203.0.113.{host + 1}")
        story.wait(600)
    assert story.kinds() == ["account_attacked", "password_found"]


def test_an_attack_of_two_days_ago_makes_nobody_suspect() -> None:
    story = Story()
    attacks(story)
    story.wait(2 * DAY)
    logs_in(story, PHONE)
    assert story.kinds() == ["account_attacked"]
