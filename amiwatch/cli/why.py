"""``amiwatch why``: the story of one address, network or account, and what can be done about it."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from amiwatch.cli.call import network
from amiwatch.cli.drops import drops
from amiwatch.cli.panic import lasting, words
from amiwatch.cli.protection import never_banned
from amiwatch.cli.text import complain, say_warnings
from amiwatch.errors import UsageError
from amiwatch.judgement.networks import NetworkTable
from amiwatch.judgement.values import IPNetwork
from amiwatch.store.reader import Reader
from amiwatch.store.records import counted_network

if TYPE_CHECKING:
    from amiwatch.cli.call import Call
    from amiwatch.cli.story import Story

MAX_ATTEMPTS = 20_000
"""The newest attempts that are told and judged again: two seconds of work."""

AROUND = 600.0
"""Seconds around the attempts in which an alert about everybody belongs to the story."""


def why(
    context: typer.Context,
    target: Annotated[str, typer.Argument(metavar="[ADDRESS|NETWORK]", help="Whose story to tell.")] = "",
    account: Annotated[str | None, typer.Option("--account", "-a", help="Tell the story of this account.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """
    Tell why an address is banned or not, and what can be done.

    The exit code is 1 if nothing is known of it.
    """
    if bool(target) == (account is not None):
        raise UsageError("name an address or network, or an account with --account: one of the two.")
    from amiwatch.cli import account_story, story

    say_warnings()
    if account is not None:
        found = account_story.gather(context.obj.settings(), account, limit=story.KEPT)
        record, lines, is_known = account_story.record(found), account_story.told(found), found.is_known
    else:
        told = gather(context.obj, target)
        record, lines, is_known = story.record(told), story.told(told), told.is_known
    if as_json:
        typer.echo(json.dumps(record, indent=2))
    else:
        for line in lines:
            typer.echo(line)
    if not is_known:
        raise typer.Exit(1)


def gather(call: Call, target: str) -> Story:
    """Gather the story of an address or a network. Raises UsageError and StoreError."""
    from amiwatch.cli.otherwise import by_every_policy
    from amiwatch.cli.story import KEPT, WEEK, Story
    from amiwatch.store.history import past_attempts

    settings, wanted, now = call.settings(), network(target), time.time()
    with Reader(settings.database) as reader:
        if (held := lasting(settings.database, now, reader)) is not None:
            complain(words(held))
        bans = reader.history(wanted)
        safe = asyncio.run(never_banned(settings, reader.allowlist(now)))
        since = reader.newest_rows_begin(MAX_ATTEMPTS, since=now - WEEK, within=wanted)
        attempts = list(deque(past_attempts(reader, since=since, until=now, within=wanted), maxlen=MAX_ATTEMPTS))
        tried = reader.accounts_tried(wanted, limit=KEPT)
        trust = [one for one in reader.stored_trust(now - WEEK) if _touches(one.network, counted_network(wanted))]
        begin, end = (attempts[0].at, attempts[-1].at) if attempts else (now, now)
        accounts = [one.account for one in tried if one.outcome == "guess"]
        otherwise, unfit = by_every_policy(call, attempts, trust, safe) if attempts else ([], {})
        story = Story(
            target=target,
            network=wanted,
            now=now,
            bans=bans,
            since=attempts[0].at if len(attempts) == MAX_ATTEMPTS else since,
            attempts=attempts,
            tried=tried,
            sources=reader.sources_within(wanted, limit=KEPT) if counted_network(wanted) == wanted else [],
            alerts=list(reader.alerts(within=wanted, limit=KEPT)),
            others=reader.alerts_about(accounts, since=begin - AROUND, until=end + AROUND),
            trust=trust,
            otherwise=otherwise,
            unfit=unfit,
            protection=_protection(wanted, safe),
        )
        if story.told is not None:
            story.evidence.extend(reader.evidence(story.told.id))
        if story.ban is not None and story.ban.is_enforced and settings.firewall != "none":
            story.drops = drops(settings, story.ban, reader)
    return story


def _touches(one: IPNetwork, other: IPNetwork) -> bool:
    return one.version == other.version and one.overlaps(other)


def _protection(wanted: IPNetwork, safe: Mapping[IPNetwork, str]) -> str | None:
    """Say why this is never banned; None if it can be."""
    table: NetworkTable[str] = NetworkTable()
    for one, reason in safe.items():
        table.put(one, reason)
    hit = table.overlapping(wanted)
    return f"{hit[0]} is {hit[1]}" if hit else None
