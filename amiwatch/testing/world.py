"""
Simulated worlds: who sends what to a PBX, as exact AMI bytes or as values, with labels.

A world is streamed: a week of it needs no more memory than its actors. Attackers feel a ban: what a banned source sends
does not arrive.

Rule: the bytes of a world and its values say the same. ``tests/testing/test_world.py`` holds them together.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from random import Random
from typing import NamedTuple

from amiwatch.judgement.networks import source_key
from amiwatch.judgement.values import IPAddress, SecurityEvent
from amiwatch.testing.actors import Actor, Dialogue
from amiwatch.testing.builders import UNKNOWN, Step, event_bytes, stamp
from amiwatch.testing.clock import START

GREETING = b"Asterisk Call Manager/11.0.0\r\n"
"""What a recording begins with."""

IsDropped = Callable[[IPAddress, float], bool]
"""Is this source banned at this instant?"""

_PORTS = {"PJSIP": 5060, "AMI": 5038, "SIP": 5060}
_DETAILS = {
    "RequestNotSupported": "registrar_requested_aor_not_found",
    "RequestNotAllowed": "Action: Command",
    "RequestBadFormat": "Action: Command",
}
_REPEATS = (0.5, 1.5, 3.5)
"""Seconds after which a request without answer is sent again (RFC 3261 17.1.2.2)."""


class Happening(NamedTuple):
    """One security event of a world, with the label that a judge does not see."""

    event: SecurityEvent
    actor: Actor
    response: str
    """The digest that was sent, in hex; made up."""
    is_attempt: bool
    """Whether an attempt of somebody who should not make any begins with it."""

    @property
    def is_tampered(self) -> bool:
        """Tell whether Asterisk was made to write lines of somebody else: ``event`` is then what was really meant."""
        return "\r\n" in self.event.account

    def to_bytes(self) -> bytes:
        """Return what Asterisk writes."""
        event = self.event
        headers = {"EventTV": stamp(event.at + 0.0005)}  # stamp cuts, and a float may lie just below its millisecond
        if event.kind == "ChallengeResponseFailed":
            headers |= {"Challenge": self.response[:8], "Response": self.response, "ExpectedResponse": ""}
        if event.service == "SIP" and event.kind in ("ChallengeSent", "InvalidPassword"):
            headers["Challenge"] = self.response[:8]
        if event.service == "SIP" and event.kind == "InvalidPassword":
            headers |= {"ReceivedChallenge": self.response[:8], "ReceivedHash": self.response}
        if event.kind == "SuccessfulAuth":
            headers["UsingPassword"] = str(int(event.used_password))
        if event.detail:
            headers["ACLName" if event.kind == "FailedACL" else "RequestType"] = event.detail
        return event_bytes(
            event.kind,
            account=event.account,
            source=event.source,
            port=event.port,
            session=event.session,
            service=event.service,
            transport=event.transport,
            at=event.at,
            **headers,
        )


class World:
    """
    Actors that live side by side from ``begin`` on, in seconds since the epoch.

    ``is_freepbx``: PJSIP also looks for ``auth_username``, so it names strangers only if they come often.
    """

    def __init__(
        self, name: str, actors: Sequence[Actor], *, seed: int, begin: float = START, is_freepbx: bool = False
    ) -> None:
        self.name = name
        self.is_freepbx = is_freepbx
        self.actors = actors
        self.seed = seed
        self.begin = begin
        self.tried: Counter[int] = Counter()
        """Attempts that were sent so far by the source of this ``source_key``, whether they arrived or not."""
        self._owners = {source_key(source): actor for actor in actors for source in actor.sources}

    def owner(self, source: IPAddress) -> Actor | None:
        """Return whose address it is (IPv6: whose /64); None for an address that nobody has but a forger used."""
        return self._owners.get(source_key(source))

    def happenings(self, is_dropped: IsDropped | None = None) -> Iterator[Happening]:
        """
        Yield all events in order of time, without those of sources that are dropped when they send.

        ``is_dropped`` is asked as the world goes on, so a judge that plays along changes what comes.
        """
        self.tried.clear()
        lives = [
            actor.life(Random(f"{self.seed}/{number}/{actor.name}"))  # noqa: S311
            for number, actor in enumerate(self.actors)
        ]
        # Instant, a number so that nothing else is compared, what comes then, and whose life it is.
        queue: list[tuple[float, int, Dialogue | Happening, int]] = []
        serial = itertools.count()
        strangers = _Strangers() if self.is_freepbx else None

        def go_on(number: int) -> None:
            following = next(lives[number], None)
            if following is not None:
                heapq.heappush(queue, (self.begin + following.at, next(serial), following, number))

        for number in range(len(lives)):
            go_on(number)
        while queue:
            at, _, item, number = heapq.heappop(queue)
            if isinstance(item, Happening):
                if is_dropped is not None and is_dropped(item.event.source, at):
                    continue
                raised = item if strangers is None else strangers.hear(item)
                if raised is not None:
                    yield raised
                continue
            go_on(number)
            if item.is_attempt:
                self.tried[source_key(item.source)] += 1
            if is_dropped is None or not is_dropped(item.source, at):
                for happening in _happenings(item, at, self.actors[number]):
                    heapq.heappush(queue, (happening.event.at, next(serial), happening, number))

    def events(self, is_dropped: IsDropped | None = None) -> Iterator[SecurityEvent]:
        """Yield what a parser makes of the world's bytes, without the detour; tampered messages are left out."""
        for happening in self.happenings(is_dropped):
            if not happening.is_tampered:
                yield happening.event

    def chunks(self, is_dropped: IsDropped | None = None) -> Iterator[bytes]:
        """Yield the bytes of the world, one event at a time, as ``FakeAsterisk.emit`` and ``ami.wire`` take them."""
        for happening in self.happenings(is_dropped):
            yield happening.to_bytes()

    def record(self, path: Path) -> int:
        """Write the world as a recording for ``amiwatch replay`` and ``FakeAsterisk.play``; return its events."""
        count = 0
        with path.open("wb") as file:
            file.write(GREETING)
            for count, chunk in enumerate(self.chunks(), 1):  # noqa: B007 - the last number is the answer
                file.write(chunk)
        return count


