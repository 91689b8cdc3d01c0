"""Many sources together: everybody fails, or one account is attacked from everywhere."""

from dataclasses import replace

import pytest

from amiwatch.judgement.crowds import FIRST_TIME, LINGER, MAX_FAILING, Breaker, Failure
from amiwatch.judgement.rules import CLOSED, HOUR, MINUTE, OFFICE, Policy
from amiwatch.judgement.values import UNKNOWN
from amiwatch.testing.builders import Case
from tests.judgement.stories import ATTACKER, Story, logs_in, one

PHONES = [(f"192.0.2.{number}", str(1000 + number)) for number in range(20, 60)]
STORM = Policy().storm


def forged(account: str, at: float) -> Failure:
    return Failure(at, account, is_believed=False, is_known=False, is_forgeable=True)


def believed(account: str, at: float) -> Failure:
    return Failure(at, account, is_believed=True, is_known=False, is_forgeable=False)


def fail_together(story: Story, case: Case = Case.WRONG_PASSWORD, *, minutes: int = 15, **details: str) -> None:
    """Let all phones try twice a minute."""
    for _ in range(2 * minutes):
        for source, account in PHONES:
            story.wait(30 / len(PHONES))
            story.attempt(case, source=source, account=account, **details)


@pytest.mark.parametrize("is_known", [True, False])
@pytest.mark.parametrize("case", [Case.WRONG_PASSWORD, Case.UNKNOWN_ACCOUNT_ANSWERED])
def test_a_mass_failure_is_one_alert_and_no_ban(case: Case, is_known: bool) -> None:
    story = Story()
    for source, account in PHONES if is_known else ():
        logs_in(story, source, account)
    fail_together(story, case, transport="TCP")
    assert story.kinds() == ["mass_failure"]
    assert not story.bans
    for source, account in PHONES:
        logs_in(story, source, account, transport="TCP")
    assert story.kinds() == ["mass_failure"]  # who works again has not found a password


def test_an_office_without_trust_survives_a_mass_failure() -> None:
    story = Story()
    for _ in range(30):
        for source, account in PHONES[:30]:
            story.attempt(Case.WRONG_PASSWORD, source=source, account=account)
        story.tries(Case.WRONG_PASSWORD, (f"2{number:03}" for number in range(10)), every=2, source="198.51.100.5")
        story.wait(10)
    assert not story.bans


def test_a_scanner_a_cracker_and_a_manager_guesser_are_banned_during_a_mass_failure() -> None:
    story = Story()
    fail_together(story, minutes=2)
    story.tries(Case.UNKNOWN_ACCOUNT, (str(number) for number in range(100, 140)), every=0.1)
    story.tries(Case.WRONG_PASSWORD, ["1001"] * 30, every=1, source="203.0.113.67")
    story.tries(Case.AMI_WRONG_SECRET, ["admin"] * 3, every=8, source="203.0.113.68")
    assert story.banned() == {f"{ATTACKER}/32", "203.0.113.67/32", "203.0.113.68/32"}


def test_phones_that_always_fail_are_no_mass() -> None:
    story = Story()
    for number in range(len(PHONES)):
        story.wait(20)
        for source, account in PHONES[: number + 1]:
            story.attempt(Case.WRONG_PASSWORD, source=source, account=account)
    assert "mass_failure" not in story.kinds()


def test_the_breaker_closes_when_the_failure_is_over() -> None:
    story = Story()
    fail_together(story, minutes=2)
    story.wait(HOUR)
    story.tries(Case.UNKNOWN_ACCOUNT, ["a", "b", "c", "d", "e"], every=1)
    assert story.banned() == {f"{ATTACKER}/32"}


def test_a_storm_of_forged_strangers_bans_nobody_and_hides_no_proven_attacker() -> None:
    story = Story()
    for turn in range(6):
        for number in range(100):
            story.wait(0.005)
            story.attempt(Case.UNKNOWN_ACCOUNT, source=f"198.51.100.{number}", account=str(100 + turn))
    assert story.kinds() == ["unproven_storm"]
    assert not story.bans
    story.tries(Case.UNKNOWN_ACCOUNT, ["a", "b", "c", "d"], every=1, transport="TLS")
    assert story.banned() == {f"{ATTACKER}/32"}


