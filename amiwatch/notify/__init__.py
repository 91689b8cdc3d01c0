"""Who is told: listeners for bans, alerts and links."""

from __future__ import annotations

from typing import Protocol

from amiwatch.judgement.values import Alert, Ban, IPNetwork


class Listener(Protocol):
    """Somebody who wants to know. Plain functions that return at once."""

    def banned(self, ban: Ban, pbx: str, seconds: float | None) -> None:
        """Learn of a ban, and how long it took from the event to the kernel (None: it is not there yet)."""

    def lifted(self, network: IPNetwork) -> None:
        """Learn that a ban was ended before its time."""

    def alerted(self, alert: Alert, pbx: str) -> None:
        """Learn of an alert."""

    def link_changed(self, pbx: str, state: str, detail: str) -> None:
        """Learn how an AMI link is."""
