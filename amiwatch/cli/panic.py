"""``panic``, ``resume``: stop everything at once, and go on. The kernel comes first, then the daemon is told."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from amiwatch.cli.asking import PATIENT_TIME, asker, carry_out, is_alive
from amiwatch.cli.call import Comment, seconds
from amiwatch.cli.text import complain, iso, local, visible
from amiwatch.errors import ConfigurationError, FirewallError, FirewallPermission, StillWaiting, StoreError
from amiwatch.store.note import leave_note, note_path, read_note
from amiwatch.store.reader import Reader
from amiwatch.store.records import Panic

if TYPE_CHECKING:
    from pathlib import Path

    from amiwatch.config import Settings

USUAL_NAME = "amiwatch"
"""How our sets are named if no setting says otherwise."""

OBSERVING = (
    "observe mode: nothing is dropped, and the daemon takes out what gets into the sets "
    "(AMIWATCH_MODE=enforce and a restart change that)"
)

STOP_IT = "stop it, for it fills them again: systemctl stop amiwatch"


def panic(
    context: typer.Context,
    duration: Annotated[
        str | None, typer.Option("--for", metavar="DURATION", help="30m, 2h; otherwise until 'amiwatch resume'.")
    ] = None,
    comment: Comment = "",
) -> None:
    """
    Drop nothing any more, at once.

    Bans are kept, judged and recorded; 'amiwatch resume' puts them back. Survives a restart of the daemon.
    """
    how_long = seconds(duration) if duration else None
    try:
        settings = context.obj.settings()
    except ConfigurationError:
        # Whatever is wrong with them: the name of the sets is known, or the usual one.
        is_empty = asyncio.run(_empty(os.environ.get("AMIWATCH_SET_NAME", USUAL_NAME)))
        complain(f"{_emptied(is_empty)}; if a daemon runs, {STOP_IT}")
        raise
    is_empty = settings.firewall != "none" and asyncio.run(_empty(settings.set_name))
    try:
        carry_out(settings, "panic", duration=how_long, comment=comment)
    except StillWaiting as error:
        raise StillWaiting(f"{error} Meanwhile {_emptied(is_empty)}.") from error
    except StoreError as error:
        _leave_note(settings, how_long, comment, error=error, is_empty=is_empty)


def resume(context: typer.Context) -> None:
    """
    End a panic.

    Everything that still has time left is dropped again, for the time that is left.
    """
    carry_out(context.obj.settings(), "resume", patience=PATIENT_TIME)


async def _empty(prefix: str) -> bool:
    """Empty our sets, of whichever firewall, and let no limit concern anybody; tell whether the kernel let us."""
    from amiwatch.firewall.table import RULES, make_firewall

    done = 0
    for kind in RULES:
        firewall = make_firewall(kind, prefix=prefix)
        try:
            await firewall.clear()
            done += 1
            await _exempt_everybody(kind, prefix)
        except FirewallPermission:
            return False
        except FirewallError:
            continue  # a kernel without the one has nothing in it
        finally:
            await firewall.close()
    return done > 0


async def _exempt_everybody(kind: str, prefix: str) -> None:
    from amiwatch.daemon.rulekeeper import EVERYBODY
    from amiwatch.firewall.table import make_rule

    rule = make_rule(kind, prefix)
    with suppress(FirewallError):  # the sets are empty, which is more
        if rule is not None and any(one.limits for one in (await rule.show()).families):
            await rule.exempt(EVERYBODY)


def _leave_note(settings: Settings, how_long: int | None, comment: str, *, error: StoreError, is_empty: bool) -> None:
    """Tell the daemon without the database. Raises the error of the database if that can't be done."""
    now = time.time()
    emptied = _emptied(is_empty)
    try:
        leave_note(settings.database, Panic(now, now + how_long if how_long else None, asker(), visible(comment)))
    except OSError as refused:
        raise StoreError(
            f"{error} And {str(note_path(settings.database))!r} can't be written ({refused.strerror}), and {emptied}; "
            f"if the daemon runs, {STOP_IT}."
        ) from error
    complain(str(error))
    typer.echo(f"{emptied}; the daemon finds the panic in {str(note_path(settings.database))!r}")


def _emptied(is_empty: bool) -> str:
    return "the kernel's sets are empty now" if is_empty else "the kernel's sets were not emptied"


def lasting(database: Path, now: float, reader: Reader | None = None) -> Panic | None:
    """Return the panic that lasts, None if there is none. Raises StoreError."""
    found = read_note(database)
    if found is None:
        if reader is None:
            with Reader(database) as reader:
                found = reader.panic()
        else:
            found = reader.panic()
    return None if found is None or (found.until is not None and found.until <= now) else found


def pause(database: Path) -> str | None:
    """Say why nothing is to be dropped now: a panic, or a daemon that only observes. None if bans are to drop."""
    with suppress(StoreError), Reader(database) as reader:
        if (held := lasting(database, time.time(), reader)) is not None:
            return words(held)
        found = reader.status()
        if found is not None and is_alive(found) and found.mode == "observe":
            return OBSERVING
    return None


def words(panic: Panic) -> str:
    """Say it, so that nobody overlooks it."""
    until = "'amiwatch resume'" if panic.until is None else local(panic.until)
    why = f": {visible(panic.comment)}" if panic.comment else ""
    return f"PANIC: nothing is dropped since {local(panic.at)}, until {until}, by {visible(panic.asked_by)}{why}"


def record(panic: Panic | None) -> dict[str, object] | None:
    """Write it for machines."""
    if panic is None:
        return None
    return {"since": iso(panic.at), "until": iso(panic.until), "by": panic.asked_by, "comment": panic.comment}
