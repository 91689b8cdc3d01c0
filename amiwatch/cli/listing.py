"""
Listings: a table for people, JSON and CSV for machines, each row written as it comes.

Rule 1: rows are never gathered, so a hundred thousand of them are quick. (Rich measures every cell of a table before
it prints the first line: 57 s for 100,000 rows.)

Rule 2: a cell is text of anybody. It is made visible for people, and no formula for spreadsheets.
"""

from __future__ import annotations

import csv
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto
from itertools import chain, islice
from typing import IO, Annotated, Any, Generic, TypeVar

import typer
from rich.cells import cell_len, set_cell_size

from amiwatch.cli.text import strong, visible
from amiwatch.errors import UsageError

SAMPLE = 500
"""Rows that are looked at for the widths of columns. A wider cell further down pushes its line to the right."""

LEAST_LAST = 12
"""Cells that the last column gets, even if the line is then too long for the terminal."""

GAP = "  "

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""How a cell begins that a spreadsheet may take for a formula (OWASP, "CSV injection")."""

Row = TypeVar("Row")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON: one array with an object for each row.")]
AsCsv = Annotated[bool, typer.Option("--csv", help="Print CSV (RFC 4180), safe to open in a spreadsheet.")]


class Form(Enum):
    """How rows are printed."""

    TABLE = auto()
    JSON = auto()
    CSV = auto()


def form(*, as_json: bool, as_csv: bool = False) -> Form:
    """Return what the options ask for. Raises UsageError for both at once."""
    if as_json and as_csv:
        raise UsageError("--json and --csv exclude each other: choose one.")
    return Form.JSON if as_json else Form.CSV if as_csv else Form.TABLE


@dataclass(frozen=True)
class Listing(Generic[Row]):
    """How one kind of row is shown."""

    heads: tuple[str, ...]
    cells: Callable[[Row], Sequence[str]]
    """What a person sees, column by column; the last one is cut to the terminal."""
    fields: tuple[str, ...]
    values: Callable[[Row], Sequence[object]]
    """What a machine reads, field by field."""
    nothing: str
    """The sentence for no rows at all."""

    def show(self, rows: Iterable[Row], form: Form) -> int:
        """Print all rows; return how many there were."""
        count = 0

        def counted() -> Iterator[Row]:
            nonlocal count
            for count, row in enumerate(rows, start=1):  # noqa: B007 - counted for whoever asked
                yield row

        {Form.TABLE: self._table, Form.JSON: self._json, Form.CSV: self._csv}[form](counted())
        if not count and form is Form.TABLE:
            typer.echo(self.nothing, err=True)
        return count

    def _json(self, rows: Iterator[Row]) -> None:
        # The encoder of the standard library takes three times as long, for it looks at each key of each object anew.
        template = "{" + ", ".join(f"{json.dumps(field)}: %s" for field in self.fields) + "}"
        write, values = sys.stdout.write, self.values
        separator = "[\n"
        for row in rows:
            write(separator + template % tuple([_JSON[type(value)](value) for value in values(row)]))
            separator = ",\n"
        write("[]\n" if separator == "[\n" else "\n]\n")

    def _csv(self, rows: Iterator[Row]) -> None:
        writer = csv.writer(sys.stdout, lineterminator="\r\n")
        writer.writerow(self.fields)
        writer.writerows([_csv_cell(value) for value in self.values(row)] for row in rows)

    def _table(self, rows: Iterator[Row]) -> None:
        cells = ([visible(cell) for cell in self.cells(row)] for row in rows)
        first = list(islice(cells, SAMPLE))
        if not first:
            return
        widths = [max(map(cell_len, column)) for column in zip(self.heads, *first, strict=True)]
        room = None
        if sys.stdout.isatty():
            taken = sum(widths[:-1]) + len(GAP) * (len(widths) - 1)
            room = max(LEAST_LAST, shutil.get_terminal_size().columns - taken)
        head = strong(_line(self.heads, widths, room))
        page(chain([head], (_line(row, widths, room) for row in chain(first, cells))))


_JSON: dict[type, Callable[[Any], str]] = {
    # In ASCII, so no terminal obeys it.
    str: json.encoder.encode_basestring_ascii,
    bool: lambda value: "true" if value else "false",
    int: int.__repr__,
    float: float.__repr__,
    type(None): lambda _: "null",
}


def _line(cells: Sequence[str], widths: Sequence[int], room: int | None) -> str:
    padded = [
        cell.ljust(width) if cell.isascii() else set_cell_size(cell, max(width, cell_len(cell)))
        for cell, width in zip(cells[:-1], widths, strict=False)
    ]
    return GAP.join([*padded, shortened(cells[-1], room)]).rstrip()


def shortened(text: str, room: int | None) -> str:
    """Cut a text to so many cells of a terminal; None leaves it."""
    if room is None or cell_len(text) <= room:
        return text
    return set_cell_size(text, room - 1).rstrip() + "…"


def _csv_cell(value: object) -> object:
    if isinstance(value, bool):
        return int(value)
    if not isinstance(value, str):
        return value
    return "'" + visible(value) if value.startswith(FORMULA) else visible(value)


def page(lines: Iterator[str]) -> None:
    """Print lines; on a terminal that is too small for them, through a pager."""
    height = shutil.get_terminal_size().lines
    if sys.stdout.isatty():
        first = list(islice(lines, height))
        if len(first) == height and (pager := _pager()) is not None:
            _write_to(pager, chain(first, lines))
            return
        lines = chain(first, lines)
    _write(sys.stdout, lines)


def _write(out: IO[str], lines: Iterable[str]) -> None:
    out.writelines(f"{line}\n" for line in lines)


def _pager() -> subprocess.Popen[str] | None:
    """Start the pager; None if there is none. Under sudo it is always less, which must start no other program then."""
    chosen = "" if "SUDO_USER" in os.environ else os.environ.get("PAGER", "")
    with suppress(OSError, ValueError):
        command = shlex.split(chosen) or ["less"]
        environ = {**os.environ, "LESS": "FRX", "LESSSECURE": "1"}
        return subprocess.Popen(command, stdin=subprocess.PIPE, text=True, env=environ)  # noqa: S603 - the user's own
    return None


def _write_to(pager: subprocess.Popen[str], lines: Iterable[str]) -> None:
    assert pager.stdin is not None
    with suppress(BrokenPipeError):  # quit before the end
        _write(pager.stdin, lines)
    with suppress(BrokenPipeError):
        pager.stdin.close()
    while pager.poll() is None:
        with suppress(KeyboardInterrupt):  # the pager's own key, to stop reading
            pager.wait()
