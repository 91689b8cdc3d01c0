"""The story of an address or a network in plain words, and for machines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from ipaddress import ip_network

from amiwatch.cli.bans import ban_listing, is_open, left
from amiwatch.cli.drops import Drops
from amiwatch.cli.otherwise import Verdict
from amiwatch.cli.text import alert_page, compact, counted, iso, local, strong, visible, wrapped
from amiwatch.cli.visits import NAME_LIMIT, Visit, names, visits
from amiwatch.judgement.alerts import ALERTS
from amiwatch.judgement.history import PastAttempt
from amiwatch.judgement.reasons import duration
from amiwatch.judgement.rules import DAY
from amiwatch.judgement.values import Evidence, IPNetwork, source_network
from amiwatch.store.records import AlertRecord, BanRecord, OffenderRecord, StoredTrust, TriedRecord

SHOWN = 10
"""Items of each part that are told to a person; the JSON has up to ``KEPT``."""

KEPT = 1000
"""Rows of each kind that are read: an attacker decides how many there are."""

INSTEAD = frozenset(
    {
        "broken_phone", "broken_site", "site_moved", "shared_address", "unknown_carrier", "phone_kept_out",
        "trusted_offender", "allowed_offender", "chan_sip_offender",
    }
)  # fmt: skip
"""Kinds of alerts that are raised in the place of a ban: they say why there is none."""

WEEK = 7 * DAY
"""How far back the attempts themselves are told and judged again, in seconds: the longest window of any rule."""

TOLD_APART = 3
"""Accounts whose trust is told one by one; of an office one line is enough."""

LABEL = 10
"""Width of the name of a part."""


@dataclass(slots=True)
class Story:
    """All that is known of a network, the newest first unless said otherwise."""

    target: str
    network: IPNetwork
    now: float
    bans: Sequence[BanRecord]
    since: float
    """From when on the attempts themselves are told: a week ago, or later where they are too many."""
    attempts: Sequence[PastAttempt]
    """Those since then, the oldest first."""
    tried: Sequence[TriedRecord]
    """All that is kept, summed up by account and outcome."""
    sources: Sequence[OffenderRecord]
    """Of a network: the sources inside it."""
    alerts: Sequence[AlertRecord]
    others: Sequence[AlertRecord]
    """Alerts about accounts that it tried, or about everybody at that time."""
    trust: Sequence[StoredTrust]
    """Also such that ran out within the last week."""
    otherwise: Sequence[Verdict]
    """What each policy says of the attempts, the one in force first."""
    unfit: Mapping[str, str]
    """Policies that the settings don't fit → the first mistake."""
    protection: str | None
    """Why it is never banned."""
    evidence: list[Evidence] = field(default_factory=list)
    """Of the ban that is told of."""
    drops: Drops | None = None
    """How far its ban works; None without one."""

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

    @property
    def is_wide(self) -> bool:
        """Tell whether this is more than one source."""
        return source_network(self.network.network_address) != self.network and self.network.num_addresses > 1

    def _is_within(self, ban: BanRecord) -> bool:
        around = ip_network(ban.network)
        return around.version == self.network.version and self.network.subnet_of(around)  # type: ignore[arg-type]


def told(story: Story) -> Iterator[str]:
    """Yield the lines that a person reads."""
    yield strong(wrapped(_verdict(story)))
    if story.protection:
        yield from part("safe", [f"It is never banned: {visible(story.protection)}."])
    if story.is_wide:
        yield from part("who", list(_sources(story)))
        yield from part("bans", [_earlier(ban, story.now) for ban in story.bans])
    else:
        yield from _decision(story)
    yield from part("alerts", [alert_line(one) for one in merged(_not_told(story))])
    yield from part("trust", _trust(story))
    yield from part("otherwise", list(_otherwise(story)))
    yield from part("to do", list(_advice(story)))


def _decision(story: Story) -> Iterator[str]:
    """Tell what came from one source, and what was decided about it."""
    yield from part("what came", list(_came(story)))
    yield from part("why" if story.ban else "why then" if story.told else "why not", list(_because(story)))
    yield from part("evidence", [_event(one) for one in story.evidence])
    yield from part("kernel", list(_kernel(story.drops)) if story.drops else [])
    yield from part("earlier", [_earlier(ban, story.now) for ban in story.bans if ban is not story.told])


def part(name: str, items: Sequence[str]) -> Iterator[str]:
    """Yield one part of a story, its name beside the first item."""
    shown = list(items[:SHOWN])
    if len(items) > SHOWN:
        shown.append(f"… and {len(items) - SHOWN} more (--json has them)")
    for number, item in enumerate(shown):
        yield wrapped(item, head=f"{'' if number else name:<{LABEL}} ", indent=LABEL + 3)


