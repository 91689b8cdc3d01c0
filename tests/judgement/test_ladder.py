from random import Random

from hypothesis import given
from hypothesis import strategies as st

from amiwatch.judgement.ladder import Ladder
from amiwatch.judgement.rules import DAY, HOUR, Policy


def ladder(**policy: float) -> Ladder:
    return Ladder(Policy(**policy), Random(1))  # type: ignore[arg-type]


def test_each_offence_climbs_and_the_last_rung_is_the_last() -> None:
    rungs = ladder(jitter=0)
    assert [rungs.climb(1, 0) for _ in range(6)] == [
        (1, HOUR),
        (2, DAY),
        (3, 7 * DAY),
        (4, 30 * DAY),
        (4, 30 * DAY),
        (4, 30 * DAY),
    ]


@given(st.integers(0, 10_000), st.floats(0, 0.9))
def test_jitter_stays_within_its_share_and_differs(seed: int, jitter: float) -> None:
    rungs = Ladder(Policy(jitter=jitter), Random(seed))
    times = [rungs.climb(source, 0)[1] for source in range(20)]
    assert all(HOUR * (1 - jitter) - 1 <= each <= HOUR * (1 + jitter) + 1 for each in times)
    assert jitter < 0.01 or len(set(times)) > 1


def test_one_rung_is_forgiven_for_each_quiet_month_after_the_end_of_the_ban() -> None:
    rungs = ladder(jitter=0)
    for _ in range(3):
        rungs.climb(1, 0)
    end = 7 * DAY
    assert rungs.level(1, end + 30 * DAY - 1) == 3
    assert rungs.level(1, end + 30 * DAY) == 2
    assert rungs.level(1, end + 300 * DAY) == 0
    assert rungs.climb(1, end + 60 * DAY) == (2, DAY)


def test_sources_climb_each_for_itself_and_can_be_forgiven() -> None:
    rungs = ladder()
    rungs.climb(1, 0)
    assert rungs.level(2, 0) == 0
    rungs.forget(1)
    rungs.forget(3)
    assert rungs.level(1, 0) == 0


def test_a_remembered_offender_goes_on_where_it_was() -> None:
    rungs = ladder(jitter=0)
    rungs.remember(1, 3, 0)
    assert rungs.climb(1, 10) == (4, 30 * DAY)


def test_memory_is_bounded_and_the_oldest_offence_goes_first() -> None:
    rungs = ladder(max_offenders=5)
    for source in range(9):
        rungs.climb(source, source)
    assert len(rungs) == 5
    assert rungs.level(3, 10) == 0
    assert rungs.level(4, 10) == 1
