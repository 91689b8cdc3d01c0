"""
Hostile actors: scanners, guessers, campaigns and forgers.

Rates are those that honeypots and operators report: 20 to 150 requests a second, four tries and a pause of up to five
minutes, one try in 6 seconds to 36 minutes, five requests for each of many users, a botnet's one try a host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address
from itertools import count, islice
from random import Random

from amiwatch.judgement.values import IPAddress
from amiwatch.testing.actors import (
    ANOTHER_GUESS,
    MINUTE,
    UNKNOWN_GUESS,
    Actor,
    Dialogue,
    Place,
    Role,
    Sender,
)
from amiwatch.testing.builders import Case, Step

What = Case | Sequence[Step]

NAMES = ("admin", "Administrator", "10", "11", "100", "test", "sales", "support", "voicemail", "fax", "user", "sip")
MANAGERS = ("admin", "sip", "asterisk", "manager", "root", "freepbx")

PHONE_PAUSE = 10.0
"""Mean pause, in seconds, from which on guesses that bear no name may be a phone's."""


def scanner(place: Place) -> Actor:
    """Ask for one extension after the other, 20 to 150 a second."""
    random = place.random
    source, pause, begin = place.address(), 1 / random.uniform(20, 150), place.moment(0, 0.8)
    what, transport = random.choice((Case.UNKNOWN_ACCOUNT, Case.UNKNOWN_ACCOUNT_ANSWERED)), _transport(random)
    first, tries = random.choice((100, 1000, 2000, 5000)), random.randint(200, 1500)

    def life(random: Random) -> Iterator[Dialogue]:
        send = Sender(random, source, transport)
        for number, at in _paced(random, begin, pause, tries):
            yield send(at, what, str(first + number), is_attempt=True)

    return Actor("fast scanner", Role.ATTACKER, (source,), life)


def waiter(place: Place) -> Actor:
    """Try four in four seconds, wait for half a minute to five minutes, and go on."""
    random = place.random
    source, begin, pause = place.address(), place.moment(0, 0.3), random.uniform(30, 300)
    session_is_kept, transport = random.random() < 0.2, _transport(random)

    def life(random: Random) -> Iterator[Dialogue]:
        send, at = Sender(random, source, transport), begin
        session = send.session() if session_is_kept else ""
        for burst in range(30):
            for number in range(4):
                user = str(100 + 4 * burst + number)
                yield send(at + number, Case.UNKNOWN_ACCOUNT, user, session=session, is_attempt=True)
            at += 4 + pause * random.uniform(0.8, 1.2)

    return Actor("burst and wait", Role.ATTACKER, (source,), life)


def patient(place: Place) -> Actor:
    """Try a name now and then, for days: once in 6 seconds to 36 minutes."""
    random = place.random
    source, begin = place.address(), place.moment(0, 0.1)
    pause = 6 * (360 ** random.random())
    tries, transport = max(24, min(400, int((place.seconds - begin) / pause))), _transport(random)

    def life(random: Random) -> Iterator[Dialogue]:
        send = Sender(random, source, transport)
        for number, at in _paced(random, begin, pause, tries):
            name = NAMES[number] if number < len(NAMES) else str(90 + number)
            yield send(at, Case.UNKNOWN_ACCOUNT_ANSWERED, name, is_attempt=True)

    if place.is_freepbx and pause >= PHONE_PAUSE:
        # Nobody is named there at this pace: it is a phone whose account was deleted, to the last detail.
        alerts = frozenset({"broken_phone", "unknown_carrier"})
        return Actor("slow guesser, never named", Role.UNDECIDABLE, (source,), life, alerts, must_alert=True)
    return Actor("slow guesser", Role.ATTACKER, (source,), life)


def cracker(place: Place, *, has_one_call_id: bool) -> Actor:
    """Guess one password after the other on one account that exists; one Call-ID is what svcrack does."""
    random = place.random
    source, begin, account = place.address(), place.moment(0, 0.5), random.choice(place.extensions or ["1001"])
    pause, tries, transport = random.choice((0.05, 0.5, 2.0, 8.0)), random.randint(30, 400), _transport(random)

    def life(random: Random) -> Iterator[Dialogue]:
        send = Sender(random, source, transport)
        session = send.session() if has_one_call_id else ""
        for number, at in _paced(random, begin, pause, tries):
            what: What = ANOTHER_GUESS if has_one_call_id and number else Case.WRONG_PASSWORD
            yield send(at, what, account, session=session, is_attempt=True)

    return Actor("cracker, one call" if has_one_call_id else "cracker", Role.ATTACKER, (source,), life)