def _verdict(story: Story) -> str:
    name = short_name(story.network)
    ban = story.ban
    if ban is None:
        inside = sum(is_open(one, story.now) for one in story.bans)
        if inside:
            return f"{name} is not banned as a whole, but {counted(inside, 'ban')} inside it."
        if story.told and (other := short_name(ip_network(story.told.network))) != name:
            end = left(story.told, story.now)
            return f"{name} is not banned; {other} was, until its ban {end if end == 'expired' else f'was {end}'}."
        if story.told:
            return f"{name} is not banned; its last ban {_ended(story.told, story.now)}."
        return f"{name} is not banned, and never was." if story.is_known else f"{name} was never seen."
    until = "for ever" if ban.until is None else f"until {local(ban.until)} ({compact(ban.until - story.now)} left)"
    held = "" if short_name(ip_network(ban.network)) == name else f", because {ban.network} is"
    state = "is banned" if ban.is_enforced else "would be banned (it was observed only)"
    return f"{name} {state} since {local(ban.at)}, {until}{held}."


def _ended(ban: BanRecord, now: float) -> str:
    end = left(ban, now)
    at = ban.ended_at if ban.ended_at is not None else ban.until
    when = f" at {local(at)}" if at is not None else ""
    return f"{'ended' if end == 'expired' else f'was {end}'}{when}"


def short_name(one: IPNetwork) -> str:
    return str(one).removesuffix("/32")


def _kernel(drops: Drops) -> Iterator[str]:
    dropped = f"{drops.packets:,} {'packet' if drops.packets == 1 else 'packets'} dropped since it was banned"
    if drops.is_in_kernel is None:
        yield f"{dropped}, as the daemon wrote it down last."
    elif drops.is_in_kernel:
        yield f"It is in the kernel's set; {dropped}."
    else:
        yield f"It is NOT in the kernel's set now, so nothing is dropped: see amiwatch check, as root. {dropped}."
    if drops.not_working:
        yield f"Banned sources are still heard: {visible(drops.not_working)}"


# What came, in the order of time.


def _came(story: Story) -> Iterator[str]:
    begin = story.since
    before = sum(one.attempts for one in story.tried) - len(story.attempts)
    if before > 0:
        first = min(one.first_at for one in story.tried)
        yield f"{local(first)}  {counted(before, 'earlier attempt')} from then on"
    moments = [(one.begin, 0, one.words()) for one in _visits(story)]
    moments += [(ban.at, 1, _ban_words(ban)) for ban in story.bans if ban.at >= begin]
    moments += [(ban.ended_at, 3, _lift_words(ban)) for ban in story.bans if ban.ended_at and _is_lifted(ban)]
    moments += [(one.at, 2, f"→ alert {_titled(one)}") for one in merged(story.alerts) if one.at >= begin]
    moments.sort(key=lambda moment: (round(moment[0], 1), moment[1]))  # attempts are kept to the hundredth, rounded
    if len(moments) > SHOWN:
        yield f"… {len(moments) - SHOWN + 1} earlier (--json has them)"
        moments = moments[-SHOWN + 1 :]
    for at, _, words in moments:
        yield f"{local(at)}  {visible(words)}"


def _visits(story: Story, most: int = SHOWN) -> list[Visit]:
    """Return failures and logins apart, for they are different stories."""
    failed = visits((one for one in story.attempts if one.outcome != "success"), most - 4)
    return failed + visits((one for one in story.attempts if one.outcome == "success"), most - 7)


def _ban_words(ban: BanRecord) -> str:
    time = "for ever" if ban.until is None else f"for {duration(ban.until - ban.at)}"
    how = "banned" if ban.is_enforced else "would have been banned"
    return f"→ {how} {time}, {_by(ban)}"


def _is_lifted(ban: BanRecord) -> bool:
    """Tell whether somebody ended it."""
    return ban.ended_at is not None and ban.ended_why not in ("expired", "replaced")


def _lift_words(ban: BanRecord) -> str:
    by = f" by {visible(ban.ended_by)}" if ban.ended_by else ""
    why = f": {visible(ban.ended_why)}" if ban.ended_why else ""
    return f"→ lifted{by}{why}"


def _sources(story: Story) -> Iterator[str]:
    open_bans = [ip_network(ban.network) for ban in story.bans if is_open(ban, story.now)]
    for one in story.sources:
        source = ip_network(one.address)
        is_banned = any(source.version == ban.version and source.overlaps(ban) for ban in open_bans)
        yield (
            f"{one.address}: {counted(one.attempts, 'failed attempt')} on {counted(one.accounts, 'account')}, "
            f"last {local(one.last_at)}{', banned' if is_banned else ''}"
        )


