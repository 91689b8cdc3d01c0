"""
Honest actors: phones, offices, carriers, monitors, and everything that goes wrong with them.

Rates and troubles are those of operators: registrations every one to sixty minutes, failed ones again after half a
minute or a whole one (RFC 5626 4.5 jitters that), carriers that ping, people who mistype.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from random import Random

from amiwatch.judgement.values import IPAddress
from amiwatch.testing.actors import (
    ANOTHER_GUESS,
    AUTH_NAME_LOGIN,
    AUTH_NAME_STALE,
    AUTH_NAME_WRONG,
    HOUR,
    MINUTE,
    STALE_AOR,
    Actor,
    Dialogue,
    Life,
    Place,
    Role,
    Sender,
    together,
)
from amiwatch.testing.builders import Case, Step

SMALL_OFFICE = 12
"""Phones behind one address up to which an office that nobody knows is told from a scanner, if others fail as well."""

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


def office(place: Place, phones: int = 12, *, every: float = 300.0, name: str = "office", at: float = 0.0) -> Actor:
    """Register many phones from behind one address, all of them within a minute of ``at``."""
    source, accounts = place.address(), [place.extension() for _ in range(phones)]
    transport = place.random.choice(("UDP", "TCP", "TLS"))
    has_auth_names, end = place.has_auth_names(), place.seconds

    def life(random: Random) -> Iterator[Dialogue]:
        return together(
            *(
                registers(
                    Sender(random, source, transport),
                    random,
                    account,
                    every,
                    begin=at + random.uniform(0, min(MINUTE, every)),
                    end=end,
                    has_auth_names=has_auth_names,
                )
                for account in accounts
            )
        )

    return Actor(name, Role.HONEST, (source,), life)


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

    return Actor("mistyper", Role.HONEST, (source,), life)


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

    return Actor("full or stale AOR", Role.HONEST, (source,), life)


def moved_site(place: Place) -> Actor:
    """Move an office to another address; one phone had an old password all along."""
    old, new = place.address(), place.address()
    accounts, broken = [place.extension() for _ in range(place.random.randint(4, 20))], place.extension()
    moves, has_auth_names, end = place.moment(0.4, 0.6), place.has_auth_names(), place.seconds
    wrong: What = AUTH_NAME_WRONG if has_auth_names else Case.WRONG_PASSWORD

    def life(random: Random) -> Iterator[Dialogue]:
        lives: list[Iterator[Dialogue]] = []
        for source, begin, until in ((old, 0.0, moves), (new, moves + 120, end)):
            for account in accounts:
                at = begin + random.uniform(0, 20)
                send = Sender(random, source)
                lives.append(
                    registers(send, random, account, 120, begin=at, end=until, has_auth_names=has_auth_names, copies=2)
                )
            lives.append(fails(Sender(random, source), random, wrong, broken, 60, begin=begin + 1, end=until))
        return together(*lives)

    alerts = frozenset({"broken_phone", "trusted_offender"})
    return Actor("site that moved", Role.HONEST, (old, new), life, alerts)


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


def call_centre(place: Place, agents: int = 200) -> Actor:
    """Work with 200 agents behind one address: all come within minutes, some mistype, one has an old password."""
    source, accounts = place.address(), [place.extension() for _ in range(agents)]
    transport, has_auth_names, end = place.random.choice(("UDP", "WSS", "TLS")), place.has_auth_names(), place.seconds
    wrong: What = AUTH_NAME_WRONG if has_auth_names else Case.WRONG_PASSWORD

    def agent(random: Random, account: str, *, is_broken: bool) -> Iterator[Dialogue]:
        send, at = Sender(random, source, transport), random.uniform(0, 10 * MINUTE)
        if is_broken:
            return fails(send, random, wrong, account, 30, begin=at, end=min(end, at + 4 * HOUR))
        return mistypes(send, random, account, at)

    def mistypes(send: Sender, random: Random, account: str, at: float) -> Iterator[Dialogue]:
        for _ in range(random.choice((0, 0, 0, 0, 0, 0, 0, 0, 1, 2))):
            yield send(at, wrong, account)
            at += random.uniform(5, 30)
        yield from registers(send, random, account, 240, begin=at, end=end, has_auth_names=has_auth_names)

    def life(random: Random) -> Iterator[Dialogue]:
        return together(*(agent(random, account, is_broken=not at) for at, account in enumerate(accounts)))

    alerts = frozenset({"broken_phone", "trusted_offender"})
    return Actor("call centre", Role.HONEST, (source,), life, alerts)


def reboot_storm(place: Place, phones: int = 300, *, sites: int = 5) -> list[Actor]:
    """Come back all at once when the power does: single phones and offices, with lost packets."""
    at, lone = place.moment(0.4, 0.6), []
    has_auth_names, end = place.has_auth_names(), place.seconds

    def phone(source: IPAddress, account: str) -> Life:
        def life(random: Random) -> Iterator[Dialogue]:
            send, begin = Sender(random, source), at + random.uniform(0, 20)
            return registers(send, random, account, 120, begin=begin, end=end, has_auth_names=has_auth_names, copies=3)

        return life

    for _ in range(phones):
        source = place.address()
        lone.append(Actor("phone after a power cut", Role.HONEST, (source,), phone(source, place.extension())))
    return lone + [office(place, 40, every=120, name="office after a power cut", at=at) for _ in range(sites)]


def mass_failure(
    place: Place, phones: int = 60, *, sites: Sequence[int] = (12, 12, 200), what: What = ANOTHER_GUESS, is_known: bool
) -> list[Actor]:
    """
    Let every phone fail for a quarter of an hour.

    ``what`` is ``ANOTHER_GUESS`` for a dead realtime database and ``Case.UNKNOWN_ACCOUNT_ANSWERED`` for a reload that
    lost all endpoints. ``is_known`` is False if nobody was ever seen to log in before: amiwatch came that day.
    """
    fails_at = place.moment(0.3, 0.5) if is_known else 5.0
    works_at = fails_at + 15 * MINUTE
    end = place.seconds

    def phone(source: IPAddress, account: str, transport: str) -> Life:
        def life(random: Random) -> Iterator[Dialogue]:
            send, retry = Sender(random, source, transport), random.choice((20, 30, 60))
            has_one_call_id = random.random() < 0.5
            if is_known:
                yield from registers(send, random, account, 120, end=fails_at)
            first = fails_at + random.uniform(0, 120 if is_known else retry)
            yield from fails(
                send, random, what, account, retry, begin=first, end=works_at, has_one_call_id=has_one_call_id
            )
            yield from registers(send, random, account, 120, begin=works_at + random.uniform(0, retry), end=end)

        return life

    actors = []
    for size in (*(1 for _ in range(phones)), *sites):
        source, transport = place.address(), place.random.choice(("UDP", "TCP", "TLS"))
        lives = [phone(source, place.extension(), transport) for _ in range(size)]
        name = "phone in a mass failure" if size == 1 else "office in a mass failure"
        role = Role.HONEST
        if not is_known and size > SMALL_OFFICE:
            # A second after it begins, a hundred strange phones behind one address are what a scanner is.
            name, role = "strange call centre in a mass failure", Role.UNDECIDABLE
        # Before others fail, it may be said of an office alone that it fails a lot.
        alerts = frozenset({"mass_failure"} if size == 1 else {"mass_failure", "trusted_offender"})
        actors.append(Actor(name, role, (source,), _all(lives), alerts))
    return actors


def _all(lives: Sequence[Life]) -> Life:
    return lambda random: together(*(life(Random(random.getrandbits(64))) for life in lives))  # noqa: S311


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
