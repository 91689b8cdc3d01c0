"""Honest sites: many phones behind one address, or at once, and what goes wrong with all of them together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

from amiwatch.judgement.values import IPAddress
from amiwatch.testing import hostile
from amiwatch.testing.actors import (
    ANOTHER_GUESS,
    AUTH_NAME_WRONG,
    HOUR,
    MINUTE,
    Actor,
    Dialogue,
    Life,
    Place,
    Role,
    Sender,
    together,
)
from amiwatch.testing.builders import Case
from amiwatch.testing.honest import What, fails, registers

SMALL_OFFICE = 12
"""Phones behind one address up to which an office that nobody knows is told from a scanner, if others fail as well."""


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

    alerts = frozenset({"site_moved", "broken_phone", "trusted_offender"})
    return Actor("site that moved", Role.HONEST, (old, new), life, alerts)


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

    alerts = frozenset({"broken_phone", "broken_site", "mistyped_password", "shared_address", "trusted_offender"})
    return Actor("call centre", Role.HONEST, (source,), life, alerts)


def two_broken_phones(place: Place, *, is_trusted: bool) -> Actor:
    """Have two phones with old passwords: in an office whose other phones are fine, or with nothing else there."""
    random = place.random
    source, broken = place.address(), [(place.extension(), random.choice((30.0, 60.0))) for _ in range(2)]
    others = [place.extension() for _ in range(random.randint(2, 8))] if is_trusted else []
    begin, has_auth_names, end = place.moment(0.05, 0.3), place.has_auth_names(), place.seconds
    wrong: What = AUTH_NAME_WRONG if has_auth_names else Case.WRONG_PASSWORD

    def life(random: Random) -> Iterator[Dialogue]:
        return together(
            *(registers(Sender(random, source), random, other, 300, end=end) for other in others),
            *(
                fails(Sender(random, source), random, wrong, account, every, begin=begin, end=end)
                for account, every in broken
            ),
        )

    name = "two broken phones, trusted site" if is_trusted else "two broken phones, strange site"
    alerts = frozenset({"broken_phone", "broken_site", *(["trusted_offender"] if is_trusted else [])})
    return Actor(name, Role.HONEST, (source,), life, alerts, must_alert=True)


def proxy(place: Place, phones: int = 40) -> Actor:
    """Show one address for everybody: phones that are fine, and the strangers that found the way through."""
    source, transport = place.address(), place.random.choice(("UDP", "TCP", "WSS"))
    accounts, has_auth_names, end = [place.extension() for _ in range(phones)], place.has_auth_names(), place.seconds
    strangers = [what(place) for what in (hostile.scanner, hostile.waiter, hostile.patient, hostile.masquerader)]

    def stranger(actor: Actor, random: Random) -> Iterator[Dialogue]:
        for dialogue in actor.life(random):
            yield dialogue._replace(source=source, transport=transport, is_attempt=False)

    def life(random: Random) -> Iterator[Dialogue]:
        fine = (
            registers(Sender(random, source, transport), random, account, 120, end=end, has_auth_names=has_auth_names)
            for account in accounts
        )
        return together(*fine, *(stranger(actor, Random(random.getrandbits(64))) for actor in strangers))  # noqa: S311

    return Actor("proxy", Role.HONEST, (source,), life, frozenset({"shared_address", "trusted_offender"}))


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
        alerts = frozenset({"mass_failure"} if size == 1 else {"mass_failure", "trusted_offender", "shared_address"})
        actors.append(Actor(name, role, (source,), _all(lives), alerts))
    return actors


def _all(lives: Sequence[Life]) -> Life:
    return lambda random: together(*(life(Random(random.getrandbits(64))) for life in lives))  # noqa: S311
