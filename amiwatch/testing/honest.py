"""
Honest actors, one device each: phones, carriers, monitors, managers, and everything that goes wrong with them.

Rates and troubles are those of operators: registrations every one to sixty minutes, failed ones again after half a
minute or a whole one (RFC 5626 4.5 jitters that), carriers that ping, people who mistype.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import IPv6Address
from itertools import count
from random import Random

from amiwatch.testing.actors import (
    AUTH_NAME_LOGIN,
    AUTH_NAME_STALE,
    AUTH_NAME_WRONG,
    HOUR,
    MINUTE,
    STALE_AOR,
    Actor,
    Dialogue,
    Place,
    Role,
    Sender,
    together,
)
from amiwatch.testing.builders import Case, Step

What = Case | Sequence[Step]


def good_phone(place: Place, *, transport: str | None = None, every: float | None = None) -> Actor:
    """Register all the time from an address of one's own."""
    random = place.random
    transport = transport or random.choice(("UDP", "UDP", "UDP", "TCP", "TLS", "WSS"))
    source, account, every = place.address(), place.extension(), every or random.choice((60.0, 120.0, 300.0, 3600.0))
    has_auth_names, end = place.has_auth_names(), place.seconds

    def life(random: Random) -> Iterator[Dialogue]:
        return registers(
            Sender(random, source, transport), random, account, every, end=end, has_auth_names=has_auth_names
        )

    return Actor("good phone", Role.HONEST, (source,), life)


def mistyper(place: Place) -> Actor:
    """Set up a phone by hand: up to four wrong passwords, then the right one."""
    random = place.random
    source, account, begin = place.address(), place.extension(), place.moment(0, 0.5)
    transport, has_auth_names, end = random.choice(("UDP", "TLS")), place.has_auth_names(), place.seconds

    def life(random: Random) -> Iterator[Dialogue]:
        send, at = Sender(random, source, transport), begin
        for _ in range(random.randint(1, 4)):
            yield send(at, AUTH_NAME_WRONG if has_auth_names else Case.WRONG_PASSWORD, account)
            at += random.uniform(5, 40)
        yield from registers(send, random, account, 300, begin=at, end=end, has_auth_names=has_auth_names)

    return Actor("mistyper", Role.HONEST, (source,), life, frozenset({"mistyped_password"}))


def old_password(place: Place, *, is_trusted: bool) -> Actor:
    """Fail for hours with one account: alone at its address, or in an office whose other phones are fine."""
    random = place.random
    source, account, every = place.address(), place.extension(), random.choice((30.0, 60.0))
    others = [place.extension() for _ in range(random.randint(1, 8))] if is_trusted else []
    begin, doubled = place.moment(0.05, 0.3), random.random() < 0.5
    has_one_call_id, has_auth_names, end = random.random() < 0.5, place.has_auth_names(), place.seconds

    def life(random: Random) -> Iterator[Dialogue]:
        send = Sender(random, source)
        broken = fails(
            send,
            random,
            AUTH_NAME_WRONG if has_auth_names else Case.WRONG_PASSWORD,
            account,
            every,
            begin=begin,
            end=end,
            is_doubled=doubled,
            has_one_call_id=has_one_call_id,
        )
        fine = [registers(Sender(random, source), random, other, 300, end=end) for other in others]
        return together(broken, *fine)

    name = "old password, trusted site" if is_trusted else "old password, strange site"
    alerts = frozenset({"broken_phone", "trusted_offender"} if is_trusted else {"broken_phone"})
    return Actor(name, Role.HONEST, (source,), life, alerts, must_alert=True)


def corrected_phone(place: Place) -> Actor:
    """Fail with an old password for a while, alone at its address, until somebody corrects it."""
    random = place.random
    source, account, every = place.address(), place.extension(), random.choice((30.0, 60.0))
    begin, is_doubled, transport = place.moment(0.05, 0.2), random.random() < 0.5, random.choice(("UDP", "TLS"))
    corrected, has_auth_names, end = place.moment(0.3, 0.5), place.has_auth_names(), place.seconds
    wrong: What = AUTH_NAME_WRONG if has_auth_names else Case.WRONG_PASSWORD

    def life(random: Random) -> Iterator[Dialogue]:
        send = Sender(random, source, transport)
        yield from fails(send, random, wrong, account, every, begin=begin, end=corrected, is_doubled=is_doubled)
        yield from registers(send, random, account, 300, begin=corrected, end=end, has_auth_names=has_auth_names)

    alerts = frozenset({"broken_phone", "password_found"})
    return Actor("phone that was corrected", Role.HONEST, (source,), life, alerts, must_alert=True)


