"""
Hostile actors who let others be blamed: forged UDP sources, forged Via headers, lines injected into events.

Rule: whoever they name must never be banned because of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address
from random import Random

from amiwatch.testing.actors import ANOTHER_GUESS, Actor, Dialogue, Place, Role, Sender
from amiwatch.testing.builders import Case
from amiwatch.testing.hostile import paced


def forger(place: Place, victims: Sequence[Actor], *, rate: float = 20.0) -> Actor:
    """Send scans over UDP that bear the addresses of others; a fifth of them guess at accounts that exist."""
    begin = place.moment(0.5, 0.7)
    sources = [source for victim in victims for source in victim.sources]
    accounts = place.extensions or ["1001"]

    def life(random: Random) -> Iterator[Dialogue]:
        send = Sender(random, sources[0])
        for number, at in paced(random, begin, 1 / rate, 60 * len(sources)):
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
        for number, at in paced(random, begin, 1 / rate, int(rate * seconds)):
            crowd, turn = divmod(number, 100 * tries)  # a hundred at a time
            source = IPv4Address(first + (crowd * 100 + turn % 100) % 65_536)
            yield send(at, Case.UNKNOWN_ACCOUNT, str(100 + turn // 100), source=source)

    return Actor("storm of forged strangers", Role.FORGER, (), life, frozenset({"ban_ceiling", "unproven_storm"}))


def via_forger(place: Place, victims: Sequence[Actor]) -> Actor:
    """Name others in the Via header: chan_sip reports them, over TCP as well, with a whole challenge round trip."""
    begin, transport = place.moment(0.3, 0.5), place.random.choice(("UDP", "TCP"))
    sources = [source for victim in victims for source in victim.sources]

    def life(random: Random) -> Iterator[Dialogue]:
        send = Sender(random, sources[0], transport)
        for number, at in paced(random, begin, 0.2, 60 * len(sources)):
            case = random.choice((Case.SIP_WRONG_PASSWORD, Case.SIP_NO_ANSWER))
            yield send(at, case, str(100 + number // len(sources)), source=sources[number % len(sources)])

    return Actor("forger of Via headers", Role.FORGER, (), life)


def injector(place: Place, victims: Sequence[Actor]) -> Actor:
    """Write lines of his own into Asterisk's events, which name others as the sender."""
    source, begin = place.address(), place.moment(0.3, 0.5)
    pause = place.random.choice((0.2, 3.0))  # on FreePBX, only haste gets his text into an event
    length = place.random.choice((36, 200))  # since pjproject 2.12, and before
    named = [each for victim in victims for each in victim.sources]

    def life(random: Random) -> Iterator[Dialogue]:
        send = Sender(random, source)
        for number, at in paced(random, begin, pause, 40):
            victim = named[number % len(named)]
            line = f"RemoteAddress: IPV{victim.version}/UDP/{victim}/5060"
            whole = f"\r\nEvent: SuccessfulAuth\r\n{line}"
            text = f"x{number}\r\n{whole if number % 2 else line}"[:length]
            yield send(at, Case.UNKNOWN_ACCOUNT, text, is_attempt=True)

    return Actor("header injector", Role.ATTACKER, (source,), life)
