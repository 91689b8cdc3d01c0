"""Memory is bounded whatever arrives: every container that a judge holds has its limit in the table below."""

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from ipaddress import IPv4Address
from random import Random
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amiwatch.judgement import alarms, campaigns, crowds, found, hasty, judge, neighbours, sources, tally, trust
from amiwatch.judgement.judge import Judge
from amiwatch.judgement.rules import Policy
from amiwatch.judgement.values import TEXT_LIMIT, SecurityEvent, source_network
from amiwatch.testing.builders import Case, attempt_events
from tests.judgement.stories import NOON

SMALL = Policy(max_sources=20, max_trusted=20, max_offenders=20, unproven_entries=20, ban_chan_sip=True)


def bounds(policy: Policy) -> dict[str, int]:
    """Return what each container may hold at most; ``{}`` and ``[]`` are the containers inside one."""
    return {
        "Alarms._ceilings": alarms.MAX_CEILINGS + 1,
        "Alarms._said": alarms.MAX_ALERTS,
        **{f"Breaker.{name}": crowds.MAX_FAILING for name in ("_believed", "_failing", "_known")},
        "Breaker._onsets": max(policy.storm, policy.mass_failure),
        "Campaigns._accounts": campaigns.MAX_ADDRESSES // policy.attacked_by,
        "Campaigns._accounts{}": policy.attacked_by,
        "Campaigns._proven": campaigns.MAX_ADDRESSES // policy.campaign.limit,
        "Campaigns._proven{}": policy.campaign.limit,
        "Campaigns._suspects": campaigns.MAX_SUSPECTS,
        "Dialogue.guesses": sources.GUESSES_KEPT,
        "Finds._since": found.MAX_FINDS,
        "HastyBans._bans": hasty.MAX_HASTY,
        "Judge._asked": policy.max_sources,
        "Judge._broken": judge.MAX_BROKEN,
        "Judge._unfollowed": judge.MAX_UNFOLLOWED,
        "Judge.repeats": judge.REPEATS,
        "Ladder._offenders": policy.max_offenders,
        "Ledger.unproven": policy.unproven_entries,
        "Neighbours._networks": neighbours.MAX_NETWORKS,
        "_Network.hosts": neighbours.MAX_HOSTS,
        **{f"{part}.again": sources.MAX_AGAIN for part in ("Source", "Attempts")},
        **{f"{part}.again{{}}": sources.AGAIN_KEPT for part in ("Source", "Attempts")},
        **{f"{part}.guessed": sources.HISTORY for part in ("Source", "Attempts")},
        "Source.dialogues": sources.MAX_DIALOGUES,
        "Source.evidence": sources.MAX_EVIDENCE,
        "Source.names": sources.HISTORY,
        "Source.unanswered": sources.MAX_DIALOGUES,
        "SourceTable._newcomers": policy.max_sources,
        "SourceTable._suspects": policy.max_sources,
        "Sum._times": tally.MAX_TIMES,
        "Tally._accounts": tally.MAX_SUMS,
        "Tally._sums": tally.MAX_SUMS,
        "Trust._places": policy.max_trusted,
        "Trust._places{}": trust.MAX_PLACES,
        "Trust._sources": policy.max_trusted,
        "Trust._sources{}": trust.MAX_ACCOUNTS,
        "Trust._unsaved": policy.max_trusted,
        **{f"{part}.accounts": sources.HISTORY for part in ("Source", "Attempts")},
        **{f"{part}.each": sources.HISTORY for part in ("Source", "Attempts")},
        **{f"{part}.each{{}}": sources.HISTORY for part in ("Source", "Attempts")},
        **{f"{part}.times": sources.MEASURES for part in ("Source", "Attempts")},
        **{f"{part}.times[]": 2 * sources.HISTORY for part in ("Source", "Attempts")},
    }


SETTLED = ("Policy.", "Rule.", "NetworkTable.", "Verdicts._rules", "Judge._readers", "Judge._tripwires")
"""What the configuration fills, and no event."""

BY_THE_FIREWALL = ("Ledger._sources", "Ledger._ends")
"""Bans on proven evidence: as many as there are attackers with addresses of their own; the size of the kernel's set
limits them, in the daemon."""


def held(root: object) -> dict[str, int]:
    """Return the fullest container of each name that is reachable from here; texts are ``text in …``."""
    fullest: Counter[str] = Counter()
    for name, size in _sizes(root, "", set()):
        fullest[name] = max(fullest[name], size)
    return dict(fullest)


