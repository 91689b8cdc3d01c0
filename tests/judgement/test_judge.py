"""What bans, what only alerts, and what says nothing. Everything is told as a story with a clock."""

from dataclasses import replace
from ipaddress import ip_address, ip_network
from itertools import count, islice, pairwise
from random import Random
from typing import Any, NamedTuple

import pytest

from amiwatch.judgement.judge import UNFOLLOWED
from amiwatch.judgement.networks import source_key
from amiwatch.judgement.rules import (
    CLOSED,
    DAY,
    HOUR,
    MINUTE,
    OFFICE,
    POLICIES,
    TRIPWIRES,
    Measure,
    Policy,
    Rule,
    Unless,
)
from amiwatch.judgement.sources import HISTORY, REPEATS
from amiwatch.judgement.trouble import PACE_SAMPLES
from amiwatch.judgement.values import UNKNOWN
from amiwatch.testing.builders import Case, security_event
from tests.judgement.stories import ATTACKER, PHONE, Story, bans, logs_in, new_session, one

OTHER = "198.51.100.99"
SCAN = [str(number) for number in range(100, 180)]
ALERTS_A_MINUTE, FOUND_AFTER = Policy().alerts_a_minute, Policy().found_after


def test_every_rule_has_a_name_of_its_own_and_a_limit_that_memory_covers() -> None:
    for policy in POLICIES.values():
        assert [(rule.name, rule.measure) for rule in policy] == [(rule.name, rule.measure) for rule in OFFICE]
        assert len({rule.name for rule in policy}) == len(policy)
        assert all(rule.unproven_limit * 4 <= HISTORY for rule in policy if rule.measure is Measure.ACCOUNTS)
        assert all(0 <= rule.limit <= HISTORY for rule in policy)
        assert all(rule.limit <= rule.unproven_limit <= HISTORY for rule in policy if rule.unproven_limit)


def test_unproven_evidence_needs_more_in_every_row_where_a_forger_could_choose_it() -> None:
    for policy in POLICIES.values():
        for rule in policy:
            assert (rule.unproven_limit == rule.limit) is (rule.measure is Measure.AMI or not rule.limit)
            # One forged packet each would ban any number of addresses.
            assert (rule.unproven_limit < rule.limit) is (rule.measure is Measure.ADDRESSES)


# Every row of the table. One rule at a time is in force, so that no other one bans first.


class Probe(NamedTuple):
    """One row of a policy and the transport of the evidence: what is proven, or what could be forged."""

    rule: Rule
    transport: str

    @property
    def limit(self) -> int:
        return self.rule.unproven_limit if self.transport == "UDP" else self.rule.limit

    def story(self) -> Story:
        return Story(rules=(self.rule,), tripwires=frozenset({"trap"}))

    def make(self, story: Story) -> list[Any]:
        """Make one more of what the rule counts, in a way that no excuse covers."""
        made = story.judge.counters.attempts
        case, account = {
            Measure.ACCOUNTS: (Case.UNKNOWN_ACCOUNT_ANSWERED, f"name{made}"),
            Measure.ATTEMPTS: (
                Case.UNKNOWN_ACCOUNT_ANSWERED,
                "name" if Unless.RETRIES in self.rule.unless else f"name{made}",
            ),
            Measure.GUESSES: (Case.WRONG_PASSWORD, f"10{made % 5}"),
            Measure.ONE_ACCOUNT: (Case.WRONG_PASSWORD, "1001"),
            Measure.AMI: (Case.AMI_WRONG_SECRET, "1001"),
            Measure.TRIPWIRE: (Case.UNKNOWN_ACCOUNT, "Trap"),
        }[self.rule.measure]
        return story.attempt(case, account=account, transport=self.transport)

    def told(self, gaps: list[float]) -> Story:
        story = self.story()
        self.make(story)
        for gap in gaps:
            story.wait(gap)
            self.make(story)
        return story


ROWS = sorted({rule for policy in POLICIES.values() for rule in policy if rule.limit}, key=repr)
COUNTED = [
    # A steady pace on one account is a phone's: that excuse is told elsewhere.
    Probe(replace(rule, unless=frozenset()) if rule.measure is Measure.ONE_ACCOUNT else rule, transport)
    for rule in ROWS
    for transport in (("TCP",) if rule.measure is Measure.AMI else ("TCP", "UDP"))
    if rule.measure not in (Measure.UNANSWERED, Measure.ADDRESSES)  # told apart, those in test_campaigns.py
]
BY_NAME = {"ids": lambda probe: f"{probe.rule.name}-{probe.limit}-{probe.transport}"}


@pytest.mark.parametrize("probe", COUNTED, **BY_NAME)
def test_a_rule_bans_at_its_limit_and_not_one_below(probe: Probe) -> None:
    pace = probe.rule.find_time / max(probe.limit - 1, 1) / 1.01
    story = probe.told([pace] * (probe.limit - 2)) if probe.limit > 1 else probe.story()
    assert not story.bans
    story.wait(pace)
    said = bans(probe.make(story))
    assert [(ban.rule, ban.is_proven) for ban in said] == [(probe.rule.name, probe.transport == "TCP")]
    assert f"(limit {probe.limit} in" in said[0].reason


@pytest.mark.parametrize("probe", [probe for probe in COUNTED if probe.limit > 1], **BY_NAME)
def test_a_rule_does_not_ban_outside_its_window(probe: Probe) -> None:
    pace = probe.rule.find_time / (probe.limit - 1) * 1.01
    assert not probe.told([pace] * 2 * probe.limit).bans


@pytest.mark.parametrize(
    "rule", [rule for rule in ROWS if rule.measure is Measure.UNANSWERED], ids=lambda rule: f"{rule.name}-{rule.limit}"
)
@pytest.mark.parametrize("transport", ["TCP", "UDP"])
def test_unanswered_challenges_ban_at_the_limit_and_not_one_below(rule: Rule, transport: str) -> None:
    story = Story(rules=(rule,), answer_time=5)
    needed = PACE_SAMPLES + 1 if rule.unless else 0  # with fewer, calls at random may look like a clock
    for _ in range(max(Probe(rule, transport).limit, needed)):
        story.attempt(Case.UNMATCHED, transport=transport)
        story.wait(1)
    story.wait(3)  # all but the last have waited for five seconds
    story.attempt(Case.NO_CREDENTIALS, transport=transport)
    assert not story.bans
    story.wait(1)
    assert [ban.rule for ban in bans(story.attempt(Case.UNMATCHED, transport=transport))] == [rule.name]


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_a_scanner_is_banned_by_the_whole_table(policy: tuple[Rule, ...]) -> None:
    story = Story(rules=policy)
    story.tries(Case.UNKNOWN_ACCOUNT, SCAN, every=0.1)
    assert story.banned() == {f"{ATTACKER}/32"}


