"""Panic lifts everything and holds it; bans on trial end by themselves; force insists, but not on everything."""

from __future__ import annotations

import asyncio
import os
import socket
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import closing, suppress
from ipaddress import ip_network
from pathlib import Path

import pytest
from pyroute2 import IPRoute

from amiwatch.daemon import host
from amiwatch.errors import FirewallError, StoreError
from amiwatch.firewall.base import Entry
from amiwatch.store import requests
from amiwatch.store.note import leave_note, note_path
from amiwatch.store.reader import Reader
from amiwatch.store.records import Panic
from amiwatch.testing.firewall import FakeFirewall
from amiwatch.testing.netns import Wire
from tests.daemon.conftest import PATIENCE, Start, Watched

HOUR = 3600
ONLINK = 4
"""RTNH_F_ONLINK, linux/rtnetlink.h: the gateway need not be reachable."""


class Site:
    """A daemon with its kernel and database, and people who ask."""

    def __init__(self, it: Watched, firewall: FakeFirewall, path: Path) -> None:
        self.it, self.firewall, self.path = it, firewall, path

    async def ask(self, verb: str, target: str = "", **more: int | bool | str) -> requests.Outcome:
        more.setdefault("by", "alice")
        number = await asyncio.to_thread(requests.ask, self.path, verb, target, **more)  # type: ignore[arg-type]
        found = await asyncio.to_thread(requests.wait_outcome, self.path, number, PATIENCE)
        assert found is not None
        return found

    async def kernel(self) -> dict[str, int | None]:
        return {str(entry.network): entry.seconds for entry in await self.firewall.entries()}

    async def until_kernel(self, *, is_empty: bool) -> None:
        async with asyncio.timeout(PATIENCE):
            while bool(await self.kernel()) is is_empty:  # noqa: ASYNC110 - see below
                await asyncio.sleep(0.02)

    async def until(self, is_true: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not is_true():  # noqa: ASYNC110 - the daemon looks; nobody is told
                await asyncio.sleep(0.02)


@pytest.fixture
async def site(watched: Start, tmp_path: Path) -> AsyncIterator[Site]:
    firewall = FakeFirewall()
    async with watched(firewall, allowlist="192.0.2.0/24", ban_time="1h,1d") as it:
        yield Site(it, firewall, tmp_path / "amiwatch.db")
        assert not it.task.done()
        assert it.daemon.faults == 0


async def test_panic_empties_the_kernel_and_resume_puts_back_what_has_time_left(site: Site) -> None:
    await site.ask("ban", "203.0.113.1", seconds=2 * HOUR)
    await site.ask("ban", "203.0.113.2", seconds=0)
    await site.ask("ban", "2001:db8:1::/64", seconds=5)
    outcome = await site.ask("panic", comment="the phones are dead")
    assert outcome == requests.Outcome(True, "nothing is dropped until 'amiwatch resume'; 3 bans held")
    assert await site.kernel() == {}
    site.firewall.advance(600)  # the kernel's clock; ours stands nearly still
    await site.until(lambda: not site.it.daemon.judge.ledger.until(ip_network("2001:db8:1::/64")))
    assert (await site.ask("resume")).text == "2 bans in force again"
    found = await site.kernel()
    assert found["203.0.113.2/32"] is None
    assert found["203.0.113.1/32"] in range(2 * HOUR - 15, 2 * HOUR)
    assert len(found) == 2


async def test_judging_and_recording_go_on_in_a_panic(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "amiwatch")
    await site.ask("panic")
    await site.it.attack("203.0.113.9")
    await site.it.watcher.until_banned("203.0.113.9/32")
    assert await site.kernel() == {}
    assert [seconds for _, seconds in site.it.watcher.bans] == [None]
    assert [text for text in caplog.messages if text.startswith("would have banned, held by panic")]
    assert not [text for text in caplog.messages if "not enforced yet" in text]
    assert "; but PANIC: nothing is dropped" in (await site.ask("ban", "203.0.113.8")).text
    await site.ask("resume")
    assert set(await site.kernel()) == {"203.0.113.9/32", "203.0.113.8/32"}


async def test_what_somebody_adds_in_a_panic_is_taken_out_again(site: Site) -> None:
    await site.ask("panic")
    await site.firewall.add([Entry(ip_network("203.0.113.7"), 600)])
    await site.until_kernel(is_empty=True)


async def test_a_panic_survives_a_restart_and_so_do_the_bans(watched: Start, tmp_path: Path) -> None:
    firewall, path = FakeFirewall(), tmp_path / "amiwatch.db"
    async with watched(firewall) as it:
        site = Site(it, firewall, path)
        await site.ask("ban", "203.0.113.1", seconds=2 * HOUR)
        await site.ask("panic", comment="the phones are dead")
    assert await site.kernel() == {}
    async with watched(firewall) as it:
        site = Site(it, firewall, path)
        assert it.daemon.hold.panic is not None
        assert (it.daemon.hold.panic.asked_by, it.daemon.hold.panic.comment) == ("alice", "the phones are dead")
        assert await site.kernel() == {}
        assert (await site.ask("resume")).is_done
        assert list(await site.kernel()) == ["203.0.113.1/32"]
    async with watched(firewall) as it:
        assert it.daemon.hold.panic is None


async def test_a_panic_for_a_time_ends_by_itself(site: Site) -> None:
    await site.ask("ban", "203.0.113.1")
    assert "nothing is dropped for 1 s, or until 'amiwatch resume'" in (await site.ask("panic", seconds=1)).text
    assert await site.kernel() == {}
    await site.until(lambda: site.it.daemon.hold.panic is None)
    await site.until_kernel(is_empty=False)
    await site.it.daemon.flush()
    with Reader(site.path) as reader:
        assert reader.panic() is None


async def test_a_panic_whose_time_ended_while_no_daemon_ran_is_over(watched: Start, tmp_path: Path) -> None:
    firewall, path = FakeFirewall(), tmp_path / "amiwatch.db"
    async with watched(firewall) as it:
        site = Site(it, firewall, path)
        await site.ask("ban", "203.0.113.1")
        await site.ask("panic", seconds=HOUR)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE panic SET at = at - 7200, until = until - 7200")
    async with watched(firewall) as it:
        site = Site(it, firewall, path)
        await site.until(lambda: it.daemon.hold.panic is None)
        await site.until_kernel(is_empty=False)


async def test_resume_without_a_panic_says_so(site: Site) -> None:
    assert await site.ask("resume") == requests.Outcome(False, "there was no panic: it enforces")


async def test_a_kernel_that_refuses_to_be_emptied_is_asked_again(site: Site) -> None:
    await site.ask("ban", "203.0.113.1")
    site.firewall.fail_next(FirewallError("The kernel is busy."), times=1)
    outcome = await site.ask("panic")
    await site.until_kernel(is_empty=True)
    assert site.it.daemon.hold.panic is not None
    assert outcome.is_done or "The kernel is busy." in outcome.text


async def test_a_panic_is_taken_from_a_file_where_the_database_is_locked(site: Site) -> None:
    await site.ask("ban", "203.0.113.1")
    with closing(sqlite3.connect(site.path, isolation_level=None)) as lock:
        lock.execute("BEGIN EXCLUSIVE")
        leave_note(site.path, Panic(time.time(), None, "alice", "the phones are dead"))
        await site.until(lambda: site.it.daemon.hold.panic is not None)
        await site.until_kernel(is_empty=True)
        assert note_path(site.path).exists()
        lock.execute("ROLLBACK")
    await site.until(lambda: not note_path(site.path).exists())
    with Reader(site.path) as reader:
        panic = reader.panic()
        assert panic is not None
        assert panic.asked_by == "alice"
    assert (await site.ask("resume")).text == "1 ban in force again"


async def test_a_panic_in_a_file_that_no_daemon_saw_survives_its_second_start(watched: Start, tmp_path: Path) -> None:
    firewall, path = FakeFirewall(), tmp_path / "amiwatch.db"
    async with watched(firewall) as it:
        await Site(it, firewall, path).ask("ban", "203.0.113.1")
    leave_note(path, Panic(time.time(), None, "alice", "the phones are dead"))
    async with watched(firewall) as it:
        site = Site(it, firewall, path)
        assert await site.kernel() == {}
        await site.until(lambda: not note_path(path).exists())
    async with watched(firewall) as it:
        site = Site(it, firewall, path)
        assert await site.kernel() == {}
        assert (await site.ask("resume")).text == "1 ban in force again"


async def test_what_is_no_file_is_no_note_and_hangs_nobody(site: Site) -> None:
    os.mkfifo(note_path(site.path))
    await site.ask("ban", "203.0.113.1")
    assert site.it.daemon.hold.panic is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "stop!",
        "[]",
        '{"at": "x"}',
        '{"at": NaN, "until": Infinity, "asked_by": "x", "comment": ""}',
        '{"at": 1, "until": 1e300, "asked_by": "x", "comment": ""}',
        "[" * 4000,
        "\x00" * 9000,
    ],
    ids=range(8),
)
async def test_whatever_stands_in_the_file_it_means_panic(site: Site, text: str) -> None:
    note_path(site.path).write_text(text)
    await site.until(lambda: site.it.daemon.hold.panic is not None and not note_path(site.path).exists())


