"""``amiwatch status``: does the daemon run, and does it hear."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from amiwatch.cli.asking import has_process, is_alive
from amiwatch.cli.panic import lasting, record, words
from amiwatch.cli.text import compact, counted, iso, local, strong, visible, wrapped
from amiwatch.errors import AmiError, Refusal
from amiwatch.firewall.base import SetState
from amiwatch.firewall.scope import learns
from amiwatch.store import schema
from amiwatch.store.reader import Reader
from amiwatch.store.records import GapRecord, LearnedPort, Panic, Status

if TYPE_CHECKING:
    from amiwatch.config import Settings

LINK_ROWS = 1000
"""Newest changes of links that are looked through for the latest of each PBX."""

WORDS = {
    "events": ("security event", "security events"),
    "attempts": ("failed or finished attempt", "failed or finished attempts"),
    "tampered": ("block refused", "blocks refused"),
    "tainted": ("event not believed, after a block refused", "events not believed, after a block refused"),
    "shed": ("event not judged for lack of time", "events not judged for lack of time"),
    "chan_sip": ("event of chan_sip, which bans nobody", "events of chan_sip, which ban nobody"),
    "held_back": ("ban held back by the ceiling", "bans held back by the ceiling"),
    "alerts_held_back": ("alert held back by the ceiling", "alerts held back by the ceiling"),
    "sources": ("source watched", "sources watched"),
    "sources_forgotten": ("source forgotten for lack of room", "sources forgotten for lack of room"),
    "limited": ("packet dropped by tiers and signatures", "packets dropped by tiers and signatures"),
    "trusted": ("source trusted", "sources trusted"),
    "sessions_cut": ("TCP session of a banned source cut", "TCP sessions of banned sources cut"),
    "connections_forgotten": ("tracked connection of the banned deleted", "tracked connections of the banned deleted"),
    "store_shed": ("row not stored", "rows not stored"),
}
"""Counters that people are shown; all of them are in the JSON."""


@dataclass(frozen=True, slots=True)
class LinkNow:
    """How a link is, since when."""

    pbx: str
    state: str
    since: float | None
    detail: str


@dataclass(frozen=True, slots=True)
class View:
    """All that ``status`` shows."""

    now: float
    status: Status | None
    links: list[LinkNow]
    gaps: list[GapRecord]
    bans: int
    dropped: tuple[int, int]
    """Packets, and by how many bans: of all that the database remembers."""
    panic: Panic | None
    learned: list[LearnedPort]
    """Ports of Asterisk that its events told, where they are closed."""
    sets: list[SetState] | None
    """None: may not be read, or there are none in a dry run."""

    @property
    def is_running(self) -> bool:
        return self.status is not None and is_alive(self.status)

    @property
    def is_hearing(self) -> bool:
        return self.is_running and bool(self.links) and all(link.state == "hearing" for link in self.links)


def status(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """
    Tell whether the daemon runs and hears.

    The exit code is 0 if so, 1 if it doesn't run, 69 if a PBX is not heard.
    """
    settings = context.obj.settings()
    if not schema.exists(settings.database):
        raise Refusal(f"no daemon runs, and none ever did: there is no database {str(settings.database)!r}.")
    view = look(settings)
    if as_json:
        typer.echo(json.dumps(_record(view), indent=2))
    else:
        for line in _lines(view):
            typer.echo(line)
    if not view.is_running:
        raise Refusal("no daemon runs." if view.status is None else "the daemon does not run.")
    if not view.is_hearing:
        deaf = [link.pbx for link in view.links if link.state != "hearing"]
        raise AmiError(f"not heard: {', '.join(deaf) or 'any PBX'}.")


def look(settings: Settings) -> View:
    """Gather everything. Raises StoreError."""
    now = time.time()
    with Reader(settings.database) as reader:
        found = reader.status()
        return View(
            now=now,
            status=found,
            links=_links(reader, found) if found else [],
            gaps=[gap for gap in reader.gaps(limit=LINK_ROWS) if gap.ended_at is None],
            bans=sum(1 for _ in reader.bans(open_at=now)),
            dropped=reader.dropped(),
            learned=list(reader.learned_ports()) if learns(settings.ports) else [],
            panic=lasting(settings.database, now, reader),
            sets=kernel_sets(settings),
        )


def _links(reader: Reader, found: Status) -> list[LinkNow]:
    """Return the latest state of each link of this run of the daemon."""
    told = str(found.counters.get("links") or "")
    links = {
        name: LinkNow(name, state, None, "")
        for name, _, state in (one.partition(" ") for one in told.split(", ") if one)
    }
    latest: dict[str, LinkNow] = {}
    for row in reader.links(limit=LINK_ROWS):
        if row.at >= found.started_at - 1:
            latest.setdefault(row.pbx, LinkNow(row.pbx, row.state, row.at, row.detail))
    return list({**links, **latest}.values())


def kernel_sets(settings: Settings) -> list[SetState] | None:
    """Read the headers of our sets; None without the rights, or if nothing is dropped anyway."""
    if settings.firewall == "none":
        return None
    import asyncio

    from amiwatch.errors import FirewallError
    from amiwatch.firewall.table import make_firewall

    async def read() -> list[SetState]:
        firewall = make_firewall(settings.firewall, prefix=settings.set_name, maxelem=settings.set_size)
        try:
            return await firewall.states()
        finally:
            await firewall.close()

    try:
        return asyncio.run(read())
    except FirewallError:
        return None


def _lines(view: View) -> Iterator[str]:
    if view.panic is not None:
        yield strong(words(view.panic), "red")
    if view.status is None:
        yield "No daemon has ever run on this database."
    else:
        yield from _daemon_lines(view, view.status)
    for link in view.links if view.is_running else []:
        since = "" if link.since is None else f" since {local(link.since)}"
        colour = "green" if link.state == "hearing" else "red"
        yield f"{'pbx ' + visible(link.pbx):<12} {strong(link.state, colour)}{since}"
        if link.detail:
            yield f"{'':<12} {visible(link.detail)}"
    for gap in view.gaps:
        yield f"{'gap':<12} nothing heard of {visible(gap.pbx)} since {local(gap.began_at)}: {visible(gap.reason)}"
    yield f"{'bans':<12} {view.bans} open{'' if view.panic is None else ', all held'}"
    packets, by = view.dropped
    if packets:
        yield f"{'dropped':<12} {packets:,} {'packet' if packets == 1 else 'packets'} of {counted(by, 'ban')}"
    is_blocking = view.status is None or view.status.mode != "observe"
    for state in view.sets or []:
        is_unused = is_blocking and not state.references
        warning = "  NO RULE USES IT: nothing is dropped (amiwatch firewall install)" if is_unused else ""
        yield f"{'set':<12} {state.name}: {state.count} of {state.capacity}{warning}"
    if view.learned:
        ports = ", ".join(f"{port.protocol} {port.port}" for port in view.learned)
        yield f"{'learned':<12} {ports}: ports of Asterisk, closed to the banned beside the usual ones"
    if view.status is not None:
        yield from _counter_lines(view.status.counters)


def _daemon_lines(view: View, found: Status) -> Iterator[str]:
    if view.is_running:
        state = strong("running", "green") + f" for {compact(view.now - found.started_at)} (pid {found.pid})"
    else:
        state = strong("not running", "red") + f"; last sign of life {local(found.heartbeat_at)}"
        if has_process(found):
            # On a full disk it bans on, but can't write that it lives.
            state += f". Process {found.pid} exists: if it is the daemon, it hangs or can't write: see its log"
    yield f"{'daemon':<12} {state}, version {visible(found.version)}"
    mode = "enforce" if found.mode == "enforce" else strong("observe: nothing is blocked", "yellow")
    dry = ", firewall none: nothing is dropped" if found.firewall == "none" else f", firewall {visible(found.firewall)}"
    yield f"{'mode':<12} {mode}{dry}"
    if isinstance(why := found.counters.get("ban_not_working"), str):
        yield wrapped(
            visible(why), head=f"{'firewall':<12} {strong('BANNED SOURCES ARE STILL HEARD', 'red')}: ", indent=13
        )
    if found.counters.get("firewall_trouble"):
        yield f"{'firewall':<12} {strong('bans can not be enforced now', 'red')}: see the log"


def _counter_lines(counters: Mapping[str, object]) -> Iterator[str]:
    counts = {name: counters.get(name) for name in WORDS}
    shown = [counted(count, *WORDS[name]) for name, count in counts.items() if isinstance(count, int) and count]
    for number, text in enumerate(shown):
        yield f"{'' if number else 'counted':<12} {text}"
    if (latency := counters.get("latency_ms")) is not None:
        yield f"{'latency':<12} {latency} ms from event to kernel (median)"


def _record(view: View) -> dict[str, object]:
    found = view.status
    return {
        "is_running": view.is_running,
        "is_hearing": view.is_hearing,
        "pid": found.pid if found else None,
        "version": found.version if found else None,
        "mode": found.mode if found else None,
        "firewall": found.firewall if found else None,
        "started": iso(found.started_at) if found else None,
        "heartbeat": iso(found.heartbeat_at) if found else None,
        "bans": view.bans,
        "dropped": {"packets": view.dropped[0], "bans": view.dropped[1]},
        "panic": record(view.panic),
        "links": [{**asdict(link), "since": iso(link.since)} for link in view.links],
        "gaps": [{"pbx": gap.pbx, "began": iso(gap.began_at), "reason": gap.reason} for gap in view.gaps],
        "learned_ports": [port._asdict() for port in view.learned],
        "sets": None if view.sets is None else [asdict(state) for state in view.sets],
        "counters": dict(found.counters) if found else {},
    }
