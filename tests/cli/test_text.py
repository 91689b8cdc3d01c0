import pytest

from amiwatch.cli.text import compact, counted, iso, short, visible
from tests.cli.conftest import HOSTILE

NOON = 1_700_000_000.0


def test_what_a_terminal_would_obey_or_hide_is_shown_as_an_escape():
    assert visible("\x1b[31m") == "\\x1b[31m"
    assert visible("a\r\nb\tc") == "a\\r\\nb\\tc"
    assert visible("\u202egnp.exe\u2066") == "\\u202egnp.exe\\u2066"
    assert visible("\x9b31m\x7f\u2028\ufeff\ud800") == "\\x9b31m\\x7f\\u2028\\ufeff\\ud800"
    assert visible(HOSTILE).isprintable()


def test_honest_text_stays_as_it_is():
    assert visible("Büro 12, 王 [red]") == "Büro 12, 王 [red]"


def test_machines_get_utc_in_iso_8601():
    assert iso(NOON) == "2023-11-14T22:13:20.000Z"
    assert iso(NOON + 0.4567) == "2023-11-14T22:13:20.456Z"
    assert iso(None) is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.4, "59s"), (60, "1m"), (61, "1m1s"), (3600, "1h"), (86399, "23h59m"), (90000, "1d1h"), (-5, "0s")],
)
def test_durations_in_tables_have_two_units_at_most(seconds: float, text: str):
    assert compact(seconds) == text


def test_another_year_is_told_by_its_date():
    assert short(NOON, NOON + 60).count("-") == 1
    assert short(NOON, NOON + 366 * 86400).startswith("2023-11-1")


def test_one_is_singular():
    assert [counted(1, "ban"), counted(0, "ban"), counted(2, "entry", "entries")] == ["1 ban", "0 bans", "2 entries"]
