"""
``amiwatch replay``: what would have been done about recorded AMI bytes.

Rule 1: neither kernel nor database is touched, and the events' own time is the clock.
"""

from __future__ import annotations

import gzip
import heapq
import io
import json
import sys
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import itemgetter
from pathlib import Path
from random import Random
from typing import Annotated, cast

import typer

from amiwatch.ami.wire import Wire
from amiwatch.cli.text import counted
from amiwatch.config import Settings
from amiwatch.errors import UsageError
from amiwatch.judgement.judge import Judge
from amiwatch.judgement.reasons import duration
from amiwatch.judgement.safe import PRIVATE
from amiwatch.judgement.values import Alert, Ban, SecurityEvent, Verdict

READ_SIZE = 256 * 1024
"""Bytes read at once: what an AMI socket gives under load."""

GZIP_MAGIC = b"\x1f\x8b"

Recording = io.BufferedReader | gzip.GzipFile


@dataclass(slots=True)
class Summary:
    """What a replay came to."""

    events: int = 0
    """Genuine security events of every service."""
    attempts: int = 0
    """Attempts that were judged: those of banned sources are not, nor challenges that may still be answered."""
    tampered: int = 0
    """Blocks and fragments that were refused."""
    bans: int = 0
    alerts: int = 0


class CutShort(UsageError):
    """A recording could not be read to its end; what could be read has been judged."""


def replayed(paths: Iterable[Path], settings: Settings, summary: Summary) -> Iterator[Verdict]:
    """
    Judge recordings as if they came in now, several as several PBXs at once; ``summary`` is kept up to date.

    Raises UsageError before the first verdict if a file can't be opened, CutShort after the last one.
    """
    judge, faults = judge_of(settings), list[str]()
    streams = [_timed(_chunks(path, opened(path), faults), summary) for path in paths]
    for verdict in _judged(judge, heapq.merge(*streams, key=itemgetter(0))):
        summary.bans += isinstance(verdict, Ban)
        summary.alerts += isinstance(verdict, Alert)
        yield verdict
    summary.attempts = judge.counters.attempts
    if faults:
        raise CutShort("\n".join(faults))


def _judged(judge: Judge, events: Iterable[tuple[float, SecurityEvent]]) -> Iterator[Verdict]:
    now = 0.0
    for at, event in events:
        now = max(now, at)
        if said := judge.see(event, now):
            judge.ledger.expire(now)
            yield from said
    # What nobody answered until the end was not answered.
    yield from judge.sweep(now + judge.policy.answer_time)


def judge_of(settings: Settings) -> Judge:
    """Make a judge of these settings whose jitter is the same each time."""
    judge = Judge(settings.judgement_policy(), random=Random(0))  # noqa: S311
    allowed = dict(PRIVATE) if settings.allow_private else {}
    judge.allow(allowed | dict.fromkeys(settings.allowlist.networks, "AMIWATCH_ALLOWLIST"))
    return judge


def _timed(chunks: Iterable[bytes], summary: Summary) -> Iterator[tuple[float, SecurityEvent]]:
    """Yield the events of one recording with a time that never runs backwards, as Asterisk's own does under load."""
    wire, now = Wire(has_pings=False), 0.0
    for chunk in chunks:
        for item in wire.feed(chunk):
            if type(item) is SecurityEvent:
                summary.events += 1
                # A time that an attacker may have written moves no clock.
                now = now if item.tainted else max(now, item.at)
                yield now, item
    wire.close()
    summary.tampered += wire.tampered


def _chunks(path: Path, file: Recording, faults: list[str]) -> Iterator[bytes]:
    """Yield what can be read, and note why it ends too early: the other recordings go on."""
    try:
        # Not read(), which on an error loses what it has gathered.
        while chunk := file.read1(READ_SIZE):
            yield chunk
    except (OSError, EOFError, zlib.error) as error:
        faults.append(
            f"{str(path)!r} can't be read to its end ({error}); the summary is of what could be: get a whole copy of "
            "it, or check its disk."
        )


def opened(path: Path) -> Recording:
    """Open a recording, plain or gzipped; ``-`` is standard input. Raises UsageError."""
    if str(path) == "-":
        return cast("io.BufferedReader", sys.stdin.buffer)
    try:
        file = path.open("rb")
        is_packed = file.peek(2)[:2] == GZIP_MAGIC
    except OSError as error:
        raise UsageError(f"{str(path)!r} can't be read ({error.strerror}): name a recording.") from error
    return gzip.GzipFile(fileobj=file) if is_packed else file


def iso(at: float) -> str:
    """Write an instant as in ``2026-11-22T10:07:31.450Z``."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def as_record(verdict: Verdict) -> dict[str, object]:
    """Return what ``--json`` prints of a verdict."""
    if isinstance(verdict, Ban):
        return {
            "type": "ban",
            "at": iso(verdict.at),
            "address": str(verdict.address),
            "network": str(verdict.network),
            "service": verdict.service,
            "rule": verdict.rule,
            "seconds": verdict.seconds,
            "level": verdict.level,
            "reason": verdict.reason,
        }
    return {
        "type": "alert",
        "at": iso(verdict.at),
        "kind": verdict.kind,
        "address": None if verdict.address is None else str(verdict.address),
        "account": verdict.account,
        "reason": verdict.reason,
    }


def as_line(verdict: Verdict) -> str:
    """Return what is printed for a person: reasons hold no raw text of an attacker."""
    when = iso(verdict.at)[:-1].replace("T", " ")
    if isinstance(verdict, Ban):
        time = "for ever" if verdict.seconds is None else duration(verdict.seconds)
        return f"{when}  ban    {verdict.network}  {time}  {verdict.rule}: {verdict.reason}"
    return f"{when}  alert  {verdict.address or '-'}  {verdict.kind}: {verdict.reason}"


def replay(
    context: typer.Context,
    files: Annotated[list[Path], typer.Argument(help="Recorded AMI bytes, plain or gzipped; - is standard input.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
) -> None:
    """Show what would have been done about recorded AMI bytes; nothing is changed."""
    settings: Settings = context.obj.settings()
    if settings.allowlist.names:
        print(  # noqa: T201
            f"amiwatch: names of the allowlist are not looked up here: {', '.join(settings.allowlist.names)}",
            file=sys.stderr,
        )
    summary = Summary()
    cut: CutShort | None = None
    try:
        for verdict in replayed(files, settings, summary):
            print(json.dumps(as_record(verdict)) if as_json else as_line(verdict))  # noqa: T201
    except CutShort as error:
        cut = error
    numbers = {name: getattr(summary, name) for name in Summary.__slots__}
    if as_json:
        print(json.dumps({"type": "summary", **numbers}))  # noqa: T201
    else:
        print(", ".join(counted(number, name.removesuffix("s"), name) for name, number in numbers.items()))  # noqa: T201
    if cut:
        raise cut
