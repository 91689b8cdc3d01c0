import pytest

from amiwatch.testing.clock import START, Clock


def test_a_clock_stands_still_until_it_is_turned(clock: Clock) -> None:
    assert clock() == clock() == START
    assert clock.advance(90.0) == START + 90.0
    assert clock() == START + 90.0


def test_a_clock_begins_where_it_is_told() -> None:
    assert Clock(5.0)() == 5.0
    assert repr(Clock(5.0)) == "Clock(5.0)"


def test_time_never_runs_backwards(clock: Clock) -> None:
    with pytest.raises(ValueError, match="forwards only"):
        clock.advance(-1.0)
