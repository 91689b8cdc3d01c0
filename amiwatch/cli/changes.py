"""``ban``, ``unban``, ``allow``, ``disallow``, ``forget``: what people ask for."""

from __future__ import annotations

import sys
from contextlib import suppress
from itertools import islice
from typing import Annotated

import typer

from amiwatch.cli.asking import PATIENT_TIME, carry_out
from amiwatch.cli.call import Call, Comment, network, seconds
from amiwatch.errors import AmiwatchError, UsageError

COMPLETIONS = 100
"""Networks offered for completion: more nobody reads."""

EVER = ("ever", "forever", "for ever")

Target = Annotated[str, typer.Argument(metavar="ADDRESS|NETWORK", help="For example 203.0.113.7 or 203.0.113.0/24.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")]


def _duration(text: str | None) -> int | None:
    """Read ``--for``: seconds, 0 for ever, None for the default."""
    if text is None:
        return None
    return 0 if text.strip().lower() in EVER else seconds(text)


def ban(
    context: typer.Context,
    target: Target,
    duration: Annotated[
        str | None,
        typer.Option("--for", metavar="DURATION", help="2h, 7d, ever; otherwise as for a first offence."),
    ] = None,
    comment: Comment = "",
) -> None:
    """Ban an address or a network by hand."""
    wanted, time = network(target), _duration(duration)
    carry_out(context.obj.settings(), "ban", str(wanted), duration=time, comment=comment)


def complete_banned(incomplete: str) -> list[str]:
    """Offer the banned networks; nothing at all where the settings or the database can't be read."""
    from amiwatch.cli.bans import open_networks

    with suppress(AmiwatchError):
        return list(islice(open_networks(Call().settings().database, incomplete), COMPLETIONS))
    return []


def unban(
    context: typer.Context,
    target: Annotated[
        str, typer.Argument(metavar="[ADDRESS|NETWORK]", help="What to unban.", autocompletion=complete_banned)
    ] = "",
    everybody: Annotated[bool, typer.Option("--all", help="Unban everybody.")] = False,
    is_sure: Yes = False,
    comment: Comment = "",
) -> None:
    """End a ban, or all of them. Its place on the ladder is forgotten with it."""
    if everybody == bool(target):
        raise UsageError("say what to unban: an address, a network, or --all.")
    settings = context.obj.settings()
    if not everybody:
        carry_out(settings, "unban", str(network(target)), comment=comment)
        return
    confirm("Unban everybody?", is_sure=is_sure)
    carry_out(settings, "unban-all", comment=comment, patience=PATIENT_TIME)


def confirm(question: str, *, is_sure: bool) -> None:
    """Go on only if whoever asked is sure. Raises UsageError where nobody can be asked."""
    if is_sure:
        return
    if not sys.stdin.isatty():
        raise UsageError(f"{question} Nobody can be asked here: say --yes if you are sure.")
    typer.confirm(question, abort=True)


__all__ = ["ban", "unban"]