def deleted_account(place: Place) -> Actor:
    """Register for ever with an account that was deleted."""
    random = place.random
    source, account, every = place.address(), f"9{random.randrange(1000):03}", random.choice((30.0, 60.0, 120.0))
    begin, has_one_call_id, end = place.moment(0, 0.3), random.random() < 0.5, place.seconds

    def life(random: Random) -> Iterator[Dialogue]:
        return fails(
            Sender(random, source),
            random,
            Case.UNKNOWN_ACCOUNT_ANSWERED,
            account,
            every,
            begin=begin,
            end=end,
            has_one_call_id=has_one_call_id,
        )

    alerts = frozenset({"broken_phone", "unknown_carrier"})
    return Actor("deleted account", Role.HONEST, (source,), life, alerts, must_alert=True)


def full_aor(place: Place) -> Actor:
    """Log in rightly and be refused, because there are too many contacts or none."""
    source, account, end = place.address(), place.extension(), place.seconds
    case: What = place.random.choice((Case.FULL_AOR, STALE_AOR))

    def life(random: Random) -> Iterator[Dialogue]:
        return fails(Sender(random, source), random, case, account, 30, begin=0, end=end)

    alert = "aor_full" if case is Case.FULL_AOR else "aor_missing"
    return Actor("full or stale AOR", Role.HONEST, (source,), life, frozenset({alert}), must_alert=True)


def unknown_carrier(place: Place) -> Actor:
    """Bring calls from an address that Asterisk doesn't know: callers' numbers, some withheld, and pings between."""
    random = place.random
    source, begin, end = place.address(), place.moment(0, 0.2), place.seconds
    mean = random.choice((6.0, 30.0, 120.0, 600.0))
    pings, withheld = random.random() < 0.5, random.choice((0.0, 0.1))
    forms = random.choice(("+4930{:07}", "004930{:07}", "030{:07}"))

    def calls(random: Random) -> Iterator[Dialogue]:
        send, at = Sender(random, source), begin
        while at < end:
            number = forms.format(random.randrange(10**7)) if random.random() >= withheld else "anonymous"
            yield send(at, Case.UNKNOWN_ACCOUNT, number, copies=random.random() < 0.02)
            at += random.expovariate(1 / mean)

    def life(random: Random) -> Iterator[Dialogue]:
        asks = fails(
            Sender(random, source), random, Case.UNKNOWN_ACCOUNT, "ping", 60, begin=begin, end=end, jitter=0.02
        )
        return together(calls(random), asks) if pings else calls(random)

    return Actor("unknown carrier", Role.HONEST, (source,), life, frozenset({"unknown_carrier"}))


def monitor(place: Place) -> Actor:
    """Ask with OPTIONS whether the PBX lives, always as the same account."""
    random = place.random
    source, every, end = place.address(), random.choice((10.0, 30.0, 60.0)), place.seconds
    account = random.choice(("monitor", "nagios", "ping", "sipp", ""))
    has_one_call_id = random.random() < 0.2

    def life(random: Random) -> Iterator[Dialogue]:
        return fails(
            Sender(random, source),
            random,
            Case.UNKNOWN_ACCOUNT,
            account,
            every,
            begin=random.uniform(0, 60),
            end=end,
            jitter=0.05,
            has_one_call_id=has_one_call_id,
        )

    return Actor("OPTIONS monitor", Role.HONEST, (source,), life, frozenset({"unknown_carrier"}), must_alert=True)


def roaming_phone(place: Place) -> Actor:
    """Take another address every hour or so, with an old password that nobody corrects: a mobile softphone."""
    sources, account = [place.address() for _ in range(15)], place.extension()
    has_auth_names, end = place.has_auth_names(), place.seconds
    stay = max(HOUR, end / len(sources))

    def life(random: Random) -> Iterator[Dialogue]:
        wrong: What = AUTH_NAME_WRONG if has_auth_names else Case.WRONG_PASSWORD
        for turn, source in enumerate(sources):
            begin, until = turn * stay, min(end, (turn + 1) * stay)
            yield from fails(Sender(random, source), random, wrong, account, 60, begin=begin, end=until)

    return Actor("roaming phone, old password", Role.HONEST, sources, life, frozenset({"broken_phone"}))