async def test_a_new_database_learns_of_the_panic(site: Site) -> None:
    await site.ask("panic")
    site.path.unlink()
    for suffix in ("-wal", "-shm"):
        Path(f"{site.path}{suffix}").unlink(missing_ok=True)
    await site.it.attack("203.0.113.9")

    def is_told() -> bool:
        if not site.path.exists():
            return False
        with suppress(StoreError), Reader(site.path) as reader:
            return reader.panic() is not None
        return False

    await site.until(is_told)


# Bans on trial.


async def test_a_ban_that_nobody_confirms_ends_by_itself_in_the_kernel_too(site: Site) -> None:
    outcome = await site.ask("ban", "203.0.113.1", seconds=2 * HOUR, confirm=30)
    assert outcome.text == (
        "203.0.113.1/32 banned for 2 h if it is confirmed within 30 s ('amiwatch confirm'), else it ends then"
    )
    assert (await site.kernel())["203.0.113.1/32"] in (29, 30)
    site.firewall.advance(30)
    assert await site.kernel() == {}


async def test_a_confirmed_ban_lasts_as_long_as_was_asked_for(site: Site) -> None:
    await site.ask("ban", "203.0.113.1", seconds=2 * HOUR, confirm=30, comment="rang all night")
    await site.ask("ban", "203.0.113.2", seconds=0, confirm=30)
    assert (await site.ask("confirm", "203.0.113.9")).is_done is False
    assert "203.0.113.1/32 banned for 1 h 59 min" in (await site.ask("confirm", "203.0.113.1")).text
    assert (await site.ask("confirm")).text == "203.0.113.2/32 banned for ever"
    assert not (await site.ask("confirm")).is_done
    found = await site.kernel()
    assert found["203.0.113.2/32"] is None
    assert found["203.0.113.1/32"] in range(2 * HOUR - 10, 2 * HOUR + 1)
    await site.it.daemon.flush()
    with Reader(site.path) as reader:
        (ban,) = [ban for ban in reader.bans(open_at=time.time()) if ban.network == "203.0.113.1/32"]
        assert (ban.reason, ban.banned_by, reader.trials()) == ("rang all night", "alice", [])


