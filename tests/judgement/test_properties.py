"""What holds for every order of events."""

from ipaddress import ip_address
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from amiwatch.judgement.judge import Judge
from amiwatch.judgement.networks import source_key
from amiwatch.judgement.rules import Measure, Policy
from amiwatch.judgement.sources import Source, Windows
from amiwatch.judgement.values import Ban, SecurityEvent, Verdict
from amiwatch.testing.builders import Case, attempt_events, security_event
from tests.judgement.stories import NOON, PHONE, Story, logs_in

PAUSES = st.sampled_from([0.0, 0.01, 0.5, 1, 3, 5, 30, 61, 600, 3600, 90_000])
ACCOUNTS = st.sampled_from(["1001", "1002", "1003"])
HONEST = (
    Case.RIGHT_PASSWORD,
    Case.WRONG_PASSWORD,
    Case.NO_CREDENTIALS,
    Case.STALE_NONCE,
    Case.FULL_AOR,
    Case.UNMATCHED,
    Case.ENDPOINT_ACL,
    Case.AMI_RIGHT_SECRET,
)
"""What phones do, with all their trouble: everything but accounts that don't exist."""

KINDS = """
InvalidAccountID ChallengeSent ChallengeResponseFailed FailedACL SuccessfulAuth InvalidPassword RequestNotSupported
""".split()  # noqa: SIM905 - a list would take seven lines
EVENTS = st.builds(
    SecurityEvent,
    kind=st.sampled_from(KINDS),
    at=st.just(NOON),
    service=st.sampled_from(["PJSIP", "PJSIP", "PJSIP", "AMI", "SIP", "TEST"]),
    account=st.one_of(st.sampled_from(["<unknown>", "1001", "1002", "", "\x1b[2J"]), st.text(max_size=3)),
    session=st.sampled_from("abcd"),
    transport=st.sampled_from(["UDP", "TCP", "WSS", ""]),
    source=st.sampled_from([ip_address(each) for each in ("192.0.2.1", "192.0.2.2", "2001:db8::1", "127.0.0.1")]),
    port=st.just(5060),
    local_port=st.just(5060),
    detail=st.sampled_from(["", "registrar_attempt", "not_match_endpoint_acl"]),
    used_password=st.booleans(),
    guess=st.integers(0, 4),
    tainted=st.just(False),
)
STREAMS = st.lists(st.tuples(PAUSES, EVENTS), max_size=60)


STRANGE = (Case.UNKNOWN_ACCOUNT, Case.UNKNOWN_ACCOUNT_ANSWERED, Case.UNMATCHED)
TRANSPORTS = st.sampled_from(["UDP", "TCP", "TLS", "WS", "WSS"])
BOUND = min(rule.limit for rule in Policy().rules if rule.measure is Measure.ACCOUNTS) * Policy().trust_factor
"""Different accounts that don't exist, from a proven address with trust, from which on it is an enumeration."""

BURSTS = st.lists(
    st.tuples(
        PAUSES,
        st.lists(st.tuples(st.sampled_from(HONEST), ACCOUNTS, TRANSPORTS, st.integers(1, 40)), max_size=4),
        st.lists(
            st.tuples(st.sampled_from(STRANGE), st.integers(1, BOUND - 1), TRANSPORTS, st.integers(1, 40)), max_size=4
        ),
    ),
    max_size=12,
)
"""Pauses, and what is mixed up after each: what phones do, and accounts that don't exist, each repeated."""


@settings(deadline=None, max_examples=80)
@given(BURSTS, st.integers())
def test_no_order_or_repetition_bans_a_source_with_fresh_trust_below_the_bound(bursts, seed) -> None:  # type: ignore[no-untyped-def]
    story, random = Story(), Random(seed)
    for pause, known, strange in bursts:
        story.wait(pause)
        logs_in(story, PHONE, "1001")
        events = []
        for case, account, transport, copies in (*known, *((c, f"old-{n}", t, r) for c, n, t, r in strange)):
            transport = "TCP" if case is Case.AMI_RIGHT_SECRET else transport
            events += attempt_events(case, account=account, source=PHONE, transport=transport) * copies
        random.shuffle(events)
        story.see(*events)
        story.verdicts += story.judge.sweep(story.now)
    story.wait(10)
    story.verdicts += story.judge.sweep(story.now)
    assert not story.bans