def ipv6_phone(place: Place) -> Actor:
    """Register from a /64 with another address of it each hour (RFC 8981)."""
    network, account, has_auth_names, end = place.network6(), place.extension(), place.has_auth_names(), place.seconds

    def life(random: Random) -> Iterator[Dialogue]:
        send, until = Sender(random, IPv6Address(network)), 0.0
        for dialogue in registers(send, random, account, 120, end=end, has_auth_names=has_auth_names):
            if dialogue.at >= until:
                source, until = IPv6Address(network + random.getrandbits(64)), dialogue.at + HOUR
            yield dialogue._replace(source=source)

    return Actor("IPv6 phone", Role.HONEST, (IPv6Address(network),), life)


def refused_phone(place: Place) -> Actor:
    """Register from where the endpoint's own ACL lets nobody in."""
    source, account, every, end = place.address(), place.extension(), place.random.choice((30, 60)), place.seconds

    def life(random: Random) -> Iterator[Dialogue]:
        return fails(Sender(random, source), random, Case.ENDPOINT_ACL, account, every, begin=5, end=end)

    alerts = frozenset({"phone_kept_out", "broken_phone"})
    return Actor("phone that an ACL refuses", Role.HONEST, (source,), life, alerts, must_alert=True)


def manager_program(place: Place) -> Actor:
    """Log in to the manager every minute, and now and then call what it may not, or once too often."""
    source, end = place.address(), place.seconds
    cases = (Case.AMI_RIGHT_SECRET,) * 7 + (Case.AMI_NOT_ALLOWED, Case.AMI_BAD_FORMAT, Case.AMI_SESSION_LIMIT)

    def life(random: Random) -> Iterator[Dialogue]:
        send, at = Sender(random, source), random.uniform(0, 60)
        while at < end:
            yield send(at, random.choice(cases), "wallboard")
            at += random.uniform(50, 70)

    return Actor("manager program", Role.HONEST, (source,), life)


def old_sip_phone(place: Place, *, is_broken: bool) -> Actor:
    """Register with chan_sip: rightly, or with an old password."""
    source, account, end = place.address(), place.extension(), place.seconds
    case = Case.SIP_WRONG_PASSWORD if is_broken else Case.SIP_RIGHT_PASSWORD

    def life(random: Random) -> Iterator[Dialogue]:
        return fails(Sender(random, source), random, case, account, 60, begin=random.uniform(0, 60), end=end)

    name = "chan_sip phone, old password" if is_broken else "chan_sip phone"
    return Actor(
        name, Role.HONEST, (source,), life, frozenset({"broken_phone", "chan_sip_offender"} if is_broken else ())
    )


# What phones do.


def registers(
    send: Sender,
    random: Random,
    account: str,
    every: float,
    *,
    end: float,
    begin: float | None = None,
    has_auth_names: bool = False,
    copies: int = 1,
) -> Iterator[Dialogue]:
    """Register, now and then with a nonce that is too old, and now and then over a line that loses packets."""
    login: What = AUTH_NAME_LOGIN if has_auth_names else Case.RIGHT_PASSWORD
    stale: What = AUTH_NAME_STALE if has_auth_names else Case.STALE_NONCE
    session = send.session() if random.random() < 0.5 else ""
    at = random.uniform(0, min(every, MINUTE)) if begin is None else begin
    for turn in count():
        if at >= end:
            return
        is_stale = turn and random.random() < 0.1
        is_lossy = random.random() < 0.02
        yield send(at, stale if is_stale else login, account, session=session, copies=copies * is_lossy)
        at += every * random.uniform(0.9, 1)


def fails(
    send: Sender,
    random: Random,
    what: What,
    account: str,
    every: float,
    *,
    begin: float,
    end: float,
    jitter: float = 0.25,
    is_doubled: bool = False,
    has_one_call_id: bool = False,
    losses: float = 0.02,
) -> Iterator[Dialogue]:
    """
    Try again and again with one account at a steady pace.

    A doubled try comes within a second of the first. ``losses`` is the share of requests whose answer is lost.
    """
    session = send.session() if has_one_call_id else ""
    at = begin
    while at < end:
        yield send(at, what, account, session=session, copies=int(random.random() < losses))
        if is_doubled:
            yield send(at + random.uniform(0.3, 0.9), what, account, session=session)
        at += every * random.uniform(1 - jitter, 1 + jitter)