def test_forged_packets_alone_are_never_called_a_mass_failure() -> None:
    breaker = Breaker(Policy())
    opened = [breaker.begin(forged(str(number), number / 10), known=0) for number in range(STORM)]
    assert opened == [False] * (STORM - 1) + [True]
    assert breaker.is_storm


def test_a_forger_who_knows_addresses_and_accounts_but_not_whose_they_are_opens_no_breaker() -> None:
    story = Story()
    for source, account in PHONES:
        logs_in(story, source, account)
    for turn in range(3):
        for number, (source, _) in enumerate(PHONES):
            story.wait(0.1)
            story.attempt(Case.WRONG_PASSWORD, source=source, account=PHONES[number - 1 - turn][1])
    assert "mass_failure" not in story.kinds()


def test_six_sources_within_ten_seconds_are_a_crowd_and_six_within_a_minute_are_not() -> None:
    for seconds, is_crowd in ((9, True), (50, False)):
        breaker = Breaker(Policy())
        opened = [breaker.begin(believed(str(number), number * seconds / 5), known=0) for number in range(6)]
        assert opened == [False] * 5 + [is_crowd]


def test_sources_with_one_list_of_accounts_are_no_crowd() -> None:
    breaker = Breaker(Policy())
    assert not any(breaker.begin(believed(str(number % 3), number), known=0) for number in range(STORM))


def test_phones_that_freepbx_does_not_name_are_a_crowd() -> None:
    story = Story()
    for turn in range(6):
        for source, _ in PHONES:
            story.wait(0.5)
            details = {"account": UNKNOWN, "source": source, "session": f"{source}-{turn}", "transport": "TLS"}
            story.see(one("ChallengeSent", **details), one("ChallengeResponseFailed", **details))
    assert story.kinds() == ["mass_failure"]
    assert not story.bans


def test_the_breaker_is_bounded() -> None:
    breaker = Breaker(Policy())
    for number in range(2 * MAX_FAILING):
        breaker.begin(believed(str(number), number / 10_000), known=0)
        breaker.go_on(number, number / 10_000, believed(str(number), number / 10_000))
    assert len(breaker._onsets) <= STORM
    assert max(map(len, (breaker._failing, breaker._believed, breaker._known))) <= MAX_FAILING


# What the worlds taught about single sources.


def test_a_carrier_that_pings_and_withholds_numbers_is_reported_and_not_banned() -> None:
    story = Story()
    names = ["ping", "+4930111222", "anonymous", "+4930111223", "", "+4930111224"]
    for turn in range(20):
        story.tries(Case.UNKNOWN_ACCOUNT, names, every=4)
        story.wait(3)
        assert not story.bans, turn
    assert story.kinds() == ["unknown_carrier"]


def test_two_names_that_are_no_callers_are_no_carriers() -> None:
    story = Story()
    story.tries(Case.UNKNOWN_ACCOUNT, ["ping", "+4930111222", "admin", "+4930111223", "+4930111224"], every=4)
    assert story.bans


def test_a_monitor_that_keeps_its_call_id_and_loses_an_answer_now_and_then_is_not_banned() -> None:
    story = Story()
    for turn in range(500):
        story.attempt(Case.UNMATCHED, session="always-the-same")
        if turn % 10 == 0:
            story.wait(0.5)
            story.attempt(Case.UNMATCHED, session="always-the-same")
        story.wait(30)
    assert not story.bans


def test_people_of_a_call_centre_who_mistype_at_the_same_time_are_no_thieves() -> None:
    story = Story()
    logs_in(story, "192.0.2.7", "1000", transport="TLS")
    for number in range(8):
        story.attempt(Case.WRONG_PASSWORD, source="192.0.2.7", account=str(1001 + number), transport="TLS")
        story.wait(5)
    for number in range(8):
        logs_in(story, "192.0.2.7", str(1001 + number), transport="TLS")
    assert "password_found" not in story.kinds()


