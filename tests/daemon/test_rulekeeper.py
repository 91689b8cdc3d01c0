"""A rule that only root may place: when root is asked for it, and how often at most."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from amiwatch.daemon import rulekeeper
from amiwatch.daemon.rulekeeper import RuleKeeper
from amiwatch.errors import FirewallPermission
from amiwatch.firewall.base import SetState
from amiwatch.firewall.protection import Protection
from amiwatch.firewall.rule import DropRule
from amiwatch.firewall.scope import Scope
from amiwatch.notify.systemd import RULE_WANTED
from amiwatch.testing.clock import Clock
from amiwatch.testing.firewall import FakeFirewall


class Sets(FakeFirewall):
    """Sets, and how many rules use each."""

    references = 1

    async def states(self) -> list[SetState]:
        return [SetState(f"x{family}", family, 0, 100, self.references) for family in (4, 6)]


class Roots(DropRule):
    """A rule that may not be placed by this process."""

    async def install(self, protection: Protection) -> None:
        raise FirewallPermission("needs root")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock(0.0)
    monkeypatch.setattr(rulekeeper, "perf_counter", clock)
    return clock


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """Tell whether root was asked since the last call."""
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    path = tmp_path / RULE_WANTED

    def was_asked() -> bool:
        found = path.exists()
        path.unlink(missing_ok=True)
        return found

    return was_asked


@pytest.fixture
def sets() -> Sets:
    return Sets()


@pytest.fixture
def keeper(sets: Sets) -> RuleKeeper:
    return RuleKeeper(sets, Roots("x"), protection=Protection(), exempt=tuple, is_blocking=lambda: True)


async def looks(keeper: RuleKeeper, clock: Clock, asked: Callable[[], bool], *, until: int) -> list[int]:
    """Look once a second; return when root was asked."""
    found = []
    while clock() < until:
        await keeper.is_right()
        if asked():
            found.append(int(clock()))
        clock.advance(1)
    return found


async def test_a_missing_rule_is_asked_for_at_once_and_then_less_and_less_often(
    keeper: RuleKeeper, sets: Sets, clock: Clock, asked: Callable[[], bool]
) -> None:
    sets.references = 0
    await keeper.check()
    assert asked()
    assert await looks(keeper, clock, asked, until=200) == [3, 9, 21, 45, 93, 153]
    sets.references = 2
    await keeper.check()
    assert not asked()
    sets.references = 0
    await keeper.check()
    assert asked()


async def test_root_looks_once_after_somebody_changed_rules_and_seldom_while_somebody_goes_on(
    keeper: RuleKeeper, clock: Clock, asked: Callable[[], bool]
) -> None:
    await keeper.check()
    assert not asked()  # at the start the unit has placed it
    assert await looks(keeper, clock, asked, until=100) == []
    keeper.note_change()
    assert await looks(keeper, clock, asked, until=300) == [100]
    found = []
    for second in range(300, 500):
        keeper.note_change()
        found += await looks(keeper, clock, asked, until=second + 1)
    assert found == [300, 303, 309, 321, 345, 393, 453]


async def test_root_places_what_was_learned_once_the_database_surely_has_it(
    keeper: RuleKeeper, clock: Clock, asked: Callable[[], bool]
) -> None:
    await keeper.check()
    keeper.protect(Protection(Scope.parse("voip,38000/udp")))
    assert await looks(keeper, clock, asked, until=60) == [2]


async def test_without_a_unit_that_hears_nobody_is_asked(
    keeper: RuleKeeper, sets: Sets, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    sets.references = 0
    await keeper.check()
    assert not keeper.places_rule
    assert "so nothing is dropped: run 'amiwatch firewall install' as root" in caplog.text
