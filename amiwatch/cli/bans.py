"""``amiwatch bans``: who is banned."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from amiwatch.cli.call import network
from amiwatch.cli.listing import AsCsv, AsJson, Listing, form
from amiwatch.cli.panic import lasting, words
from amiwatch.cli.text import compact, complain, iso, short
from amiwatch.store.reader import Reader
from amiwatch.store.records import BanRecord

FIELDS = (
    "id", "network", "address", "since", "until", "seconds_left", "is_open", "level", "rule", "reason", "service",
    "origin", "is_proven", "is_enforced", "pbx", "banned_by", "ended", "ended_by", "ended_why",
    "packets_dropped", "octets_dropped",
)  # fmt: skip


def bans(
    context: typer.Context,
    target: Annotated[str, typer.Argument(metavar="[ADDRESS|NETWORK]", help="Only what concerns this.")] = "",
    has_ended: Annotated[bool, typer.Option("--all", "-a", help="Also those that have ended.")] = False,
    limit: Annotated[int | None, typer.Option("--limit", "-n", min=1, help="Only the newest N.")] = None,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """
    List who is banned, the newest first.

    With a target and no ban of it, the exit code is 1.
    """
    shape = form(as_json=as_json, as_csv=as_csv)
    wanted = network(target) if target else None
    now = time.time()
    with Reader(context.obj.settings().database) as reader:
        found: Iterable[BanRecord]
        if wanted is None:
            found = reader.bans(open_at=None if has_ended else now, limit=limit)
        else:
            # Also the ban of a wider network, which holds it.
            found = islice((ban for ban in reader.history(wanted) if has_ended or is_open(ban, now)), limit)
        if (held := lasting(reader.path, now, reader)) is not None:
            complain(words(held))
        count = ban_listing(now, target).show(found, shape)
    if target and not count:
        raise typer.Exit(1)


def ban_listing(now: float, target: str = "") -> Listing[BanRecord]:
    """Return how bans are shown at this instant."""
    return Listing(
        heads=("NETWORK", "SINCE", "LEFT", "DROPPED", "RULE", "REASON"),
        cells=lambda ban: (
            ban.network.removesuffix("/32"),
            short(ban.at, now),
            left(ban, now),
            f"{ban.packets:,}" if ban.is_enforced else "",
            ban.rule,
            reason(ban),
        ),
        fields=FIELDS,
        values=lambda ban: _values(ban, now),
        nothing=f"{target} is not banned." if target else "Nobody is banned.",
    )


def is_open(ban: BanRecord, now: float) -> bool:
    """Tell whether a ban lasts."""
    return ban.ended_at is None and (ban.until is None or ban.until > now)


def left(ban: BanRecord, now: float) -> str:
    """Say how long a ban lasts, or how it ended."""
    if is_open(ban, now):
        return "for ever" if ban.until is None else compact(ban.until - now)
    if ban.ended_why in (None, "expired"):
        return "expired"
    return "replaced" if ban.ended_why == "replaced" else "lifted"


def reason(ban: BanRecord) -> str:
    """Say why, and whether it was only observed."""
    return ban.reason if ban.is_enforced else f"(would have banned) {ban.reason}"


def _values(ban: BanRecord, now: float) -> tuple[object, ...]:
    # Taken apart at once: this runs a hundred thousand times, and a name costs more than a place.
    (number, network, address, pbx, at, until, level, rule, origin, service, is_proven, is_enforced, reason, by) = ban[
        :14
    ]
    lasts = is_open(ban, now)
    has_run_out = ban.ended_at is None and not lasts
    return (
        number,
        network,
        address,
        iso(at),
        iso(until),
        round(until - now) if lasts and until is not None else None,
        lasts,
        level,
        rule,
        reason,
        service,
        origin,
        is_proven == 1,
        is_enforced == 1,
        pbx,
        by,
        # Also if nobody has noted yet that it ran out.
        iso(until if has_run_out else ban.ended_at),
        ban.ended_by,
        "expired" if has_run_out else ban.ended_why,
        ban.packets,
        ban.octets,
    )


def open_networks(path: Path, begin: str) -> Iterator[str]:
    """List the banned networks whose text begins like this. Raises StoreError."""
    with Reader(path) as reader:
        for ban in reader.bans(open_at=time.time()):
            if ban.network.startswith(begin):
                yield ban.network.removesuffix("/32")
