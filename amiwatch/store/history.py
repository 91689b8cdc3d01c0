"""
From what the judge counted to rows, and from rows back to attempts in the order in which they came.

Rule 1: rows are never gathered: as many are held as overlap in time.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from ipaddress import ip_network
from itertools import chain
from math import inf

from amiwatch.judgement.history import PastAttempt
from amiwatch.judgement.tally import Sum
from amiwatch.judgement.values import IPNetwork, source_network
from amiwatch.store.reader import Reader
from amiwatch.store.records import TIME_UNIT, AttemptCount, AttemptRecord

_Waiting = list[tuple[float, int, Iterator[PastAttempt], PastAttempt]]
"""A heap: the next attempt of each row that was begun, and what comes after it."""


def counts_of(sums: Iterable[Sum], shift: float = 0.0) -> Iterator[AttemptCount]:
    """Yield what is put into the store; ``shift`` is what the judge's clock lacks to the epoch, in seconds."""
    for one in sums:
        yield AttemptCount(
            pbx=one.pbx,
            source=one.source if one.source.version == 4 else source_network(one.source),
            account=one.account,
            service=one.service,
            transport=one.transport,
            outcome=one.outcome,
            count=one.attempts,
            first_at=one.first_at + shift,
            last_at=one.last_at + shift,
            times=tuple([at + shift for at in one.times]),
            answers=one.answers,
        )


def past_attempts(
    reader: Reader, *, since: float, until: float, within: IPNetwork | None = None
) -> Iterator[PastAttempt]:
    """
    Yield what was attempted in this time, to the hundredth of a second; ``within`` as for ``Reader.attempts``.

    Of a row with more attempts than it holds times for, the others are spread evenly over the rest of its time.
    """
    waiting: _Waiting = []
    for number, row in enumerate(reader.attempts_as_they_came(since=since, until=until, within=within)):
        yield from _before(row.first_at, waiting)
        _push(waiting, number, _attempts(row))
    yield from _before(inf, waiting)


def _before(at: float, waiting: _Waiting) -> Iterator[PastAttempt]:
    while waiting and waiting[0][0] < at:
        _, number, more, attempt = heapq.heappop(waiting)
        yield attempt
        _push(waiting, number, more)


def _push(waiting: _Waiting, number: int, more: Iterator[PastAttempt]) -> None:
    following = next(more, None)
    if following is not None:
        heapq.heappush(waiting, (following.at, number, more, following))


def _attempts(row: AttemptRecord) -> Iterator[PastAttempt]:
    network = ip_network(row.address)
    source = network.network_address
    for number, at in enumerate(_times(row)):
        yield PastAttempt(
            at, source, row.account, row.service, row.transport, row.outcome, is_answered=number < row.answers
        )


def _times(row: AttemptRecord) -> Iterator[float]:
    known = sorted(row.bucket + int(text) * TIME_UNIT for text in row.times.split(",") if text)[: row.attempts]
    rest = row.attempts - len(known)
    begin = known[-1] if known else row.first_at
    step = (row.last_at - begin) / max(1, rest if known else rest - 1)
    return chain(known, (begin + step * (number + bool(known)) for number in range(rest)))
