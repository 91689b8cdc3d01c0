"""The daemon's clock runs on, however the machine's is set."""

import time

import pytest

from amiwatch.daemon.clock import STEP, SteadyClock

SLACK = 0.01
"""Seconds by which two clocks that are read one after the other may differ."""


def test_it_begins_with_the_machines_clock_and_runs_as_fast() -> None:
    before = time.time()
    clock = SteadyClock()
    first = clock()
    assert before - SLACK <= first <= time.time() + SLACK
    assert clock() >= first


def test_what_drifts_less_than_a_second_is_left_alone() -> None:
    clock = SteadyClock()
    clock._begin += STEP / 2
    assert clock.utc(1000.0) == 1000.0


@pytest.mark.parametrize("step", [-3600.0, 3600.0, 10 * 365 * 86400.0])
def test_people_read_the_machines_time_after_somebody_set_it(step: float) -> None:
    clock = SteadyClock()
    clock._begin -= step  # as if the machine's clock had been put forward by so much since
    before, utc = clock(), time.time()
    assert utc - SLACK <= clock.utc(clock()) <= time.time() + SLACK
    assert 0 <= clock() - before < abs(step) / 2
