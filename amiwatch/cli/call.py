"""What one call of the program knows: its global options, the settings, and the targets that people write."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from amiwatch.cli.text import complain
from amiwatch.errors import UsageError
from amiwatch.judgement.values import IPNetwork

if TYPE_CHECKING:
    from amiwatch.config import Settings

Comment = Annotated[str, typer.Option("--comment", "-c", help="Why; it is kept with the request.")]


class Call:
    """``context.obj`` of every command."""

    def __init__(self, config: Path | None = None) -> None:
        self.config = config
        """The TOML file of ``--config``."""

    @cache  # noqa: B019 - one call lives as long as the process
    def settings(self) -> Settings:
        """
        Read the settings, once; name the files that can't be read, for answers may differ from the daemon's.

        Raises ConfigurationError with every mistake.
        """
        settings = self.read_settings()
        for sentence in settings.unread:
            complain(sentence)
        return settings

    def read_settings(self, overrides: Mapping[str, object] | None = None) -> Settings:
        """Read the settings anew, with these changes. Raises ConfigurationError with every mistake."""
        from amiwatch.config import load

        return load(config=self.config, overrides=overrides)


def network(text: str) -> IPNetwork:
    """Read an address or a network as a person writes it. Raises UsageError."""
    from amiwatch.daemon.petitions import target_network

    try:
        return target_network(text)
    except ValueError as error:
        raise UsageError(f"{error}.") from None


def seconds(text: str) -> int:
    """Read a duration. Raises UsageError."""
    from amiwatch.config import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise UsageError(f"{error}.") from None


def instant(text: str, now: float) -> float:
    """Read how long ago, or a local date as in ``2026-11-20`` or ``2026-11-20T18:30``. Raises UsageError."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        pass
    try:
        return now - seconds(text)
    except UsageError:
        raise UsageError(f"{text!r} is no time; write 24h or 7d (ago), 2026-11-20 or 2026-11-20T18:30.") from None
