from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from amiwatch.errors import StoreError
from amiwatch.judgement.values import Alert
from amiwatch.store import schema
from amiwatch.store.reader import Reader
from amiwatch.store.requests import ask
from amiwatch.store.writer import Store

from .conftest import NOON, OFFICE, make_attempt, make_ban


async def test_bans_are_listed_newest_first_and_page_by_page(store: Store, path: Path) -> None:
    for number in range(5):
        store.put_ban(make_ban(f"203.0.113.{number}", at=NOON + number), **OFFICE)
    await store.flush()
    with Reader(path) as reader:
        first = list(reader.bans(limit=2))
        second = list(reader.bans(limit=2, after=first[-1].id))
        assert reader.count_open(NOON + 10) == 5
        assert reader.count_open(NOON + 3602) == 2
    assert [ban.address for ban in first + second] == ["203.0.113.4", "203.0.113.3", "203.0.113.2", "203.0.113.1"]


async def test_bans_inside_a_network_are_found(store: Store, path: Path) -> None:
    for text in ("203.0.113.7", "203.0.114.7", "2001:db8:0:1::7", "2001:db9::7"):
        store.put_ban(make_ban(text), **OFFICE)
    await store.flush()
    with Reader(path) as reader:
        assert [ban.address for ban in reader.bans(within=ip_network("203.0.113.0/24"))] == ["203.0.113.7"]
        assert [ban.address for ban in reader.bans(within=ip_network("2001:db8::/32"))] == ["2001:db8:0:1::7"]
        assert len(list(reader.bans(within=ip_network("0.0.0.0/0")))) == 2


async def test_the_history_of_an_address_holds_the_networks_round_it(store: Store, path: Path) -> None:
    wide = make_ban("203.0.113.0", at=NOON - 60)
    store.put_ban(type(wide)(ip_network("203.0.113.0/24"), wide.address, NOON, 60, 0, "manual", ""), **OFFICE)
    for text in ("203.0.113.7", "203.0.113.8", "2001:db8::7"):
        store.put_ban(make_ban(text), **OFFICE)
    await store.flush()
    with Reader(path) as reader:
        history = reader.history(ip_network("203.0.113.7/32"))
        assert [ban.network for ban in history] == ["203.0.113.7/32", "203.0.113.0/24"]
        assert [ban.network for ban in reader.history(ip_network("2001:db8::1234/128"))] == ["2001:db8::/64"]
        (event,) = reader.evidence(history[0].id)
        assert (event.kind, event.account, event.address) == ("InvalidAccountID", "100", "203.0.113.7")
        assert reader.evidence(history[1].id) == []


async def test_top_offenders_and_attacked_accounts_are_counted(store: Store, path: Path) -> None:
    store.put_attempts([make_attempt("203.0.113.7", account=str(n), count=2) for n in range(5)])
    store.put_attempts(
        [make_attempt("203.0.113.8", account="3", count=4), make_attempt("203.0.113.9", at=NOON - 90_000)]
    )
    store.put_ban(make_ban("203.0.113.7"), **OFFICE)
    await store.flush()
    with Reader(path) as reader:
        offenders = reader.top_offenders(since=NOON - 86400, limit=10, now=NOON)
        accounts = reader.attacked_accounts(since=NOON - 86400, limit=1)
    assert [(row.address, row.attempts, row.accounts, row.is_banned) for row in offenders] == [
        ("203.0.113.7", 10, 5, 1),
        ("203.0.113.8", 4, 1, 0),
    ]
    assert [(row.account, row.attempts, row.sources) for row in accounts] == [("3", 6, 2)]


async def test_requests_are_listed_with_their_outcome(store: Store, path: Path) -> None:
    first = ask(path, "ban", "203.0.113.9/32", seconds=60, comment="rang all night", by="alice")
    second = ask(path, "unban", "192.0.2.1/32", by="bob")
    store.finish_request(first, "banned for 60 s", is_done=True)
    store.finish_request(second, "192.0.2.1/32 is not banned", is_done=False)
    await store.flush()
    with Reader(path) as reader:
        newer, older = reader.requests()
    assert (newer.asked_by, newer.is_done, newer.outcome) == ("bob", False, "192.0.2.1/32 is not banned")
    assert (older.seconds, older.comment, older.is_done) == (60, "rang all night", True)


def test_a_missing_database_says_what_to_do(path: Path) -> None:
    with pytest.raises(StoreError, match="start the daemon"):
        Reader(path)
    assert not path.exists()


def test_an_unknown_verb_is_refused(path: Path) -> None:
    with pytest.raises(ValueError, match="no such verb"):
        ask(path, "destroy", "", by="alice")


