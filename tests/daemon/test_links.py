"""Whatever becomes of a link is in the database with begin and end, and banning goes on after it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from ipaddress import ip_network
from pathlib import Path

import pytest

from amiwatch.config import Settings
from amiwatch.daemon import inbox, watch
from amiwatch.daemon.watch import Daemon, link_of
from amiwatch.firewall.base import Entry
from amiwatch.judgement.networks import source_key
from amiwatch.judgement.values import Ban
from amiwatch.store.reader import Reader
from amiwatch.store.records import GapRecord
from amiwatch.testing.asterisk import FakeAsterisk, User
from amiwatch.testing.builders import Case, attempt_bytes, attempt_events
from amiwatch.testing.firewall import FakeFirewall
from tests.daemon.conftest import Start, Watched, Watcher

ATTACKER, NEXT = "203.0.113.1", "203.0.113.2"


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again, and lose patience, in fractions of a second."""
    times = {"retry_first": 0.1, "refused_first": 0.1, "ping_interval": 0.2, "ping_timeout": 0.2}
    times |= {"self_test_timeout": 0.2, "connect_timeout": 0.5}

    def hasty_link(*arguments: object) -> object:
        link = link_of(*arguments)  # type: ignore[arg-type]
        return type(link)(**{name: getattr(link, name) for name in link.__slots__} | times)

    monkeypatch.setattr(watch, "link_of", hasty_link)


async def gaps(it: Watched, path: Path) -> list[GapRecord]:
    await it.daemon.flush()
    with Reader(path) as reader:
        return list(reader.gaps())


async def cut(it: Watched) -> None:
    it.pbx.hang_up()


async def reset(it: Watched) -> None:
    it.pbx.reset()


async def restart(it: Watched) -> None:
    await it.pbx.restart(0.2)


async def fall_silent(it: Watched) -> None:
    it.pbx.freeze()
    await it.watcher.until(lambda: "lost" in it.watcher.links)
    it.pbx.thaw()


async def refuse(it: Watched) -> None:
    it.pbx.users["amiwatch"] = User("another secret")
    it.pbx.hang_up()
    await it.watcher.until(lambda: "refused" in it.watcher.links)
    it.pbx.users["amiwatch"] = User("secret")


async def go_deaf(it: Watched) -> None:
    it.pbx.hides_logins = True
    it.pbx.hang_up()
    await it.watcher.until(lambda: "deaf" in it.watcher.links)
    await it.pbx.emit(attempt_bytes(Case.RIGHT_PASSWORD))


async def answer_slowly(it: Watched) -> None:
    it.pbx.answer_delay, it.pbx.split = 0.05, 3
    it.pbx.hang_up()


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(
    "trouble", [cut, reset, restart, fall_silent, refuse, go_deaf, answer_slowly], ids=lambda each: each.__name__
)
async def test_trouble_leaves_a_gap_with_begin_and_end_and_banning_goes_on(
    watched: Start, tmp_path: Path, trouble: Callable[[Watched], object]
) -> None:
    async with watched(FakeFirewall()) as it:
        await it.attack(ATTACKER)
        await it.watcher.until_banned(f"{ATTACKER}/32")
        await trouble(it)  # type: ignore[misc]
        await it.watcher.until(lambda: it.watcher.links.count("hearing") >= 2)
        await it.attack(NEXT)
        await it.watcher.until_banned(f"{NEXT}/32")
        found = await gaps(it, tmp_path / "amiwatch.db")
        assert found
        assert all(gap.ended_at is not None and gap.ended_at >= gap.began_at and gap.reason for gap in found)
        with Reader(tmp_path / "amiwatch.db") as reader:
            states = [link.state for link in reader.links()][::-1]
        assert states == it.watcher.links
        assert it.daemon.faults == 0


async def test_the_time_in_which_nobody_ran_is_a_gap(watched: Start, tmp_path: Path) -> None:
    async with watched(FakeFirewall()) as it:
        assert await gaps(it, tmp_path / "amiwatch.db") == []
    async with watched(FakeFirewall()) as it:
        (gap,) = await gaps(it, tmp_path / "amiwatch.db")
        assert gap.reason == "amiwatch did not run"
        assert gap.ended_at is not None
        assert gap.began_at <= it.daemon.started_at <= gap.ended_at


def nobody() -> FakeAsterisk:
    """Return an Asterisk that no daemon of these tests connects to: they are handed events."""
    pbx = FakeAsterisk()
    pbx.port = 5038
    return pbx


async def caught_up(daemon: Daemon) -> None:
    while daemon.inbox.waiting:  # noqa: ASYNC110 - one turn of the loop after the other, until nothing waits
        await asyncio.sleep(0)


class SlowFirewall(FakeFirewall):
    async def add(self, entries: Sequence[Entry]) -> list[Entry]:
        await asyncio.sleep(0.3)
        return await super().add(entries)


