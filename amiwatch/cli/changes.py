"""``ban``, ``confirm``, ``unban``, ``allow``, ``disallow``, ``forget``: what people ask for."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from itertools import islice
from typing import Annotated

import typer

from amiwatch.cli.asking import PATIENT_TIME, carry_out
from amiwatch.cli.bans import open_networks
from amiwatch.cli.call import Call, Comment, network, seconds
from amiwatch.cli.listing import AsCsv, AsJson, Form, Listing, form
from amiwatch.cli.ssh import callers
from amiwatch.cli.text import compact, iso, short
from amiwatch.errors import AmiwatchError, Refusal, UsageError
from amiwatch.judgement.values import IPNetwork
from amiwatch.store.reader import Reader
from amiwatch.store.records import FOR_EVER, AllowEntry

COMPLETIONS = 100
"""Networks offered for completion: more nobody reads."""

WIDE = {4: 8, 6: 16}
"""Prefix of the widest network that is allowed or unbanned without asking: beyond it, it is nearly everybody."""

NAMES_TIME = 15.0
"""Seconds to wait for a change of the allowlist: its names are looked up, and a name server may be silent."""

EVER = ("ever", "forever", "for ever")

FORCE_IT = "say --force if you mean it, and --confirm 60s to have it undone if you are wrong"

Target = Annotated[str, typer.Argument(metavar="ADDRESS|NETWORK", help="For example 203.0.113.7 or 203.0.113.0/24.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")]


def _duration(text: str | None) -> int | None:
    """Read ``--for``: seconds, ``FOR_EVER``, None for the default."""
    if text is None:
        return None
    return FOR_EVER if text.strip().lower() in EVER else seconds(text)


def ban(
    context: typer.Context,
    target: Target,
    duration: Annotated[
        str | None,
        typer.Option("--for", metavar="DURATION", help="2h, 7d, ever; otherwise as for a first offence."),
    ] = None,
    confirm: Annotated[
        str | None,
        typer.Option("--confirm", metavar="DURATION", help="60s: undone after that unless 'amiwatch confirm' comes."),
    ] = None,
    is_forced: Annotated[
        bool, typer.Option("--force", help="Also if it is allowlisted, wide, or where you are logged in from.")
    ] = False,
    comment: Comment = "",
) -> None:
    """
    Ban an address or a network by hand.

    Refused if it covers whoever asks, the gateway, a name server or the allowlist, or is wider than a /16 (IPv6: /32).
    """
    wanted, how_long = network(target), _duration(duration)
    trial = seconds(confirm) if confirm else None
    if not is_forced:
        _spare_caller(wanted)
    carry_out(
        context.obj.settings(),
        "ban",
        str(wanted),
        duration=how_long,
        comment=comment,
        is_forced=is_forced,
        confirm=trial,
    )


def _spare_caller(wanted: IPNetwork) -> None:
    """Raise Refusal if whoever asks is logged in from there."""
    for address in callers():
        if address in wanted:
            raise Refusal(f"{wanted} is not banned: you are logged in from {address}; {FORCE_IT}.")


def confirm_ban(
    context: typer.Context,
    target: Annotated[str, typer.Argument(metavar="[ADDRESS|NETWORK]", help="Which; otherwise all that wait.")] = "",
) -> None:
    """
    Confirm a ban that was made with --confirm.

    It lasts as long as was asked for then.
    """
    carry_out(context.obj.settings(), "confirm", str(network(target)) if target else "")


def complete_banned(incomplete: str) -> list[str]:
    """Offer the banned networks; nothing at all where the settings or the database can't be read."""
    with suppress(AmiwatchError):
        return list(islice(open_networks(Call().settings().database, incomplete), COMPLETIONS))
    return []


