"""The story of an account: who logged in with it, who tried to, and what is to be done."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from typing import TYPE_CHECKING

from amiwatch.cli.story import advice_lines, alert_line, alert_record, merged, part
from amiwatch.cli.text import counted, iso, local, strong, wrapped
from amiwatch.judgement.values import IPNetwork
from amiwatch.store.reader import Reader
from amiwatch.store.records import AlertRecord, SourceRecord

if TYPE_CHECKING:
    from amiwatch.config import Settings

WORDS = {
    "success": ("login", "logins"),
    "guess": ("wrong password", "wrong passwords"),
    "unknown": ("attempt though it doesn't exist", "attempts though it doesn't exist"),
    "refused": ("refused by its ACL", "refused by its ACL"),
    "ami": ("failed login to the manager", "failed logins to the manager"),
}
"""Outcome → what so many of them are called; others are called attempts."""


@dataclass(frozen=True, slots=True)
class AccountStory:
    """All that is known of an account, the newest first."""

    account: str
    sources: Sequence[SourceRecord]
    alerts: Sequence[AlertRecord]
    banned: frozenset[IPNetwork]
    """Those of the sources that are banned now."""

    @property
    def is_known(self) -> bool:
        return bool(self.sources or self.alerts)


def gather(settings: Settings, account: str, *, limit: int) -> AccountStory:
    """Read what is kept of an account, ``limit`` rows of each kind. Raises StoreError."""
    now = time.time()
    with Reader(settings.database) as reader:
        sources = reader.sources_of(account, limit=limit)
        failed = {ip_network(one.address) for one in sources if one.outcome != "success"}
        banned = {one for one in failed if next(reader.bans(open_at=now, within=one, limit=1), None) is not None}
        return AccountStory(account, sources, reader.account_alerts(account, limit=limit), frozenset(banned))


def told(story: AccountStory) -> Iterator[str]:
    """Yield the lines that a person reads."""
    yield strong(wrapped(_summary(story)))
    logins = [one for one in story.sources if one.outcome == "success"]
    yield from part("logged in", [_line(one, story) for one in logins])
    yield from part("failed", [_line(one, story) for one in story.sources if one.outcome != "success"])
    yield from part("alerts", [_with_address(one) for one in merged(story.alerts)])
    yield from part("to do", list(advice_lines(story.alerts)))


def _summary(story: AccountStory) -> str:
    if not story.is_known:
        return f"The account {story.account!r} was never seen."
    good = {one.address for one in story.sources if one.outcome == "success"}
    failed = {one.address for one in story.sources if one.outcome != "success"}
    where = f"logged in from {counted(len(good), 'address', 'addresses')}" if good else "never logged in"
    both = f", {len(good & failed)} of these among those" if good & failed else ""
    tried = f"failed from {counted(len(failed), 'address', 'addresses')}{both}" if failed else "never failed"
    return f"The account {story.account!r} {where} and {tried}, as far as is kept."


def _line(one: SourceRecord, story: AccountStory) -> str:
    words = counted(one.attempts, *WORDS.get(one.outcome, (f"attempt {one.outcome}", f"attempts {one.outcome}")))
    banned = ", banned" if one.outcome != "success" and ip_network(one.address) in story.banned else ""
    begin = f"first {local(one.first_at)}, " if one.last_at - one.first_at >= 1 else ""
    return f"{one.address}: {words}, {begin}last {local(one.last_at)}{banned}"


def _with_address(one: AlertRecord) -> str:
    where = f"  [{one.address}]" if one.address else ""
    return alert_line(one) + where


def record(story: AccountStory) -> dict[str, object]:
    """Return what ``--json`` prints."""
    return {
        "account": story.account,
        "is_known": story.is_known,
        "sources": [
            {
                **one._asdict(),
                "first_at": iso(one.first_at),
                "last_at": iso(one.last_at),
                "is_banned": ip_network(one.address) in story.banned,
            }
            for one in story.sources
        ],
        "alerts": [alert_record(one) for one in story.alerts],
    }