@pytest.mark.parametrize("limit", [0, 10])
def test_proven_evidence_bans_where_unproven_is_not_enough(limit: int) -> None:
    (scan,) = (rule for rule in OFFICE if rule.name == "scan")
    story = Story(rules=(replace(scan, unproven_limit=limit),))
    story.tries(Case.UNKNOWN_ACCOUNT, SCAN[:9], every=1, transport="UDP")
    story.tries(Case.UNKNOWN_ACCOUNT, SCAN[10:13], every=1, transport="TLS")
    assert bool(story.bans) is bool(limit)  # ten in all, three of them proven
    story.tries(Case.UNKNOWN_ACCOUNT, SCAN[13:14], every=1, transport="TLS")
    assert [ban.is_proven for ban in story.bans] == [not limit]


def test_a_closed_system_bans_the_first_unknown_account_that_is_proven_and_the_second_that_is_not() -> None:
    story = Story(rules=CLOSED)
    assert bans(story.attempt(Case.UNKNOWN_ACCOUNT, source=OTHER, transport="TLS"))
    assert not bans(story.attempt(Case.UNKNOWN_ACCOUNT, account="100"))
    assert bans(story.attempt(Case.UNKNOWN_ACCOUNT, account="101"))


# The same unknown account in haste.


@pytest.mark.parametrize(("case", "every"), [(Case.UNKNOWN_ACCOUNT_ANSWERED, 1.6), (Case.UNKNOWN_ACCOUNT, 0.3)])
def test_who_tries_one_unknown_account_faster_than_phones_do_is_banned_at_the_fifth_attempt(
    case: Case, every: float
) -> None:
    story = Story()
    story.tries(case, ["1120"] * 20, every=every)
    assert [ban.rule for ban in story.bans] == ["unknown_rush"]
    assert story.judge.counters.attempts == 5


def test_three_deleted_phones_that_each_try_twice_at_once_are_phones() -> None:
    story = Story()
    story.tries(Case.UNKNOWN_ACCOUNT_ANSWERED, ["1001", "1002", "1003"] * 2, every=0.2, source=PHONE)
    assert not story.bans


def test_a_person_who_mistypes_the_password_in_haste_is_no_scanner() -> None:
    story = Story()
    story.tries(Case.WRONG_PASSWORD, ["1001"] * 6, every=1.5, source=PHONE, transport="TLS")
    assert not story.bans


def test_a_carrier_may_bring_five_calls_at_once_but_nobody_pings_like_that() -> None:
    numbers = [f"+4420794600{number:02}" for number in range(5)]
    for accounts, is_banned in ((numbers, False), ([*numbers[:4], "ping"], False), (["ping"] * 5, True)):
        story = Story()
        story.tries(Case.UNKNOWN_ACCOUNT, accounts, every=0.05, source=OTHER)
        assert bool(story.bans) is is_banned, accounts


# Carriers: many customers behind one address.


CUSTOMERS = "192.0.2.200"


def _customers(story: Story, tries: int) -> None:
    """Let 20 customers behind one address try an old password each, as fast as people do."""
    for _ in range(tries):
        for number in range(20):
            story.wait(1.7)
            story.attempt(Case.WRONG_PASSWORD, account=f"customer{number}", source=CUSTOMERS)


def test_guesses_count_by_account_for_a_carrier_and_by_address_for_an_office() -> None:
    for name, is_banned in (("carrier", False), ("office", True)):
        story = Story(rules=POLICIES[name])
        _customers(story, 3)
        assert bool(story.bans) is is_banned, name


def test_a_guesser_among_the_customers_of_a_carrier_is_found_by_his_account() -> None:
    story = Story(rules=POLICIES["carrier"])
    for number in range(10):
        story.wait(5)
        story.attempt(Case.WRONG_PASSWORD, account=f"customer{number}", source=CUSTOMERS)
        assert not story.bans
        story.wait(1)
        story.attempt(Case.WRONG_PASSWORD, account="boss", source=CUSTOMERS)
        story.wait(0.8 * (number % 3))
    (ban,) = story.bans
    assert ban.rule == "one_account"
    assert "10 attempts on one account" in ban.reason


def test_a_customer_with_an_old_password_is_a_phone_whatever_others_do_behind_his_address() -> None:
    story = Story(rules=POLICIES["carrier"])
    for number in range(60):
        story.wait(15)
        story.attempt(Case.WRONG_PASSWORD, account="fax", source=CUSTOMERS)
        story.wait(15)
        story.attempt(Case.WRONG_PASSWORD, account=f"customer{number % 30}", source=CUSTOMERS)
    assert not story.bans
    assert story.kinds() == ["broken_phone"]


def test_a_carrier_is_told_of_deleted_accounts_too_and_bans_who_guesses_at_one() -> None:
    story = Story(rules=POLICIES["carrier"])
    story.tries(Case.UNKNOWN_ACCOUNT_ANSWERED, ["gone"] * 30, every=60, source=CUSTOMERS)
    assert (story.bans, story.kinds()) == ([], ["broken_phone"])
    story.tries(Case.UNKNOWN_ACCOUNT_ANSWERED, ["gone"] * 10, every=4)
    assert [ban.rule for ban in story.bans] == ["one_account"]


# One attempt is counted once.


def _unknown(kind: str, session: str, account: str = "<unknown>", **details: Any) -> Any:
    return security_event(kind, session=session, account=account, source=ATTACKER, **details)


ORDERS = {
    "named first": ["InvalidAccountID", "ChallengeSent"],
    "companion first": ["ChallengeSent", "InvalidAccountID"],
    "answer named first": ["InvalidAccountID", "ChallengeResponseFailed"],
    "answer first": ["ChallengeResponseFailed", "InvalidAccountID"],
    "dialogue of four": ["InvalidAccountID", "ChallengeSent", "InvalidAccountID", "ChallengeResponseFailed"],
    "dialogue of four, turned": ["ChallengeSent", "InvalidAccountID", "ChallengeResponseFailed", "InvalidAccountID"],
    "refused": ["FailedACL", "ChallengeSent", "FailedACL", "FailedACL", "ChallengeResponseFailed"],
    "two copies interleaved": ["InvalidAccountID", "InvalidAccountID", "ChallengeSent", "ChallengeSent"],
    "challenge only": ["ChallengeSent"],
    "answer only": ["ChallengeSent", "ChallengeResponseFailed"],
}


