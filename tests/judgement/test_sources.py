"""What is remembered of sources: exact windows, and bounds whatever arrives."""

from ipaddress import IPv4Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amiwatch.judgement.judge import Judge
from amiwatch.judgement.rules import HOUR, Measure, Policy
from amiwatch.judgement.sources import HISTORY, MAX_DIALOGUES, MAX_EVIDENCE, Source, SourceTable, Windows
from amiwatch.judgement.values import TEXT_LIMIT, Alert, Ban, SecurityEvent
from amiwatch.testing.builders import Case, security_event
from tests.judgement.stories import ATTACKER, Story, logs_in

BASE = 0x0A000000


def event(number: int, kind: str = "InvalidAccountID", **changes: object) -> SecurityEvent:
    plain = SecurityEvent(kind, 0.0, "PJSIP", "7777", f"call-{number}", "UDP", IPv4Address(BASE + number), 5060, 5060)
    return plain._replace(**changes)  # type: ignore[arg-type]


@given(
    st.lists(st.tuples(st.floats(0, 20), st.sampled_from("abcdefgh")), max_size=60),
    st.integers(1, 12),
    st.floats(0.1, 100),
)
def test_windows_are_exact(steps: list[tuple[float, str]], limit: int, find_time: float) -> None:
    windows, now, seen = Windows(), 1000.0, list[tuple[float, str]]()
    for pause, account in steps:
        now += pause
        seen.append((now, account))
        windows.count(Measure.ATTEMPTS, now)
        windows.note_account(account, now)
        begin = now - find_time
        attempts = [at for at, _ in seen if at >= begin]
        accounts = {name for at, name in seen if at >= begin}
        for measure, true in ((Measure.ATTEMPTS, len(attempts)), (Measure.ACCOUNTS, len(accounts))):
            reached = windows.newest(measure, limit)
            assert (reached is not None and reached >= begin) == (true >= limit)
            assert len(windows.since(measure, begin)) == true


def test_a_measure_never_counted_has_no_newest() -> None:
    for measure in Measure:
        assert Windows().newest(measure, 1) is None
        assert Windows().since(measure, 0) == []


def test_one_source_is_bounded_whatever_it_sends() -> None:
    source = Source(IPv4Address("192.0.2.1"), 0.0)
    for number in range(3 * MAX_DIALOGUES):
        source.dialogue(f"call-{number}")
        for part in source.parts(is_proven=True):
            part.note(Measure.ATTEMPTS, number)
            part.note(Measure.ACCOUNTS, number, "x" * 10_000 + str(number))
            part.note(Measure.ACCOUNTS, number, str(number))
            part.note_guess(f"{number}" * 1000)
        source.keep(event(number, session="s" * 65_000, account="a" * 65_000))
    assert len(source.dialogues) == MAX_DIALOGUES
    assert source.proven is not None
    for windows in (source, source.proven):
        assert len(windows.guessed) == HISTORY
        assert len(windows.accounts) == HISTORY
        assert HISTORY <= len(windows.times[Measure.ATTEMPTS] or ()) <= 2 * HISTORY
        assert max(map(len, windows.accounts)) <= TEXT_LIMIT
    assert len(source.evidence) == MAX_EVIDENCE
    assert all(len(kept.session) <= TEXT_LIMIT and len(kept.account) <= TEXT_LIMIT for kept in source.evidence)
    assert source.size() < 150_000


def test_evidence_holds_the_first_events_and_the_newest() -> None:
    source = Source(IPv4Address("192.0.2.1"), 0.0)
    for number in range(100):
        source.keep(event(number, session=str(number)))
    assert [each.session for each in source.proof()] == ["0", "1", "2", "3", "96", "97", "98", "99"]


@given(st.lists(st.tuples(st.integers(0, 30), st.booleans(), st.booleans()), max_size=200), st.integers(1, 12))
def test_the_table_never_exceeds_its_limit_and_its_books_are_right(
    steps: list[tuple[int, bool, bool]], limit: int
) -> None:
    table = SourceTable(limit, max_bytes=12_000)
    for number, is_touched, is_removed in steps:
        source = table.get(number)
        if source is None:
            source = Source(IPv4Address(BASE + number), number)
            table.add(number, source)
        source.dialogue(str(len(source.dialogues)))
        if is_touched:
            table.touch(number, source)
        if is_removed:
            table.remove(number)
        else:
            table.weigh(number, source)
        assert len(table) <= limit
        assert table.bytes == sum(each.weight for each in table) <= 12_000
        assert len(list(table)) == len(table)