def dead_end_cracker(place: Place) -> Actor:
    """Guess within one call on an account that does not exist."""
    random = place.random
    source, begin, transport = place.address(), place.moment(0, 0.5), _transport(random)

    def life(random: Random) -> Iterator[Dialogue]:
        send = Sender(random, source, transport)
        session = send.session()
        yield send(begin, Case.UNKNOWN_ACCOUNT, "4711", session=session, is_attempt=True)
        for _, at in _paced(random, begin + 0.3, 0.3, 100):
            yield send(at, UNKNOWN_GUESS, "4711", session=session, is_attempt=True)

    return Actor("cracker, no account", Role.ATTACKER, (source,), life)


def steady_cracker(place: Place) -> Actor:
    """Guess on one account at the very pace of a phone with an old password."""
    random = place.random
    source, begin, account = place.address(), place.moment(0, 0.3), random.choice(place.extensions or ["1001"])
    pause = random.choice((30.0, 60.0))

    def life(random: Random) -> Iterator[Dialogue]:
        send = Sender(random, source)
        for _, at in _paced(random, begin, pause, 300, jitter=0.2):
            yield send(at, Case.WRONG_PASSWORD, account, is_attempt=True)

    alerts = frozenset({"broken_phone"})
    return Actor("cracker as a phone", Role.UNDECIDABLE, (source,), life, alerts, must_alert=True)


def sprayer(place: Place) -> Actor:
    """Try one password on each of many accounts that exist, then the next."""
    random = place.random
    source, begin, pause = place.address(), place.moment(0, 0.2), random.choice((0.5, 5.0, 60.0, 600.0))
    accounts, transport = place.extensions or [str(1001 + number) for number in range(20)], _transport(random)

    def life(random: Random) -> Iterator[Dialogue]:
        send = Sender(random, source, transport)
        for number, at in _paced(random, begin, pause, 60):
            yield send(at, Case.WRONG_PASSWORD, accounts[number % len(accounts)], is_attempt=True)

    return Actor("password sprayer", Role.ATTACKER, (source,), life)


def masquerader(place: Place) -> Actor:
    """Look like a phone: random users of four digits, five requests for each, and again after 78 minutes."""
    source, begin = place.address(), place.moment(0, 0.3)
    transport = _transport(place.random)

    def life(random: Random) -> Iterator[Dialogue]:
        send, at = Sender(random, source, transport), begin
        for _ in range(3):
            for _ in range(4):
                user = f"{random.randrange(10_000):04}"
                for _ in range(5):
                    yield send(at, Case.UNKNOWN_ACCOUNT_ANSWERED, user, is_attempt=True)
                    at += random.uniform(0.2, 3)
            at += 78 * MINUTE

    return Actor("masquerader", Role.ATTACKER, (source,), life)


def manager_guesser(place: Place) -> Actor:
    """Log in to the manager with a guess every 6 to 10 seconds."""
    source, begin = place.address(), place.moment(0, 0.8)

    def life(random: Random) -> Iterator[Dialogue]:
        send = Sender(random, source, "TCP")
        for _, at in _paced(random, begin, 8, 60, jitter=0.25):
            what = random.choice((Case.AMI_UNKNOWN_USER, Case.AMI_WRONG_SECRET))
            yield send(at, what, random.choice(MANAGERS), is_attempt=True)

    return Actor("manager guesser", Role.ATTACKER, (source,), life)


def campaign(place: Place, hosts: int = 400) -> Actor:
    """Guess the password of one account from many addresses, one try each."""
    random = place.random
    sources = [place.address() for _ in range(hosts)]
    account, begin, pause = (
        random.choice(place.extensions or ["1001"]),
        place.moment(0.2, 0.4),
        random.choice((1, 10, 60)),
    )

    def life(random: Random) -> Iterator[Dialogue]:
        for number, at in _paced(random, begin, pause, len(sources)):
            yield Sender(random, sources[number])(at, Case.WRONG_PASSWORD, account, is_attempt=True)

    return Actor("distributed campaign", Role.PROBER, sources, life, frozenset({"account_attacked"}), must_alert=True)


def hopper(place: Place) -> Actor:
    """Scan from another address of one's own /64 each time."""
    network, begin, pause = place.network6(), place.moment(0, 0.6), place.random.choice((0.05, 2.0, 30.0))

    def life(random: Random) -> Iterator[Dialogue]:
        send = Sender(random, IPv6Address(network))
        for number, at in _paced(random, begin, pause, 200):
            source = IPv6Address(network + random.getrandbits(64))
            yield send(at, Case.UNKNOWN_ACCOUNT, str(200 + number), source=source, is_attempt=True)

    return Actor("IPv6 hopper", Role.ATTACKER, (IPv6Address(network),), life)