class _Strangers:
    """
    What PJSIP remembers of requests that no endpoint matched, where ``auth_username`` is in use.

    Source: ``res_pjsip/pjsip_distributor.c`` with its defaults (``unidentified_request_count`` 5, ``…_period`` 5,
    ``…_prune_interval`` 30); the recording ``ast22-pjsip-authuser-enum50-register`` agrees.
    """

    def __init__(self) -> None:
        self._seen: dict[IPAddress, tuple[float, int]] = {}
        """Source (the very address) → when the first came, and how many since."""
        self._unsaid: set[str] = set()
        """Sessions of attempts whose first event was not raised."""

    def hear(self, happening: Happening) -> Happening | None:
        """Return what is raised; None if nothing is. The next event of its dialogue is then what an attempt shows."""
        if not self._are_told(happening.event):
            if happening.is_attempt:
                self._unsaid.add(happening.event.session)
            return None
        if happening.event.session in self._unsaid:
            self._unsaid.remove(happening.event.session)
            return happening._replace(is_attempt=True)
        return happening

    def _are_told(self, event: SecurityEvent) -> bool:
        """Tell whether this is raised: InvalidAccountID is, from the fifth request on, for five seconds."""
        if event.service != "PJSIP" or event.account == UNKNOWN:
            return True
        if event.kind != "InvalidAccountID":
            self._seen.pop(event.source, None)
            return True
        first, count = self._seen.get(event.source, (event.at, 0))
        if event.at // 30 * 30 > first + 20:
            first, count = event.at, 0
        self._seen[event.source] = first, count + 1
        return count >= 4 and event.at < first + 5


def _happenings(dialogue: Dialogue, at: float, actor: Actor) -> Iterator[Happening]:
    """Give each event of a dialogue its time: an answer to a challenge takes a round trip."""
    times, later, lost = [], 0.0, _REPEATS[: dialogue.copies]
    for before, step in zip((None, *dialogue.steps), dialogue.steps, strict=False):
        if before is not None and before.kind == "ChallengeSent":
            # The first of these answers arrived after the last repetition only.
            later += dialogue.rtt + (lost[-1] if lost else 0.0)
            lost = ()
        else:
            later += 0.0 if before is None else 0.001
        times += [(later + repeat, step) for repeat in (0.0, *lost)]
    for number, (after, step) in enumerate(sorted(times, key=itemgetter(0))):
        event = _event(dialogue, step, round(at + after, 3))
        yield Happening(event, actor, dialogue.response, dialogue.is_attempt and not number)


def _event(dialogue: Dialogue, step: Step, at: float) -> SecurityEvent:
    kind, service = step.kind, step.service
    detail = step.headers.get("ACLName", "") or _DETAILS.get(kind, "")
    has_guess = kind == "ChallengeResponseFailed" or (kind, service) == ("InvalidPassword", "SIP")
    return SecurityEvent(
        kind,
        at,
        service,
        dialogue.account if step.account is None else step.account.replace("{}", dialogue.account),
        dialogue.session,
        dialogue.transport,
        dialogue.source,
        dialogue.port,
        _PORTS[service],
        detail,
        kind == "SuccessfulAuth" and service != "AMI",
        hash(dialogue.response.encode()) if has_guess else 0,
    )
