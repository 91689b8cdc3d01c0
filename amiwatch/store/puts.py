"""
What can be put into the store: it waits here, bounded, until the writer takes it.

Rule 1: ``put_*`` and ``finish_request`` never wait and never raise. They are for the event loop's own thread.

Rule 2: nothing is lost silently. Counts of the world's noise (attempts, tampered samples, trust) are shed
first. Bans, lifts, alerts, allowlist, gaps and outcomes have a bound of their own that a full disk reaches after hours.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from amiwatch.judgement.values import Alert, Ban, IPNetwork
from amiwatch.store import statements
from amiwatch.store.records import AllowEntry, AttemptCount, LearnedPort, Panic, Status, Trial
from amiwatch.store.statements import Statement

BATCH_ROWS = 1000
"""Rows of one transaction: beyond that a commit gets longer, not cheaper (measured 69-86 k rows/s)."""

MAX_WAITING = 50_000
"""Rows of attempts, trust and samples that wait for the disk (15 MB); more are shed."""

MAX_WAITING_BANS = 200_000
"""Bans, alerts, lifts and outcomes that wait for the disk (200 MB with evidence): hours of a full disk."""


class Put(NamedTuple):
    """One row to write."""

    statement: Statement
    arguments: tuple[Any, ...]


class Puts:
    """What waits to be written. ``say`` gets one sentence when a ban, lift or outcome is lost."""

    def __init__(self, *, now: Callable[[], float], say: Callable[[str], None], max_waiting: int) -> None:
        self.shed = 0
        """Rows refused because too many waited."""
        self.lost = 0
        """Rows that SQLite would never take, bans beyond their bound, and what was left when ``close()`` ran out."""
        self._now = now
        self._say = say
        self._max_waiting = max_waiting
        self._bans: deque[Put] = deque()
        self._noise: deque[Put] = deque()
        self._batch: list[Put] = []
        self._status: Status | None = None
        self._finished: deque[int] = deque(maxlen=BATCH_ROWS)
        self._wake = asyncio.Event()
        self._hurry = asyncio.Event()

    @property
    def waiting(self) -> int:
        """How many rows wait to be written."""
        return len(self._bans) + len(self._noise) + len(self._batch)

    def put_ban(self, ban: Ban, *, pbx: str, origin: str, is_enforced: bool, by: str = "") -> None:
        """
        Record a ban; the open one of the same network is closed as replaced.

        ``origin`` is ``rule``, ``manual`` or ``recovered``; ``is_enforced`` False means "would have banned"; ``by``
        is the person behind a ban by hand. Only enforced bans count for the network's place on the ladder.
        """
        self._put_ban(statements.BAN, ban, pbx, origin, is_enforced, by)

    def put_lift(self, network: IPNetwork, *, at: float, by: str, reason: str) -> None:
        """End the open ban of exactly this network before its time."""
        self._put_ban(statements.LIFT, network, at, by, reason)

    def put_counters(self, network: IPNetwork, *, packets: int, octets: int, at: float) -> None:
        """Record what the kernel's counter of a network says, for the sum of its ban. Safe to repeat."""
        self._put_ban(statements.COUNTERS, network, packets, octets, at)

    def put_pardon(self, network: IPNetwork) -> None:
        """Forget a network's place on the ladder, since its bans were a mistake; its history stays."""
        self._put_ban(statements.PARDON, network)

    def finish_request(self, request_id: int, outcome: str, is_done: bool) -> None:
        """Write what became of a request, at once. ``is_done`` False: it was refused or failed."""
        self._finished.append(request_id)
        self._put_ban(statements.FINISH, request_id, self._now(), outcome, is_done)
        self._hurry.set()

    def put_allow(self, entry: AllowEntry) -> None:
        """Add to the allowlist, or change the entry of the same target."""
        self._put_ban(statements.ALLOW, entry)

    def put_disallow(self, target: str) -> None:
        """Take out of the allowlist."""
        self._put_ban(statements.DISALLOW, target)

    def put_panic(self, panic: Panic) -> None:
        """Remember that nothing may be dropped, so that a restart doesn't forget it."""
        self._put_ban(statements.PANIC, panic)

    def put_resume(self) -> None:
        """Forget the panic."""
        self._put_ban(statements.RESUME)

    def put_trial(self, trial: Trial) -> None:
        """Remember a ban that must be confirmed, or change the one of the same network."""
        self._put_ban(statements.TRIAL, trial)

    def put_trial_end(self, network: IPNetwork) -> None:
        """Forget that a ban must be confirmed: it was, or its time is over."""
        self._put_ban(statements.TRIAL_END, network)

    def put_link(self, pbx: str, at: float, state: str, detail: str) -> None:
        """Record a change of an AMI link."""
        self._put_ban(statements.LINK, pbx, at, state, detail)

    def put_gap_begin(self, pbx: str, at: float, reason: str) -> None:
        """Begin a gap in which we hear nothing of a PBX; ignored while one is open."""
        self._put_ban(statements.GAP_BEGIN, pbx, at, reason)

    def put_gap_end(self, pbx: str, at: float) -> None:
        """End the open gap of a PBX, if there is one."""
        self._put_ban(statements.GAP_END, pbx, at)

    def put_attempts(self, counts: Iterable[AttemptCount]) -> None:
        """Add sums of attempts to their ten-minute rows."""
        for count in counts:
            self._put_noise(statements.ATTEMPT, count)

    def put_alert(self, alert: Alert, *, pbx: str) -> None:
        """Record an alert; the same kind, source and account within an hour is counted."""
        self._put_ban(statements.ALERT, alert, pbx)  # a flood of attempts must not hide an alarm

    def put_tampered(self, pbx: str, at: float, sample: bytes) -> None:
        """Keep the begin of a refused block (``ami.wire`` struck its secrets out); only the latest blocks stay."""
        self._put_noise(statements.TAMPERED, pbx, at, sample)

    def put_trust(self, network: IPNetwork, account: str, since: float, until: float, last_at: float) -> None:
        """Record trust that a login earned, or extend it."""
        self._put_noise(statements.TRUST, network, account, since, until, last_at)

    def put_learned_port(self, port: LearnedPort) -> None:
        """Record a port of Asterisk, or that it was learned anew."""
        self._put_ban(statements.LEARNED_PORT, port)

    def put_switch(self, name: str, *, is_on: bool, at: float, by: str) -> None:
        """Record what a person switched on or off."""
        self._put_ban(statements.SWITCH, name, is_on, at, by)

    def put_status(self, status: Status) -> None:
        """Say how the daemon is; only the latest is written."""
        self._status = status
        self._wake.set()

    def _put_ban(self, statement: Statement, *arguments: Any) -> None:
        if len(self._bans) >= MAX_WAITING_BANS:
            self._lose(1, f"more than {MAX_WAITING_BANS} bans and outcomes wait to be written")
            return
        self._bans.append(Put(statement, arguments))
        self._wake.set()
        if len(self._bans) >= BATCH_ROWS:
            self._hurry.set()

    def _put_noise(self, statement: Statement, *arguments: Any) -> None:
        if len(self._noise) >= self._max_waiting:
            self.shed += 1
            return
        self._noise.append(Put(statement, arguments))
        self._wake.set()
        if len(self._noise) >= BATCH_ROWS:
            self._hurry.set()

    def _lose(self, rows: int, why: str) -> None:
        self.lost += rows
        if self.lost == rows or self.lost % BATCH_ROWS == 0:
            self._say(f"Not recorded: {why} ({self.lost} rows so far).")

    # ── taking, for the writer ───────────────────────────────────────────────────────────────────────────────────────

    def _take(self) -> None:
        """Fill the batch: bans first, in their order; then the rest, sorted so that equal statements are together."""
        room = BATCH_ROWS - len(self._batch)
        self._batch += [self._bans.popleft() for _ in range(min(room, len(self._bans)))]
        room = BATCH_ROWS - len(self._batch)
        noise = [self._noise.popleft() for _ in range(min(room, len(self._noise)))]
        self._batch += sorted(noise, key=lambda put: put.statement.name)
        if self._status is not None:
            self._batch.append(Put(statements.STATUS, (self._status,)))
            self._status = None
        if not self._bans and not self._noise:
            self._wake.clear()
        if len(self._bans) + len(self._noise) < BATCH_ROWS:
            self._hurry.clear()
