"""Strangers whom PJSIP names late or never, because it also looks for ``auth_username`` (FreePBX's default)."""

from itertools import pairwise
from random import Random

import pytest

from amiwatch.judgement.trouble import are_equal_bursts
from amiwatch.testing.builders import Case
from tests.judgement.stories import NOON, PHONE, Story, logs_in, new_session, one

UNKNOWN = "<unknown>"
TCP = "TCP"


def comes(
    story: Story, name: str, *, port: int = 5060, is_named: bool, source: str = PHONE, transport: str = TCP
) -> str:
    """Let a request come that matches no endpoint; return its SessionID."""
    session = new_session()
    common = {"source": source, "port": port, "session": session, "transport": transport}
    if is_named:
        story.see(one("InvalidAccountID", account=name, **common))
    story.see(one("ChallengeSent", account=UNKNOWN, **common))
    return session


@pytest.mark.parametrize("transport", ["TCP", "UDP"])
def test_a_fast_scanner_is_banned_as_soon_as_he_is_named(transport: str) -> None:
    story = Story()
    for number in range(5):
        assert not story.bans
        comes(story, f"{100 + number}", is_named=number == 4, transport=transport)
        story.wait(0.01)
    (ban,) = story.bans
    assert ban.rule == "unknown_rush"
    assert "'104'" in ban.reason


@pytest.mark.parametrize(("name", "every", "tries"), [("x' or 1=1--", 0.01, 5), ("sales", 0.3, 5), ("sales", 0.01, 9)])
def test_a_name_that_a_line_of_a_gateway_may_have_counts_when_an_answer_had_time(
    name: str, every: float, tries: int
) -> None:
    story = Story()
    for number in range(tries):
        assert not story.bans
        comes(story, name, is_named=number >= 4, transport="UDP")
        story.wait(every)
    assert len(story.bans) == 1


@pytest.mark.parametrize("transport", ["TCP", "UDP"])
@pytest.mark.parametrize(("form", "ports"), [("tel-{}", 1), ("tel-{}", 40), ("{}", 40)])
def test_forty_lines_or_phones_that_begin_at_once_are_not_banned(transport: str, form: str, ports: int) -> None:
    story = Story()
    for _ in range(3):
        calls = [
            comes(story, form.format(100 + n), is_named=n >= 4, port=20_000 + n % ports, transport=transport)
            for n in range(40)
        ]
        story.wait(0.3)
        for number, session in enumerate(calls):
            story.attempt(Case.RIGHT_PASSWORD, account=f"{number}", source=PHONE, session=session, transport=transport)
        story.wait(300)
    assert not story.verdicts


@pytest.mark.parametrize("stops", [False, True])
def test_who_gives_many_names_and_logs_in_with_none_is_not_waited_for_any_longer(*, stops: bool) -> None:
    story = Story()
    for number in range(10 if stops else 60):
        comes(story, f"tel-{number}", is_named=number >= 4, transport="UDP")
        story.wait(0.01)
    story.wait(5)
    story.verdicts += story.judge.sweep(story.now)
    assert [ban.rule for ban in story.bans] == ["scan_rush"]


def test_phones_whose_answers_get_lost_are_no_stranger_who_is_named_late() -> None:
    story = Story()
    calls = [comes(story, f"tel-{n}", is_named=False, transport="UDP") for n in range(4)]
    story.wait(0.5)
    for session in calls:
        story.see(one("ChallengeSent", account=UNKNOWN, source=PHONE, session=session, transport="UDP"))
    comes(story, "tel-4", is_named=True, transport="UDP")
    assert not story.bans


def test_who_sends_sql_for_a_name_is_no_carrier_at_any_pace() -> None:
    story = Story()
    for number in range(5):
        assert not story.bans
        comes(story, "x' or 1=1--", is_named=number == 4, transport="UDP")
        story.wait(1.1)
    assert [ban.rule for ban in story.bans] == ["unknown_rush"]


def test_the_ping_of_a_carrier_among_its_calls_is_not_yet_a_scanner() -> None:
    story = Story()
    for _ in range(3):  # it has been here before
        comes(story, "", is_named=False)
        story.wait(60)
    for _ in range(4):
        comes(story, "", is_named=False)
        story.wait(0.6)
    comes(story, "ping", is_named=True)
    assert not story.bans