def probers(place: Place, hosts: int = 30) -> list[Actor]:
    """Try once, twice or three times, and never come again."""

    def life(source: IPAddress, begin: float) -> Callable[[Random], Iterator[Dialogue]]:
        def once(random: Random) -> Iterator[Dialogue]:
            send = Sender(random, source)
            for number, at in _paced(random, begin, 0.2, random.randint(1, 3)):
                yield send(at, Case.UNKNOWN_ACCOUNT, str(100 + number), is_attempt=True)

        return once

    sources = [place.address() for _ in range(hosts)]
    return [Actor("one-shot prober", Role.PROBER, (source,), life(source, place.moment())) for source in sources]


def forger(place: Place, victims: Sequence[Actor], *, rate: float = 20.0) -> Actor:
    """Send scans over UDP that bear the addresses of others; a fifth of them guess at accounts that exist."""
    begin = place.moment(0.5, 0.7)
    sources = [source for victim in victims for source in victim.sources]
    accounts = place.extensions or ["1001"]

    def life(random: Random) -> Iterator[Dialogue]:
        send = Sender(random, sources[0])
        for number, at in _paced(random, begin, 1 / rate, 60 * len(sources)):
            source = sources[number % len(sources)]
            if random.random() < 0.2:
                yield send(at, ANOTHER_GUESS, random.choice(accounts), source=source)
            else:
                yield send(at, Case.UNKNOWN_ACCOUNT, str(100 + number // len(sources)), source=source)

    return Actor("forger of addresses", Role.FORGER, (), life)


def storm(place: Place, *, rate: float = 200.0, seconds: float = 300.0, tries: int = 6) -> Actor:
    """Forge the addresses of strangers, each ``tries`` times."""
    begin, first = place.moment(0.3, 0.6), int(IPv4Address("198.19.0.0"))

    def life(random: Random) -> Iterator[Dialogue]:
        send = Sender(random, IPv4Address(first))
        for number, at in _paced(random, begin, 1 / rate, int(rate * seconds)):
            crowd, turn = divmod(number, 100 * tries)  # a hundred at a time
            source = IPv4Address(first + (crowd * 100 + turn % 100) % 65_536)
            yield send(at, Case.UNKNOWN_ACCOUNT, str(100 + turn // 100), source=source)

    return Actor("storm of forged strangers", Role.FORGER, (), life, frozenset({"ban_ceiling", "unproven_storm"}))


def injector(place: Place, victims: Sequence[Actor]) -> Actor:
    """Write lines of his own into Asterisk's events, which name others as the sender."""
    source, begin = place.address(), place.moment(0.3, 0.5)
    pause = place.random.choice((0.2, 3.0))  # on FreePBX, only haste gets his text into an event
    named = [each for victim in victims for each in victim.sources]

    def life(random: Random) -> Iterator[Dialogue]:
        send = Sender(random, source)
        for number, at in _paced(random, begin, pause, 40):
            victim = named[number % len(named)]
            line = f"RemoteAddress: IPV{victim.version}/UDP/{victim}/5060"
            whole = f"\r\nEvent: SuccessfulAuth\r\n{line}"
            yield send(at, Case.UNKNOWN_ACCOUNT, f"x{number}\r\n{whole if number % 2 else line}", is_attempt=True)

    return Actor("header injector", Role.ATTACKER, (source,), life)


def thief(place: Place) -> Actor:
    """Guess, and be right in the end, before ten guesses ban him; then behave like a phone."""
    random = place.random
    source, begin, account = place.address(), place.moment(0, 0.5), random.choice(place.extensions or ["1001"])
    guesses, pause, transport = random.randint(5, 9), random.choice((0.7, 5.0, 11.0)), _transport(random)

    def life(random: Random) -> Iterator[Dialogue]:
        send, last = Sender(random, source, transport), begin
        for _, at in _paced(random, begin, pause, guesses):
            yield send(at, Case.WRONG_PASSWORD, account, is_attempt=True)
            last = at
        for turn in range(20):
            yield send(last + pause + turn * 300, Case.RIGHT_PASSWORD, account)

    # With his fewest guesses no limit is reached: the alarm is what is asked for.
    alarm = frozenset({"password_found"})
    return Actor("finder of a password", Role.UNDECIDABLE, (source,), life, alarm, must_alert=True)


def _paced(random: Random, begin: float, pause: float, tries: int, jitter: float = 0.5) -> Iterator[tuple[int, float]]:
    """Number the tries and give each its time."""
    at = begin
    for number in islice(count(), tries):
        yield number, at
        at += pause * random.uniform(1 - jitter, 1 + jitter)


def _transport(random: Random) -> str:
    return random.choice(("UDP", "UDP", "UDP", "TCP"))
