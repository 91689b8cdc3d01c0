"""What a check finds: one line each, good, doubtful or bad, and what to do about it."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Mark(Enum):
    """How a finding is."""

    GOOD = ("✓", "green")
    DOUBT = ("!", "yellow")
    BAD = ("✗", "red")


class Finding(NamedTuple):
    """One line."""

    subject: str
    mark: Mark
    text: str
    to_do: str = ""
    code: int = 1
    """Exit code, where it is bad."""
