"""What the judge saw, as numbers for whoever shows them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """What the judge saw since it began."""

    events: int = 0
    attempts: int = 0
    tainted: int = 0
    repeats: int = 0
    """Events of sources that were banned already."""
    chan_sip: int = 0
    held_back: int = 0
    """Bans on unproven evidence that the ceiling held back, each source once a minute."""
    alerts_held_back: int = 0
    """Alerts beyond ``ALERTS_A_MINUTE``."""
