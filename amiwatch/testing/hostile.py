"""
Hostile actors with addresses of their own: scanners, guessers, campaigns.

Rates are those that honeypots and operators report: 20 to 150 requests a second, four tries and a pause of up to five
minutes, one try in 6 seconds to 36 minutes, five requests for each of many users, a botnet's one try a host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address
from itertools import count, islice
from random import Random

from amiwatch.judgement.values import IPAddress
from amiwatch.testing import honest
from amiwatch.testing.actors import (
    ANOTHER_GUESS,
    GUESSER_BAR,
    MINUTE,
    SLOW_BAR,
    UNKNOWN_GUESS,
    Actor,
    Dialogue,
    Life,
    Place,
    Role,
    Sender,
    together,
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
    what, transport = random.choice((Case.UNKNOWN_ACCOUNT, Case.UNKNOWN_ACCOUNT_ANSWERED)), transport_of_scanner(random)
    first, tries, exist = random.choice((100, 1000, 2000, 5000)), random.randint(200, 1500), place.extensions

    def life(random: Random) -> Iterator[Dialogue]:
        send = Sender(random, source, transport)
        for number, at in paced(random, begin, pause, tries):
            account = str(first + number)
            yield send(at, Case.NO_CREDENTIALS if account in exist else what, account, is_attempt=True)

    return Actor("fast scanner", Role.ATTACKER, (source,), life)


def waiter(place: Place) -> Actor:
    """Try four in four seconds, wait for half a minute to five minutes, and go on."""
    random = place.random
    source, begin, pause = place.address(), place.moment(0, 0.3), random.uniform(30, 300)
    session_is_kept, transport = random.random() < 0.2, transport_of_scanner(random)

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
    tries, transport = max(24, min(400, int((place.seconds - begin) / pause))), transport_of_scanner(random)

    def life(random: Random) -> Iterator[Dialogue]:
        send = Sender(random, source, transport)
        for number, at in paced(random, begin, pause, tries):
            name = NAMES[number] if number < len(NAMES) else str(90 + number)
            yield send(at, Case.UNKNOWN_ACCOUNT_ANSWERED, name, is_attempt=True)

    if place.is_freepbx and pause >= PHONE_PAUSE:
        # Nobody is named there at this pace: it is a phone whose account was deleted, to the last detail.
        alerts = frozenset({"broken_phone", "unknown_carrier"})
        return Actor("slow guesser, never named", Role.UNDECIDABLE, (source,), life, alerts, must_alert=True)
    return Actor("slow guesser", Role.ATTACKER, (source,), life, bar=SLOW_BAR)


def cracker(place: Place, *, has_one_call_id: bool) -> Actor:
    """Guess one password after the other on one account that exists; one Call-ID is what svcrack does."""
    random = place.random
    source, begin, account = place.address(), place.moment(0, 0.5), random.choice(place.extensions or ["1001"])
    pause, tries, transport = (
        random.choice((0.05, 0.5, 2.0, 8.0)),
        random.randint(30, 400),
        transport_of_scanner(random),
    )

    def life(random: Random) -> Iterator[Dialogue]:
        send = Sender(random, source, transport)
        session = send.session() if has_one_call_id else ""
        for number, at in paced(random, begin, pause, tries):
            what: What = ANOTHER_GUESS if has_one_call_id and number else Case.WRONG_PASSWORD
            yield send(at, what, account, session=session, is_attempt=True)

    return Actor("cracker, one call" if has_one_call_id else "cracker", Role.ATTACKER, (source,), life, bar=GUESSER_BAR)


def dead_end_cracker(place: Place) -> Actor:
    """Guess within one call on an account that does not exist."""
    random = place.random
    source, begin, transport = place.address(), place.moment(0, 0.5), transport_of_scanner(random)

    def life(random: Random) -> Iterator[Dialogue]:
        send = Sender(random, source, transport)
        session = send.session()
        yield send(begin, Case.UNKNOWN_ACCOUNT, "4711", session=session, is_attempt=True)
        for _, at in paced(random, begin + 0.3, 0.3, 100):
            yield send(at, UNKNOWN_GUESS, "4711", session=session, is_attempt=True)

    return Actor("cracker, no account", Role.ATTACKER, (source,), life, bar=GUESSER_BAR)


def steady_cracker(place: Place) -> Actor:
    """Guess on one account at the very pace of a phone with an old password."""
    random = place.random
    source, begin, account = place.address(), place.moment(0, 0.3), random.choice(place.extensions or ["1001"])
    pause = random.choice((30.0, 60.0))

    def life(random: Random) -> Iterator[Dialogue]:
        send = Sender(random, source)
        for _, at in paced(random, begin, pause, 300, jitter=0.2):
            yield send(at, Case.WRONG_PASSWORD, account, is_attempt=True)

    alerts = frozenset({"broken_phone"})
    return Actor("cracker as a phone", Role.UNDECIDABLE, (source,), life, alerts, must_alert=True)


def sprayer(place: Place) -> Actor:
    """Try one password on each of many accounts that exist, then the next."""
    random = place.random
    source, begin, pause = place.address(), place.moment(0, 0.2), random.choice((0.5, 5.0, 60.0, 600.0))
    accounts, transport = place.extensions or [str(1001 + number) for number in range(20)], transport_of_scanner(random)

    def life(random: Random) -> Iterator[Dialogue]:
        send = Sender(random, source, transport)
        for number, at in paced(random, begin, pause, 60):
            yield send(at, Case.WRONG_PASSWORD, accounts[number % len(accounts)], is_attempt=True)

    return Actor("password sprayer", Role.ATTACKER, (source,), life, bar=GUESSER_BAR)


def masquerader(place: Place) -> Actor:
    """Look like a phone: random users of four digits, five requests for each, and again after 78 minutes."""
    source, begin = place.address(), place.moment(0, 0.3)
    transport = transport_of_scanner(place.random)

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
        for _, at in paced(random, begin, 8, 60, jitter=0.25):
            what = random.choice((Case.AMI_UNKNOWN_USER, Case.AMI_WRONG_SECRET))
            yield send(at, what, random.choice(MANAGERS), is_attempt=True)

    return Actor("manager guesser", Role.ATTACKER, (source,), life, bar=GUESSER_BAR)


def campaign(place: Place, hosts: int = 400, *, transport: str = "UDP") -> Actor:
    """Guess the password of one account from many addresses, one try each."""
    random = place.random
    sources = [place.address() for _ in range(hosts)]
    account, begin = random.choice(place.extensions or ["1001"]), place.moment(0.2, 0.4)
    pause = min(random.choice((1, 10, 60)), place.seconds / 2 / hosts)

    def life(random: Random) -> Iterator[Dialogue]:
        for number, at in paced(random, begin, pause, len(sources)):
            yield Sender(random, sources[number], transport)(at, Case.WRONG_PASSWORD, account, is_attempt=True)

    alerts = frozenset({"account_attacked", "unproven_storm"})
    return Actor(f"campaign over {transport}", Role.PROBER, sources, life, alerts, must_alert=True)


def won_campaign(place: Place, hosts: int = 60) -> list[Actor]:
    """Guess the password of one account from many addresses; another one, which never guessed before, has it right."""
    random = place.random
    sources, winner = [place.address() for _ in range(hosts)], place.address()
    account, begin, transport = random.choice(place.extensions), place.moment(0.5, 0.6), random.choice(("UDP", "TLS"))

    def life(random: Random) -> Iterator[Dialogue]:
        for number, at in paced(random, begin, 10, hosts):
            yield Sender(random, sources[number], transport)(at, Case.WRONG_PASSWORD, account, is_attempt=True)

    def wins(random: Random) -> Iterator[Dialogue]:
        send = Sender(random, winner, transport)
        for turn in range(20):
            yield send(begin + 20 * hosts + turn * 300, Case.RIGHT_PASSWORD, account)

    attack, alarm = frozenset({"account_attacked", "unproven_storm"}), frozenset({"password_found"})
    return [
        Actor(f"campaign over {transport}", Role.PROBER, sources, life, attack, must_alert=True),
        Actor("last finder of a password", Role.UNDECIDABLE, (winner,), wins, alarm, must_alert=True),
    ]


def botnet(place: Place, hosts: int = 300) -> Actor:
    """Probe once from each of many addresses: a botnet that goes through the whole Internet."""
    sources, begin = [place.address() for _ in range(hosts)], place.moment(0, 0.2)
    pause = min(place.random.choice((2, 20, 120)), place.seconds / 2 / hosts)

    def life(random: Random) -> Iterator[Dialogue]:
        for number, at in paced(random, begin, pause, len(sources)):
            account = random.choice((*NAMES, str(random.randrange(100, 10_000))))
            yield Sender(random, sources[number])(at, Case.UNKNOWN_ACCOUNT, account, is_attempt=True)

    return Actor("botnet, one probe each", Role.PROBER, sources, life, frozenset({"unproven_storm"}))


def dialler(place: Place) -> Actor:
    """Call expensive numbers again and again as one and the same user, without a password."""
    random = place.random
    source, begin, pause, user = place.address(), place.moment(0, 0.6), random.choice((0.05, 0.3)), random.choice(NAMES)
    transport = transport_of_scanner(random)

    def life(random: Random) -> Iterator[Dialogue]:
        send = Sender(random, source, transport)
        for _, at in paced(random, begin, pause, 150):
            yield send(at, Case.UNKNOWN_ACCOUNT, user, is_attempt=True)

    return Actor("dialler", Role.ATTACKER, (source,), life)


INJECTIONS = ("' or 1=1--", "1' or '1'='1", "a'or'3=3", "admin'--", "';drop table users--", "x' union select 1--")
"""Texts in place of accounts; PJSIP cuts them to 36 bytes."""


def sql_injector(place: Place) -> Actor:
    """Send SQL for an account."""
    source, begin, pause = place.address(), place.moment(0, 0.6), place.random.choice((0.2, 0.9))
    transport = transport_of_scanner(place.random)

    def life(random: Random) -> Iterator[Dialogue]:
        send = Sender(random, source, transport)
        for number, at in paced(random, begin, pause, 40):
            text = f"{number}{random.choice(INJECTIONS)}"[:36]
            yield send(at, Case.UNKNOWN_ACCOUNT, text, is_attempt=True)

    return Actor("SQL injector", Role.ATTACKER, (source,), life)


def neighbours(place: Place, hosts: int = 12) -> list[Actor]:
    """Scan a little from each of many addresses of one /24."""
    network = place.network4()
    begin = place.moment(0, 0.3)

    def life(source: IPAddress, begin: float) -> Life:
        def tries(random: Random) -> Iterator[Dialogue]:
            send = Sender(random, source)
            for _, at in paced(random, begin, 5, 12):
                yield send(at, Case.UNKNOWN_ACCOUNT_ANSWERED, str(random.randrange(100, 1000)), is_attempt=True)

        return tries

    sources = [IPv4Address(network + 10 + number) for number in range(hosts)]
    lives = [life(source, begin + 300.0 * number) for number, source in enumerate(sources)]
    return [Actor("neighbour", Role.ATTACKER, (source,), each) for source, each in zip(sources, lives, strict=True)]


def insider(place: Place, *, transport: str = "TLS") -> Actor:
    """Log in with an account of one's own, and enumerate others from the same address."""
    source, account, begin = place.address(), place.extension(), place.moment(0.1, 0.3)
    pause, end = place.random.choice((0.1, 3.0, 30.0)), place.seconds

    def life(random: Random) -> Iterator[Dialogue]:
        send = Sender(random, source, transport)
        own = honest.registers(send, random, account, 300, end=end)
        tries = (
            send(at, Case.UNKNOWN_ACCOUNT_ANSWERED, str(7000 + number), is_attempt=True)
            for number, at in paced(random, begin, pause, 120)
        )
        return together(own, tries)

    name = f"insider over {transport}"
    if transport == "UDP" or (place.is_freepbx and pause >= PHONE_PAUSE):
        # A stranger may have forged it, or an office may have a phone whose account was deleted.
        alerts = frozenset({"trusted_offender", "broken_phone", "unknown_carrier"})
        name += ", never named" * (transport != "UDP")
        return Actor(name, Role.UNDECIDABLE, (source,), life, alerts, must_alert=True)
    return Actor(name, Role.ATTACKER, (source,), life, frozenset({"trusted_offender"}), bar=SLOW_BAR)