def test_trusted_accounts_that_were_deleted_are_no_enumeration() -> None:
    """A reload that lost all endpoints: 20 phones behind one address are all unknown at once."""
    story = Story()
    accounts = [str(1001 + number) for number in range(20)]
    for account in accounts:
        logs_in(story, "192.0.2.7", account, transport="TLS")
    story.tries(Case.UNKNOWN_ACCOUNT_ANSWERED, accounts, every=0.2, source="192.0.2.7", transport="TLS")
    assert not story.bans
    story.tries(Case.UNKNOWN_ACCOUNT, (f"x{n}" for n in range(20)), every=0.2, source="192.0.2.7", transport="TLS")
    assert story.bans


# A mass failure made on purpose must not hide anybody.


def known_phones(story: Story, number: int) -> None:
    for source, account in PHONES[:number]:
        logs_in(story, source, account)
    story.wait(11 * MINUTE)


@pytest.mark.parametrize("number", [1, 2, 40])
def test_bots_that_come_together_are_no_mass_failure_where_phones_are_known(number: int) -> None:
    story = Story()
    known_phones(story, number)
    for turn in range(20):
        for bot in range(12):
            if f"203.0.113.{bot + 1}/32" not in story.banned():
                story.attempt(
                    Case.UNKNOWN_ACCOUNT, source=f"203.0.113.{bot + 1}", account=f"{bot}-{turn}", transport="TCP"
                )
        story.wait(5)
    assert "mass_failure" not in story.kinds()
    assert len(story.bans) == 12
    assert story.judge.counters.attempts == number + 12 * 4


def bots_come(story: Story, network: str, number: int = 6) -> None:
    for bot in range(number):
        story.attempt(Case.UNKNOWN_ACCOUNT, source=f"{network}.{bot + 1}", account=f"bot{bot}", transport="TCP")
        story.wait(0.5)


def enumerates(story: Story, *, source: str = ATTACKER) -> int:
    """Try names at a pace that twelve phones would have; return how many it took until the ban, at most 20."""
    for number in range(20):
        story.attempt(Case.UNKNOWN_ACCOUNT_ANSWERED, account=f"name{number}", source=source, transport="TCP")
        if str(source) + "/32" in story.banned():
            return number + 1
        story.wait(3)
    return 20


def test_bots_are_no_mass_failure_later_than_an_hour_after_the_first_failure_though_nobody_ever_logged_in() -> None:
    story = Story()
    story.attempt(Case.UNKNOWN_ACCOUNT, source="203.0.113.9")
    story.wait(FIRST_TIME - MINUTE)
    bots_come(story, "198.51.100")
    assert story.kinds() == ["mass_failure"]  # amiwatch may have come in the midst of one
    story.wait(LINGER + MINUTE)
    bots_come(story, "203.0.113")
    assert story.kinds() == ["mass_failure"]
    assert enumerates(story) == 4


def test_bots_excuse_nobody_who_comes_later_than_they() -> None:
    story = Story()
    bots_come(story, "198.51.100", 12)
    assert enumerates(story, source="203.0.113.5") > 4  # may be an office that amiwatch saw never work
    for _ in range(4):
        story.wait(MINUTE)
        bots_come(story, "198.51.100", 12)  # they keep it open
    assert story.now < story.judge._breaker.until
    assert enumerates(story) == 4


@pytest.mark.parametrize(("known", "most"), [(5, 13), (40, 4)])
def test_a_mass_failure_spares_strangers_only_where_most_phones_are_strangers(known: int, most: int) -> None:
    story = Story()
    known_phones(story, known)
    fail_together(story, minutes=1, transport="TCP")
    assert story.kinds() == ["mass_failure"]
    assert not story.bans
    assert enumerates(story) == most


def test_a_forger_who_tries_accounts_that_exist_hides_no_proven_cracker() -> None:
    story = Story()
    known_phones(story, 3)
    for turn in range(30):
        for number in range(12):
            source = f"198.51.100.{(turn * 12 + number) % 250 + 1}"
            story.attempt(Case.WRONG_PASSWORD, source=source, account=PHONES[number][1])
        story.tries(Case.WRONG_PASSWORD, [account for _, account in PHONES[:12]], every=1, transport="TCP")
        story.wait(20)
    assert "mass_failure" not in story.kinds()
    assert story.banned() == {f"{ATTACKER}/32"}
    assert len(story.bans[0].evidence) == 8


