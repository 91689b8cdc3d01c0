"""
``amiwatch replay``: what would have been done about the past, and what other rules would have done.

Rule 1: neither kernel nor database is touched, and the past's own time is the clock.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from amiwatch.cli.alternatives import Alternative, Effect, doubts, judged, read_alternatives
from amiwatch.cli.call import instant
from amiwatch.cli.comparison import show_end, show_verdicts
from amiwatch.cli.progress import Progress
from amiwatch.cli.protection import never_banned
from amiwatch.cli.recorded import CutShort, Recordings
from amiwatch.cli.text import complain, counted, local
from amiwatch.errors import UsageError
from amiwatch.judgement.history import Logins, Rerun, events_of
from amiwatch.judgement.networks import source_key
from amiwatch.judgement.reasons import duration
from amiwatch.judgement.rules import longest
from amiwatch.store.history import past_attempts
from amiwatch.store.reader import Reader

if TYPE_CHECKING:
    from amiwatch.cli.call import Call


def replay(
    context: typer.Context,
    files: Sequence[Path],
    *,
    since: str | None,
    until: str | None,
    policies: Sequence[str],
    changes: Sequence[str],
    as_json: bool,
) -> None:
    """Show what would have been done about recordings, or about the history in the database; nothing is changed."""
    if bool(files) == (since is not None):
        raise UsageError("name recordings, or say --since 7d for the history in the database: one of the two.")
    if until is not None and since is None:
        raise UsageError("--until belongs to --since.")
    alternatives = read_alternatives(context.obj, policies, changes)
    for doubt in doubts(alternatives):
        complain(doubt)
    logins = Logins()
    if since is None:
        _replay_recordings(files, alternatives, logins, as_json=as_json)
    else:
        _replay_history(context.obj, since, until, alternatives, logins, as_json=as_json)


# Where the past comes from.


def _replay_recordings(
    files: Sequence[Path], alternatives: Sequence[Alternative], logins: Logins, *, as_json: bool
) -> None:
    names = dict.fromkeys(name for one in alternatives for name in one.settings.allowlist.names)
    if names:
        print(f"amiwatch: names of the allowlist are not looked up here: {', '.join(names)}", file=sys.stderr)  # noqa: T201
    recordings = Recordings(files)
    reruns = [Rerun(one.judge(one.listed())) for one in alternatives]
    progress = Progress(lambda _: recordings.share)
    show_verdicts(
        judged(progress.watch(recordings.read()), reruns, logins), alternatives, as_json=as_json, before=progress.clear
    )
    effects = [Effect.of(one, rerun, logins) for one, rerun in zip(alternatives, reruns, strict=True)]
    attempts = reruns[0].judge.counters.attempts
    show_end(
        effects, {"events": recordings.events, "attempts": attempts, "tampered": recordings.tampered}, as_json=as_json
    )
    if recordings.faults:
        raise CutShort("\n".join(recordings.faults))


def _replay_history(
    call: Call, since: str, until: str | None, alternatives: Sequence[Alternative], logins: Logins, *, as_json: bool
) -> None:
    now = time.time()
    end = now if until is None else instant(until, now)
    with Reader(call.settings().database) as reader:
        oldest = reader.oldest_attempt()
        begin = (oldest or now) if since == "all" else instant(since, now)
        if begin >= end:
            rest = "in the past" if until is None else f"before --until {until!r}"
            raise UsageError(f"--since {since!r} is not {rest}.")
        # Windows and trust are as full as they were: what lies a longest window before warms them up.
        warm = begin - max(longest(one.settings.judgement_policy().rules) for one in alternatives)
        entries = reader.allowlist(now)
        reruns = [
            Rerun(one.judge(asyncio.run(never_banned(one.settings, entries))), since=begin) for one in alternatives
        ]
        _grant(reader, reruns, warm, end)
        attempts, timed = reader.count_attempts(begin, end)
        past = past_attempts(reader, since=warm, until=end)
        events = ((event.at, event) for event in events_of(past))
        progress = Progress(lambda at: (at - warm) / (end - warm))
        show_verdicts(
            judged(progress.watch(events), reruns, logins), alternatives, as_json=as_json, before=progress.clear
        )
        effects = [Effect.of(one, rerun, logins) for one, rerun in zip(alternatives, reruns, strict=True)]
        effects.append(Effect.recorded(reader.bans_by_rules(begin, end), logins))
        notes = list(_notes(reader, begin, end, oldest, attempts - timed, effects))
    show_end(effects, {"attempts": attempts}, notes, as_json=as_json)


def _grant(reader: Reader, reruns: Sequence[Rerun], begin: float, end: float) -> None:
    """Give the trust that was earned before the begin; of its logins, only the first and the last are known."""
    for trust in reader.stored_trust(begin):
        if trust.since <= begin:
            key = source_key(trust.network.network_address)
            for rerun in reruns:
                rerun.judge.trust.grant(key, trust.account, min(end, trust.last_at))


def _notes(
    reader: Reader, begin: float, end: float, oldest: float | None, untimed: int, effects: Sequence[Effect]
) -> Iterator[str]:
    """Say what limits the answer."""
    if oldest is None:
        yield "The database holds no attempts."
    elif oldest > begin + 600:
        yield f"The history begins only at {local(oldest)}: nothing older is kept."
    gaps = [(max(one.began_at, begin), min(one.ended_at or end, end)) for one in reader.gaps()]
    lengths = [until - since for since, until in gaps if until > since]
    if lengths:
        yield f"Nothing was heard for {duration(sum(lengths))} of it ({counted(len(lengths), 'gap')}; see link_gaps)."
    if untimed:
        have = "attempt has no time of its own" if untimed == 1 else "attempts have no time of their own"
        yield f"{untimed} {have}: spread evenly over the time of the sum."
    *judged_now, then = effects
    spared = max((len(then.hits.keys() - effect.hits.keys()) for effect in judged_now), default=0)
    if spared:
        yield (
            "What a source would have sent after the ban that really came is not known: where a way of judging spares "
            "it, that holds up to that ban."
        )
