"""``amiwatch why``: the story of one address, and what can be done about it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from ipaddress import ip_network
from typing import TYPE_CHECKING, Annotated

import typer

from amiwatch.cli.bans import ban_listing, is_open, left
from amiwatch.cli.call import network
from amiwatch.cli.text import compact, counted, iso, local, say_warnings, strong, visible, wrapped
from amiwatch.errors import FirewallError
from amiwatch.judgement.networks import NetworkTable
from amiwatch.judgement.safe import ALWAYS, PRIVATE
from amiwatch.judgement.values import Evidence, IPNetwork
from amiwatch.store.reader import Reader
from amiwatch.store.records import AlertRecord, AllowEntry, BanRecord, StoredTrust, TriedRecord

if TYPE_CHECKING:
    from amiwatch.config import Settings
    from amiwatch.firewall.base import Entry

SHOWN = 10
"""Rows of each kind that are told to a person; the JSON has up to ``KEPT``."""

KEPT = 1000
"""Rows of each kind that are read: an attacker decides how many there are."""


@dataclass(frozen=True, slots=True)
class Story:
    """All that is known of a network, the newest first."""

    target: str
    network: IPNetwork
    now: float
    bans: list[BanRecord]
    evidence: list[Evidence]
    """Of the ban that is told of."""
    tried: list[TriedRecord]
    alerts: list[AlertRecord]
    trust: list[StoredTrust]
    protection: str | None
    """Why it is never banned."""
    entry: Entry | None
    """What the kernel has of it; None also where that may not be read."""

    @property
    def ban(self) -> BanRecord | None:
        """The open ban that holds all of the network."""
        return next((ban for ban in self.bans if is_open(ban, self.now) and self._is_within(ban)), None)

    @property
    def told(self) -> BanRecord | None:
        """The ban whose reason and evidence are told: the open one, or the latest."""
        return self.ban or next(iter(self.bans), None)

    @property
    def is_known(self) -> bool:
        return bool(self.bans or self.tried or self.alerts or self.trust or self.protection)

    def _is_within(self, ban: BanRecord) -> bool:
        around = ip_network(ban.network)
        return around.version == self.network.version and self.network.subnet_of(around)  # type: ignore[arg-type]


def why(
    context: typer.Context,
    target: Annotated[str, typer.Argument(metavar="ADDRESS|NETWORK", help="Whose story to tell.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """
    Tell why an address is banned or not, and what can be done.

    The exit code is 1 if nothing is known of it.
    """
    say_warnings()
    story = gather(context.obj.settings(), target)
    if as_json:
        typer.echo(json.dumps(_record(story), indent=2))
    else:
        for line in _told(story):
            typer.echo(line)
    if not story.is_known:
        raise typer.Exit(1)


def gather(settings: Settings, target: str) -> Story:
    """Gather the story. Raises UsageError and StoreError."""
    wanted, now = network(target), time.time()
    with Reader(settings.database) as reader:
        bans = reader.history(wanted)
        story = Story(
            target=target,
            network=wanted,
            now=now,
            bans=bans,
            evidence=[],
            tried=reader.accounts_tried(wanted, limit=KEPT),
            alerts=list(reader.alerts(within=wanted, limit=KEPT)),
            trust=[one for one in reader.stored_trust(now) if _touches(one.network, wanted)],
            protection=asyncio.run(_protection(settings, wanted, reader.allowlist(now))),
            entry=None,
        )
        if story.told is not None:
            story.evidence.extend(reader.evidence(story.told.id))
    if story.ban is None or settings.firewall == "none":
        return story
    return replace(story, entry=asyncio.run(_kernel_entry(settings, ip_network(story.ban.network))))


def _touches(one: IPNetwork, other: IPNetwork) -> bool:
    return one.version == other.version and one.overlaps(other)


async def _protection(settings: Settings, wanted: IPNetwork, entries: list[AllowEntry]) -> str | None:
    """Say why this is never banned, with the same sources as the daemon; None if it can be."""
    from amiwatch.daemon.host import resolve, safe_networks

    safe: dict[IPNetwork, str] = {**ALWAYS, **(PRIVATE if settings.allow_private else {})}
    safe |= dict.fromkeys(settings.allowlist.networks, "on the allowlist of the settings")
    names = dict.fromkeys(settings.allowlist.names, "on the allowlist of the settings")
    names |= {pbx.host: "a PBX" for pbx in settings.pbxs().values()}
    for entry in entries:
        said = f"allowed by {entry.added_by}" + (f" ({entry.comment})" if entry.comment else "")
        try:
            safe[ip_network(entry.target)] = said
        except ValueError:
            names[entry.target] = said
    found = await asyncio.gather(*map(resolve, names))
    for (name, said), addresses in zip(names.items(), found, strict=True):
        safe |= {ip_network(address): f"{said}, by the name {name}" for address in addresses}
    table: NetworkTable[str] = NetworkTable()
    for one, reason in (safe | await safe_networks()).items():
        table.put(one, reason)
    hit = table.overlapping(wanted)
    return f"{hit[0]} is {hit[1]}" if hit else None


async def _kernel_entry(settings: Settings, banned: IPNetwork) -> Entry | None:
    from amiwatch.firewall.table import make_firewall

    firewall = make_firewall(settings.firewall, prefix=settings.set_name, maxelem=settings.set_size)
    with suppress(FirewallError):  # mostly: without the rights
        try:
            return next((entry for entry in await firewall.entries() if entry.network == banned), None)
        finally:
            await firewall.close()
    return None


def _told(story: Story) -> Iterator[str]:
    yield strong(wrapped(_verdict(story)))
    if story.protection:
        yield from _part("safe", [f"It is never banned: {visible(story.protection)}."])
    if story.told is not None:
        yield from _part("why" if story.ban else "why then", [_reason(story.told)])
        yield from _part("evidence", [_event(one) for one in story.evidence])
    if story.entry is not None:
        dropped = counted(story.entry.packets, "packet")
        yield from _part("kernel", [f"It is in the kernel's set; {dropped} dropped since it was put there."])
    earlier = [ban for ban in story.bans if ban is not story.told]
    yield from _part("earlier", [_earlier(ban, story.now) for ban in earlier])
    yield from _part("tried", [_tried(one) for one in story.tried])
    yield from _part("alerts", [_alert(one) for one in story.alerts])
    yield from _part("trust", [_trust(one) for one in story.trust])
    yield from _part("to do", list(_advice(story)))


def _part(name: str, items: list[str]) -> Iterator[str]:
    """Yield one part of the story, its name beside the first item."""
    shown = items[:SHOWN]
    if len(items) > SHOWN:
        shown.append(f"… and {len(items) - SHOWN} more (--json has them)")
    for number, item in enumerate(shown):
        yield wrapped(item, head=f"{'' if number else name:<9} ", indent=12)


def _verdict(story: Story) -> str:
    name = _name(story.network)
    ban = story.ban
    if ban is None:
        inside = sum(is_open(one, story.now) for one in story.bans)
        if inside:
            return f"{name} is not banned as a whole, but {counted(inside, 'ban')} inside it."
        if story.told and (other := _name(ip_network(story.told.network))) != name:
            end = left(story.told, story.now)
            return f"{name} is not banned; {other} was, until its ban {end if end == 'expired' else f'was {end}'}."
        return f"{name} is not banned." if story.is_known else f"{name} was never seen."
    until = "for ever" if ban.until is None else f"until {local(ban.until)} ({compact(ban.until - story.now)} left)"
    held = "" if _name(ip_network(ban.network)) == name else f", because {ban.network} is"
    state = "is banned" if ban.is_enforced else "would be banned (it was observed only)"
    return f"{name} {state} since {local(ban.at)}, {until}{held}."


def _name(one: IPNetwork) -> str:
    return str(one).removesuffix("/32")


def _reason(ban: BanRecord) -> str:
    by = f" by {visible(ban.banned_by)}" if ban.banned_by else ""
    words = {"manual": f"by hand{by}", "forced": f"by hand, forced{by}", "recovered": "recovered from the kernel"}.get(
        ban.rule, f"rule {ban.rule!r}"
    )
    level = f", step {ban.level} of the ladder" if ban.level else ""
    pbx = f", seen by {visible(ban.pbx)}" if ban.pbx else ""
    return f"{words}{level}{pbx}: {visible(ban.reason)}"


def _event(one: Evidence) -> str:
    via = "/".join(part for part in (one.service, one.transport) if part)
    return f"{local(one.at)}  {one.kind} {via} account {one.account!r} from {one.address} port {one.port}"


def _earlier(ban: BanRecord, now: float) -> str:
    who = f" by {visible(ban.ended_by)}" if ban.ended_by else ""
    return f"{local(ban.at)}  {ban.network} {left(ban, now)}{who}; {ban.rule}: {visible(ban.reason)}"


def _tried(one: TriedRecord) -> str:
    return f"{one.account!r}: {counted(one.attempts, 'attempt')} {visible(one.outcome)}, last {local(one.last_at)}"


def _alert(one: AlertRecord) -> str:
    times = f" ({one.times} times)" if one.times > 1 else ""
    return f"{local(one.last_at)}  {one.kind}{times}: {visible(one.reason)}"


def _trust(one: StoredTrust) -> str:
    return f"logged in as {one.account!r}, last {local(one.last_at)}; trusted until {local(one.until)}"


def _advice(story: Story) -> Iterator[str]:
    if story.ban is not None:
        name = _name(ip_network(story.ban.network))
        yield f"amiwatch unban {name}    ends the ban"
        yield f"amiwatch allow {name}    ends it, and never bans it again"
    elif not story.protection:
        name = _name(story.network)
        yield f"amiwatch ban {name}      bans it by hand"
        yield f"amiwatch allow {name}    never bans it"


def _record(story: Story) -> dict[str, object]:
    listing = ban_listing(story.now)
    bans = [dict(zip(listing.fields, listing.values(ban), strict=True)) for ban in story.bans[:KEPT]]
    return {
        "target": story.target,
        "network": str(story.network),
        "is_banned": story.ban is not None,
        "ban": next((ban for ban in bans if story.ban and ban["id"] == story.ban.id), None),
        "is_known": story.is_known,
        "never_banned_because": story.protection,
        "evidence": [{**asdict(one), "at": iso(one.at)} for one in story.evidence],
        "packets_dropped": story.entry.packets if story.entry else None,
        "bans": bans,
        "tried": [{**one._asdict(), "first_at": iso(one.first_at), "last_at": iso(one.last_at)} for one in story.tried],
        "alerts": [{**one._asdict(), "at": iso(one.at), "last_at": iso(one.last_at)} for one in story.alerts],
        "trust": [
            {"account": one.account, "since": iso(one.since), "last": iso(one.last_at), "until": iso(one.until)}
            for one in story.trust
        ],
    }