def test_forged_packets_do_not_keep_a_mass_failure_alive() -> None:
    story = Story()
    known_phones(story, 40)
    fail_together(story, minutes=5)
    for turn in range(10):  # all works again
        for number in range(30):
            story.attempt(Case.WRONG_PASSWORD, source=f"198.51.100.{turn * 25 + number % 25 + 1}", account="1020")
            story.wait(2)
        for bot in range(12):
            story.attempt(Case.WRONG_PASSWORD, source=f"203.0.114.{bot + 1}", account=f"{1020 + bot}", transport="TCP")
    story.tries(Case.UNKNOWN_ACCOUNT, ["a", "b", "c", "d"], every=1, transport="TCP")
    assert f"{ATTACKER}/32" in story.banned()


def test_a_storm_is_one_though_some_packets_name_accounts_that_exist() -> None:
    story = Story()
    for turn in range(6):
        for number in range(100):
            story.wait(0.005)
            case = Case.UNKNOWN_ACCOUNT if number % 5 else Case.WRONG_PASSWORD
            story.attempt(case, source=f"198.51.100.{number + 1}", account=str(100 + turn))
    assert "unproven_storm" in story.kinds()
    assert not story.bans


def test_a_storm_that_turns_out_to_be_a_mass_failure_is_called_so() -> None:
    story = Story()
    known_phones(story, 40)
    storm(story, each=1)
    fail_together(story, minutes=5)
    assert story.kinds() == ["unproven_storm", "mass_failure"]
    assert not story.bans


def test_who_bans_at_the_first_attempt_does_so_in_a_crowd_too() -> None:
    first = tuple(replace(rule, limit=1, unproven_limit=1) if rule.name == "scan" else rule for rule in OFFICE)
    for policy, transports in ((CLOSED, ["TCP"]), (first, ["UDP", "TCP"])):
        for details in ({"transport": transport} for transport in transports):
            story = Story(rules=policy)
            for number in range(100):
                story.wait(0.1)
                source = f"198.51.100.{number + 1}"
                story.attempt(Case.UNKNOWN_ACCOUNT, account=f"name{number}", source=source, **details)
                assert len(story.bans) == number + 1


# A storm made on purpose must not hide a scanner.


def storm(story: Story, *, each: int, hosts: int = 100) -> None:
    """Forge packets of a hundred strangers, ``each`` times, within a few seconds."""
    for turn in range(each):
        for number in range(hosts):
            story.wait(0.005)
            story.attempt(Case.UNKNOWN_ACCOUNT, source=f"198.51.100.{number + 1}", account=str(100 + turn))


@pytest.mark.parametrize(("each", "most"), [(1, 5), (2, 5), (6, 15)])
@pytest.mark.parametrize("every", [1 / 150, 1 / 20, 1 / 5])
def test_a_scanner_in_a_forged_storm_pays_for_what_the_forger_sends_in_other_names(
    each: int, most: int, every: float
) -> None:
    story = Story()
    storm(story, each=each)
    assert "unproven_storm" in story.kinds()
    tried = 0
    while not story.bans and tried < 100:
        story.wait(every)
        story.attempt(Case.UNKNOWN_ACCOUNT, account=str(1000 + tried))
        tried += 1
    assert story.banned() == {f"{ATTACKER}/32"}
    assert tried <= most + (0.1 / every if each == 6 else 0)


def test_a_strange_office_over_udp_is_not_worse_than_its_storm() -> None:
    """A reload that lost all endpoints where nobody uses anything but UDP: twelve phones, each after 20 seconds."""
    story = Story()
    for turn in range(4):
        for second in range(20):
            for number in range(2):
                host = second * 2 + number
                story.attempt(Case.UNKNOWN_ACCOUNT_ANSWERED, source=f"198.51.100.{host + 1}", account=str(1001 + host))
            if second < 12:
                story.attempt(Case.UNKNOWN_ACCOUNT_ANSWERED, source="192.0.2.7", account=str(2001 + second))
            story.wait(1)
        assert len(story.bans) <= 1, turn  # before the storm is one, and lifted then
    assert story.kinds() == ["unproven_storm"]
    assert len(story.judge.ledger) == 0
