"""What ``amiwatch replay`` prints: verdicts, and how the ways of judging differ."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from amiwatch.cli.alternatives import Alternative, Difference, Effect, Hit
from amiwatch.cli.listing import shortened
from amiwatch.cli.text import alert_page, counted, iso, strong, visible, wrapped
from amiwatch.judgement.reasons import duration
from amiwatch.judgement.values import Ban, IPNetwork, Lift, Verdict

SHOWN = 10
"""Sources named on each side of a difference; the JSON has all."""

VERDICT_INDENT = 25
"""Where a verdict goes on that is longer than the terminal's line: behind its time."""

LEAST_TITLE = 17
"""Cells that the name of an alternative gets, even if the table is then too wide for the terminal."""

PHONES_SHOWN = 3
"""Good phones named of one source."""


def show_verdicts(
    verdicts: Iterable[tuple[int, Verdict]],
    alternatives: Sequence[Alternative],
    *,
    as_json: bool,
    before: Callable[[], None],
) -> None:
    """Print each verdict as it comes, after ``before()``; for people only where there is one way of judging."""
    for number, verdict in verdicts:
        before()
        if as_json:
            named = {"alternative": alternatives[number].name} if len(alternatives) > 1 else {}
            _print(json.dumps({**as_record(verdict), **named}))
        elif len(alternatives) == 1:
            _print(wrapped(as_line(verdict), indent=VERDICT_INDENT))


