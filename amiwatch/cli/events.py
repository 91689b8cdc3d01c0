"""``amiwatch events``: who tried what, and what a person should know."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from amiwatch.cli.call import network, seconds
from amiwatch.cli.listing import AsCsv, AsJson, Listing, form
from amiwatch.cli.text import alert_page, iso, short
from amiwatch.store.reader import Reader
from amiwatch.store.records import EventRecord

FIELDS = (
    "type", "first", "last", "times", "address", "account", "what", "service", "transport", "pbx", "reason", "page",
)  # fmt: skip


def events(
    context: typer.Context,
    target: Annotated[str, typer.Argument(metavar="[ADDRESS|NETWORK]", help="Only what came from there.")] = "",
    account: Annotated[str | None, typer.Option("--account", help="Only what aimed at this account.")] = None,
    since: Annotated[
        str, typer.Option("--since", "-s", metavar="DURATION", help="How far back: 30m, 24h, 7d, or all.")
    ] = "24h",
    limit: Annotated[int | None, typer.Option("--limit", "-n", min=1, help="Only the newest N.")] = None,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """
    List attempts and alerts, the newest first.

    A row of attempts sums up ten minutes of one source and account; alerts are marked with "!".
    """
    shape = form(as_json=as_json, as_csv=as_csv)
    within = network(target) if target else None
    now = time.time()
    begin = 0.0 if since == "all" else now - seconds(since)
    with Reader(context.obj.settings().database) as reader:
        found = reader.events(since=begin, within=within, account=account, limit=limit)
        count = _listing(now).show(found, shape)
    if (target or account is not None) and not count:
        raise typer.Exit(1)


def _listing(now: float) -> Listing[EventRecord]:
    return Listing(
        heads=("LAST", "TIMES", "ADDRESS", "WHAT", "ACCOUNT"),
        cells=lambda event: (
            short(event.last_at, now),
            f"{event.times:>5}",
            event.address or "-",
            event.what if event.type == "attempt" else f"! {event.what}",
            _words(event),
        ),
        fields=FIELDS,
        values=lambda event: (
            event.type,
            iso(event.at),
            iso(event.last_at),
            event.times,
            event.address,
            event.account,
            event.what,
            event.service,
            event.transport,
            event.pbx,
            event.reason,
            alert_page(event.what) if event.type == "alert" else "",
        ),
        nothing="Nothing was seen.",
    )


def _words(event: EventRecord) -> str:
    if event.type == "attempt":
        return event.account
    account = f"{event.account}: " if event.account else ""
    return f"{account}{event.reason} ({alert_page(event.what)})"
