"""Honest trouble of one site: reported with advice, and not banned."""

import pytest

from amiwatch.judgement.rules import DAY, HOUR, Policy
from amiwatch.judgement.trouble import BROKEN_PHONES
from amiwatch.testing.builders import Case
from tests.judgement.stories import ATTACKER, PHONE, Story, logs_in, new_session, one

OLD, NEW = "192.0.2.7", "198.51.100.7"
SHARED, SILENCE = Policy().shared_accounts, Policy().moved_time


def broken_phones(
    story: Story, number: int, *, case: Case = Case.WRONG_PASSWORD, hours: float = 24, **more: str
) -> None:
    """Let phones at one address try again every 30, 60, 90 seconds."""
    for second in range(0, int(hours * HOUR), 10):
        for phone in range(number):
            if second % (30 * (phone + 1)) == 0:
                story.attempt(case, account=str(1001 + phone), source=PHONE, **more)
        story.wait(10)


@pytest.mark.parametrize("case", [Case.WRONG_PASSWORD, Case.UNKNOWN_ACCOUNT_ANSWERED, Case.ENDPOINT_ACL])
@pytest.mark.parametrize("number", range(2, BROKEN_PHONES + 1))
@pytest.mark.parametrize("transport", ["UDP", "TLS"])
def test_a_few_broken_phones_of_a_strange_site_are_reported_and_not_banned(
    case: Case, number: int, transport: str
) -> None:
    story = Story()
    broken_phones(story, number, case=case, hours=2, transport=transport)
    assert not story.bans
    assert set(story.kinds()) == {"broken_site"}
    assert "'1002'" in story.alerts[0].reason


def test_more_broken_phones_are_a_guesser() -> None:
    story = Story()
    broken_phones(story, BROKEN_PHONES + 1, hours=1)
    assert story.bans


@pytest.mark.parametrize("every", [0.5, 2, 5])
def test_who_guesses_at_two_accounts_faster_than_phones_is_banned(every: float) -> None:
    story = Story()
    story.tries(Case.WRONG_PASSWORD, ["1001", "1002"] * 30, every=every)
    assert story.bans


def test_a_steady_phone_does_not_hide_a_guesser_beside_it() -> None:
    story = Story()
    for turn in range(60):
        story.attempt(Case.WRONG_PASSWORD, account="1001")
        for _ in range(3 if turn > 10 else 0):
            story.wait(2)
            story.attempt(Case.WRONG_PASSWORD, account="1002")
        story.wait(30)
    assert story.bans


def test_somebody_who_mistypes_is_told_only_where_nobody_knows_him() -> None:
    story = Story()
    story.attempt(Case.WRONG_PASSWORD, source=PHONE)
    logs_in(story, PHONE)
    assert not story.alerts  # once is nothing
    story.tries(Case.WRONG_PASSWORD, ["1001"] * 3, every=9, source=PHONE)
    logs_in(story, PHONE)
    assert not story.alerts  # known
    story.tries(Case.WRONG_PASSWORD, ["1001"] * 2, every=9, source=NEW)
    logs_in(story, NEW)
    assert story.kinds() == ["mistyped_password"]
    assert "after 2 wrong passwords" in story.alerts[0].reason


# What a stranger forges takes no excuse from what is proven.


@pytest.mark.parametrize("forged", [1, 3])
def test_a_broken_phone_over_tls_stays_one_whatever_is_forged_in_its_name(forged: int) -> None:
    story = Story()
    for turn in range(60):
        story.wait(30)
        story.attempt(Case.WRONG_PASSWORD, source=PHONE, transport="TLS")
        for number in range(forged if turn == 20 else 0):
            story.attempt(Case.UNKNOWN_ACCOUNT, source=PHONE, account=f"forged{number}")
    assert not story.bans
    assert "broken_phone" in story.kinds()


def test_a_carrier_over_tls_stays_one_though_somebody_forges_a_password_in_its_name() -> None:
    story = Story()
    for turn in range(60):
        story.wait(20)
        story.attempt(Case.UNKNOWN_ACCOUNT, source=PHONE, account=f"+49301112{turn:03}", transport="TLS")
        if turn == 20:
            story.attempt(Case.WRONG_PASSWORD, source=PHONE)
    assert not story.bans
    assert story.kinds() == ["unknown_carrier"]


def test_an_office_over_tls_survives_a_mass_failure_though_somebody_scans_in_its_name() -> None:
    story, phones = Story(), [(f"198.51.100.{number}", str(1000 + number)) for number in range(30)]
    office = [str(2000 + number) for number in range(10)]
    for turn in range(20):
        for source, account in phones:
            story.attempt(Case.WRONG_PASSWORD, source=source, account=account, transport="TLS")
        story.tries(Case.WRONG_PASSWORD, office, every=2, source=PHONE, transport="TLS")
        if turn == 2:
            story.tries(Case.UNKNOWN_ACCOUNT, (f"forged{number}" for number in range(4)), every=0.1, source=PHONE)
        story.wait(10)
    assert not story.bans


# A site that moved.

ACCOUNTS = [str(1001 + number) for number in range(8)]


def site(story: Story, source: str) -> None:
    for account in ACCOUNTS:
        logs_in(story, source, account)
        story.wait(1)


def fails_anew(story: Story, *, case: Case = Case.ENDPOINT_ACL, turns: int = 20) -> None:
    for _ in range(turns):
        story.tries(case, ACCOUNTS, every=1, source=NEW)
        story.wait(40)


