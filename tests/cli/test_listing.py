import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amiwatch.cli.listing import Form, Listing, form, shortened
from amiwatch.errors import UsageError
from tests.cli.conftest import HOSTILE

TEXTS = Listing[tuple[str, str]](
    heads=("ONE", "TWO"), cells=lambda row: row, fields=("one", "two"), values=lambda row: row, nothing="Nothing."
)


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str]):
    def shown(rows: list[tuple[str, str]], form: Form) -> str:
        TEXTS.show(iter(rows), form)
        return capsys.readouterr().out

    return shown


def test_json_is_one_array_in_ascii(shown):
    text = shown([("a", HOSTILE), ("ü", "2")], Form.JSON)
    assert json.loads(text) == [{"one": "a", "two": HOSTILE}, {"one": "ü", "two": "2"}]
    assert text.isascii()
    assert "\x1b" not in text


def test_no_rows_are_an_empty_array_a_head_alone_or_a_sentence(shown, capsys):
    assert json.loads(shown([], Form.JSON)) == []
    assert shown([], Form.CSV) == "one,two\r\n"
    TEXTS.show([], Form.TABLE)
    assert capsys.readouterr() == ("", "Nothing.\n")


def test_csv_keeps_to_rfc_4180(shown):
    text = shown([('say "hi", twice', "x"), ("", "y")], Form.CSV)
    assert text == 'one,two\r\n"say ""hi"", twice",x\r\n,y\r\n'


@pytest.mark.parametrize("begin", ["=", "+", "-", "@", "\t", "\r", "\n", "＝"])
def test_no_cell_of_csv_is_a_formula(shown, begin: str):
    text = shown([(f"{begin}cmd|' /C calc'!A0", "x")], Form.CSV)
    cell = list(csv.reader(io.StringIO(text)))[1][0]
    assert cell.startswith("'")


@given(text=st.text())
def test_whatever_a_cell_holds_a_table_and_csv_stay_one_line_per_row(text: str):
    for form_, end in ((Form.TABLE, "\n"), (Form.CSV, "\r\n")):
        out = io.StringIO()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.stdout", out)
            TEXTS.show([(text, text)], form_)
        lines = out.getvalue().split(end)
        assert len(lines) == 3
        assert all(line.isprintable() for line in lines)


def test_columns_are_as_wide_as_what_they_hold_even_where_characters_are_wide(shown):
    lines = shown([("a", "1"), ("王王", "2")], Form.TABLE).splitlines()
    assert lines == ["ONE   TWO", "a     1", "王王  2"]


def test_a_wider_cell_behind_the_sample_is_not_cut(shown):
    rows = [("a", "1")] * 600 + [("2001:db8:1234:5678::/64", "2")]
    assert shown(rows, Form.TABLE).splitlines()[-1] == "2001:db8:1234:5678::/64  2"


def test_what_does_not_fit_is_cut_and_says_so():
    assert shortened("1234567890", 5) == "1234…"
    assert shortened("12345", 5) == "12345"
    assert shortened("王王王", 4) == "王…"
    assert shortened("x" * 300, None) == "x" * 300


def test_two_forms_at_once_are_refused():
    with pytest.raises(UsageError):
        form(as_json=True, as_csv=True)