def inside_guesser(place: Place) -> Actor:
    """Log in with an account of one's own, and guess the passwords of others from the same address."""
    source, account, begin, end = place.address(), place.extension(), place.moment(0.1, 0.3), place.seconds
    pause, others = place.random.choice((1.0, 10.0)), [place.extension() for _ in range(5)]

    def life(random: Random) -> Iterator[Dialogue]:
        send = Sender(random, source, "TLS")
        own = honest.registers(send, random, account, 300, end=end)
        tries = (
            send(at, Case.WRONG_PASSWORD, others[number % 5], is_attempt=True)
            for number, at in paced(random, begin, pause, 120)
        )
        return together(own, tries)

    # A large office may have five broken phones.
    return Actor(
        "insider who guesses", Role.UNDECIDABLE, (source,), life, frozenset({"trusted_offender"}), must_alert=True
    )


def old_sip_scanner(place: Place) -> Actor:
    """Enumerate chan_sip, which banishes nobody: the address that it reports is chosen by the sender."""
    source, begin, answers = place.address(), place.moment(0, 0.5), place.random.random() < 0.5
    case = Case.SIP_WRONG_PASSWORD if answers else Case.SIP_NO_ANSWER

    def life(random: Random) -> Iterator[Dialogue]:
        send = Sender(random, source)
        for number, at in paced(random, begin, 0.1, 200):
            yield send(at, case, str(100 + number), is_attempt=True)

    alert = frozenset({"chan_sip_offender"})
    return Actor("chan_sip scanner", Role.UNDECIDABLE, (source,), life, alert, must_alert=True)