@pytest.mark.parametrize("transport", ["TCP", "UDP"])
def test_phones_of_an_office_that_begin_at_once_have_ports_of_their_own_and_are_not_banned(transport: str) -> None:
    story = Story()
    calls = []
    for number in range(7):
        session = comes(story, f"tel-{number}", port=20_000 + number, is_named=number >= 4, transport=transport)
        calls.append((number, session))
    story.wait(0.2)
    for number, session in calls:
        story.attempt(Case.RIGHT_PASSWORD, account=f"{number}", source=PHONE, session=session, transport=transport)
    story.wait(60)
    assert not story.verdicts


def test_a_request_long_before_the_name_is_not_the_strangers() -> None:
    story = Story()
    for _ in range(4):
        comes(story, "100", is_named=False)
    story.wait(6)
    comes(story, "100", is_named=True)
    assert not story.bans


@pytest.mark.parametrize(("hosts", "is_banned"), [(4, False), (12, True)])
def test_a_carrier_has_few_addresses_in_a_network_and_a_hopper_many(hosts: int, is_banned: bool) -> None:
    story = Story()
    for number in range(12):
        comes(story, "100", is_named=False, source=f"2001:db8:5::{1 + number % hosts}", transport="UDP")
        story.wait(7)
    assert story.banned() == ({"2001:db8:5::/64"} if is_banned else set())


def test_a_carrier_that_brings_five_calls_at_once_is_not_banned() -> None:
    story = Story()
    for number in range(5):
        comes(story, f"0306789012{number}", is_named=number == 4, transport="UDP")
        story.wait(1)
    assert not story.verdicts


def test_a_login_takes_back_the_name_under_which_its_phone_was_a_stranger() -> None:
    story = Story()
    for turn in range(4):
        for number in range(25):
            session = comes(story, f"tel-{number}", port=20_000 + number, is_named=True)
            story.wait(0.1)
            story.attempt(Case.RIGHT_PASSWORD, account=f"{number}", source=PHONE, session=session, transport=TCP)
        story.wait(300 * turn)
    assert not story.verdicts


def test_who_owns_an_account_erases_no_enumeration_with_it() -> None:
    story = Story()
    logs_in(story, PHONE, transport=TCP)
    for number in range(30):
        session = comes(story, f"{7000 + number}", is_named=True)
        logs_in(story, PHONE, session=session, transport=TCP)
        story.wait(2)
    (ban,) = story.bans
    assert ban.rule.startswith("scan")


def waits(story: Story, *, bursts: int, jitter: float, silence: float = 60.0, transport: str = "UDP") -> None:
    random = Random(1)
    for _ in range(bursts):
        for _ in range(4):
            comes(story, "", is_named=False, transport=transport)
            story.wait(random.uniform(1 - jitter, 1 + jitter))
        story.wait(6)
        story.verdicts += story.judge.sweep(story.now)
        story.wait(silence)


@pytest.mark.parametrize("silence", [30.0, 300.0, 1200.0])
@pytest.mark.parametrize("transport", ["TCP", "UDP"])
def test_two_bursts_at_equal_pauses_are_a_program(silence: float, transport: str) -> None:
    story = Story()
    waits(story, bursts=1, jitter=0.02, silence=silence, transport=transport)
    assert not story.verdicts
    waits(story, bursts=1, jitter=0.02, silence=silence, transport=transport)
    assert [ban.rule for ban in story.bans] == ["unanswered"]


@pytest.mark.parametrize("transport", ["TCP", "UDP"])
def test_who_comes_back_after_his_first_burst_is_a_program(transport: str) -> None:
    story = Story()
    waits(story, bursts=1, jitter=0.02, transport=transport)
    comes(story, "", is_named=False, transport=transport)
    assert [ban.rule for ban in story.bans] == ["unanswered"]