def complete_allowed(incomplete: str) -> list[str]:
    """Offer what is on the allowlist, as ``complete_banned`` does."""
    with suppress(AmiwatchError), Reader(Call().settings().database) as reader:
        found = [entry.target for entry in reader.allowlist(time.time()) if entry.target.startswith(incomplete)]
        return found[:COMPLETIONS]
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
    """
    End the bans of an address or a network, or all of them.

    A network lifts every ban inside it. The offenders' places on the ladder are forgotten, too.
    """
    if everybody == bool(target):
        raise UsageError("say what to unban: an address, a network, or --all.")
    settings = context.obj.settings()
    if not everybody:
        wanted = network(target)
        if wanted.prefixlen < WIDE[wanted.version]:
            confirm(f"{wanted} is very wide. Unban everybody in it?", is_sure=is_sure)
        carry_out(settings, "unban", str(wanted), comment=comment, patience=PATIENT_TIME)
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


def allow(
    context: typer.Context,
    target: Annotated[str, typer.Argument(metavar="[ADDRESS|NETWORK|NAME]", help="Who is never banned.")] = "",
    is_list: Annotated[bool, typer.Option("--list", "-l", help="List who was allowed by this command.")] = False,
    duration: Annotated[
        str | None, typer.Option("--for", metavar="DURATION", help="8h, 30d; otherwise for ever.")
    ] = None,
    is_sure: Yes = False,
    comment: Comment = "",
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """
    Never ban an address, a network or a name.

    Bans that it has are lifted at once. A network wider than a /8 (IPv6: /16) is asked about.
    """
    if is_list == bool(target):
        raise UsageError("say whom to allow, or --list.")
    if is_list:
        _list_allowed(context, form(as_json=as_json, as_csv=as_csv))
        return
    wanted, how_long = _to_allow(target), _duration(duration)
    if not isinstance(wanted, str) and wanted.prefixlen < WIDE[wanted.version]:
        confirm(f"{wanted} is very wide: nobody in it will ever be banned. Allow it?", is_sure=is_sure)
    carry_out(
        context.obj.settings(), "allow", str(wanted), duration=how_long or None, comment=comment, patience=NAMES_TIME
    )


def disallow(
    context: typer.Context,
    target: Annotated[
        str,
        typer.Argument(
            metavar="ADDRESS|NETWORK|NAME", help="As 'allow --list' shows it.", autocompletion=complete_allowed
        ),
    ],
) -> None:
    """
    Take back an allow.

    It is judged like everybody else from now on.
    """
    carry_out(context.obj.settings(), "disallow", _network_or_name(target), patience=NAMES_TIME)


def forget(
    context: typer.Context,
    target: Annotated[str, typer.Argument(metavar="[ADDRESS|NETWORK]", help="Everything about this.")] = "",
    older_than: Annotated[
        str | None, typer.Option("--older-than", metavar="DURATION", help="30d; otherwise as the setting says.")
    ] = None,
) -> None:
    """
    Delete what is known of a network, or is old.

    Bans that last are kept.
    """
    if target and older_than:
        raise UsageError("say a target or --older-than, not both.")
    wanted = str(network(target)) if target else ""
    age = seconds(older_than) if older_than else None
    carry_out(context.obj.settings(), "forget", wanted, duration=age, patience=PATIENT_TIME)


def _to_allow(text: str) -> IPNetwork | str:
    from amiwatch.daemon.petitions import allow_target

    try:
        return allow_target(text)
    except ValueError as error:
        raise UsageError(f"{error}.") from None


def _network_or_name(text: str) -> str:
    from amiwatch.config.texts import network_or_name

    try:
        return str(network_or_name(text.strip()))
    except ValueError as error:
        raise UsageError(f"{error}.") from None


def _list_allowed(context: typer.Context, shape: Form) -> None:
    now = time.time()
    with Reader(context.obj.settings().database) as reader:
        _allowed_listing(now).show(reader.allowlist(now), shape)


def _allowed_listing(now: float) -> Listing[AllowEntry]:
    return Listing(
        heads=("TARGET", "SINCE", "LEFT", "BY", "COMMENT"),
        cells=lambda entry: (
            entry.target,
            short(entry.at, now),
            "for ever" if entry.until is None else compact(entry.until - now),
            entry.added_by,
            entry.comment,
        ),
        fields=("target", "since", "until", "by", "comment"),
        values=lambda entry: (entry.target, iso(entry.at), iso(entry.until), entry.added_by, entry.comment),
        nothing="Nobody was allowed by hand; the setting AMIWATCH_ALLOWLIST is not listed here.",
    )