def _sizes(each: Any, name: str, seen: set[int]) -> Iterator[tuple[str, int]]:
    if isinstance(each, str):
        yield f"text in {name}", len(each)
    if isinstance(each, str | int | float) or each is None or id(each) in seen or name.startswith(SETTLED):
        return
    seen.add(id(each))
    if isinstance(each, dict):
        yield name, len(each)
        for key, value in each.items():
            yield from _sizes(key, name + "[]", seen)
            yield from _sizes(value, name + "{}", seen)
    elif isinstance(each, list | set | frozenset | deque | tuple):
        if not isinstance(each, tuple) or name in GROWING_TUPLES:
            yield name, len(each)
        for value in each:
            yield from _sizes(value, name + "[]", seen)
    elif type(each).__module__.startswith("amiwatch."):
        fields = [*getattr(each, "__dict__", ()), *(f for kind in type(each).__mro__ for f in _slots(kind))]
        for field in fields:
            yield from _sizes(getattr(each, field, None), f"{type(each).__name__}.{field}", seen)


def _slots(kind: type) -> Iterable[str]:
    return getattr(kind, "__slots__", ())


def check(watch: Judge) -> None:
    limits = bounds(watch.policy)
    for name, size in held(watch).items():
        if name.startswith("text in "):
            is_longer = name.startswith(OF_ASTERISK) or (name.endswith(".reason") and size <= REASON_LIMIT)
            assert size <= TEXT_LIMIT or is_longer, f"{name} has {size} characters"
        elif not name.startswith(BY_THE_FIREWALL):
            assert name in limits, f"{name} has no limit: give it one, and a row in this table"
            assert size <= limits[name], f"{name} holds {size}, and its limit is {limits[name]}"
    assert len(watch.sources) <= watch.policy.max_sources
    assert watch.sources.bytes == sum(source.weight for source in watch.sources) <= watch.sources.max_bytes


GROWING_TUPLES = ("Dialogue.guesses", "Sum._times")
"""All other tuples are records, or names made of several things."""

OF_ASTERISK = ("text in Trust.",)
"""Names of endpoints that logged in: no stranger chose them."""

REASON_LIMIT = 1_000
"""Longest words of a verdict: names in it are cut."""


class Flood(NamedTuple):
    """So many attempts that differ in these things only."""

    case: Case
    number: int
    differ: frozenset[str]
    transport: str
    pause: float
    account: str = "1001"
    first: int = 0

    def events(self) -> Iterator[tuple[float, SecurityEvent]]:
        model = attempt_events(self.case, account=self.account, source="198.51.100.7", session="s")
        for number in range(self.first, self.first + self.number):
            for event in model:
                yield self.pause, self._change(event, number)

    def _change(self, event: SecurityEvent, number: int) -> SecurityEvent:
        account, session, guess = event.account, "s", 1
        if "account" in self.differ and account not in ("<unknown>", ""):
            account = f"{number}".ljust(2 * TEXT_LIMIT, "a")
        if "session" in self.differ:
            session = f"{number}".ljust(2 * TEXT_LIMIT, "x")
        source = IPv4Address(int(event.source) + number * 256) if "source" in self.differ else event.source
        guess = number if "guess" in self.differ else 1
        transport = self.transport if event.service == "PJSIP" else event.transport
        return event._replace(account=account, session=session, source=source, guess=guess, transport=transport)


def pour(watch: Judge, floods: Iterable[Flood], now: float = NOON) -> float:
    for flood in floods:
        for pause, event in flood.events():
            now += pause
            watch.see(event, now)
        watch.sweep(now)
    return now


FLOODS = st.builds(
    Flood,
    case=st.sampled_from(Case),
    number=st.sampled_from([1, 30, 270]),
    differ=st.frozensets(st.sampled_from(["source", "account", "session", "guess"])),
    transport=st.sampled_from(["UDP", "TLS"]),
    pause=st.sampled_from([0.0, 0.001, 0.5, 20.0]),
    account=st.just("1001"),
    first=st.just(0),
)


@settings(deadline=None, max_examples=40)
@given(st.lists(FLOODS, min_size=1, max_size=4), st.booleans())
def test_every_container_keeps_its_limit_whatever_arrives(floods: list[Flood], is_closed: bool) -> None:
    watch = Judge(replace(SMALL, ipv6_prefix=48 if is_closed else 64), random=Random(0))
    pour(watch, floods)
    watch.trust.unsaved()
    check(watch)