def test_the_bound_of_an_enumeration_with_trust_is_where_it_is_said_to_be() -> None:
    story = Story()
    logs_in(story, PHONE, "1001", transport="TLS")
    for number in range(BOUND):
        assert not story.bans
        story.attempt(Case.UNKNOWN_ACCOUNT_ANSWERED, account=f"old-{number}", source=PHONE, transport="TLS")
    assert story.bans


def play(judge: Judge, steps: list[tuple[float, SecurityEvent]]) -> list[Verdict]:
    now, said = NOON, list[Verdict]()
    for pause, event in steps:
        now += pause
        said += judge.see(event, now)
    return said


@given(STREAMS)
def test_no_order_of_events_raises_or_bans_loopback_and_all_words_can_be_printed(
    steps: list[tuple[float, SecurityEvent]],
) -> None:
    judge = Judge(Policy(max_sources=2, max_trusted=2, max_offenders=2, ban_chan_sip=True))
    said = play(judge, steps)
    for verdict in said:
        assert verdict.reason.isprintable()
        assert len(verdict.reason) < 1000
    assert all(not ban.address.is_loopback for ban in said if isinstance(ban, Ban))


@given(STREAMS, st.data())
def test_tainted_events_change_nothing_but_their_counter(
    steps: list[tuple[float, SecurityEvent]], data: st.DataObject
) -> None:
    tainted = [(0.0, event._replace(tainted=True)) for _, event in steps]
    mixed = list(steps)
    for each in tainted:
        mixed.insert(data.draw(st.integers(0, len(mixed))), each)
    clean, dirty = _judge(), _judge()
    assert play(clean, steps) == play(dirty, mixed)
    assert dirty.counters.tainted == len(tainted)
    assert clean.counters.attempts == dirty.counters.attempts
    assert list(clean.trust.items()) == list(dirty.trust.items())


@given(STREAMS)
def test_the_same_events_always_get_the_same_verdicts(steps: list[tuple[float, SecurityEvent]]) -> None:
    assert play(_judge(), steps) == play(_judge(), steps)


def _judge() -> Judge:
    return Judge(Policy(), random=Random(3))


@given(STREAMS)
def test_who_is_not_proven_never_gets_a_proven_ban(steps: list[tuple[float, SecurityEvent]]) -> None:
    forged = [
        (pause, event._replace(transport="UDP")) for pause, event in steps if event.service in ("PJSIP", "SIP", "TEST")
    ]
    judge = Judge(Policy(ban_chan_sip=True))
    assert not any(each.is_proven for each in play(judge, forged) if isinstance(each, Ban))


@given(STREAMS)
def test_no_forged_packet_bans_a_source_with_fresh_trust(steps: list[tuple[float, SecurityEvent]]) -> None:
    """Whatever a stranger sends in a phone's name: over UDP, or as chan_sip over anything."""
    judge, now = Judge(Policy(ban_chan_sip=True)), NOON
    login = security_event("SuccessfulAuth", account="1001", source=PHONE)
    for pause, event in steps:
        if event.service == "AMI" or (event.service, event.kind) == ("PJSIP", "SuccessfulAuth"):
            continue
        transport = event.transport if event.service == "SIP" else "UDP"
        now += pause
        said = [*judge.see(login, now), *judge.see(event._replace(source=login.source, transport=transport), now)]
        assert not any(isinstance(each, Ban) for each in said)


