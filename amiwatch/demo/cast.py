"""
Who appears in the demo, with what intention, from which address, and at which pace.

Rule 1: everybody sends real SIP requests through a ``UserAgent`` and knows only its answers.

Rule 2: paces are quicker than life, so that everything fits into half a minute; where that matters, the remark says so.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from amiwatch.testing.sip import UserAgent

PHONES = {name: f"phone-{name}-password" for name in ("101", "102", "103", "201", "202", "203")}
"""The accounts of the demo's PBX."""

PATIENCE = 0.5
"""Seconds that somebody waits for an answer; it takes a millisecond."""

Act = Callable[[Sequence[UserAgent]], Awaitable[None]]


class Fate(StrEnum):
    """What must become of somebody, or the demo has failed."""

    SERVED = "served"
    """Every packet arrives and every request is answered; never banned."""
    REPORTED = "reported"
    """Served, and an alert tells a person about it."""
    BANNED = "banned"
    """Banned, and from then on not a single packet arrives although it goes on sending."""


@dataclass(frozen=True, slots=True)
class Actor:
    """One source of packets: a host, or an IPv6 network of one customer."""

    name: str
    source: str
    """The network that it is counted and banned by."""
    addresses: tuple[str, ...]
    fate: Fate
    act: Act
    enters: float = 0.0
    """Seconds after the beginning."""
    remark: str = ""
    is_trunk: bool = False


def _actor(name: str, address: str, fate: Fate, act: Act, **more: object) -> Actor:
    return Actor(name, address, (address,), fate, act, **more)  # type: ignore[arg-type]


def phone(account: str) -> Act:
    """Register again and again, as phones do (every few minutes; here every second), and call now and then."""

    async def act(agents: Sequence[UserAgent]) -> None:
        for turn in itertools.count():
            method = "INVITE" if turn % 5 == 4 else "REGISTER"
            await agents[0].request(method, account, password=PHONES[account], timeout=PATIENCE)
            await asyncio.sleep(1.0)

    return act


def office(good: Sequence[str], stale: str) -> Act:
    """Register several phones from behind one address, one of which has a password of yesterday."""

    async def act(agents: Sequence[UserAgent]) -> None:
        while True:
            for account in good:
                await agents[0].request("REGISTER", account, password=PHONES[account], timeout=PATIENCE)
            await agents[0].request("REGISTER", stale, password="yesterday", timeout=PATIENCE)  # noqa: S106
            await asyncio.sleep(1.2)

    return act


async def carrier(agents: Sequence[UserAgent]) -> None:
    """Ping, and bring calls from outside: never with a password."""
    for turn in itertools.count():
        caller = f"+49891234{turn % 1000:03d}"
        await agents[0].request("INVITE" if turn % 3 == 2 else "OPTIONS", caller, timeout=PATIENCE)
        await asyncio.sleep(0.8)


async def new_gateway(agents: Sequence[UserAgent]) -> None:
    """Bring calls from a gateway that nobody has told the PBX about."""
    for turn in itertools.count():
        await agents[0].request("INVITE", f"+49301234{turn % 1000:03d}", timeout=PATIENCE)
        await asyncio.sleep(1.4)


def scanner(pause: float) -> Act:
    """Ask for one extension after the other, and never stop; from all addresses in turn, ``pause`` seconds between."""

    async def act(agents: Sequence[UserAgent]) -> None:
        for number, agent in zip(itertools.count(1000), itertools.cycle(agents), strict=False):
            agent.send("REGISTER", str(number))
            await asyncio.sleep(pause)

    return act


async def guesser(agents: Sequence[UserAgent]) -> None:
    """Try one password after the other on an extension that exists."""
    for number in itertools.count(1):
        await agents[0].request("REGISTER", "101", password=f"secret{number}", timeout=0.2)
        await asyncio.sleep(0.9)


async def patient(agents: Sequence[UserAgent]) -> None:
    """Try a name now and then: slow enough for everybody who counts by the second."""
    for name in itertools.cycle(("admin", "sales", "support", "voicemail", "fax", "test", "info", "lobby")):
        await agents[0].request("INVITE", name, timeout=0.2)
        await asyncio.sleep(3.5)


HOPPER = tuple(f"2001:db8:bad::{number}" for number in range(20, 26))
"""One customer's network has more addresses than anybody can ban one by one."""

CAST: tuple[Actor, ...] = (
    _actor("phone 101", "192.0.2.101", Fate.SERVED, phone("101")),
    _actor("phone 102", "192.0.2.102", Fate.SERVED, phone("102"), enters=0.3),
    _actor("phone 103", "192.0.2.103", Fate.SERVED, phone("103"), enters=0.6),
    _actor(
        "office",
        "203.0.113.10",
        Fate.REPORTED,
        office(("201", "202"), "203"),
        enters=0.2,
        remark="three phones behind one address, one with an old password",
    ),
    _actor("carrier", "203.0.113.60", Fate.SERVED, carrier, is_trunk=True),
    _actor(
        "new gateway",
        "203.0.113.61",
        Fate.REPORTED,
        new_gateway,
        enters=0.4,
        remark="calls from a carrier that nobody has told the PBX about",
    ),
    _actor(
        "slow attacker",
        "198.51.100.99",
        Fate.BANNED,
        patient,
        enters=0.5,
        remark="a name every 3.7 s (a real one waits for minutes)",
    ),
    _actor("scanner", "198.51.100.20", Fate.BANNED, scanner(0.05), enters=3.0, remark="tries extensions, 20 a second"),
    _actor("guesser", "198.51.100.66", Fate.BANNED, guesser, enters=4.5, remark="tries passwords on extension 101"),
    Actor(
        "IPv6 scanner",
        "2001:db8:bad::/64",
        HOPPER,
        Fate.BANNED,
        scanner(0.1),
        enters=7.0,
        remark="tries extensions, each from another address",
    ),
)