def show_end(
    effects: Sequence[Effect], numbers: Mapping[str, int], notes: Sequence[str] = (), *, as_json: bool
) -> None:
    """Print what it came to; the first effect is what is in force, and the others are compared with it."""
    lines = _for_machines(effects, numbers, notes) if as_json else _for_people(effects, numbers, notes)
    for line in lines:
        _print(line)


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
    if isinstance(verdict, Lift):
        return {
            "type": "lift",
            "at": iso(verdict.at),
            "address": str(verdict.address),
            "network": str(verdict.network),
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
    """Return what is printed for a person."""
    if isinstance(verdict, Ban):
        time = "for ever" if verdict.seconds is None else duration(verdict.seconds)
        said = f"ban    {verdict.network}  {time}  {verdict.rule}: {verdict.reason}"
    elif isinstance(verdict, Lift):
        said = f"lift   {verdict.network}  {verdict.reason}"
    else:
        about = verdict.address or (repr(verdict.account) if verdict.account else "-")
        said = f"alert  {about}  {verdict.kind}: {verdict.reason} ({alert_page(verdict.kind)})"
    return f"{_moment(verdict.at)}  {visible(said)}"


def _for_people(effects: Sequence[Effect], numbers: Mapping[str, int], notes: Sequence[str]) -> Iterator[str]:
    first, *others = effects
    if others:
        yield from _table(effects)
        for effect in others:
            yield ""
            yield from _differences(effect, first)
        yield ""
    else:
        yield wrapped(_sentence(first))
    for note in notes:
        yield wrapped(note)
    all_numbers = {**numbers, "bans": first.bans, "alerts": sum(first.alerts.values())}
    yield ", ".join(counted(number, name.removesuffix("s"), name) for name, number in all_numbers.items())


def _table(effects: Sequence[Effect]) -> Iterator[str]:
    heads = ("", "sources banned", "with good phones", "logins missed", "bans", "alerts")
    rows = [
        (
            _title(effect),
            str(len(effect.hits)),
            str(effect.good),
            "" if effect.is_recorded else str(effect.missed),
            str(effect.bans),
            "" if effect.is_recorded else str(sum(effect.alerts.values())),
        )
        for effect in effects
    ]
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    if sys.stdout.isatty():
        room = shutil.get_terminal_size().columns - sum(width + 2 for width in widths[1:])
        widths[0] = min(widths[0], max(LEAST_TITLE, room))
    for number, row in enumerate((heads, *rows)):
        row = (shortened(row[0], widths[0]), *row[1:])
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        line = "  ".join(cells)
        yield strong(line) if not number else line


def _title(effect: Effect) -> str:
    return visible(f"{effect.name} ({effect.policy})" if effect.policy not in ("", effect.name) else effect.name)


def _sentence(effect: Effect) -> str:
    """``41 sources would have been banned, 2 of them had good phones``."""
    number, good = len(effect.hits), effect.good
    were = "was" if number == 1 else "were"
    banned = f"{counted(number, 'source')} {f'{were} banned' if effect.is_recorded else 'would have been banned'}"
    return f"{banned}, {good or 'none'} of them had good phones." if number else f"{banned}."


def _differences(effect: Effect, other: Effect) -> Iterator[str]:
    difference = Difference.between(effect, other)
    yield strong(wrapped(f"{_title(effect)}: {_sentence(effect)}"))
    if not (difference.more or difference.fewer):
        yield f"  The same sources as {other.name}{_shift(difference)}."
        return
    common = len(effect.hits) - len(difference.more)
    yield f"  {counted(common, 'source')} in common with {other.name}{_shift(difference)}."
    yield from _listed(f"only {'then' if effect.is_recorded else 'here'}", "+", difference.more, effect)
    yield from _listed(f"only {other.name}", "-", difference.fewer, other)


def _shift(difference: Difference) -> str:
    parts = [f"{count} {word}" for count, word in ((difference.sooner, "sooner"), (difference.later, "later")) if count]
    return f", {' and '.join(parts)}" if parts else ""


def _listed(head: str, sign: str, networks: Sequence[IPNetwork], effect: Effect) -> Iterator[str]:
    if networks:
        yield f"  {counted(len(networks), 'source')} {head}:"
    for network in networks[:SHOWN]:
        yield wrapped(_hit(network, effect.hits[network]), head=f"  {sign} ", indent=6)
    if len(networks) > SHOWN:
        yield f"    … and {len(networks) - SHOWN} more (--json has them)"


def _hit(network: IPNetwork, hit: Hit) -> str:
    phones = ""
    if hit.phones:
        more = f" and {len(hit.phones) - PHONES_SHOWN} more" if len(hit.phones) > PHONES_SHOWN else ""
        missed = f", {counted(hit.missed, 'login')} missed" if hit.missed else ""
        phones = f"good phones {', '.join(repr(name) for name in hit.phones[:PHONES_SHOWN])}{more}{missed}; "
    return f"{str(network).removesuffix('/32')}  {phones}{_moment(hit.at)}  {hit.rule}: {visible(hit.reason)}"


def _for_machines(effects: Sequence[Effect], numbers: Mapping[str, int], notes: Sequence[str]) -> Iterator[str]:
    first, *others = effects
    for effect in effects if others else ():
        yield json.dumps({"type": "alternative", "name": effect.name, "policy": effect.policy, **_sums(effect)})
    for effect in others:
        difference = Difference.between(effect, first)
        for change, networks, of in (("more", difference.more, effect), ("fewer", difference.fewer, first)):
            for network in networks:
                hit = of.hits[network]
                yield json.dumps(
                    {
                        "type": "difference",
                        "alternative": effect.name,
                        "change": change,
                        "network": str(network),
                        "at": iso(hit.at),
                        "rule": hit.rule,
                        "reason": hit.reason,
                        "good_phones": list(hit.phones),
                        "logins_missed": hit.missed,
                    }
                )
    yield json.dumps({"type": "summary", **numbers, **_sums(first), "notes": list(notes)})


def _sums(effect: Effect) -> dict[str, object]:
    return {
        "bans": effect.bans,
        "alerts": sum(effect.alerts.values()),
        "sources": len(effect.hits),
        "with_good_phones": effect.good,
        "logins_missed": effect.missed,
        "alert_kinds": dict(effect.alerts),
    }


def _moment(at: float) -> str:
    return str(iso(at))[:-1].replace("T", " ")


def _print(line: str) -> None:
    print(line)  # noqa: T201