# Which rule decided.


def _because(story: Story) -> Iterator[str]:
    ban = story.told
    if ban is not None:
        pbx = f", seen by {visible(ban.pbx)}" if ban.pbx else ""
        yield f"{_by(ban)}{pbx}: {visible(ban.reason)}"
        return
    if story.protection:
        return
    yield from (visible(_without_advice(one)) for one in merged(story.alerts) if one.kind in INSTEAD)
    in_force = next(iter(story.otherwise), None)
    if in_force is not None and in_force.nearest:
        yield in_force.nearest


def _not_told(story: Story) -> list[AlertRecord]:
    """Return the alerts that no other part tells in words."""
    told = frozenset[str]() if story.told or story.protection or story.is_wide else INSTEAD
    return [*(one for one in story.alerts if one.kind not in told), *story.others]


def merged(alerts: Iterable[AlertRecord]) -> list[AlertRecord]:
    """
    Take alerts of one kind about the same as one: the newest, with the begin and the number of all.

    Those that take the place of a ban are about their address, and name only the account that was tried last; where
    these differ, none is named.
    """
    found: dict[tuple[str, str | None, str], AlertRecord] = {}
    for one in alerts:
        name = (one.kind, one.address, "" if one.kind in INSTEAD else one.account)
        newest = found.get(name, one)
        times = one.times if newest is one else newest.times + one.times
        account = newest.account if newest.account == one.account else ""
        found[name] = newest._replace(at=min(newest.at, one.at), times=times, account=account)
    return list(found.values())


def _by(ban: BanRecord) -> str:
    by = f" by {visible(ban.banned_by)}" if ban.banned_by else ""
    words = {"manual": f"by hand{by}", "forced": f"by hand, forced{by}", "recovered": "recovered from the kernel"}.get(
        ban.rule, f"rule {ban.rule!r}"
    )
    return f"{words}, step {ban.level} of the ladder" if ban.level else words


def _event(one: Evidence) -> str:
    via = "/".join(part for part in (one.service, one.transport) if part)
    return f"{local(one.at)}  {one.kind} {via} account {one.account!r} from {one.address} port {one.port}"


def _earlier(ban: BanRecord, now: float) -> str:
    who = f" by {visible(ban.ended_by)}" if ban.ended_by else ""
    return f"{local(ban.at)}  {ban.network} {left(ban, now)}{who}; {ban.rule}: {visible(ban.reason)}"


def alert_line(one: AlertRecord) -> str:
    """Tell an alert without its advice, which stands under "to do"."""
    return f"{local(one.at)}  {_titled(one)}: {visible(_without_advice(one))}"


def _titled(one: AlertRecord) -> str:
    about = f" about {one.account[:NAME_LIMIT]!r}" if one.account else ""
    times = f" ({one.times} times until {local(one.last_at)})" if one.times > 1 else ""
    return f"{one.kind}{about}{times}"


def _without_advice(one: AlertRecord) -> str:
    return one.reason.removesuffix(ALERTS.get(one.kind, "")).rstrip().removesuffix(".")


def _trust(story: Story) -> list[str]:
    lasting = [one for one in story.trust if one.until > story.now]
    lines = [
        *_logins(lasting, "trusted until"),
        *_logins([one for one in story.trust if one not in lasting], "its trust ran out"),
    ]
    if lines or not story.attempts:
        return lines
    if any(one.outcome == "success" and one.service == "PJSIP" for one in story.attempts):
        return ["none: its logins earned none, for wrong passwords came before them, or it ran out"]
    return ["none: nobody ever logged in from there with a password"]


def _logins(trust: Sequence[StoredTrust], until: str) -> list[str]:
    """Tell who logged in: each one, or many in one line, those who did last first."""
    newest = sorted(trust, key=lambda one: -one.last_at)
    groups = [newest] if len(newest) > TOLD_APART else [[one] for one in newest]
    return [
        f"logged in as {names([one.account for one in group])}, first {local(min(one.since for one in group))}, "
        f"last {local(group[0].last_at)}; {until} {local(max(one.until for one in group))}"
        for group in groups
    ]


# What else could have been, and what to do.


