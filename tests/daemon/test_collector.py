"""Python's collector of cycles while a daemon lives."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from amiwatch.daemon.collector import NEVER, YOUNG_OBJECTS, Collector


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    assert (gc.isenabled(), gc.get_threshold(), gc.get_freeze_count()) == (True, before, 0)


def test_it_rests_while_the_ledger_grows_and_then_looks_at_young_objects_only() -> None:
    with Collector() as collector:
        assert not gc.isenabled()
        collector.begin()
        assert gc.isenabled()
        assert gc.get_threshold()[0] == YOUNG_OBJECTS
        assert gc.get_threshold()[2] == NEVER
        assert gc.get_freeze_count()


def test_it_works_as_before_after_a_start_that_failed() -> None:
    with pytest.raises(OSError, match="no kernel"), Collector():
        raise OSError("no kernel")


def test_a_calm_moment_ends_what_refers_to_itself() -> None:
    class Link:
        other: Link

    with Collector() as collector:
        collector.begin()
        link = Link()
        link.other, ghost = link, weakref.ref(link)
        gc.collect(1)  # it is old now
        del link
        collector.tidy()
        assert ghost() is None