async def test_a_slow_kernel_costs_no_link(watched: Start) -> None:
    async with watched(SlowFirewall(), policy="closed", unproven_bans="100000") as it:
        for round_ in range(5):
            await it.pbx.emit(
                *(
                    attempt_bytes(Case.UNKNOWN_ACCOUNT, source=f"198.18.{round_}.{number}", transport="TCP")
                    for number in range(200)
                )
            )
            await asyncio.sleep(0.1)
        await it.watcher.until(lambda: len(it.watcher.bans) == 1000)
        assert it.pbx.counts["dropped"] == 0
        assert it.watcher.links.count("lost") == 0


async def test_repeats_of_banned_sources_are_shed_first_and_newcomers_still_judged(
    settings_for: Callable[..., Settings],
) -> None:
    daemon = Daemon(settings_for(nobody()), firewall=FakeFirewall())
    daemon.judge.ledger.put(ip_network("203.0.113.1/32"), None)
    repeats = attempt_events(Case.UNKNOWN_ACCOUNT, source=ATTACKER) * 100
    new = [
        event
        for number in range(12)
        for event in attempt_events(Case.UNKNOWN_ACCOUNT, account=f"{number}", source=NEXT, session=f"{number}")
    ]
    for _ in range(2000):  # nobody judges meanwhile
        daemon.receive("pbx", repeats)
    assert daemon.inbox.waiting <= inbox.CROWDED + len(repeats)
    assert daemon.inbox.shed == 2000 * len(repeats) - daemon.inbox.waiting
    daemon.receive("pbx", [*repeats, *new])
    consumer = asyncio.create_task(daemon.inbox.run())
    await caught_up(daemon)
    consumer.cancel()
    assert daemon.judge.ledger.is_banned(source_key(new[0].source), new[0].source, daemon.now())


async def test_the_backlog_is_bounded_whatever_comes(settings_for: Callable[..., Settings]) -> None:
    daemon = Daemon(settings_for(nobody()), firewall=FakeFirewall())
    daemon.judge.ledger.put(ip_network("203.0.113.1/32"), None)
    repeats = attempt_events(Case.UNKNOWN_ACCOUNT, source=ATTACKER) * 500
    events = attempt_events(Case.UNKNOWN_ACCOUNT, source=NEXT) * 500
    given = 0
    for _ in range(150):
        daemon.receive("pbx", events)
        daemon.receive("pbx", repeats)
        given += len(events) + len(repeats)
    assert daemon.inbox.waiting == inbox.MAX_BACKLOG
    assert daemon.inbox.waiting + daemon.inbox.shed == given
    assert len(daemon.inbox._backlog) <= inbox.MAX_BACKLOG


async def test_a_flood_of_invented_sources_fills_no_memory(settings_for: Callable[..., Settings]) -> None:
    settings = settings_for(nobody(), max_sources="20000")
    daemon = Daemon(settings, firewall=FakeFirewall())
    consumer = asyncio.create_task(daemon.inbox.run())
    event = attempt_events(Case.UNKNOWN_ACCOUNT)[0]
    base = ip_network("198.18.0.0/15").network_address
    for begin in range(0, 200_000, 500):
        items = [event._replace(source=base + number % 131072, port=number) for number in range(begin, begin + 500)]
        daemon.receive("pbx", items)
        await asyncio.sleep(0)
    await caught_up(daemon)
    consumer.cancel()
    assert len(daemon.judge.sources) <= 20_000
    assert len(daemon.judge.tally.drain()) <= 20_000
    assert len(daemon.judge.alarms) <= 10_000
    assert len(daemon.inbox._backlog) == 0
    assert daemon.judge.counters.events + daemon.inbox.shed == 200_000


async def test_a_listener_that_raises_ends_nothing(watched: Start, caplog: pytest.LogCaptureFixture) -> None:
    class Raising(Watcher):
        def banned(self, ban: Ban, pbx: str, seconds: float | None) -> None:
            raise RuntimeError("a listener's own fault")

    async with watched(FakeFirewall()) as it:
        it.daemon.listeners.insert(0, Raising())
        for address in (ATTACKER, NEXT):
            await it.attack(address)
            await it.watcher.until_banned(f"{address}/32")
        assert it.daemon.faults == 2
        assert any("fault of amiwatch" in text for text in caplog.messages)


async def test_a_fault_in_judging_one_event_costs_one_event(
    settings_for: Callable[..., Settings], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    daemon = Daemon(settings_for(nobody()), firewall=FakeFirewall())
    good = attempt_events(Case.UNKNOWN_ACCOUNT)
    broken = good[0]._replace(account=None)
    daemon.receive("pbx", [good[0], broken, good[1]])
    assert daemon.judge.counters.events == 3
    assert daemon.faults == 1
