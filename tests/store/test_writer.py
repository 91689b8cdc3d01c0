from __future__ import annotations

import subprocess
import sys
import textwrap
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from amiwatch.judgement.networks import source_key
from amiwatch.store.reader import Reader
from amiwatch.store.requests import ask, wait_outcome, withdraw
from amiwatch.store.writer import Store

from .conftest import NOON, OFFICE, make_ban


async def test_a_ban_is_read_back_after_a_restart(path: Path) -> None:
    async with await Store.open(path) as store:
        store.put_ban(make_ban("203.0.113.7", level=2), **OFFICE)
        store.put_ban(make_ban("2001:db8::7", seconds=None), **OFFICE)
    async with await Store.open(path) as store:
        bans = {str(ban.network): ban for ban in await store.active_bans(NOON)}
    assert bans.keys() == {"203.0.113.7/32", "2001:db8::/64"}
    assert (bans["203.0.113.7/32"].until, bans["203.0.113.7/32"].level) == (NOON + 3600, 2)
    assert bans["2001:db8::/64"].until is None


async def test_a_lifted_ban_is_not_active_and_says_who_lifted_it(store: Store, path: Path) -> None:
    store.put_ban(make_ban(), **OFFICE)
    store.put_lift(ip_network("203.0.113.7/32"), at=NOON + 60, by="alice", reason="our own phone")
    await store.flush()
    assert await store.active_bans(NOON + 61) == []
    with Reader(path) as reader:
        (ban,) = reader.bans()
    assert (ban.ended_at, ban.ended_by, ban.ended_why) == (NOON + 60, "alice", "our own phone")


async def test_a_ban_that_ran_out_is_not_active(store: Store) -> None:
    store.put_ban(make_ban(seconds=60), **OFFICE)
    await store.flush()
    assert len(await store.active_bans(NOON + 59)) == 1
    assert await store.active_bans(NOON + 61) == []


async def test_a_second_ban_of_a_network_replaces_the_first(store: Store, path: Path) -> None:
    store.put_ban(make_ban(), **OFFICE)
    store.put_ban(make_ban(at=NOON + 10, seconds=7200, level=2), **OFFICE)
    await store.flush()
    with Reader(path) as reader:
        newer, older = reader.bans()
        (active,) = reader.bans(open_at=NOON + 11)
        (offender,) = reader.stored_offenders(0)
    assert newer == active
    assert (older.ended_at, older.ended_why) == (NOON + 10, "replaced")
    assert (offender.level, offender.bans, offender.first_at, offender.last_at) == (2, 2, NOON, NOON + 10)


async def test_bans_and_lifts_of_one_network_are_written_in_their_order(store: Store) -> None:
    store.put_ban(make_ban(), **OFFICE)
    store.put_lift(ip_network("203.0.113.7/32"), at=NOON + 1, by="alice", reason="")
    store.put_ban(make_ban(at=NOON + 2), **OFFICE)
    await store.flush()
    (ban,) = await store.active_bans(NOON + 3)
    assert ban.at == NOON + 2


async def test_a_request_from_another_process_is_noticed_and_answered(store: Store, path: Path) -> None:
    before = await store.data_version()
    request_id = ask(path, "unban", "203.0.113.7", by="alice", comment="sorry")
    assert await store.data_version() != before
    (request,) = await store.pending_requests()
    assert (request.id, request.verb, request.target, request.asked_by) == (request_id, "unban", "203.0.113.7", "alice")

    store.finish_request(request.id, "203.0.113.7/32 is unbanned", is_done=True)
    assert await store.pending_requests() == []
    await store.flush()
    outcome = wait_outcome(path, request_id, timeout=1)
    assert outcome is not None
    assert (outcome.is_done, outcome.text) == (True, "203.0.113.7/32 is unbanned")
    assert withdraw(path, request_id) is False


async def test_our_own_commits_do_not_change_the_data_version(store: Store) -> None:
    before = await store.data_version()
    store.put_ban(make_ban(), **OFFICE)
    await store.flush()
    assert await store.data_version() == before


async def test_a_request_that_nobody_takes_can_be_withdrawn(store: Store, path: Path) -> None:
    request_id = ask(path, "ban", "203.0.113.9/32", seconds=60, by="alice")
    assert wait_outcome(path, request_id, timeout=0) is None
    assert withdraw(path, request_id) is True
    assert await store.pending_requests() == []


ENDS = """
    import asyncio, sys
    from pathlib import Path
    from amiwatch.store.writer import Store

    async def main():
        store = await Store.open(Path(sys.argv[1]))
        await store.close()
        await store.close()

    asyncio.run(main())
"""


def test_a_program_that_closed_its_store_ends(path: Path) -> None:
    program = [sys.executable, "-c", textwrap.dedent(ENDS), str(path)]
    assert subprocess.run(program, timeout=20, check=False).returncode == 0
    assert [file.name for file in path.parent.iterdir()] == ["amiwatch.db"]


async def test_a_pardon_forgets_the_rung_and_keeps_the_history(store: Store) -> None:
    store.put_ban(make_ban(level=3, seconds=60), **OFFICE)
    store.put_pardon(ip_network("203.0.113.7/32"))
    await store.flush()
    (offender,) = await store.offenders()
    assert (offender.level, offender.bans, offender.until) == (0, 1, NOON + 60)


async def test_of_many_offenders_the_last_are_remembered_in_their_order(store: Store) -> None:
    for last, age in ((7, 2), (8, 0), (9, 1)):
        store.put_ban(make_ban(f"203.0.113.{last}", at=NOON - age), **OFFICE)
    await store.flush()
    found = [str(each.network) async for chunk in store.offender_chunks(NOON - 60, limit=2) for each in chunk]
    assert found == ["203.0.113.9/32", "203.0.113.8/32"]


@pytest.mark.parametrize(
    ("network", "source"),
    [
        ("203.0.113.7/32", "203.0.113.7"),
        ("203.0.113.0/24", None),
        ("2001:db8:0:7::/64", "2001:db8:0:7::1"),
        ("2001:db8::/32", None),
    ],
)
async def test_a_ban_of_one_source_comes_back_with_its_number(store: Store, network: str, source: str | None) -> None:
    store.put_ban(replace(make_ban(), network=ip_network(network)), **OFFICE)
    await store.flush()
    [ban], [offender] = await store.active_bans(NOON), await store.offenders()
    assert (str(ban.network), ban.source) == (network, source and source_key(ip_address(source)))
    assert offender.source == source_key(ip_network(network).network_address)


async def test_a_ban_that_was_only_observed_does_not_count_for_the_ladder(store: Store) -> None:
    store.put_ban(make_ban(), pbx="office", origin="rule", is_enforced=False)
    await store.flush()
    assert await store.offenders() == []
    (ban,) = await store.active_bans(NOON)
    assert ban.is_enforced is False
