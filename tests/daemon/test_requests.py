"""What people ask for through the database: every row gets an answer, and none does harm."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import closing
from ipaddress import ip_network
from pathlib import Path

import pytest

from amiwatch.config import load
from amiwatch.errors import ConfigurationError, FirewallError
from amiwatch.firewall.base import MAX_TIMEOUT
from amiwatch.store import requests
from amiwatch.store.reader import Reader
from amiwatch.testing.firewall import FakeFirewall
from tests.daemon.conftest import PATIENCE, Start, Watched
from tests.nameserver import NameServer

HOSTILE = "\x1b[31m\r\nINFO banned network=0.0.0.0/0 \u202e'; DROP TABLE bans; --\0" + "x" * 5000


class Office:
    """Somebody who asks, and the kernel that obeys."""

    def __init__(self, it: Watched, firewall: FakeFirewall, path: Path) -> None:
        self.it, self.firewall, self.path = it, firewall, path

    def put(self, *rows: tuple[str, str, int | None, str]) -> list[int]:
        with closing(sqlite3.connect(self.path, timeout=5)) as db, db:
            sql = "INSERT INTO requests (at, asked_by, verb, target, seconds, comment) VALUES (0, 'alice', ?, ?, ?, ?)"
            return [db.execute(sql, row).lastrowid or 0 for row in rows]

    async def ask(self, verb: str, target: str = "", seconds: int | None = None, comment: str = "") -> requests.Outcome:
        # In a thread, for the daemon of this event loop may hold the lock that this waits for.
        (number,) = await asyncio.to_thread(self.put, (verb, target, seconds, comment))
        return await self.outcome(number)

    async def outcome(self, number: int) -> requests.Outcome:
        found = await asyncio.to_thread(requests.wait_outcome, self.path, number, PATIENCE)
        assert found is not None
        return found

    async def kernel(self) -> dict[str, int | None]:
        return {str(entry.network): entry.seconds for entry in await self.firewall.entries()}


@pytest.fixture
async def office(watched: Start, tmp_path: Path) -> AsyncIterator[Office]:
    firewall = FakeFirewall()
    async with watched(firewall, allowlist="192.0.2.0/24", ban_time="1h,1d") as it:
        yield Office(it, firewall, tmp_path / "amiwatch.db")
        assert not it.task.done()
        assert it.daemon.faults == 0


async def test_a_ban_lasts_as_long_as_was_asked_for(office: Office) -> None:
    assert (await office.ask("ban", "203.0.113.1")).text == "203.0.113.1/32 banned for 1 h"
    assert (await office.ask("ban", "203.0.113.2", 7200)).text == "203.0.113.2/32 banned for 2 h"
    assert (await office.ask("ban", "203.0.113.3", 0)).text == "203.0.113.3/32 banned for ever"
    assert (await office.ask("ban", "203.0.114.0/24", 40 * 86400)).text == "203.0.114.0/24 banned for 40 d"
    assert (await office.ask("ban", "2001:db8:1:2::99")).text == "2001:db8:1:2::/64 banned for 1 h"
    found = await office.kernel()
    assert found["203.0.113.3/32"] is None
    assert found["203.0.114.0/24"] == MAX_TIMEOUT
    assert set(found) >= {"203.0.113.1/32", "203.0.113.2/32", "2001:db8:1:2::/64"}


@pytest.mark.parametrize(
    ("verb", "target", "seconds", "why"),
    [
        ("ban", "no address", None, "is no address and no network"),
        ("ban", "", None, "is no address and no network"),
        ("ban", "203.0.113.1; reboot", None, "is no address and no network"),
        ("ban", "203.0.113.1", -5, "is no duration"),
        ("ban", "203.0.113.1", 2**62, "is no duration"),
        ("ban", "192.0.2.77", None, "192.0.2.0/24 is AMIWATCH_ALLOWLIST"),
        ("ban", "192.0.0.0/16", None, "is never banned"),
        ("ban", "127.0.0.1", None, "is never banned"),
        ("ban", "::1", None, "is never banned"),
        ("ban", "fe80::1", None, "a neighbour on the same link"),
        ("ban", "0.0.0.0/0", None, "127.0.0.0/8 is loopback"),
        ("ban", "203.0.0.0/15", None, "wider than a /16"),
        ("ban", "2001:db8::/31", None, "wider than a /32"),
        ("ban", "203.0.113.1/24", None, "write 203.0.113.1 or 203.0.113.0/24"),
        ("ban", "2001:db8:1::1/48", None, "write 2001:db8:1::1 or 2001:db8:1::/48"),
        ("ban", "::1/64", None, "is never banned"),
        ("ban", "192.0.2.0/24", None, "192.0.2.0/24 is never banned: it is AMIWATCH_ALLOWLIST"),
        ("unban", "203.0.113.1/24", None, "write 203.0.113.1 or 203.0.113.0/24"),
        ("allow", "203.0.113.1/24", None, "write 203.0.113.1 or 203.0.113.0/24"),
        ("unban", "203.0.113.1", None, "was not banned"),
        ("unban", "x" * 300, None, "is no address"),
        ("allow", "not a name", None, "is no address, network or DNS name"),
        ("allow", "a" * 64 + ".example", None, "is no address, network or DNS name"),
        ("allow", "203.0.113.1", -1, "is no duration"),
        ("disallow", "203.0.113.1", None, "is not on the allowlist"),
        ("forget", "", -1, "is no duration"),
        ("forget", "nowhere", None, "is no address"),
        ("format", "203.0.113.1", None, "'format' is nothing I can do"),
        ("", "", None, "'' is nothing I can do"),
    ],
)
async def test_what_can_not_be_done_is_refused_and_changes_nothing(
    office: Office, verb: str, target: str, seconds: int | None, why: str
) -> None:
    outcome = await office.ask(verb, target, seconds)
    assert not outcome.is_done
    assert why in outcome.text
    assert await office.kernel() == {}


async def test_hostile_texts_forge_no_line_of_the_log_and_are_kept_as_text(
    office: Office, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "amiwatch")
    await office.ask("ban", "203.0.113.1", comment=HOSTILE)
    await office.ask("unban", "203.0.113.1", comment=HOSTILE)
    await office.ask(HOSTILE, HOSTILE, comment=HOSTILE)
    await office.ask("allow", "203.0.113.0/24", comment=HOSTILE)
    await office.ask("allow", HOSTILE)
    await office.it.attack("203.0.113.9")
    await office.it.watcher.until(lambda: bool(office.it.watcher.alerts))
    assert not [text for text in caplog.messages if not text.isprintable()]
    await office.it.daemon.flush()
    with Reader(office.path) as reader:
        (ban,) = reader.bans()
        assert "DROP TABLE" in ban.reason


async def test_an_unban_inside_a_banned_network_says_which(office: Office) -> None:
    await office.ask("ban", "203.0.113.0/24")
    outcome = await office.ask("unban", "203.0.113.7")
    assert outcome == requests.Outcome(False, "203.0.113.7/32 lies in the banned 203.0.113.0/24: unban that")
    assert (await office.ask("unban", "203.0.113.0/24")).is_done
    assert await office.kernel() == {}


async def test_the_unban_of_a_network_lifts_every_ban_inside_it_and_says_how_many(office: Office) -> None:
    for target in ("203.0.113.0", "203.0.113.7", "203.0.113.128/25", "198.51.100.7"):
        await office.ask("ban", target)
    outcome = await office.ask("unban", "203.0.113.0/24")
    assert outcome == requests.Outcome(True, "203.0.113.0/24 itself was not banned; 3 bans inside it lifted")
    assert set(await office.kernel()) == {"198.51.100.7/32"}
    for target in ("203.0.113.0", "203.0.113.0/24"):
        await office.ask("ban", target)
    outcome = await office.ask("unban", "203.0.113.0/24")
    assert outcome == requests.Outcome(True, "203.0.113.0/24 unbanned; 1 ban inside it lifted")
    assert set(await office.kernel()) == {"198.51.100.7/32"}


async def test_an_unban_of_ipv6_does_the_same(office: Office) -> None:
    for target in ("2001:db8:1::1", "2001:db8:1:2::1", "2001:db8:2::1"):
        await office.ask("ban", target)
    outcome = await office.ask("unban", "2001:db8:1::/48")
    assert outcome == requests.Outcome(True, "2001:db8:1::/48 itself was not banned; 2 bans inside it lifted")
    assert set(await office.kernel()) == {"2001:db8:2::/64"}


async def test_whoever_is_unbanned_with_his_network_begins_the_ladder_anew(office: Office) -> None:
    for _ in range(2):
        await office.it.attack("203.0.113.7")
        await office.it.watcher.until(lambda: bool(office.it.watcher.bans))
        assert [ban.level for ban, _ in office.it.watcher.bans] == [1]
        await office.ask("unban", "203.0.113.0/24")
        office.it.watcher.bans.clear()


async def test_an_unban_says_which_networks_around_are_still_banned(office: Office) -> None:
    for target in ("203.0.113.7", "203.0.113.0/24", "203.0.0.0/16"):
        await office.ask("ban", target)
    around = "203.0.113.0/24 and 203.0.0.0/16"
    outcome = await office.ask("unban", "203.0.113.7")
    assert outcome == requests.Outcome(
        True, f"203.0.113.7/32 unbanned; but it lies in the banned {around}: unban that, too"
    )
    outcome = await office.ask("unban", "203.0.113.0/24")
    assert outcome.text == "203.0.113.0/24 unbanned; but it lies in the banned 203.0.0.0/16: unban that, too"


async def test_a_mapped_address_is_the_ipv4_address(office: Office) -> None:
    assert (await office.ask("ban", "::ffff:203.0.113.1")).text == "203.0.113.1/32 banned for 1 h"
    assert (await office.ask("unban", "::ffff:cb00:7101")).is_done


async def test_ban_and_unban_in_one_go_end_as_the_last_one_says(office: Office) -> None:
    one, other = ("203.0.113.1", None, ""), ("203.0.113.2", None, "")
    numbers = office.put(
        ("ban", *one), ("unban", *one), ("ban", *other), ("unban", *other), ("ban", *other), ("ban", *other)
    )
    assert [(await office.outcome(number)).is_done for number in numbers] == [True] * 6
    assert set(await office.kernel()) == {"203.0.113.2/32"}
    await office.it.daemon.flush()
    with Reader(office.path) as reader:
        assert [ban.network for ban in reader.bans(open_at=time.time())] == ["203.0.113.2/32"]


async def test_a_thousand_requests_at_once_are_answered_once_each(office: Office) -> None:
    rows = [("ban", f"203.0.{113 + number // 250}.{number % 250}", None, "") for number in range(1000)]
    numbers = office.put(*rows)
    assert (await office.outcome(numbers[-1])).is_done
    await office.it.daemon.flush()
    with Reader(office.path) as reader:
        assert all(request.is_done for request in reader.requests())
        assert reader.count("bans") == 1000
        assert reader.count_open(time.time()) == 1000
    assert len(await office.kernel()) == 1000
    assert (await office.ask("unban-all")).text == "1000 bans lifted"
    assert await office.kernel() == {}
    await office.it.daemon.flush()
    with Reader(office.path) as reader:
        assert reader.count_open(time.time()) == 0


@pytest.mark.kernel
async def test_allowing_a_name_lifts_its_ban_and_disallowing_takes_it_back(office: Office) -> None:
    assert (await office.ask("allow", "LOCALHOST.")).text == "localhost is never banned from now on"
    assert ip_network("127.0.0.1/32") in office.it.daemon.allowlist.networks
    outcome = await office.ask("allow", "nowhere.invalid")
    assert outcome.is_done
    assert outcome.text.endswith("; but no name server has answered for it yet, so it protects nobody until it has one")
    with NameServer({}):
        outcome = await office.ask("allow", "nowhere.invalid")
    assert outcome.text.endswith("; but the name has no address now, so it protects nobody until it has one")
    await office.ask("ban", "203.0.113.1")
    assert (await office.ask("allow", "203.0.113.1")).text == "203.0.113.1/32 is never banned from now on; 1 ban lifted"
    assert not (await office.ask("ban", "203.0.113.1")).is_done
    assert (await office.ask("disallow", "203.0.113.1")).is_done
    assert (await office.ask("ban", "203.0.113.1")).is_done
    for name in ("localhost", "nowhere.invalid"):
        assert (await office.ask("disallow", name)).is_done
    assert office.it.daemon.allowlist.resolved.keys() == {"127.0.0.1"}


async def test_an_allow_with_an_end_ends(office: Office) -> None:
    assert (await office.ask("allow", "203.0.113.1", 1)).text == "203.0.113.1/32 is never banned for 1 s from now on"
    assert not (await office.ask("ban", "203.0.113.1")).is_done
    async with asyncio.timeout(PATIENCE):
        while ip_network("203.0.113.1/32") in office.it.daemon.allowlist.networks:
            await office.it.daemon.allowlist.refresh()
    assert (await office.ask("ban", "203.0.113.1")).is_done


async def test_a_target_in_the_table_that_is_no_name_ends_nothing_and_can_be_removed(office: Office) -> None:
    target = "a" * 70 + ".example"
    with closing(sqlite3.connect(office.path, timeout=5)) as db, db:
        db.execute("INSERT INTO allowlist VALUES (?, '', 0, NULL, 'by hand')", (target,))
    await office.it.daemon.allowlist.refresh()
    assert (await office.ask("disallow", target)).is_done


async def test_forget_deletes_what_ended_and_keeps_what_lasts(office: Office) -> None:
    await office.ask("ban", "203.0.113.1")
    await office.ask("ban", "203.0.113.2")
    await office.ask("unban", "203.0.113.1")
    assert "deleted" in (await office.ask("forget", "203.0.113.1")).text
    assert "unban it first" in (await office.ask("forget", "203.0.113.2")).text
    with Reader(office.path) as reader:
        assert [ban.network for ban in reader.bans()] == ["203.0.113.2/32"]
    assert (await office.ask("forget", "", 0)).is_done


async def test_a_reload_that_fails_is_answered_and_changes_nothing(office: Office) -> None:
    def broken() -> None:
        raise ConfigurationError(["AMIWATCH_POLICY: there is no such policy"])

    policy = office.it.daemon.judge.policy
    office.it.daemon._read_settings = broken  # type: ignore[assignment]
    assert await office.ask("reload") == requests.Outcome(False, "AMIWATCH_POLICY: there is no such policy")
    assert office.it.daemon.judge.policy is policy


async def test_a_reload_that_can_not_read_a_file_or_finds_no_secret_changes_nothing(
    office: Office, tmp_path: Path
) -> None:
    before = office.it.daemon.settings
    for environ, path, why in (
        ({"AMIWATCH_AMI__SECRET": "secret"}, tmp_path, "can't be read"),
        ({}, tmp_path / "none", "SECRET is missing"),
    ):
        new = load(environ=environ, env_file=None, default_config=path)
        office.it.daemon._read_settings = lambda new=new: new  # type: ignore[misc]
        answer = await office.ask("reload")
        assert not answer.is_done
        assert why in answer.text
    assert office.it.daemon.settings is before
    assert ip_network("192.0.2.0/24") in office.it.daemon.allowlist.networks


async def test_a_fault_in_one_request_keeps_no_other_from_being_answered(
    office: Office, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> None:
        raise RuntimeError("nobody expected this")

    office.it.daemon._read_settings = broken  # type: ignore[assignment]
    first, second = office.put(("reload", "", None, ""), ("ban", "203.0.113.1", None, ""))
    assert not (await office.outcome(first)).is_done
    assert (await office.outcome(second)).is_done
    assert any("request failed by a fault of amiwatch" in text for text in caplog.messages)


async def test_an_answer_says_so_when_the_kernel_refuses(office: Office) -> None:
    office.firewall.fail_next(FirewallError("busy"), times=3)
    assert "the kernel refuses changes now" in (await office.ask("ban", "203.0.113.1")).text
    async with asyncio.timeout(PATIENCE):
        while office.it.daemon.has_firewall_trouble:  # noqa: ASYNC110 - only the log tells
            await asyncio.sleep(0.05)
    assert set(await office.kernel()) == {"203.0.113.1/32"}