@pytest.mark.parametrize("kinds", ORDERS.values(), ids=ORDERS)
def test_the_events_of_one_dialogue_are_one_attempt(kinds: list[str]) -> None:
    story, session = Story(), new_session()
    details = {"FailedACL": {"ACLName": "not_match_endpoint_acl"}}
    for kind in kinds:
        account = "7777" if kind in ("InvalidAccountID", "FailedACL") else "<unknown>"
        story.see(_unknown(kind, session, account, **details.get(kind, {})))
        story.wait(0.003)
    story.wait(20)
    story.see(_unknown("ChallengeSent", session))  # nothing of its own: a late copy
    assert story.judge.counters.attempts == 1


@pytest.mark.parametrize(
    "requests",
    [
        [["InvalidAccountID", "ChallengeSent"]],
        [["ChallengeSent", "InvalidAccountID"]],
        [["InvalidAccountID", "ChallengeSent"], ["InvalidAccountID", "ChallengeResponseFailed"]],
        [["ChallengeSent", "InvalidAccountID"], ["ChallengeResponseFailed", "InvalidAccountID"]],
        [["FailedACL", "ChallengeSent"], ["FailedACL", "ChallengeResponseFailed"]],
        [["ChallengeSent"], ["ChallengeResponseFailed"]],
    ],
    ids=str,
)
def test_what_is_repeated_for_want_of_an_answer_is_one_attempt(requests: list[list[str]]) -> None:
    """RFC 3261 17.1.2.2: at 0, 0.5, 1.5, 3.5, 7.5 s, then every 4 s up to 32 s. Who was answered stops earlier."""
    story, session = Story(), new_session()
    pauses = (0, 0.5, 1, 2, 4, 4, 4, 4, 4, 4, 3.9) if len(requests) == 1 else (0, 0.5, 1, 2, 4, 4)
    for request in requests:
        guess = security_event("ChallengeResponseFailed").guess
        for pause in pauses:
            story.wait(pause)
            for kind in request:
                account = "7777" if kind in ("InvalidAccountID", "FailedACL") else "<unknown>"
                detail = {"ACLName": "not_match_endpoint_acl"} if kind == "FailedACL" else {}
                event = _unknown(kind, session, account, **detail)
                story.see(event._replace(guess=guess) if event.guess else event)
    assert story.judge.counters.attempts == 1


def test_the_account_of_a_named_twin_that_came_late_is_known() -> None:
    story = Story()
    for number in range(5):
        session = new_session()
        story.see(_unknown("ChallengeResponseFailed", session), _unknown("InvalidAccountID", session, f"x{number}"))
        story.wait(20)
    assert [ban.rule for ban in story.bans] == ["scan"]
    assert story.judge.counters.attempts == 5


def test_guesses_within_one_call_are_counted_each() -> None:
    story, session = Story(), new_session()
    story.tries(Case.WRONG_PASSWORD, ["1001"] * 10, every=1, session=session)
    assert [ban.rule for ban in story.bans] == ["guess"]


def test_svcrack_on_an_unknown_account_is_counted_by_guesses() -> None:
    story, session = Story(), new_session()
    story.see(_unknown("InvalidAccountID", session, "4711"), _unknown("ChallengeSent", session))
    for _ in range(9):
        story.see(_unknown("InvalidAccountID", session, "4711"), _unknown("ChallengeResponseFailed", session))
        story.wait(3)
    assert story.judge.counters.attempts == 9  # the first answer belongs to the first request


def test_a_full_address_of_record_never_counts() -> None:
    story = Story()
    story.tries(Case.FULL_AOR, ["1001"] * 100, every=0.1, source=PHONE)
    assert not story.bans
    assert len(story.judge.sources) == 0


@pytest.mark.parametrize("kind", ["RequestBadFormat", "RequestNotAllowed", "SessionLimit", "MemoryLimit"])
def test_what_says_nothing_about_its_source_never_counts(kind: str) -> None:
    story = Story()
    for _ in range(100):
        story.see(security_event(kind, source=ATTACKER))
    assert not story.verdicts
    assert story.judge.counters.attempts == 0


def test_stale_nonces_never_count() -> None:
    story = Story(trust_time=0)
    for _ in range(200):
        story.tries(Case.STALE_NONCE, ["1001"] * 5, every=0.1, source=PHONE)
        logs_in(story, PHONE)
    assert not story.verdicts
    assert story.judge.counters.attempts == 200
    assert len(story.judge.sources) == 0


# First requests that nothing follows.


@pytest.mark.parametrize("accounts", [["1001"] * 60, [str(1000 + number) for number in range(60)]])
def test_first_requests_that_are_never_followed_up_again_and_again_are_a_scan(accounts: list[str]) -> None:
    story = Story()
    story.tries(Case.NO_CREDENTIALS, accounts, every=0.4)
    assert [ban.rule for ban in story.bans] == ["unanswered"]
    outcomes = {(each.account, each.outcome) for each in story.judge.tally.drain()}
    assert outcomes <= {(account, "unanswered") for account in accounts}


def test_an_answer_begins_the_count_of_first_requests_anew_and_is_counted_itself() -> None:
    story = Story()
    for _ in range(9):
        story.tries(Case.NO_CREDENTIALS, ["1001"] * UNFOLLOWED, every=0.4)
        story.attempt(Case.WRONG_PASSWORD, account="1001")
    assert not story.bans
    assert story.judge.counters.attempts == 9
    story.attempt(Case.WRONG_PASSWORD, account="1001")
    assert story.bans


def test_200_phones_of_an_unknown_office_that_begin_at_once_follow_up() -> None:
    story = Story()
    sessions = [new_session() for _ in range(200)]
    for number, session in enumerate(sessions):
        story.see(security_event("ChallengeSent", account=f"{1000 + number}", session=session, source=PHONE))
    story.wait(2)
    for number, session in enumerate(sessions):
        story.see(security_event("SuccessfulAuth", account=f"{1000 + number}", session=session, source=PHONE))
    assert not story.judge.sweep(story.now + HOUR)
    assert not story.verdicts