def _otherwise(story: Story) -> Iterator[str]:
    for policy, mistake in story.unfit.items():
        yield f"{policy}: not told, because your settings don't fit it: {visible(mistake)}"
    for one in story.otherwise:
        name = f"{one.policy}{' (in force)' if one.is_in_force else ''}"
        yield f"{name}: {_fate(one, is_wide=story.is_wide)}"
    if story.otherwise:
        yield (
            f"(what came since {local(story.since)}, judged again alone: what others did at the same time, and what "
            "the kernel dropped, is left out)"
        )


def _fate(one: Verdict, *, is_wide: bool) -> str:
    alerts = f"; {'alerts' if len(one.alerts) > 1 else 'alert'} {', '.join(one.alerts)}" if one.alerts else ""
    if is_wide:
        return f"{counted(one.sources, 'source')} banned{alerts}"
    if one.ban is None:
        nearest = f"; {one.nearest}" if one.nearest else ""
        return f"not banned{alerts}{nearest}"
    more = f"; {one.bans} bans in all" if one.bans > 1 else ""
    return f"banned {local(one.ban.at)}, at its failed attempt {one.tries}, by rule {one.ban.rule!r}{more}{alerts}"


def advice_lines(alerts: Iterable[AlertRecord]) -> Iterator[str]:
    """Say what to do about each kind of alert, and where to read on."""
    accounts: dict[str, dict[str, None]] = {}
    for one in alerts:
        if one.kind in ALERTS:
            accounts.setdefault(one.kind, {}).update({one.account: None} if one.account else {})
    for kind, named in accounts.items():
        about = f" ({'account' if len(named) == 1 else 'accounts'} {names(list(named))})" if named else ""
        yield f"{kind}{about}: {ALERTS[kind]} See {alert_page(kind)}"


def _advice(story: Story) -> Iterator[str]:
    yield from advice_lines((*story.alerts, *story.others))
    name = short_name(story.network)
    if story.ban is not None:
        name = short_name(ip_network(story.ban.network))
        yield f"amiwatch unban {name}    ends the ban"
        yield f"amiwatch allow {name}    ends it, and never bans it again"
    elif not story.protection:
        yield f"amiwatch ban {name}      bans it by hand"
        yield f"amiwatch allow {name}    never bans it"


def record(story: Story) -> dict[str, object]:
    """Return what ``--json`` prints."""
    listing = ban_listing(story.now)
    bans = [dict(zip(listing.fields, listing.values(one), strict=True)) for one in story.bans[:KEPT]]
    ban = story.ban
    return {
        "target": story.target,
        "network": str(story.network),
        "is_banned": ban is not None,
        "ban": dict(zip(listing.fields, listing.values(ban), strict=True)) if ban else None,
        "is_known": story.is_known,
        "never_banned_because": story.protection,
        "evidence": [{**asdict(one), "at": iso(one.at)} for one in story.evidence],
        "packets_dropped": story.drops.packets if story.drops else None,
        "octets_dropped": story.drops.octets if story.drops else None,
        "is_in_kernel": story.drops.is_in_kernel if story.drops else None,
        "ban_not_working": story.drops.not_working if story.drops else None,
        "bans": bans,
        "visits": [
            {"first": iso(one.begin), "last": iso(one.end), "attempts": len(one.attempts), "what": one.words()}
            for one in sorted(_visits(story, len(story.attempts) + SHOWN), key=lambda one: one.begin)[-KEPT:]
        ],
        "sources": [
            {**one._asdict(), "first_at": iso(one.first_at), "last_at": iso(one.last_at)} for one in story.sources
        ],
        "tried": [{**one._asdict(), "first_at": iso(one.first_at), "last_at": iso(one.last_at)} for one in story.tried],
        "alerts": [alert_record(one) for one in story.alerts],
        "other_alerts": [alert_record(one) for one in story.others],
        "trust": [
            {"account": one.account, "since": iso(one.since), "last": iso(one.last_at), "until": iso(one.until)}
            for one in story.trust
        ],
        "otherwise": [
            {
                "policy": one.policy,
                "is_in_force": one.is_in_force,
                "banned_at": iso(one.ban.at) if one.ban else None,
                "rule": one.ban.rule if one.ban else None,
                "reason": one.ban.reason if one.ban else None,
                "failed_attempts": one.tries,
                "bans": one.bans,
                "sources": one.sources,
                "alerts": list(one.alerts),
                "nearest": one.nearest,
            }
            for one in story.otherwise
        ],
        "policies_that_do_not_fit": dict(story.unfit),
    }


def alert_record(one: AlertRecord) -> dict[str, object]:
    """Return what machines are told of an alert."""
    return {
        **one._asdict(),
        "at": iso(one.at),
        "last_at": iso(one.last_at),
        "advice": ALERTS.get(one.kind),
        "page": alert_page(one.kind),
    }