async def test_a_trial_survives_a_restart_and_can_be_confirmed_then(watched: Start, tmp_path: Path) -> None:
    firewall, path = FakeFirewall(), tmp_path / "amiwatch.db"
    async with watched(firewall) as it:
        await Site(it, firewall, path).ask("ban", "203.0.113.1", seconds=2 * HOUR, confirm=60)
    async with watched(firewall) as it:
        site = Site(it, firewall, path)
        assert (await site.kernel())["203.0.113.1/32"] in range(50, 61)
        assert (await site.ask("confirm")).is_done
        assert (await site.kernel())["203.0.113.1/32"] in range(2 * HOUR - 20, 2 * HOUR + 1)


async def test_a_trial_of_who_is_banned_anyhow_shortens_nothing(site: Site) -> None:
    await site.ask("ban", "203.0.113.1", seconds=600)
    await site.ask("ban", "203.0.113.1", seconds=2 * HOUR, confirm=2)
    assert (await site.kernel())["203.0.113.1/32"] in range(590, 601)
    await asyncio.sleep(2)  # the very time that is given to confirm
    assert not (await site.ask("confirm")).is_done
    assert (await site.kernel())["203.0.113.1/32"] in range(580, 601)


async def test_a_lifted_ban_can_not_be_confirmed(site: Site) -> None:
    await site.ask("ban", "203.0.113.1", confirm=30)
    await site.ask("unban", "203.0.113.1")
    assert not (await site.ask("confirm")).is_done
    assert await site.kernel() == {}