@pytest.mark.parametrize("every", [30, 60])
def test_a_phone_that_never_hears_its_challenge_is_reported_and_not_banned(every: int) -> None:
    """A firewall lets its requests through and drops the answers."""
    story = Story()
    story.tries(Case.NO_CREDENTIALS, ["1001"] * (DAY // every), every=every, source=PHONE)
    assert not story.bans
    assert set(story.kinds()) == {"phone_kept_out"}


def test_a_trusted_phone_may_ping_without_credentials() -> None:
    story = Story()
    for _ in range(20):
        logs_in(story, PHONE)
        story.tries(Case.NO_CREDENTIALS, ["1001"] * 120, every=1, source=PHONE)
    assert not story.verdicts
    assert len(story.judge.sources) == 0


# Who comes back after a ban.


def test_who_guesses_is_banned_and_succeeds_after_the_ban_has_found_a_password() -> None:
    story = Story()
    story.tries(Case.WRONG_PASSWORD, ["1001"] * 10, every=1)
    (ban,) = story.bans
    story.wait((ban.seconds or 0) + 1)
    logs_in(story, ATTACKER, "1001")
    assert story.kinds() == ["password_found"]
    assert len(story.judge.trust) == 0
    story.tries(Case.WRONG_PASSWORD, ["1002"] * 9, every=1)
    assert len(story.bans) == 1  # the next ban needs as much as the first


def test_a_scanner_that_guessed_nothing_is_forgotten_after_its_ban() -> None:
    story = Story()
    story.tries(Case.UNKNOWN_ACCOUNT, SCAN[:5], every=0.1)
    assert len(story.judge.sources) == 0


# Honest people.


def test_freepbx_phones_that_answer_their_challenge_are_never_counted() -> None:
    story = Story()
    for _ in range(200):
        session = new_session()
        story.see(security_event("ChallengeSent", account="<unknown>", session=session, source=PHONE))
        story.wait(0.05)
        story.see(security_event("SuccessfulAuth", account="1001", session=session, source=PHONE))
        story.wait(60)
    assert not story.verdicts
    assert story.judge.counters.attempts == 200


@pytest.mark.parametrize("seed", range(3))
def test_an_office_of_200_phones_that_reboots_behind_one_address_is_never_banned(seed: int) -> None:
    """FreePBX's order: each phone is asked as <unknown> first."""
    story, random = Story(), Random(seed)
    moments = []
    for phone in range(200):
        begin = random.uniform(0, 3)
        details = {"session": new_session(), "source": PHONE}
        moments.append((begin, security_event("ChallengeSent", account="<unknown>", **details)))
        answer = begin + random.uniform(0.02, 2)
        moments.append((answer, security_event("SuccessfulAuth", account=str(1000 + phone), **details)))
    for at, event in sorted(moments, key=lambda moment: moment[0]):
        story.verdicts += story.judge.see(event, story.now + at)
    assert not story.verdicts


@pytest.mark.parametrize("every", [30, 60])
@pytest.mark.parametrize("case", [Case.WRONG_PASSWORD, Case.UNKNOWN_ACCOUNT_ANSWERED, Case.UNKNOWN_ACCOUNT])
@pytest.mark.parametrize("has_one_call_id", [False, True])
def test_a_phone_with_an_old_password_or_a_deleted_account_is_reported_hourly_and_not_banned(
    every: int, case: Case, has_one_call_id: bool
) -> None:
    """RFC 3261 10.2: a phone registers with the same Call-ID for ever; many take a new one."""
    story, random = Story(), Random(1)
    details = {"session": new_session()} if has_one_call_id else {}
    for _ in range(DAY // every):
        story.wait(every * random.uniform(0.9, 1.1))
        story.attempt(case, account="1002", source=PHONE, **details)
    assert not story.bans
    assert set(story.kinds()) <= {"broken_phone", "unknown_carrier"}
    assert 20 <= len(story.alerts) <= 2 * 25
    for kind in set(story.kinds()):
        told = [alert.at for alert in story.alerts if alert.kind == kind]
        assert all(later - earlier >= Policy().alert_time for earlier, later in pairwise(told))


@pytest.mark.parametrize(("tries", "is_honest"), [(2, True), (3, False)])
def test_a_phone_that_answers_each_second_challenge_at_once_is_still_a_phone(tries: int, is_honest: bool) -> None:
    story = Story()
    for _ in range(40):
        story.wait(30)
        for _ in range(tries):
            story.wait(0.3)
            story.attempt(Case.WRONG_PASSWORD, account="1002", source=PHONE)
    assert bool(story.bans) is not is_honest


def test_an_old_password_in_an_office_that_logs_in_is_reported_too() -> None:
    story = Story()
    for _ in range(40):
        logs_in(story, PHONE, "1001")
        story.attempt(Case.WRONG_PASSWORD, account="1002", source=PHONE)
        story.wait(30)
    assert story.kinds() == ["broken_phone"]


def test_a_password_changed_at_the_pbx_alone_is_reported_though_the_phone_is_trusted() -> None:
    story = Story()
    logs_in(story, PHONE, "1001")
    story.tries(Case.WRONG_PASSWORD, ["1001"] * 40, every=30, source=PHONE)
    assert story.kinds() == ["broken_phone"]


def test_somebody_who_mistypes_four_times_and_succeeds_is_welcome() -> None:
    story = Story()
    story.tries(Case.WRONG_PASSWORD, ["1001"] * 4, every=8, source=PHONE)
    logs_in(story, PHONE)
    assert story.kinds() == ["mistyped_password"]
    assert not story.bans
    assert story.judge.trust.accounts(_key(PHONE), story.now) == ["1001"]


def test_somebody_who_mistypes_once_a_day_is_not_called_a_thief() -> None:
    story = Story(trust_time=1)
    for _ in range(10):
        story.attempt(Case.WRONG_PASSWORD, source=PHONE)
        story.wait(10)
        logs_in(story, PHONE)
        story.wait(DAY)
    assert not story.verdicts


def test_a_carrier_that_calls_with_callers_numbers_is_reported_and_not_banned() -> None:
    story = Story()
    story.tries(Case.UNKNOWN_ACCOUNT, (f"+4420794600{n:02}" for n in range(60)), every=20, source=OTHER)
    assert not story.bans
    assert set(story.kinds()) == {"unknown_carrier"}


def test_a_carriers_numbers_stop_to_excuse_once_a_password_is_tried() -> None:
    story = Story()
    story.tries(Case.UNKNOWN_ACCOUNT, (f"+4420794600{n:02}" for n in range(20)), every=20, source=OTHER)
    assert not story.bans
    story.tries(Case.UNKNOWN_ACCOUNT_ANSWERED, ["+442079460098", "+442079460099"], every=20, source=OTHER)
    assert story.banned() == {f"{OTHER}/32"}


@pytest.mark.parametrize("case", [Case.UNKNOWN_ACCOUNT, Case.UNMATCHED])
@pytest.mark.parametrize("every", [10, 60])
def test_a_monitor_that_pings_with_options_is_reported_and_not_banned(case: Case, every: int) -> None:
    story = Story()
    story.tries(case, ["monitor"] * (DAY // every // 4), every=every, source=OTHER)
    assert not story.bans
    assert set(story.kinds()) == {"unknown_carrier"}


@pytest.mark.parametrize("has_one_call_id", [False, True])
def test_a_flood_with_one_account_is_no_monitor(has_one_call_id: bool) -> None:
    story = Story()
    details = {"session": new_session()} if has_one_call_id else {}
    story.tries(Case.UNKNOWN_ACCOUNT, ["monitor"] * 1000, every=0.01, source=OTHER, **details)
    assert story.banned() == {f"{OTHER}/32"}


# Trust.


def _key(address: str) -> int:
    return source_key(ip_address(address))


def test_a_trusted_source_may_try_four_times_as_many_unknown_accounts() -> None:
    story = Story()
    logs_in(story, PHONE, transport="TLS")
    story.tries(Case.UNKNOWN_ACCOUNT, SCAN[:15], every=0.1, source=PHONE, transport="TLS")
    assert not story.bans
    story.tries(Case.UNKNOWN_ACCOUNT, SCAN[15:20], every=0.1, source=PHONE, transport="TLS")
    assert [ban.is_proven for ban in story.bans] == [True]
    assert "trusted before" in story.bans[0].reason


def test_trust_expires() -> None:
    story = Story(trust_time=DAY)
    logs_in(story, PHONE)
    story.wait(DAY)
    story.tries(Case.UNKNOWN_ACCOUNT, SCAN[:5], every=0.1, source=PHONE)
    assert story.banned() == {f"{PHONE}/32"}


def test_trust_belongs_to_the_whole_64_of_ipv6() -> None:
    story = Story()
    logs_in(story, "2001:db8:7::1")
    story.tries(Case.UNKNOWN_ACCOUNT, SCAN[:5], every=0.1, source="2001:db8:7::ffff")
    assert not story.bans
    story.tries(Case.UNKNOWN_ACCOUNT, SCAN[:5], every=0.1, source="2001:db8:8::1")
    assert story.banned() == {"2001:db8:8::/64"}


@pytest.mark.parametrize(
    "login",
    [
        {"service": "AMI"},
        {"service": "SIP"},
        {"UsingPassword": "0"},
        {"source": "127.0.0.1"},
        {"source": "::1"},
    ],
    ids=str,
)
def test_only_a_password_over_pjsip_from_outside_earns_trust(login: dict[str, str]) -> None:
    story = Story()
    story.see(security_event("SuccessfulAuth", **{"source": PHONE, **login}))
    assert len(story.judge.trust) == 0


def test_a_tainted_success_earns_nothing() -> None:
    story = Story()
    story.see(security_event("SuccessfulAuth", source=PHONE)._replace(tainted=True))
    assert len(story.judge.trust) == 0
    assert story.judge.counters.tainted == 1


def test_a_trusted_address_that_is_forged_over_udp_is_alerted_and_not_banned() -> None:
    story = Story()
    logs_in(story, PHONE)
    story.tries(Case.UNKNOWN_ACCOUNT, SCAN * 2, every=0.1, source=PHONE, transport="UDP")
    assert not story.bans
    assert story.kinds() == ["trusted_offender"]
    assert "forge" in story.alerts[0].reason


def test_one_genuine_event_does_not_prove_a_forged_stream() -> None:
    """A stranger forges the office's address over UDP; then one of its TCP phones is mistyped."""
    story = Story()
    logs_in(story, PHONE, transport="TCP")
    story.tries(Case.UNKNOWN_ACCOUNT, SCAN, every=0.1, source=PHONE, transport="UDP")
    story.attempt(Case.UNKNOWN_ACCOUNT, account="typo", source=PHONE, transport="TCP")
    story.tries(Case.WRONG_PASSWORD, ["1001"] * 3, every=1, source=PHONE, transport="TCP")
    assert not story.bans


def test_a_ban_on_forged_packets_and_one_genuine_event_is_not_called_proven() -> None:
    story = Story(unproven_bans=1)
    story.tries(Case.UNKNOWN_ACCOUNT, SCAN[:4], every=0.1, source=PHONE, transport="UDP")
    story.attempt(Case.UNKNOWN_ACCOUNT, account="typo", source=PHONE, transport="TCP")
    assert [ban.is_proven for ban in story.bans] == [False]
    story.tries(Case.UNKNOWN_ACCOUNT, SCAN[:4], every=0.1, source=OTHER, transport="UDP")
    story.attempt(Case.UNKNOWN_ACCOUNT, account="typo", source=OTHER, transport="TCP")
    assert story.kinds() == ["ban_ceiling"]


def test_forged_packets_do_not_dilute_proven_ones() -> None:
    story = Story(unproven_bans=0)
    for number in range(5):
        story.attempt(Case.UNKNOWN_ACCOUNT, account=f"u{number}", transport="UDP")
        story.attempt(Case.UNKNOWN_ACCOUNT, account=f"t{number}", transport="TCP")
        story.wait(20)
    assert [ban.is_proven for ban in story.bans] == [True]


def test_a_forger_can_ban_a_phone_that_never_logged_in_but_not_one_that_did() -> None:
    """Unproven bans are wanted, for most scanners use UDP: trust, the ceiling and a first ban of an hour bound them."""
    story = Story()
    logs_in(story, PHONE)
    for victim in (PHONE, OTHER):
        story.tries(Case.UNKNOWN_ACCOUNT, SCAN[:5], every=0.1, source=victim)
    assert story.banned() == {f"{OTHER}/32"}
    assert "not proven" in story.bans[0].reason


def test_a_trusted_source_that_guesses_at_others_passwords_is_said_loudly() -> None:
    story = Story()
    logs_in(story, PHONE, "1001", transport="TLS")
    story.tries(Case.WRONG_PASSWORD, SCAN[:40], every=0.5, source=PHONE, transport="TLS")
    assert not story.bans
    assert story.kinds() == ["trusted_offender"]


@pytest.mark.parametrize(("accounts", "every", "is_banned"), [(1, 3, True), (1, 30, False), (12, 1.5, False)])
def test_trust_covers_what_freepbx_does_not_name_at_the_pace_of_its_phones(
    accounts: int, every: float, is_banned: bool
) -> None:
    story, office = Story(), PHONE
    for number in range(accounts):
        logs_in(story, office, str(1001 + number), transport="TLS")
    for _ in range(400):
        story.wait(every)
        details = {"account": UNKNOWN, "source": office, "session": new_session(), "transport": "TLS"}
        story.see(one("ChallengeSent", **details), one("ChallengeResponseFailed", **details))
        if story.bans:
            break
    assert bool(story.bans) is is_banned
    if is_banned:
        assert story.judge.counters.attempts == 1 + 4 * 4


@pytest.mark.parametrize("guessed", [["1001"] * FOUND_AFTER, [str(1001 + n) for n in range(FOUND_AFTER)]])
def test_a_success_after_many_guesses_is_an_alarm_and_earns_no_trust(guessed: list[str]) -> None:
    story = Story()
    story.tries(Case.WRONG_PASSWORD, guessed, every=0.7, transport="TCP")
    logs_in(story, ATTACKER, "1001", transport="TCP")
    assert story.kinds() == ["password_found"]
    assert "1001" in story.alerts[0].reason
    assert len(story.judge.trust) == 0


# Who is never banned.


@pytest.mark.parametrize("case", [Case.UNKNOWN_ACCOUNT, Case.AMI_WRONG_SECRET])
def test_the_allowlist_wins_over_everything(case: Case) -> None:
    story = Story(tripwires=frozenset({"trap"}))
    story.judge.allow({ip_network("203.0.113.64/28"): "the office"})
    story.tries(case, [*SCAN, "trap"], every=0.1)
    assert not story.bans
    assert story.kinds() == ["allowed_offender"]
    assert "203.0.113.64/28 is never banned: the office" in story.alerts[0].reason


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "::1", "0.0.0.0", "224.0.0.5", "fe80::1", "169.254.7.7", "64:ff9b::c633:6407"]
)
def test_what_is_always_safe_is_never_banned(address: str) -> None:
    story = Story()
    story.tries(Case.UNKNOWN_ACCOUNT, SCAN, every=0.1, source=address, transport="TCP")
    assert not story.bans
    assert story.judge.why_never(ip_address(address)) is not None


def test_each_address_is_told_why_it_is_safe_itself_though_others_of_its_64_are_too() -> None:
    story = Story()
    assert story.judge.why_never(ip_address("::1")) == "loopback"
    assert story.judge.why_never(ip_address("::")) == "unspecified"
    story.judge.allow({ip_network("2001:db8:9::1"): "the gateway", ip_network("2001:db8::/32"): "the office"})
    said = [story.judge.why_never(ip_address(f"2001:db8:{host}")) for host in ("9::1", "9::2", "8::1")]
    assert said == ["the gateway", "the gateway", "the office"]


def test_an_allowed_address_spares_its_neighbours_in_the_64() -> None:
    """A ban is by /64; at many hosters the gateway lives in it."""
    story = Story()
    story.judge.allow({ip_network("2001:db8:9::1"): "the gateway"})
    story.tries(Case.UNKNOWN_ACCOUNT, SCAN, every=0.1, source="2001:db8:9::bad")
    story.tries(Case.UNKNOWN_ACCOUNT, SCAN, every=0.1, source="2001:db8:a::bad")
    assert story.banned() == {"2001:db8:a::/64"}


def test_a_new_allowlist_replaces_the_old_one() -> None:
    story = Story()
    story.judge.allow({ip_network(ATTACKER): "a mistake"})
    story.judge.allow({})
    assert story.judge.why_never(ip_address(ATTACKER)) is None
    story.tries(Case.UNKNOWN_ACCOUNT, SCAN[:5], every=0.1)
    assert story.bans


@pytest.mark.parametrize("case", [Case.SIP_WRONG_PASSWORD, Case.SIP_NO_ANSWER])
@pytest.mark.parametrize("transport", ["UDP", "TCP"])
def test_chan_sip_never_bans_unless_opted_in(case: Case, transport: str) -> None:
    """It reports the address that the sender wrote into ``maddr``, whatever the transport."""
    for is_opted_in in (False, True):
        story = Story(ban_chan_sip=is_opted_in)
        story.tries(case, SCAN, every=1, transport=transport)
        assert bool(story.bans) is is_opted_in
        assert not any(ban.is_proven for ban in story.bans)


@pytest.mark.parametrize("case", [Case.SIP_WRONG_PASSWORD, Case.SIP_NO_ANSWER])
def test_chan_sip_is_counted_and_alerted_apart_from_who_really_has_the_address(case: Case) -> None:
    story = Story()
    story.tries(case, SCAN, every=1)
    assert story.kinds() == ["chan_sip_offender"]
    assert "over chan_sip" in story.alerts[0].reason
    assert story.judge.counters.chan_sip >= len(SCAN)
    assert story.judge.tally.drain()
    story.tries(Case.UNKNOWN_ACCOUNT, SCAN[:4], every=1)  # the next would be the fifth of this address
    assert not story.bans


def test_forged_addresses_of_chan_sip_are_no_mass_failure_and_no_storm() -> None:
    story = Story()
    for number in range(200):
        story.attempt(Case.SIP_WRONG_PASSWORD, account=f"10{number}", source=f"198.51.100.{number}", transport="TCP")
    assert not story.verdicts


def test_chan_sip_over_tcp_cannot_ban_a_trusted_office_even_if_opted_in() -> None:
    story = Story(ban_chan_sip=True)
    logs_in(story, PHONE)
    story.tries(Case.SIP_WRONG_PASSWORD, SCAN * 2, every=0.2, source=PHONE, transport="TCP")
    assert not story.bans


# Floods.


def test_a_ceiling_holds_back_bans_that_forgers_could_make_and_no_others() -> None:
    story = Story(unproven_bans=20)
    for number in range(29):
        story.tries(Case.UNKNOWN_ACCOUNT, SCAN[:5], every=0.01, source=f"198.51.100.{number}")
    assert len(story.bans) == 20
    assert story.judge.counters.held_back >= 9
    assert story.kinds() == ["ban_ceiling"]
    story.tries(Case.UNKNOWN_ACCOUNT, SCAN[:5], every=0.01, transport="TLS")
    assert str(story.bans[-1].address) == ATTACKER


def test_the_ceiling_is_a_minutes() -> None:
    story = Story(unproven_bans=1)
    for address in ("198.51.100.1", "198.51.100.2"):
        story.tries(Case.UNKNOWN_ACCOUNT, SCAN[:5], every=0.01, source=address)
    story.wait(MINUTE)
    story.attempt(Case.UNKNOWN_ACCOUNT, account="x", source="198.51.100.2")
    assert story.banned() == {"198.51.100.1/32", "198.51.100.2/32"}


def test_a_forger_cannot_flood_people_with_alerts() -> None:
    story = Story()
    for number in range(3 * ALERTS_A_MINUTE):
        source = f"198.51.100.{number}"
        for turn in range(12):  # a calm monitor each
            event = security_event("InvalidAccountID", account=f"monitor{number}", source=source)
            story.verdicts += story.judge.see(event, story.now + turn * 20)
    kinds = story.kinds()
    assert kinds.count("alert_ceiling") == 1
    assert kinds.count("unknown_carrier") <= 3 * ALERTS_A_MINUTE
    per_minute = [int(alert.at // MINUTE) for alert in story.alerts if alert.kind == "unknown_carrier"]
    assert max(map(per_minute.count, per_minute)) <= ALERTS_A_MINUTE
    assert story.judge.counters.alerts_held_back > 0


def test_an_alarm_that_cannot_be_forged_comes_through_a_flood_of_alerts() -> None:
    story = Story()
    story.judge.allow({ip_network("198.51.100.0/24"): "a lab"})
    for number in range(2 * ALERTS_A_MINUTE):
        for account in SCAN[:5]:
            story.see(security_event("InvalidAccountID", account=account, source=f"198.51.100.{number}"))
    story.tries(Case.WRONG_PASSWORD, ["1001"] * 6, every=0.8)
    logs_in(story, ATTACKER)
    assert story.kinds()[-1] == "password_found"


def test_an_alert_comes_once_an_hour_however_many_accounts_an_attacker_invents() -> None:
    story = Story()
    story.judge.allow({ip_network(ATTACKER): "a test"})
    story.tries(Case.UNKNOWN_ACCOUNT, (f"a{n}" for n in range(1000)), every=10)
    assert len(story.alerts) == 1000 * 10 // HOUR + 1


def test_ipv6_is_counted_and_banned_by_64() -> None:
    story = Story()
    for number in range(5):
        story.attempt(Case.UNKNOWN_ACCOUNT, account=f"u{number}", source=f"2001:db8:5::{number + 1:x}")
    assert story.banned() == {"2001:db8:5::/64"}
    assert str(story.bans[0].address) == "2001:db8:5::5"


def test_a_banned_source_is_not_banned_twice() -> None:
    story = Story()
    story.tries(Case.UNKNOWN_ACCOUNT, SCAN, every=0.1)
    assert len(story.bans) == 1
    assert story.judge.counters.repeats == 2 * (len(SCAN) - 5) + 1


# Evasion.


def test_one_call_id_for_everything_hides_nothing() -> None:
    for case in (Case.UNKNOWN_ACCOUNT, Case.UNKNOWN_ACCOUNT_ANSWERED):
        story = Story()
        story.tries(case, SCAN, every=3, session="always-the-same")
        assert story.bans
        assert story.judge.counters.attempts <= 8


def test_burst_and_wait_with_one_call_id_is_caught_below_freepbx_threshold() -> None:
    """Four requests in four seconds, then a pause: never named, and always the same Call-ID."""
    story = Story()
    for _ in range(60):
        story.tries(Case.UNMATCHED, [""] * 4, every=1, session="always-the-same")
        story.wait(30)
    assert story.bans
    assert story.judge.counters.attempts < 30


def test_a_scanner_that_refuses_to_be_named_is_caught_by_its_unanswered_challenges() -> None:
    story = Story()
    for _ in range(20):
        story.tries(Case.UNMATCHED, [""] * 4, every=1)
        story.wait(30)
    assert [ban.rule for ban in story.bans] == ["unanswered"]


def test_a_steady_scanner_that_refuses_to_be_named_is_no_monitor() -> None:
    story = Story()
    story.tries(Case.UNMATCHED, [""] * 60, every=1.3)
    assert story.bans


def test_the_name_of_one_account_does_not_cover_others_in_its_dialogue() -> None:
    story = Story()
    for _ in range(40):
        story.attempt(Case.UNKNOWN_ACCOUNT, account="dummy", session="same")
        story.tries(Case.UNMATCHED, [""] * 4, every=1, session="same")
        story.wait(6)
    assert story.bans


def test_alternating_accounts_are_no_monitor() -> None:
    story = Story()
    story.tries(Case.UNKNOWN_ACCOUNT, ["a", "b"] * 30, every=10)
    assert story.bans


def test_an_empty_account_counts_like_any_other() -> None:
    story = Story(tripwires=frozenset({""}))
    assert bans(story.attempt(Case.UNKNOWN_ACCOUNT, account="", transport="TCP"))


def test_refusals_by_an_acl_count_by_account_though_the_call_id_stays() -> None:
    story = Story()
    story.tries(Case.ENDPOINT_ACL, (str(n) for n in range(200)), every=3, session="same")
    assert story.bans


def test_refusals_spread_below_the_short_window_are_caught_in_a_day() -> None:
    """Nine in ten minutes, for ever, were 1,296 a day."""
    story = Story()
    names = count()
    for _ in range(20):
        story.tries(Case.ENDPOINT_ACL, (f"e{n}" for n in islice(names, 8)), every=30)
        story.wait(10 * MINUTE)
    assert {ban.rule for ban in story.bans} == {"attempts_day"}


def test_eight_accounts_in_a_week_are_too_many() -> None:
    story = Story()
    story.tries(Case.UNKNOWN_ACCOUNT_ANSWERED, SCAN[:8], every=DAY * 0.9)
    assert [ban.rule for ban in story.bans] == ["scan_week"]


def test_one_response_sent_for_ever_is_a_flood_and_no_retransmission() -> None:
    story = Story()
    event = security_event("ChallengeResponseFailed", account="1001", source=ATTACKER, session="same")
    for _ in range(12 * REPEATS):
        story.see(event)
        story.wait(0.05)
    assert story.bans


def test_a_success_never_lowers_what_was_counted_on_other_accounts() -> None:
    story = Story(trust_time=0)
    for number in range(5):
        logs_in(story, ATTACKER, "mine")
        story.attempt(Case.UNKNOWN_ACCOUNT, account=f"u{number}")
        story.wait(30)
    assert [ban.rule for ban in story.bans] == ["scan"]


def test_a_tripwire_is_compared_without_case_and_bans_at_once() -> None:
    for case in (Case.UNKNOWN_ACCOUNT, Case.WRONG_PASSWORD):
        story = Story(tripwires=frozenset({"Admin"}))
        assert [ban.rule for ban in bans(story.attempt(case, account="aDMIN", transport="TLS"))] == ["tripwire"]


def test_one_packet_that_could_be_forged_touches_a_tripwire_and_bans_nobody() -> None:
    story = Story(tripwires=frozenset({"admin"}))
    assert not story.attempt(Case.UNKNOWN_ACCOUNT, account="admin")
    assert [ban.rule for ban in bans(story.attempt(Case.UNKNOWN_ACCOUNT, account="admin"))] == ["tripwire"]


def test_a_user_of_the_manager_is_no_tripwire() -> None:
    """FreePBX's manager has a user ``admin``."""
    story = Story(tripwires=frozenset({"admin"}))
    assert not story.attempt(Case.AMI_WRONG_SECRET, account="admin")


def test_the_suggested_tripwires_are_no_numbers_and_no_names_that_honest_ones_say() -> None:
    assert len(set(TRIPWIRES)) == len(TRIPWIRES)
    assert not any(name.isdigit() or name != name.casefold() for name in TRIPWIRES)
    assert not {"asterisk", "anonymous", "unknown", "sipp", "guest", "test", "ping", ""} & set(TRIPWIRES)


# The ladder.


def test_bans_grow_from_an_hour_to_a_month() -> None:
    for transport, ladder in (("TLS", Policy().ladder), ("UDP", Policy().unproven_ladder)):
        story = Story()
        for _ in range(5):
            story.tries(Case.UNKNOWN_ACCOUNT, SCAN[:5], every=0.1, transport=transport)
            assert story.bans[-1].seconds is not None
            story.wait(story.bans[-1].seconds + 1)
        assert [ban.level for ban in story.bans] == [1, 2, 3, 4, 4]
        for ban, plain in zip(story.bans, (*ladder, ladder[-1]), strict=True):
            assert 0.9 * plain <= (ban.seconds or 0) <= 1.1 * plain


def test_only_so_many_bans_on_unproven_evidence_are_in_force_at_once() -> None:
    story = Story(unproven_entries=3)
    story.judge.allow({})
    for number in range(6):
        story.tries(Case.UNKNOWN_ACCOUNT, SCAN[:5], every=0.1, source=f"198.51.100.{number}")
    assert len(story.bans) == 3
    assert story.kinds() == ["ban_ceiling"]
    assert "their share of the set" in story.alerts[0].reason
    story.tries(Case.UNKNOWN_ACCOUNT, SCAN[:5], every=0.1, source=OTHER, transport="TLS")
    assert story.bans[-1].is_proven
    story.wait(HOUR / 2)
    assert len(story.judge.ledger.expire(story.now)) == 3
    story.tries(Case.UNKNOWN_ACCOUNT, SCAN[:5], every=0.1, source="198.51.100.200")
    assert len(story.bans) == 5


def test_quiet_months_lead_down_the_ladder() -> None:
    story = Story()
    for _ in range(3):
        story.tries(Case.UNKNOWN_ACCOUNT, SCAN[:5], every=0.1)
        story.wait((story.bans[-1].seconds or 0) + 1)
    story.wait(60 * DAY)
    story.tries(Case.UNKNOWN_ACCOUNT, SCAN[:5], every=0.1)
    assert story.bans[-1].level == 2


# Words.


@pytest.mark.parametrize("hostile", ["\x1b[31mred", "a\x07\x08b", "\u202egnp", "x" * 36, "a\tb\x00c"])
def test_hostile_accounts_are_escaped_and_cut_in_reasons(hostile: str) -> None:
    story = Story()
    for number in range(30):
        event = security_event("InvalidAccountID", account="x", source=ATTACKER)
        story.see(event._replace(account=f"{hostile}{number}" * 300, session="s" * 60_000 + str(number)))
        story.wait(0.01)
    (ban,) = story.bans
    assert ban.reason.isprintable()
    assert len(ban.reason) < 600
    assert all(len(each.account) <= 128 and len(each.session) <= 128 for each in ban.evidence)


def test_hostile_accounts_are_cut_in_alerts() -> None:
    story = Story()
    story.judge.allow({ip_network(ATTACKER): "a test"})
    for number in range(30):
        event = security_event("InvalidAccountID", account="x", source=ATTACKER)
        story.see(event._replace(account=f"\x1b[2J{number}" * 10_000))
    (alert,) = story.alerts
    assert alert.reason.isprintable()
    assert len(alert.reason) < 600
    assert len(alert.account) <= 128


def test_a_reason_is_a_sentence_with_numbers() -> None:
    story = Story()
    story.tries(Case.UNKNOWN_ACCOUNT, SCAN[:5], every=10)
    assert story.bans[0].reason == (
        "5 unknown accounts in 40 s (limit 5 in 10 min): '100', '101', '102', '103', '104'; 5 attempts in all; "
        "no password tried; its address is not proven (UDP); no trust; first offence"
    )


def test_a_burst_of_challenges_that_nobody_answers_is_judged_though_nothing_follows() -> None:
    story = Story()
    for number in range(10):
        story.wait(0.1)
        story.attempt(Case.UNMATCHED, session=f"burst-{number}")
    assert not story.bans
    assert not story.judge.sweep(story.now)
    (ban,) = story.judge.sweep(story.now + story.judge.policy.answer_time)
    assert (str(ban.network), ban.rule) == (f"{ATTACKER}/32", "unanswered")
    assert not story.judge.sweep(story.now + HOUR)


def test_sweeping_forgets_who_was_answered() -> None:
    story = Story()
    for number in range(30):
        session = f"phone-{number}"
        story.see(security_event("ChallengeSent", account="<unknown>", session=session, source=PHONE))
        story.see(security_event("SuccessfulAuth", account="1001", session=session, source=PHONE))
    assert not story.judge.sweep(story.now + HOUR)
    assert not story.judge._asked
