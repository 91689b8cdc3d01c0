"""docs/database.md is held against a filled database: every query runs, and says what the page says it does."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import closing
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from amiwatch.judgement.values import Alert
from amiwatch.store.records import AllowEntry, AttemptCount, Panic, Status, Trial
from amiwatch.store.requests import ask
from amiwatch.store.writer import Store

from .conftest import OFFICE, make_ban

PAGE = (Path(__file__).parents[2] / "docs" / "database.md").read_text()
QUERIES = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)
NOW = float(int(time.time()))


@pytest.fixture
async def filled(store: Store, path: Path) -> AsyncIterator[sqlite3.Connection]:
    store.put_ban(make_ban(at=NOW - 7200, seconds=60), **OFFICE)
    store.put_ban(make_ban(at=NOW - 600, level=2), **OFFICE)
    store.put_ban(make_ban("2001:db8:0:7::9", at=NOW - 60, seconds=None), **OFFICE)
    store.put_ban(make_ban("203.0.113.8", at=NOW - 60), **OFFICE)
    store.put_lift(ip_network("203.0.113.8/32"), at=NOW - 30, by="alice", reason="our own phone")
    for source, account, count in (("203.0.113.7", "100", 7), ("203.0.113.7", "101", 1), ("203.0.113.9", "100", 2)):
        store.put_attempts(
            [AttemptCount("office", ip_address(source), account, "PJSIP", "UDP", "unknown", count, NOW, NOW, (NOW,))]
        )
    phone = ip_address("192.0.2.10")
    store.put_attempts([AttemptCount("office", phone, "200", "PJSIP", "UDP", "success", 99, NOW, NOW)])
    store.put_alert(
        Alert(NOW, "old password", ip_address("192.0.2.10"), "200", "the same account all day"), pbx="office"
    )
    store.put_link("office", NOW, "connected", "127.0.0.1:5038")
    store.put_gap_begin("office", NOW - 90, "connection lost")
    store.put_gap_end("office", NOW - 60)
    store.put_allow(AllowEntry("192.0.2.0/24", "office", NOW, None, "alice"))
    store.put_panic(Panic(NOW - 60, None, "alice", "the phones are dead"))
    tried = ip_network("203.0.113.9/32")
    store.put_trial(Trial(tried, NOW - 5, NOW + 300, NOW + 7200, "manual", "rang all night", "alice"))
    store.put_status(Status(7, NOW - 60, NOW, "enforce", "0.1", "ipset", {"events": 12}))
    store.finish_request(ask(path, "unban", "203.0.113.8/32", by="alice", comment="our own phone"), "unbanned", True)
    await store.flush()
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        db.row_factory = sqlite3.Row
        yield db


@pytest.mark.parametrize("query", QUERIES, ids=[" ".join(query.split())[:60] for query in QUERIES])
async def test_a_query_of_the_page_finds_something(filled: sqlite3.Connection, query: str) -> None:
    assert filled.execute(query).fetchall()


async def test_the_page_names_every_view(filled: sqlite3.Connection) -> None:
    views = [row["name"] for row in filled.execute("SELECT name FROM sqlite_schema WHERE type = 'view'")]
    table = PAGE[PAGE.index("## Views") : PAGE.index("## From Python")]
    assert sorted(re.findall(r"`(\w+)`", "\n".join(re.findall(r"^\| `.*?\|", table, re.MULTILINE)))) == sorted(views)


def rows(db: sqlite3.Connection, sql: str) -> list[tuple[object, ...]]:
    return [tuple(row) for row in db.execute(sql)]


async def test_banned_holds_what_lasts(filled: sqlite3.Connection) -> None:
    found = rows(filled, "SELECT network, until = 'for ever', level FROM banned ORDER BY network")
    assert found == [("2001:db8:0:7::/64", 1, 1), ("203.0.113.7/32", 0, 2)]


async def test_the_history_says_how_each_ban_ended(filled: sqlite3.Connection) -> None:
    found = rows(filled, "SELECT network, ended_why, ended_by FROM ban_history ORDER BY id")
    assert found == [
        ("203.0.113.7/32", "expired", ""),
        ("203.0.113.7/32", None, None),
        ("2001:db8:0:7::/64", None, None),
        ("203.0.113.8/32", "our own phone", "alice"),
    ]


async def test_a_phone_that_logs_in_is_no_offender(filled: sqlite3.Connection) -> None:
    assert rows(filled, "SELECT address, attempts, accounts, is_banned FROM top_offenders_24h") == [
        ("203.0.113.7", 8, 2, 1),
        ("203.0.113.9", 2, 1, 0),
    ]
    assert rows(filled, "SELECT account, sources, attempts FROM accounts_under_attack") == [
        ("100", 2, 9),
        ("101", 1, 1),
    ]


async def test_hours_add_up_by_outcome(filled: sqlite3.Connection) -> None:
    found = rows(filled, "SELECT outcome, attempts, sources, accounts FROM attempts_per_hour ORDER BY outcome")
    assert found == [("success", 99, 1, 1), ("unknown", 10, 2, 2)]


async def test_times_are_readable(filled: sqlite3.Connection) -> None:
    ((began, seconds),) = rows(filled, "SELECT began, seconds FROM link_gaps")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", str(began))
    assert seconds == 30.0
    ((at,),) = rows(filled, "SELECT at FROM ban_evidence WHERE network = '203.0.113.8/32'")
    assert str(at).endswith(".000Z")


async def test_the_audit_says_who_asked_and_what_became_of_it(filled: sqlite3.Connection) -> None:
    assert rows(filled, "SELECT asked_by, verb, state, outcome FROM request_audit") == [
        ("alice", "unban", "done", "unbanned")
    ]