def hopper(place: Place) -> Actor:
    """Scan from another address of one's own /64 each time."""
    network, begin, pause = place.network6(), place.moment(0, 0.6), place.random.choice((0.05, 2.0, 30.0))

    def life(random: Random) -> Iterator[Dialogue]:
        send = Sender(random, IPv6Address(network))
        for number, at in paced(random, begin, pause, 200):
            source = IPv6Address(network + random.getrandbits(64))
            yield send(at, Case.UNKNOWN_ACCOUNT, str(200 + number), source=source, is_attempt=True)

    return Actor("IPv6 hopper", Role.ATTACKER, (IPv6Address(network),), life)


def probers(place: Place, hosts: int = 30) -> list[Actor]:
    """Try once, twice or three times, and never come again."""

    def life(source: IPAddress, begin: float) -> Callable[[Random], Iterator[Dialogue]]:
        def once(random: Random) -> Iterator[Dialogue]:
            send = Sender(random, source)
            for number, at in paced(random, begin, 0.2, random.randint(1, 3)):
                yield send(at, Case.UNKNOWN_ACCOUNT, str(100 + number), is_attempt=True)

        return once

    sources = [place.address() for _ in range(hosts)]
    return [Actor("one-shot prober", Role.PROBER, (source,), life(source, place.moment())) for source in sources]