@pytest.mark.parametrize(("pause", "silence"), [(0.0, 60.0), (0.2, 60.0), (1.0, 10.0), (3.0, 60.0)])
def test_a_monitor_with_four_trunks_is_no_program(pause: float, silence: float) -> None:
    story = Story()
    for _ in range(2):
        for _ in range(4):
            comes(story, "", is_named=False, transport="UDP")
            story.wait(pause)
        story.wait(6)
        story.verdicts += story.judge.sweep(story.now)
        story.wait(silence - 6)
    assert not story.bans


@pytest.mark.parametrize("trunks", [3, 4])
@pytest.mark.parametrize(("pause", "is_banned"), [(0.0, False), (0.2, False), (1.0, True)])
def test_a_monitor_pings_all_its_trunks_at_a_moment_and_a_program_takes_its_time(
    trunks: int, pause: float, *, is_banned: bool
) -> None:
    story = Story()
    for _ in range(30):
        for _ in range(trunks):
            comes(story, "", is_named=False, transport="UDP")
            story.wait(pause)
        story.wait(10)
        story.verdicts += story.judge.sweep(story.now)
        story.wait(50)
    assert bool(story.bans) is is_banned
    assert ("unknown_carrier" in story.kinds()) is not is_banned


@pytest.mark.parametrize("mean", [3.0, 6.0, 60.0])
def test_calls_at_random_are_a_carriers_however_many_come(mean: float) -> None:
    story, random = Story(), Random(5)
    for _ in range(3000):
        comes(story, "", is_named=False, transport="UDP")
        story.wait(random.expovariate(1 / mean))
    assert story.kinds()
    assert set(story.kinds()) == {"unknown_carrier"}
    assert not story.bans


@pytest.mark.parametrize(("hosts", "is_banned"), [(4, False), (5, True)])
def test_five_addresses_of_a_network_that_answer_nothing_are_a_hopper(hosts: int, *, is_banned: bool) -> None:
    story = Story()
    for number in range(5):
        comes(story, "", is_named=False, source=f"2001:db8:5::{1 + number % hosts}", transport="UDP")
        story.wait(2)
    assert bool(story.bans) is is_banned


def test_an_office_with_ipv6_whose_phones_begin_at_once_is_not_banned() -> None:
    story, calls = Story(), []
    for number in range(40):
        source = f"2001:db8:5::{1 + number}"
        calls.append((source, comes(story, "", is_named=False, source=source, transport="UDP")))
        story.wait(0.02)
    for number, (source, session) in enumerate(calls):
        story.attempt(Case.RIGHT_PASSWORD, account=f"{number}", source=source, session=session)
    story.wait(60)
    assert not story.judge.sweep(story.now)
    assert not story.verdicts


@pytest.mark.parametrize(("ports", "is_banned"), [(1, True), (5, False)])
def test_passwords_that_come_from_one_port_are_not_those_of_an_office(ports: int, *, is_banned: bool) -> None:
    story = Story()
    for number in range(5):
        session, port = new_session(), 5060 + number % ports
        for kind in ("ChallengeSent", "ChallengeResponseFailed"):
            story.see(one(kind, account=UNKNOWN, source=PHONE, session=session, port=port))
        story.wait(1.6)
    assert [ban.rule for ban in story.bans] == ["unknown_rush"] * is_banned


def asks_for_many(story: Story, seconds: int, *, transport: str, repeated: bool = False) -> None:
    """Let first requests for accounts that exist come, twenty a second, and nothing else."""
    for number in range(20 * seconds):
        details = {"account": f"{1000 + number}", "session": new_session(), "source": PHONE, "transport": transport}
        story.see(*[one("ChallengeSent", **details)] * (1 + repeated))
        story.wait(0.05)


@pytest.mark.parametrize(("transport", "seconds"), [("UDP", 3), ("TCP", 4)])
def test_who_asks_for_many_accounts_and_answers_nothing_is_banned_within_seconds(transport: str, seconds: int) -> None:
    story = Story()
    asks_for_many(story, seconds, transport=transport)
    assert [ban.rule for ban in story.bans] == ["unanswered"]