READ_AS_NOBODY = """
    import os, sys
    from pathlib import Path
    from amiwatch.errors import StoreError
    from amiwatch.store import schema
    from amiwatch.store.reader import Reader
    schema.migrations()  # the program itself may lie where nobody may read
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    try:
        with Reader(Path(sys.argv[1])) as reader:
            print(len(list(reader.bans())))
    except StoreError as error:
        print(error)
"""


def read_as_nobody(path: Path) -> str:
    """Read as a user who may not write the directory."""
    program = [sys.executable, "-c", textwrap.dedent(READ_AS_NOBODY), str(path)]
    return subprocess.run(program, stdout=subprocess.PIPE, text=True, check=True, timeout=20).stdout.strip()


@pytest.fixture
def public(tmp_path: Path) -> Path:
    """A database in a directory that everybody may read and only root may write."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to become nobody")
    for folder in (tmp_path, *tmp_path.parents):
        if folder == Path(tempfile.gettempdir()):
            break
        folder.chmod(0o755)
    return tmp_path / "amiwatch.db"


async def test_a_stopped_database_can_be_read_without_rights_to_write(public: Path) -> None:
    async with await Store.open(public) as store:
        store.put_ban(make_ban(), **OFFICE)
    public.chmod(0o644)
    assert read_as_nobody(public) == "1"


async def test_a_live_database_can_be_read_without_rights_to_write(public: Path) -> None:
    schema.prepare(public)
    public.chmod(0o644)
    async with await Store.open(public) as store:
        store.put_ban(make_ban(), **OFFICE)
        await store.flush()
        assert read_as_nobody(public) == "1"


async def test_an_unmerged_log_that_cannot_be_recovered_says_so(public: Path) -> None:
    async with await Store.open(public) as store:
        store.put_ban(make_ban(), **OFFICE)
        await store.flush()
        for suffix in ("", "-wal"):
            copy = public.with_name(f"left.db{suffix}")
            shutil.copy(f"{public}{suffix}", copy)
            copy.chmod(0o644)
    assert "not closed cleanly" in read_as_nobody(public.with_name("left.db"))


async def test_a_database_that_may_not_be_read_says_so(public: Path) -> None:
    await (await Store.open(public)).close()
    assert "rights" in read_as_nobody(public)


async def test_the_begin_of_the_newest_rows_is_found(store: Store, path: Path) -> None:
    store.put_attempts([make_attempt(at=NOON + n * 600) for n in range(10)])
    store.put_attempts([make_attempt("198.51.100.1", at=NOON + n * 600) for n in range(10)])
    await store.flush()
    one, begin = ip_network("203.0.113.7/32"), NOON // 600 * 600
    with Reader(path) as reader:
        assert reader.newest_rows_begin(3, since=NOON, within=one) == begin + 6 * 600
        assert reader.newest_rows_begin(10, since=NOON, within=one) == NOON
        assert reader.newest_rows_begin(3, since=NOON, within=ip_network("192.0.2.1/32")) == NOON


async def test_the_sources_of_an_account_are_listed_by_outcome(store: Store, path: Path) -> None:
    store.put_attempts(
        [make_attempt(count=2), make_attempt("198.51.100.1", at=NOON + 5), make_attempt("198.51.100.2", account="101")]
    )
    await store.flush()
    with Reader(path) as reader:
        found = reader.sources_of("100", limit=10)
        assert [(one.address, one.attempts) for one in found] == [("198.51.100.1", 1), ("203.0.113.7", 2)]
        inside = reader.sources_within(ip_network("198.51.100.0/24"), limit=10)
        assert {(one.address, one.attempts, one.accounts) for one in inside} == {
            ("198.51.100.1", 1, 1),
            ("198.51.100.2", 1, 1),
        }


async def test_alerts_about_accounts_and_about_everybody_are_told_from_those_about_addresses(
    store: Store, path: Path
) -> None:
    for kind, address, account, at in (
        ("account_attacked", None, "100", NOON),
        ("account_attacked", None, "200", NOON),
        ("mass_failure", None, "", NOON + 60),
        ("mass_failure", None, "", NOON + 9000),
        ("broken_phone", ip_address("203.0.113.7"), "100", NOON),
    ):
        store.put_alert(Alert(at, kind, address, account, "because"), pbx="office")
    await store.flush()
    with Reader(path) as reader:
        found = reader.alerts_about(["100"], since=NOON - 10, until=NOON + 600)
        assert [(one.kind, one.account) for one in found] == [("mass_failure", ""), ("account_attacked", "100")]
        assert {one.kind for one in reader.account_alerts("100", limit=9)} == {"account_attacked", "broken_phone"}