@pytest.mark.parametrize("case", [Case.ENDPOINT_ACL, Case.WRONG_PASSWORD])
def test_a_site_that_moved_is_reported_and_not_banned(case: Case) -> None:
    story = Story()
    site(story, OLD)
    story.wait(SILENCE)
    fails_anew(story, case=case)
    assert not story.bans
    assert set(story.kinds()) == {"site_moved"}
    assert f"logged in at {OLD}/32" in story.alerts[0].reason


def test_a_site_that_still_logs_in_at_home_has_not_moved() -> None:
    story = Story()
    site(story, OLD)
    story.wait(SILENCE)
    logs_in(story, OLD, ACCOUNTS[0])
    fails_anew(story)
    assert story.banned() == {f"{NEW}/32"}


def test_one_account_of_a_site_or_those_of_many_are_no_site_that_moved() -> None:
    story = Story()
    for number, account in enumerate(ACCOUNTS):
        logs_in(story, f"192.0.2.{number + 20}", account)
    story.wait(HOUR)
    fails_anew(story)
    assert story.banned() == {f"{NEW}/32"}


@pytest.mark.parametrize("every", [0.1, 0.5, 1.5])
def test_a_cracker_faster_than_phones_has_not_moved(every: float) -> None:
    story = Story()
    site(story, OLD)
    story.wait(SILENCE)
    story.tries(Case.WRONG_PASSWORD, ACCOUNTS * 10, every=every, source=NEW)
    assert story.banned() == {f"{NEW}/32"}


def test_an_account_lives_where_it_was_the_last_to_begin() -> None:
    trust = Story().judge.trust
    trust.grant(1, "1001", 100)
    trust.grant(2, "1001", 50)  # what a database brings back need not be in order
    assert trust.home("1001", 200) == 1
    trust.grant(2, "1001", 300)
    trust.grant(3, "1001", 400)
    assert trust.home("1001", 500) == 3
    assert (trust.heard(3), trust.home("1001", 400 + 8 * DAY), trust.home("1002", 500)) == (400, None, None)
    trust.max_sources = 2
    for number in range(10):
        trust.grant(number, str(number), 600 + number)
    assert len(trust._places) == 2


# Everybody behind one address.


@pytest.mark.parametrize("address", ["10.0.0.5", "198.51.100.9"])
@pytest.mark.parametrize("transport", ["UDP", "TCP"])
def test_an_address_that_many_phones_share_is_reported_and_never_banned(address: str, transport: str) -> None:
    story = Story()
    for number in range(SHARED):
        logs_in(story, address, str(1001 + number), transport=transport)
    story.tries(
        Case.UNKNOWN_ACCOUNT_ANSWERED, (f"x{n}" for n in range(200)), every=0.1, source=address, transport=transport
    )
    story.tries(Case.WRONG_PASSWORD, [f"2{n:03}" for n in range(40)], every=0.1, source=address, transport=transport)
    assert not story.bans
    assert story.kinds() == ["shared_address"]
    assert f"{SHARED} accounts log in from there" in story.alerts[0].reason
    logs_in(story, address, "2001", transport=transport)
    assert story.kinds() == ["shared_address"]  # whose guesses those were is not known


def test_an_office_is_no_shared_address() -> None:
    story = Story()
    for number in range(SHARED - 1):
        logs_in(story, ATTACKER, str(1001 + number), transport="TCP")
    story.tries(Case.UNKNOWN_ACCOUNT_ANSWERED, (f"x{n}" for n in range(30)), every=0.1, transport="TCP")
    assert story.banned() == {f"{ATTACKER}/32"}


def test_a_steady_stranger_behind_a_shared_address_is_no_broken_phone_if_nobody_names_him() -> None:
    """FreePBX: who comes through the proxy shows only in the answer to a challenge."""
    story = Story()
    for number in range(SHARED):
        logs_in(story, "10.0.0.5", str(1001 + number), transport="TCP")
    for _ in range(30):
        story.wait(30)
        details = {"account": "<unknown>", "source": "10.0.0.5", "session": new_session(), "transport": "TCP"}
        story.see(one("ChallengeSent", **details), one("ChallengeResponseFailed", **details))
    assert story.kinds() == ["shared_address"]


@pytest.mark.parametrize("transport", ["UDP", "TLS"])
@pytest.mark.parametrize("every", [20, 60])
@pytest.mark.parametrize("phones", [1, 2, 3])
def test_broken_phones_that_try_twice_each_time_are_not_banned(phones: int, every: float, transport: str) -> None:
    """Over TLS eight failures are looked at, which are four pauses less one: half as many as of other phones."""
    story = Story()
    for _ in range(60):
        for number in range(phones):
            for _ in range(2):
                story.attempt(Case.WRONG_PASSWORD, account=str(1001 + number), source=PHONE, transport=transport)
                story.wait(0.5)
            story.wait(every / phones - 1)
    assert set(story.kinds()) == {"broken_phone" if phones == 1 else "broken_site"}
    assert not story.bans


def test_who_tries_twice_each_time_on_four_accounts_is_no_site() -> None:
    story = Story()
    for _ in range(10):
        for number in range(4):
            for _ in range(2):
                story.attempt(Case.WRONG_PASSWORD, account=str(1001 + number), transport="TLS")
                story.wait(0.5)
            story.wait(14)
    assert story.bans