TRIPWIRE = "nobody"
SPREAD = frozenset({"source", "session", "account", "guess"})


@pytest.mark.parametrize(
    ("fills", "flood"),
    [
        ("Breaker._failing", Flood(Case.UNKNOWN_ACCOUNT, 10_500, SPREAD, "UDP", 0.001)),
        ("Judge._asked", Flood(Case.UNMATCHED, 8_000, SPREAD, "UDP", 0.001)),
        ("Judge._unfollowed", Flood(Case.NO_CREDENTIALS, 19_000, SPREAD, "UDP", 0.001)),
        ("Campaigns._accounts", Flood(Case.WRONG_PASSWORD, 6_000, SPREAD, "TLS", 0.001)),
        ("Campaigns._suspects", Flood(Case.WRONG_PASSWORD, 11_000, SPREAD - {"account"}, "TLS", 0.01)),
        ("Tally._sums", Flood(Case.RIGHT_PASSWORD, 21_000, SPREAD, "TLS", 0.001)),
        ("Trust._sources", Flood(Case.RIGHT_PASSWORD, 6_000, SPREAD, "TLS", 0.001)),
        ("Trust._sources{}", Flood(Case.RIGHT_PASSWORD, 300, SPREAD - {"source"}, "TLS", 0.001)),
        ("Source.dialogues", Flood(Case.STALE_NONCE, 400, SPREAD - {"source"}, "UDP", 0.001)),
        ("Source.guessed", Flood(Case.ENDPOINT_ACL, 400, SPREAD - {"source"}, "UDP", 0.001)),
        ("Source.accounts", Flood(Case.UNKNOWN_ACCOUNT, 200, SPREAD - {"source"}, "UDP", 0.001)),
        ("Neighbours._networks", Flood(Case.UNKNOWN_ACCOUNT, 9_500, SPREAD - {"account"}, "TLS", 0.001, TRIPWIRE)),
        ("Judge.repeats", Flood(Case.AMI_WRONG_SECRET, 400, SPREAD - {"source"}, "TCP", 0.001)),
        ("Alarms._said", Flood(Case.FULL_AOR, 11_000, SPREAD, "TLS", 2.0)),
    ],
)
def test_a_flood_fills_what_it_can_and_no_more(fills: str, flood: Flood) -> None:
    """Which shows that the table above is about what really grows."""
    policy = Policy(max_sources=5_000, max_trusted=5_000, unproven_bans=0, tripwires=frozenset({TRIPWIRE}))
    watch = Judge(policy, random=Random(0))
    now = pour(watch, [flood])
    check(watch)
    assert held(watch)[fills] >= 0.9 * bounds(policy)[fills]
    pour(watch, [flood._replace(number=flood.number // 5, first=flood.number)], now)
    check(watch)


def test_unproven_bans_have_a_share_of_the_set_and_no_more() -> None:
    policy = Policy(unproven_bans=1_000, unproven_entries=100, tripwires=frozenset({TRIPWIRE}))
    watch = Judge(policy, random=Random(0))
    flood = Flood(Case.UNKNOWN_ACCOUNT, 300, SPREAD - {"account"}, "UDP", 3.0, TRIPWIRE)
    pour(watch, [flood, flood._replace(account=TRIPWIRE.upper())])
    check(watch)
    assert len(watch.ledger.unproven) == len(watch.ledger) == 100


def test_broken_messages_are_remembered_for_a_moment_and_only_the_newest() -> None:
    watch = Judge(Policy(), random=Random(0))
    for number in range(2 * judge.MAX_BROKEN):
        watch.refuse(f"{number}".ljust(2 * TEXT_LIMIT, "x"), NOON)
    check(watch)
    assert held(watch)["Judge._broken"] == judge.MAX_BROKEN


def test_the_ladder_forgets_the_oldest_offender() -> None:
    watch = Judge(Policy(max_offenders=100), random=Random(0))
    pour(watch, [Flood(Case.AMI_WRONG_SECRET, 3, frozenset(), "TCP", 0.1)])
    first = next(iter(watch.ledger._sources[0]))
    for number in range(200):
        source = IPv4Address(f"203.0.113.{number}")
        for event in attempt_events(Case.AMI_WRONG_SECRET, source=source) * 3:
            watch.see(event, NOON + number)
    assert len(watch.ladder) == 100
    assert watch.ladder.level(first, NOON + 200) == 0
    assert watch.ledger.until(source_network(source)) is not None
    check(watch)
