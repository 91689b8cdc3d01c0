"""Sums keep when their attempts were, whatever comes first."""

from ipaddress import ip_address

import pytest

from amiwatch.judgement.tally import MAX_TIMES, Sum, Tally

WHAT = (7, ip_address("198.51.100.7"), "1001", "PJSIP", "UDP", "unknown")


@pytest.fixture
def tally() -> Tally:
    return Tally()


def drained(tally: Tally) -> Sum:
    (only,) = tally.drain()
    return only


@pytest.mark.parametrize("times", [(10.0,), (10.0, 12.0), (10.0, 8.0, 10.0), (8.0, 8.0)])
def test_a_sum_tells_when_each_attempt_was(tally: Tally, times: tuple[float, ...]) -> None:
    for at in times:
        tally.add(*WHAT, at)
    one = drained(tally)
    assert (one.attempts, one.times, one.first_at, one.last_at) == (len(times), times, min(times), max(times))


def test_an_answer_to_an_attempt_that_was_drained_before_is_no_attempt(tally: Tally) -> None:
    tally.add(*WHAT, 10.0)
    tally.drain()
    tally.answer(*WHAT, 10.0)
    tally.add(*WHAT, 13.0)
    one = drained(tally)
    assert (one.attempts, one.answers, one.times, one.first_at, one.last_at) == (1, 1, (13.0,), 10.0, 13.0)


def test_only_so_many_times_are_kept(tally: Tally) -> None:
    for at in range(2 * MAX_TIMES):
        tally.add(*WHAT, float(at))
    one = drained(tally)
    assert (one.attempts, one.times) == (2 * MAX_TIMES, tuple(map(float, range(MAX_TIMES))))
