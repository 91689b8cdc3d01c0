"""What the daemon tells the store and systemd about itself: sums of attempts, trust, and how it is."""

from __future__ import annotations

import os
import statistics
from time import perf_counter
from typing import TYPE_CHECKING

from amiwatch import __version__
from amiwatch.judgement.networks import key_network
from amiwatch.notify.systemd import notify, status
from amiwatch.store.history import counts_of
from amiwatch.store.records import Panic, Status
from amiwatch.store.writer import Store

if TYPE_CHECKING:
    from amiwatch.daemon.watch import Daemon

SIGN_TIME = 10.0
"""Seconds between two signs of life while nothing happens."""


class Books:
    """Keeps the store up to date with what is only summed up in memory."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._saved_events = 0
        self._saved_at = 0.0
        self._saved_panic: Panic | None = None

    def save(self, store: Store) -> None:
        """Hand over what is new; a sign of life now and then if nothing is."""
        is_quiet = self._daemon.judge.counters.events == self._saved_events
        is_quiet = is_quiet and self._daemon.hold.panic is self._saved_panic
        if not is_quiet or perf_counter() - self._saved_at > SIGN_TIME:
            self.hand_over(store)

    def hand_over(self, store: Store) -> None:
        """Give sums, trust and status to the store."""
        daemon, judge = self._daemon, self._daemon.judge
        self._saved_events, self._saved_at = judge.counters.events, perf_counter()
        self._saved_panic = daemon.hold.panic
        shift = daemon.now.utc(0.0)
        store.put_attempts(counts_of(judge.tally.drain(), shift))
        for key, account, at in judge.trust.unsaved():
            until = at + judge.policy.trust_time
            store.put_trust(key_network(key), account, at + shift, until + shift, at + shift)
        if daemon.memory.is_complete:  # else it would cover up when our predecessor lived last
            store.put_status(self.status())
        number = len(judge.ledger)
        held = daemon.hold.words()
        text = f"{number} {'ban' if number == 1 else 'bans'}{' held' if held else ''}; {self._links_text()}"
        notify(status(f"{held}; {text}" if held else text))

    def status(self) -> Status:
        """Say how the daemon is."""
        daemon, judge = self._daemon, self._daemon.judge
        counters, latencies, cause = judge.counters, daemon.latencies, daemon.doubts.cause
        return Status(
            pid=os.getpid(),
            started_at=daemon.now.utc(daemon.started_at),
            heartbeat_at=daemon.now.utc(daemon.now()),
            mode=daemon.settings.mode,
            version=__version__,
            firewall=daemon.firewall.name,
            counters={
                "events": counters.events,
                "attempts": counters.attempts,
                "tampered": daemon.inbox.tampered,
                "tainted": counters.tainted,
                "repeats": counters.repeats,
                "shed": daemon.inbox.shed,
                "bans": len(judge.ledger),
                "chan_sip": counters.chan_sip,
                "held_back": counters.held_back,
                "alerts_held_back": counters.alerts_held_back,
                "sources": len(judge.sources),
                "sources_forgotten": judge.sources.forgotten,
                "trusted": len(judge.trust),
                "store_shed": daemon.store.shed if daemon.store else 0,
                "ban_not_working": None if cause is None else f"{cause.text}. {cause.remedy}.",
                "sessions_cut": daemon.aftermath.sessions,
                "connections_forgotten": daemon.aftermath.connections,
                "faults": daemon.faults,
                "limited": daemon.limited,
                "firewall_trouble": daemon.has_firewall_trouble,
                "latency_ms": round(statistics.median(latencies) * 1000, 3) if latencies else None,
                "links": self._links_text(),
            },
        )

    def _links_text(self) -> str:
        return ", ".join(f"{name} {state.value}" for name, state in self._daemon.links.items())
