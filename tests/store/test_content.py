"""What the tables hold after it was put."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from ipaddress import ip_address, ip_network
from pathlib import Path

from amiwatch.judgement.trust import MAX_PLACES
from amiwatch.judgement.values import Alert
from amiwatch.store.reader import Reader
from amiwatch.store.records import TIMES_LIMIT, AllowEntry, AttemptCount, Panic, Status, Trial
from amiwatch.store.requests import ask
from amiwatch.store.statements import SAMPLE_LIMIT, SAMPLE_ROWS
from amiwatch.store.writer import Store

from .conftest import NOON, OFFICE, make_attempt, make_ban

HOSTILE = "'); DROP TABLE bans; --\x1b[31m\x00\"%_\u202e"


async def test_attempts_of_the_same_ten_minutes_are_added_up(store: Store, path: Path) -> None:
    store.put_attempts([make_attempt(count=3), make_attempt(count=4, at=NOON + 30), make_attempt(at=NOON + 600)])
    await store.flush()
    store.put_attempts([make_attempt(count=5, at=NOON + 60)])
    await store.flush()
    with Reader(path) as reader:
        later, earlier = sorted(reader.attempts(), key=lambda row: -row.bucket)
    assert (earlier.attempts, earlier.first_at, earlier.last_at) == (12, NOON, NOON + 61)
    assert later.attempts == 1


async def test_the_time_of_each_attempt_is_kept_and_bounded(store: Store, path: Path) -> None:
    def put(*times: float) -> None:
        source = ip_address("203.0.113.7")
        store.put_attempts(
            [
                AttemptCount(
                    "office", source, "100", "PJSIP", "UDP", "unknown", len(times), times[0], times[-1], times, 1
                )
            ]
        )

    put(NOON + 0.25, NOON + 7)
    await store.flush()
    put(NOON + 9.126)
    await store.flush()
    begin = NOON // 600 * 600
    with Reader(path) as reader:
        (row,) = reader.attempts()
        assert [round(begin + int(text) / 100 - NOON, 2) for text in row.times.split(",")] == [0.25, 7.0, 9.13]
        assert row.answers == 2
    for _ in range(10):
        put(*[NOON + 10 + n / 10 for n in range(100)])
    await store.flush()
    with Reader(path) as reader:
        (row,) = reader.attempts()
    assert row.attempts == 1003
    assert len(row.times) < TIMES_LIMIT + 100 * len("60000,")


async def test_the_oldest_attempts_go_when_there_are_too_many(path: Path, said: list[str]) -> None:
    async with await Store.open(path, on_trouble=said.append, max_attempt_rows=500) as store:
        store.put_attempts([make_attempt(account=str(n), at=NOON + n * 600) for n in range(800)])
        await store.flush()
        with Reader(path) as reader:
            rows = list(reader.attempts())
        assert len(rows) <= 500
        assert max(int(row.account) for row in rows) == 799
        assert min(int(row.account) for row in rows) == 800 - len(rows)
        store._next_tick = 0.0
        await store.flush()
    assert "rows of attempts were deleted" in said[0]


async def test_hostile_text_is_only_text(store: Store, path: Path) -> None:
    store.put_attempts([make_attempt(account=HOSTILE * 20)])
    store.put_ban(make_ban(account=HOSTILE), **OFFICE)
    store.put_alert(Alert(NOON, "tripwire", ip_address("203.0.113.7"), HOSTILE, HOSTILE), pbx="office")
    store.put_trust(ip_network("203.0.113.7/32"), HOSTILE, NOON, NOON + 60, NOON)
    await store.flush()
    with Reader(path) as reader:
        (row,) = reader.attempts()
        (ban,) = reader.bans()
        (event,) = reader.evidence(ban.id)
        (alert,) = reader.alerts()
        (trust,) = reader.stored_trust(NOON)
    assert row.account == (HOSTILE * 20)[:128]
    assert event.account == alert.account == alert.reason == trust.account == HOSTILE


async def test_the_same_alert_within_an_hour_is_counted(store: Store, path: Path) -> None:
    address = ip_address("203.0.113.7")
    for at in (0, 60, 3599, 3700):
        store.put_alert(Alert(NOON + at, "old password", address, "100", f"after {at} s"), pbx="office")
    store.put_alert(Alert(NOON, "old password", None, "100", "from everywhere"), pbx="office")
    store.put_alert(Alert(NOON + 1, "old password", None, "100", "from everywhere"), pbx="office")
    await store.flush()
    with Reader(path) as reader:
        alerts = sorted((row.at - NOON, row.last_at - NOON, row.times, row.address) for row in reader.alerts())
    assert alerts == [(0, 1, 2, None), (0, 3599, 3, "203.0.113.7"), (3700, 3700, 1, "203.0.113.7")]


async def test_a_gap_has_a_begin_and_an_end(store: Store, path: Path) -> None:
    store.put_gap_begin("office", NOON, "connection lost")
    store.put_gap_begin("office", NOON + 1, "still down")
    store.put_gap_begin("branch", NOON + 2, "connection lost")
    store.put_gap_end("office", NOON + 30)
    store.put_gap_end("office", NOON + 40)
    store.put_link("office", NOON + 30, "connected", "198.51.100.1:5038")
    await store.flush()
    with Reader(path) as reader:
        (office,) = reader.gaps(pbx="office")
        (branch,) = reader.gaps(pbx="branch")
        (link,) = reader.links()
    assert (office.began_at, office.ended_at, office.reason) == (NOON, NOON + 30, "connection lost")
    assert branch.ended_at is None
    assert (link.state, link.detail) == ("connected", "198.51.100.1:5038")


async def test_the_allowlist_is_changed_and_runs_out(store: Store) -> None:
    store.put_allow(AllowEntry("192.0.2.0/24", "office", NOON, None, "alice"))
    store.put_allow(AllowEntry("192.0.2.0/24", "head office", NOON + 1, None, "bob"))
    store.put_allow(AllowEntry("sip.example.net", "carrier", NOON, NOON + 60, "alice"))
    store.put_allow(AllowEntry("203.0.113.9/32", "mistake", NOON, None, "alice"))
    store.put_disallow("203.0.113.9/32")
    await store.flush()
    assert [entry.target for entry in await store.allowlist(NOON)] == ["192.0.2.0/24", "sip.example.net"]
    (entry,) = await store.allowlist(NOON + 61)
    assert (entry.comment, entry.added_by) == ("head office", "bob")


async def test_there_is_one_panic_and_the_last_word_counts(store: Store) -> None:
    assert await store.panic() is None
    store.put_panic(Panic(NOON, None, "alice", "the phones are dead"))
    store.put_panic(Panic(NOON + 5, NOON + 60, "bob", ""))
    await store.flush()
    assert await store.panic() == Panic(NOON + 5, NOON + 60, "bob", "")
    store.put_resume()
    store.put_resume()
    await store.flush()
    assert await store.panic() is None


async def test_a_trial_is_kept_until_it_ends(store: Store) -> None:
    one = Trial(ip_network("203.0.113.7/32"), NOON, NOON + 60, None, "manual", "rang all night", "alice")
    other = Trial(ip_network("2001:db8:7::/64"), NOON, NOON + 30, NOON + 7200, "forced", "", "bob")
    store.put_trial(one)
    store.put_trial(other)
    await store.flush()
    assert await store.trials() == [other, one]
    store.put_trial_end(one.network)
    await store.flush()
    assert await store.trials() == [other]


async def test_a_request_carries_what_was_asked_for(store: Store, path: Path) -> None:
    ask(path, "ban", "203.0.113.7", seconds=60, is_forced=True, confirm=30, by="alice")
    ask(path, "ban", "203.0.113.8", by="alice")
    one, other = await store.pending_requests()
    assert (one.is_forced, one.confirm, one.seconds) == (True, 30, 60)
    assert (other.is_forced, other.confirm, other.seconds) == (False, None, None)


async def test_trust_is_extended_and_runs_out(store: Store) -> None:
    network = ip_network("192.0.2.7/32")
    store.put_trust(network, "100", NOON, NOON + 60, NOON)
    store.put_trust(network, "100", NOON + 30, NOON + 90, NOON + 30)
    await store.flush()
    (trust,) = await store.trust(NOON + 61)
    assert trust == (network, "100", NOON, NOON + 90, NOON + 30)
    assert await store.trust(NOON + 91) == []


async def test_trust_is_returned_in_the_order_of_the_last_logins(store: Store) -> None:
    for account, at in (("100", NOON + 20), ("101", NOON + 10), ("102", NOON + 30)):
        store.put_trust(ip_network("192.0.2.7/32"), account, at, at + 86_400, at)
    await store.flush()
    assert [trust.account for trust in await store.trust(NOON + 40)] == ["101", "100", "102"]


async def test_one_account_that_logs_in_from_everywhere_fills_no_disk(store: Store) -> None:
    store.put_trust(ip_network("192.0.2.7/32"), "honest", NOON, NOON + 86_400, NOON)
    for number in range(2 * MAX_PLACES):
        at = NOON + number
        store.put_trust(ip_network(f"2001:db8:0:{number:x}::/64"), "intruder", at, at + 86_400, at)
    await store.flush()
    trust = await store.trust(NOON + 1)
    assert [each.last_at - NOON for each in trust if each.account == "intruder"] == [*range(MAX_PLACES, 2 * MAX_PLACES)]
    assert len(trust) == MAX_PLACES + 1


async def test_only_the_latest_status_is_kept(store: Store, path: Path) -> None:
    with Reader(path) as reader:
        assert reader.status() is None
        for heartbeat in (1.0, 2.0):
            status = Status(7, NOON, NOON + heartbeat, "enforce", "0.1", "ipset", {"events": 12, "shed": 0})
            store.put_status(status)
        await store.flush()
        assert reader.status() == status


async def test_only_the_latest_tampered_samples_stay(store: Store, path: Path) -> None:
    for number in range(SAMPLE_ROWS + 5):
        store.put_tampered("office", NOON + number, b"Event: Odd\r\n" * 200)
    await store.flush()
    with closing(sqlite3.connect(path)) as db:
        rows, oldest = db.execute("SELECT count(*), min(at) FROM tampered").fetchone()
        assert (rows, oldest) == (SAMPLE_ROWS, NOON + 5)
        assert db.execute("SELECT max(length(sample)) FROM tampered").fetchone() == (SAMPLE_LIMIT,)