def test_a_suspect_survives_a_flood_of_newcomers() -> None:
    table = SourceTable(100)
    suspect = Source(IPv4Address("192.0.2.1"), 0.0)
    table.add(-1, suspect)
    table.touch(-1, suspect)
    for number in range(10_000):
        table.add(number, Source(IPv4Address(BASE + number), number))
    assert table.get(-1) is suspect
    assert table.get(9_999) is not None
    assert table.get(0) is None
    assert table.forgotten == 10_001 - 100


@pytest.mark.parametrize("tries", [1, 2, 3])
def test_a_flood_of_invented_sources_that_come_again_does_not_push_out_a_proven_one(tries: int) -> None:
    story = Story(max_sources=100)
    story.tries(Case.UNKNOWN_ACCOUNT, ["a", "b", "c"][:tries], every=1, transport="TCP")
    for number in range(1_000):
        story.tries(Case.UNKNOWN_ACCOUNT, ["x", "y"], every=0.01, source=f"198.51.{number // 250}.{number % 250 + 1}")
    story.tries(Case.UNKNOWN_ACCOUNT, ["e", "f", "g"][: 4 - tries], every=1, transport="TCP")
    assert f"{ATTACKER}/32" in story.banned()


def test_proven_sources_are_bounded_too() -> None:
    story = Story(max_sources=100)
    for number in range(300):
        source = f"198.51.{number // 250}.{number % 250 + 1}"
        story.tries(Case.WRONG_PASSWORD, ["1001"] * 2, every=1, source=source, transport="TCP")
    assert len(story.judge.sources) == 100
    assert story.judge.sources.forgotten == 200


@pytest.mark.parametrize("transport", ["UDP", "TCP"])
def test_a_flood_after_a_ban_does_not_hide_that_the_password_was_found(transport: str) -> None:
    story = Story(max_sources=100)
    story.tries(Case.WRONG_PASSWORD, ["1001"] * 10, every=2, transport=transport)
    assert story.banned() == {f"{ATTACKER}/32"}
    for number in range(1_000):
        story.wait(0.01)
        story.attempt(Case.UNKNOWN_ACCOUNT, source=f"198.51.{number // 250}.{number % 250 + 1}")
    story.wait(2 * HOUR)
    logs_in(story, ATTACKER, transport=transport)
    assert "password_found" in story.kinds()


def test_sources_older_than_every_window_are_forgotten_a_few_at_a_time() -> None:
    table = SourceTable(100)
    for number in range(10):
        table.add(number, Source(IPv4Address(BASE + number), number))
    table.expire(before=5, at_most=2)
    assert [source.last_at for source in table] == list(range(2, 10))
    table.expire(before=5, at_most=100)
    assert [source.last_at for source in table] == list(range(5, 10))
    assert table.bytes == 0


def test_an_offender_is_caught_among_50_000_sources_of_which_5_000_are_watched() -> None:
    judge, bans = Judge(Policy(max_sources=5_000)), []
    offender = IPv4Address("203.0.113.66")
    for number in range(50_000):
        now = number / 5_000
        bans += judge.see(event(number), now)
        bans += judge.see(event(number, "ChallengeSent", account="<unknown>"), now)
        if number % 2_500 == 2_000:  # seen again before as many newcomers came as are watched
            name = f"{number}"
            bans += judge.see(event(number, source=offender, account=name, session=f"x{number}"), now)
    storm, ban = bans
    assert isinstance(storm, Alert)
    assert storm.kind == "unproven_storm"
    assert isinstance(ban, Ban)
    assert ban.address == offender
    assert len(judge.sources) <= 5_000
    assert judge.sources.forgotten >= 45_000


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 40), st.integers(1, 40))
def test_sources_that_are_never_banned_do_not_grow_memory(sources: int, tries: int) -> None:
    """Whom the ceiling spares goes on and on: the sum over all sources is bounded too."""
    judge = Judge(Policy(unproven_bans=0))
    judge.sources.max_bytes = 100_000
    number = 0
    for turn in range(tries):
        for source in range(sources):
            number += 1
            details = {"source": IPv4Address(BASE + source), "session": f"{number}", "account": f"{turn}"}
            judge.see(event(number, **details), float(turn))
            judge.see(event(number, "ChallengeSent", **{**details, "account": "<unknown>"}), float(turn))
    assert judge.sources.bytes <= 100_000
    assert judge.sources.bytes == sum(source.weight for source in judge.sources)


def test_builders_and_the_plain_events_here_agree() -> None:
    built = security_event("InvalidAccountID", account="7777", source=str(IPv4Address(BASE)), session="call-0", at=0.0)
    assert event(0) == built