def thief(place: Place) -> Actor:
    """Guess, and be right in the end, before ten guesses ban him; then behave like a phone."""
    random = place.random
    source, begin, account = place.address(), place.moment(0, 0.5), random.choice(place.extensions or ["1001"])
    guesses, pause, transport = random.randint(5, 9), random.choice((0.7, 5.0, 11.0)), transport_of_scanner(random)

    def life(random: Random) -> Iterator[Dialogue]:
        send, last = Sender(random, source, transport), begin
        for _, at in paced(random, begin, pause, guesses):
            yield send(at, Case.WRONG_PASSWORD, account, is_attempt=True)
            last = at
        for turn in range(20):
            yield send(last + pause + turn * 300, Case.RIGHT_PASSWORD, account)

    # With his fewest guesses no limit is reached: the alarm is what is asked for.
    alarm = frozenset({"password_found"})
    return Actor("finder of a password", Role.UNDECIDABLE, (source,), life, alarm, must_alert=True)


def patient_thief(place: Place) -> Actor:
    """Guess at the very pace of a phone with an old password, and be right in the end."""
    random = place.random
    source, begin, account = place.address(), place.moment(0, 0.3), random.choice(place.extensions or ["1001"])
    guesses, pause, transport = random.randint(5, 60), random.choice((30.0, 60.0)), transport_of_scanner(random)

    def life(random: Random) -> Iterator[Dialogue]:
        send, last = Sender(random, source, transport), begin
        for _, at in paced(random, begin, pause, guesses, jitter=0.2):
            yield send(at, Case.WRONG_PASSWORD, account, is_attempt=True)
            last = at
        for turn in range(20):
            yield send(last + pause + turn * 300, Case.RIGHT_PASSWORD, account)

    alerts = frozenset({"broken_phone", "password_found"})
    return Actor("patient finder of a password", Role.UNDECIDABLE, (source,), life, alerts, must_alert=True)


def paced(random: Random, begin: float, pause: float, tries: int, jitter: float = 0.5) -> Iterator[tuple[int, float]]:
    """Number the tries and give each its time."""
    at = begin
    for number in islice(count(), tries):
        yield number, at
        at += pause * random.uniform(1 - jitter, 1 + jitter)


def transport_of_scanner(random: Random) -> str:
    return random.choice(("UDP", "UDP", "UDP", "TCP"))