def counted(source: Source) -> dict[object, int]:
    """Return all that is held against a source."""
    proven = source.proven or Windows()
    each = {("each", name): len(times) for name, times in (source.each or {}).items()}
    again = {("again", name): len(times) for name, times in source.again.items()}
    guessed = {("guessed", name): tries for name, tries in source.guessed.items()}
    windows = {(part, m): len(w.since(m, 0)) for part, w in (("all", source), ("proven", proven)) for m in Measure}
    flags = {"hurried": source.is_hurried, "password": source.has_password, "total": source.total}
    return {**each, **again, **guessed, **windows, **flags}


@settings(max_examples=200)
@given(STREAMS, st.sampled_from(["UDP", "TLS"]), st.integers(0, 60))
def test_a_success_takes_back_nothing_but_what_its_own_account_tried(
    steps: list[tuple[float, SecurityEvent]], transport: str, turn: int
) -> None:
    """Whatever came before: a login with an account of one's own, in a dialogue of its own, forgives no guess."""
    judge = Judge(Policy(max_sources=5), random=Random(1))
    play(judge, steps)
    now = NOON + sum(pause for pause, _ in steps)
    for source in list(judge.sources):
        key = source_key(source.address)
        if judge.sources.get(key) is not source:
            continue  # chan_sip and whole networks are counted under keys of their own
        before = counted(source)
        login = attempt_events(Case.RIGHT_PASSWORD, account="mine", source=source.address, transport=transport)
        for event in login * (turn + 1):
            judge.see(event, now)
        after = counted(source)
        assert all(after.get(name, 0) >= number for name, number in before.items())


ATTACK = (Case.UNKNOWN_ACCOUNT, Case.UNKNOWN_ACCOUNT_ANSWERED, Case.WRONG_PASSWORD, Case.AMI_WRONG_SECRET)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.tuples(PAUSES, st.sampled_from(ATTACK), st.sampled_from([str(n) for n in range(2000, 2030)])), max_size=40
    ),
    st.sets(st.integers(0, 39)),
)
def test_logins_without_trust_never_delay_a_ban(steps, logins) -> None:  # type: ignore[no-untyped-def]
    """
    Successes with another account of one's own lower no count.

    They earn trust, which is told apart: no trust is given here (trust_time 0), so the bans must be the very same.
    """
    plain, mixed = Story(trust_time=0, ladder=(10**9,)), Story(trust_time=0, ladder=(10**9,))
    for number, (pause, case, account) in enumerate(steps):
        events = attempt_events(case, account=account, transport="TCP", source=PHONE)
        for story in (plain, mixed):
            story.wait(pause)
            if story is mixed and number in logins:
                logs_in(mixed, PHONE, "mine", transport="TCP")
            story.see(*events)
        assert [ban.at for ban in plain.bans] == [ban.at for ban in mixed.bans]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.floats(0, 20), st.booleans()), min_size=20, max_size=30))
def test_trust_delays_the_ban_of_a_proven_enumeration_to_four_times_the_limit_at_most(steps) -> None:  # type: ignore[no-untyped-def]
    story = Story()
    for number, (pause, is_login) in enumerate(steps):
        story.wait(pause)
        if is_login:
            logs_in(story, PHONE, "mine", transport="TLS")
        story.attempt(Case.UNKNOWN_ACCOUNT_ANSWERED, account=f"n{number}", source=PHONE, transport="TLS")
    assert story.bans
    assert story.judge.counters.attempts <= 20 + sum(is_login for _, is_login in steps)


@given(st.lists(st.floats(0, 100_000), max_size=60))
def test_a_ban_names_a_rule_that_was_met(pauses: list[float]) -> None:
    story = Story()
    for number, pause in enumerate(pauses):
        story.wait(pause)
        story.attempt(Case.UNKNOWN_ACCOUNT_ANSWERED, account=f"n{number}")
    rules = {rule.name: rule for rule in story.judge.policy.rules}
    for ban in story.bans:
        assert rules[ban.rule].measure in (Measure.ACCOUNTS, Measure.ATTEMPTS)
        assert f"limit {rules[ban.rule].unproven_limit} in" in ban.reason
        assert (ban.seconds or 0) >= 0.9 * story.judge.policy.unproven_ladder[0]
