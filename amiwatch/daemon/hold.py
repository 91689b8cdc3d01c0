"""
What people stop and what they try: a panic, in which nothing is dropped, and bans that end unless they are confirmed.

Rule 1: lifting comes first, remembering it second; a database that can't be written delays nothing.

Rule 2: a ban on trial needs nobody to undo it. It is a short ban, and the kernel lets it go by itself.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from amiwatch.daemon.memory import end_of
from amiwatch.judgement.reasons import duration
from amiwatch.judgement.values import IPNetwork
from amiwatch.store.note import note_path, read_note
from amiwatch.store.records import Panic, Trial
from amiwatch.store.writer import Store

if TYPE_CHECKING:
    from amiwatch.daemon.enforcer import Enforcer
    from amiwatch.daemon.watch import Daemon

log = logging.getLogger(__name__)

REMIND_TIME = 600.0
"""Seconds between two reminders in the log that nothing is dropped."""


@dataclass(frozen=True, slots=True)
class _OnTrial:
    """A trial and its ends on the daemon's clock, which nobody sets."""

    trial: Trial
    deadline: float
    until: float | None


class Hold:
    """Holds enforcement for as long as a panic lasts, and knows which bans wait to be confirmed."""

    def __init__(self, daemon: Daemon, enforcer: Enforcer) -> None:
        self._daemon = daemon
        self._enforcer = enforcer
        self.panic: Panic | None = None
        """What lasts now; its times are UTC."""
        self._trials: dict[IPNetwork, _OnTrial] = {}
        self.forced: set[IPNetwork] = set()
        """Bans by hand that the allowlist does not lift, for whoever made them meant it."""
        self._ends: float | None = None
        self._remind_at = 0.0
        self._database = daemon.settings.database
        self._spent: Panic | None = None
        """The panic of a note that could not be deleted; it is over."""

    async def begin(self, panic: Panic) -> None:
        """Empty the kernel and keep it so. Raises FirewallError if it refuses now; it is tried again then."""
        self._keep(panic)
        if self._daemon.store is not None:
            self._daemon.store.put_panic(panic)
        await self._enforcer.hold()

    async def end(self) -> bool:
        """Put back what has time left; tell whether anything was held."""
        was_held, self.panic = self.panic is not None, None
        self._spent = read_note(self._database)
        self._delete_note()
        if read_note(self._database) is not None:
            log.error("delete the note of the panic, or the next start takes it up path=%s", note_path(self._database))
        if self._daemon.store is not None:
            self._daemon.store.put_resume()
        if was_held:
            await self._enforcer.resume()
            log.warning("panic over, enforcing again bans=%d", len(self._daemon.judge.ledger))
        return was_held

    def try_out(self, trial: Trial) -> None:
        """Remember a ban that must be confirmed."""
        self._trials[trial.network] = self._translated(trial)
        if self._daemon.store is not None:
            self._daemon.store.put_trial(trial)

    def confirm(self, network: IPNetwork | None) -> list[tuple[Trial, int | None]]:
        """Take a trial, or all, that are still in time: what was tried, and the seconds that it has left then."""
        now = self._daemon.now()
        found = [each for each in self._trials.values() if each.deadline > now]
        found = [each for each in found if network in (None, each.trial.network)]
        for each in found:
            self.settle(each.trial.network)
        return [(each.trial, None if each.until is None else max(1, round(each.until - now))) for each in found]

    def settle(self, network: IPNetwork) -> None:
        """Forget that a ban must be confirmed: it was, it was lifted, or its time is over."""
        if self._trials.pop(network, None) is not None and self._daemon.store is not None:
            self._daemon.store.put_trial_end(network)

    async def look(self) -> None:
        """Take up a panic that was left in a file, end one whose time is over, tell of trials that nobody confirmed."""
        await self._take_up_note()
        now = self._daemon.now()
        if self.panic is not None and self._ends is not None and now >= self._ends:
            log.warning("panic ends, its time is over by=%r", self.panic.asked_by)
            await self.end()
        elif self.panic is not None and now >= self._remind_at:
            self._say(self.panic)
        for trial in [each.trial for each in self._trials.values() if each.deadline <= now]:
            log.warning("ban undone, nobody confirmed it network=%s by=%r", trial.network, trial.asked_by)
            self.settle(trial.network)

    async def recall(self, store: Store) -> None:
        """Take over what the database says, or a note beside it. Raises StoreError."""
        if (left := read_note(self._database)) is not None:
            self._keep(left)
            store.put_panic(left)
        if self.panic is None and (panic := await store.panic()) is not None:
            self._keep(panic)
        for trial in await store.trials():
            self._trials.setdefault(trial.network, self._translated(trial))

    def tell(self, store: Store) -> None:
        """Tell a database that may not know it."""
        if self.panic is not None:
            store.put_panic(self.panic)
        for each in self._trials.values():
            store.put_trial(each.trial)

    def words(self) -> str:
        """Say in a few words what is held; empty if nothing is."""
        if self.panic is None:
            return ""
        if self._ends is None:
            return "PANIC: nothing is dropped until 'amiwatch resume'"
        return f"PANIC: nothing is dropped for {duration(max(0.0, self._ends - self._daemon.now()))}"

    def _keep(self, panic: Panic) -> None:
        self.panic, self._ends = panic, self._here(panic.at, panic.until)
        self._enforcer.is_held = True
        self._say(panic)

    def _translated(self, trial: Trial) -> _OnTrial:
        deadline = self._here(trial.at, trial.deadline)
        assert deadline is not None, "only an end may be None"
        return _OnTrial(trial, deadline, self._here(trial.at, trial.until))

    def _here(self, at: float, until: float | None) -> float | None:
        """Translate an end in UTC to the daemon's clock; None is for ever."""
        now = self._daemon.now()
        return end_of(at, until, now, self._daemon.now.utc(now) - now)

    def _say(self, panic: Panic) -> None:
        self._remind_at = self._daemon.now() + REMIND_TIME
        log.error("%s by=%r reason=%r", self.words(), panic.asked_by, panic.comment)

    async def _take_up_note(self) -> None:
        """Begin what somebody could not ask for in the database; the file goes when the database has it."""
        if (left := read_note(self._database)) in (None, self._spent):
            return
        assert left is not None
        store = self._daemon.store
        if self.panic != left:
            await self.begin(left)
        elif store is not None and store.is_working and not store.waiting:
            self._delete_note()

    def _delete_note(self) -> None:
        with suppress(OSError):
            note_path(self._database).unlink(missing_ok=True)