@pytest.mark.parametrize(("transport", "delay"), [("UDP", 1.5), ("TLS", 1.5)])
def test_an_office_that_begins_at_once_over_a_full_line_is_not_banned(transport: str, delay: float) -> None:
    story = Story()
    phones = [
        {
            "account": f"{1000 + n}",
            "session": new_session(),
            "source": PHONE,
            "port": 20_000 + n,
            "transport": transport,
        }
        for n in range(40)
    ]
    for phone in phones:
        story.see(one("ChallengeSent", **phone))
        story.wait(0.01)
    story.wait(0.1)
    for phone in phones if transport == "UDP" else ():
        story.see(one("ChallengeSent", **phone))
        story.wait(0.01)
    story.wait(delay - 0.9)
    assert not story.judge.sweep(story.now)
    for phone in phones:
        story.see(one("SuccessfulAuth", **phone))
    story.wait(60)
    assert not story.judge.sweep(story.now)
    assert not story.verdicts


def test_phones_that_ask_again_are_waited_for() -> None:
    story = Story()
    asks_for_many(story, 3, transport="UDP", repeated=True)
    assert not story.bans


def test_two_bursts_at_random_are_not_yet() -> None:
    story = Story()
    waits(story, bursts=2, jitter=0.5)
    assert not story.verdicts


@pytest.mark.parametrize(
    ("pauses", "is_program"),
    [
        ([1, 1, 1, 60, 1, 1, 1], True),
        ([1, 1.05, 0.95, 60, 1, 1, 1], True),
        ([1, 1, 60, 1, 1, 1, 1], True),
        ([1, 1, 1, 60, 1, 1.3, 1], False),
        ([1, 1, 1, 10, 1, 1, 1], False),
        ([4, 4, 4, 60, 4, 4, 4], False),
        ([1, 60, 1, 1, 1, 1, 1], False),
        ([1, 1, 1, 60, 1, 1], False),
        ([1, 1, 1, 1, 1, 1, 1], False),
    ],
)
def test_what_is_told_from_calls(pauses: list[float], *, is_program: bool) -> None:
    assert are_equal_bursts(pauses) is is_program


def test_calls_at_random_are_no_program() -> None:
    random, now = Random(3), NOON
    times = [now := now + random.expovariate(1 / 4) for _ in range(20_000)]
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert not any(are_equal_bursts(pauses[at : at + 7]) for at in range(len(pauses)))


@pytest.mark.parametrize("name", ["{}", "sales", "7777"])
@pytest.mark.parametrize("at_once", [1, 10, 100])
def test_a_storm_of_forged_strangers_bans_nobody_where_they_are_named_late(at_once: int, name: str) -> None:
    story = Story()
    for first in range(0, 100, at_once):
        for turn in range(8):
            for number in range(first, first + at_once):
                story.wait(0.005)
                details = {"source": f"198.51.{number}.1", "session": f"{number}-{turn}"}
                named = [one("InvalidAccountID", account=name.format(100 + turn), **details)] if turn >= 4 else []
                story.see(*named, one("ChallengeSent", account=UNKNOWN, **details))
    assert story.kinds() == ["unproven_storm"]
    assert len(story.judge.ledger) == 0


def test_a_storm_of_requests_that_are_never_named_is_seen() -> None:
    story = Story()
    for _ in range(14):
        for number in range(40):
            story.wait(0.1)
            comes(story, "", is_named=False, source=f"198.51.{number}.1", transport="UDP")
        story.verdicts += story.judge.sweep(story.now)
    assert story.kinds() == ["unproven_storm"]
    assert not story.bans


def test_who_opens_the_storm_with_his_first_name_is_of_it() -> None:
    story = Story()
    for turn in range(5):
        for number in range(100):
            story.wait(0.001)
            details = {"source": f"198.51.{number}.1", "session": f"{number}-{turn}"}
            named = [one("InvalidAccountID", account="104", **details)] if turn == 4 else []
            story.see(*named, one("ChallengeSent", account=UNKNOWN, **details))
            if (turn, number) == (2, 99):  # all were silent for a second when somebody looks
                story.wait(1)
                story.verdicts += story.judge.sweep(story.now)
    assert story.kinds() == ["unproven_storm"]
    assert len(story.judge.ledger) == 0