@pytest.mark.parametrize("confirm", [0, -1, 90000])
async def test_a_time_to_confirm_that_makes_no_sense_is_refused(site: Site, confirm: int) -> None:
    outcome = await site.ask("ban", "203.0.113.1", seconds=0, confirm=confirm)
    assert not outcome.is_done
    assert "is no time to confirm in" in outcome.text
    assert await site.kernel() == {}


@pytest.mark.parametrize("step", [-86400.0, 86400.0])
async def test_a_clock_that_is_set_changes_no_time_of_panic_or_trial(
    site: Site, step: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    await site.ask("ban", "203.0.113.1", seconds=2 * HOUR, confirm=60)
    await site.ask("ban", "203.0.113.2", seconds=600)
    await site.ask("panic", seconds=HOUR)
    machine = time.time
    monkeypatch.setattr(time, "time", lambda: machine() + step)
    await site.it.daemon.hold.look()
    assert site.it.daemon.hold.words().endswith(("for 1 h", "for 59 min 59 s", "for 59 min 58 s"))
    await site.ask("resume")
    found = await site.kernel()
    assert found["203.0.113.1/32"] in range(50, 61)
    assert found["203.0.113.2/32"] in range(590, 601)
    assert (await site.ask("confirm")).is_done
    assert (await site.kernel())["203.0.113.1/32"] in range(2 * HOUR - 15, 2 * HOUR + 1)


# Force.


@pytest.mark.parametrize("target", ["192.0.2.77", "203.0.0.0/15", "2001:db8::/31"])
async def test_what_is_refused_says_how_to_insist_and_force_bans_it(site: Site, target: str) -> None:
    outcome = await site.ask("ban", target)
    assert not outcome.is_done
    assert outcome.text.endswith(" (--force bans it all the same)")
    assert await site.kernel() == {}
    assert (await site.ask("ban", target, is_forced=True)).is_done
    await site.it.daemon.allowlist.refresh()
    assert [network.split("/")[0] for network in await site.kernel()] == [target.split("/")[0]]


@pytest.mark.parametrize("target", ["127.0.0.1", "127.0.0.0/8", "::1", "0.0.0.0/0", "::/0", "fe80::1", "224.0.0.5"])
async def test_nobody_can_insist_on_the_loopback(site: Site, target: str) -> None:
    outcome = await site.ask("ban", target, is_forced=True)
    assert not outcome.is_done
    assert "is never banned" in outcome.text
    assert "--force" not in outcome.text
    assert await site.kernel() == {}


async def test_who_logged_in_a_moment_ago_and_a_new_name_server_are_not_banned_unless_forced(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon gathers who is safe once a minute; a ban by hand looks again."""
    sessions, resolvers = tmp_path / "sessions", tmp_path / "resolv.conf"
    sessions.mkdir()
    (sessions / "7").write_text("REMOTE_HOST=203.0.113.9\n")
    resolvers.write_text("nameserver 203.0.113.53\n")
    monkeypatch.setattr(host, "LOGIND", sessions)
    monkeypatch.setattr(host, "RESOLVERS", resolvers)
    for target, why in (
        ("203.0.113.9", "it is somebody logged in from there"),
        ("203.0.113.0/28", "203.0.113.9/32 is somebody logged in from there"),
        ("203.0.113.53", "it is a name server of this machine"),
    ):
        outcome = await site.ask("ban", target)
        assert not outcome.is_done
        assert why in outcome.text
        assert "--force" in outcome.text
        assert (await site.ask("ban", target, is_forced=True)).is_done
    await site.it.daemon.allowlist.refresh()
    assert set(await site.kernel()) == {"203.0.113.9/32", "203.0.113.0/28", "203.0.113.53/32"}


@pytest.mark.kernel
async def test_a_gateway_needs_force_and_an_own_address_is_never_banned(site: Site) -> None:
    def lead_out() -> None:
        with IPRoute() as routes:
            index = routes.link_lookup(ifname="wire0")[0]
            routes.route("replace", dst="default", gateway="203.0.113.254", oif=index, flags=ONLINK)

    with Wire() as wire:
        await asyncio.to_thread(lead_out)
        outcome = await site.ask("ban", "203.0.113.254")
        assert "a gateway of this machine" in outcome.text
        assert "--force" in outcome.text
        assert (await site.ask("ban", "203.0.113.254", is_forced=True)).is_done
        for own in (wire.here[4], f"{wire.here[4]}/24".replace(".1/", ".0/"), wire.here[6]):
            outcome = await site.ask("ban", own, is_forced=True)
            assert not outcome.is_done
            assert "an address of this machine" in outcome.text
            assert "--force" not in outcome.text


@pytest.mark.kernel
@pytest.mark.parametrize("at", ["0.0.0.0", "::"])
async def test_who_has_an_ssh_connection_is_not_banned_unless_forced(site: Site, at: str) -> None:
    """No list of sessions knows him: amiwatch runs in a container, or his terminal was begun from elsewhere."""
    administrator = {"0.0.0.0": "203.0.113.22", "::": "2001:db8:22::1"}[at]
    family = socket.AF_INET if at == "0.0.0.0" else socket.AF_INET6
    with Wire() as wire, socket.create_server((at, 22), family=family) as ssh:
        here = wire.here[4 if family == socket.AF_INET else 6]
        with wire.far_socket(administrator, socket.SOCK_STREAM) as client:
            await asyncio.to_thread(client.connect, (here, 22))
            server, _ = await asyncio.to_thread(ssh.accept)
            with server:
                outcome = await site.ask("ban", administrator)
                assert not outcome.is_done
                assert "is where an ssh connection to this machine comes from" in outcome.text
                assert "--force" in outcome.text
                assert (await site.ask("ban", administrator, is_forced=True)).is_done
                assert (await site.ask("unban", administrator)).is_done
        assert (await site.ask("ban", "203.0.113.23")).is_done


async def test_a_forced_ban_survives_a_restart_and_an_allow_ends_it(watched: Start, tmp_path: Path) -> None:
    firewall, path = FakeFirewall(), tmp_path / "amiwatch.db"
    async with watched(firewall, allowlist="192.0.2.0/24") as it:
        assert (await Site(it, firewall, path).ask("ban", "192.0.2.77", is_forced=True)).is_done
    async with watched(firewall, allowlist="192.0.2.0/24") as it:
        site = Site(it, firewall, path)
        assert list(await site.kernel()) == ["192.0.2.77/32"]
        assert (await site.ask("allow", "192.0.2.77")).text.endswith("1 ban lifted")
        assert await site.kernel() == {}
