"""
Honest trouble that looks like an attack.

Rule 1: each question here is about one source, and errs on the side of honesty.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise, takewhile
from math import exp, sqrt
from statistics import median

from amiwatch.judgement.rules import ATTEMPTS, ONE_ACCOUNT, UNANSWERED, Measure
from amiwatch.judgement.sources import HISTORY, Attempts, Source
from amiwatch.judgement.values import UNKNOWN

CALM_PACE = 1.0
"""Attempts a second that a carrier or a monitor stays under; scanners send 20 to 150."""

MONITOR_PAUSE = 4.0
"""Shortest pause, in seconds, of a monitor that never answers a challenge. Challenges for ``<unknown>`` without an
account are raised only below 5 requests in 5 s, so a scanner that hides among them sends up to one in 1.25 s."""

CALLER_DIGITS = 7
"""Fewest digits of a caller's number; the extensions that scanners try are shorter."""

PHONE_PAUSE = 15.0
"""Shortest pause, in seconds, of a phone that tries again by itself; guessers that hurry are faster."""

RETRY_PAUSE = 2.0
"""Pause, in seconds, below which a second try belongs to the first: many phones answer a second challenge at once."""

RETRIES = 2
"""Tries that a phone makes at once at most."""

STEADY_SHARE = 0.75
"""Share of the pauses that must lie within a factor of two of their median: RFC 5626 4.5 jitters by that much."""

STEADY_SAMPLES = 4
"""Pauses needed to call a pace steady."""

PACE_SAMPLES = 20
"""Newest attempts that tell the pace."""

CALLS_AT_ONCE = 5
"""Calls that a carrier may bring at the same moment, beyond its pace."""

CARRIER_HOSTS = 4
"""Addresses of one IPv6 /64 from which a carrier may come; a scanner that takes a new one for each try has more."""

PINGS_AT_ONCE = 2
"""Pings that a monitor may send at the same moment, always with one name."""

BURST_PAUSE = 2.0
"""Pause, in seconds, below which two requests belong to one burst."""

BURST_SHARE = 0.7
"""Share of such pauses from which on requests come in bursts."""

DEVIATIONS = 3.0
"""Standard deviations above what chance has, from which on it is none."""

BURST_SAMPLES = 12
"""Pauses needed to call it that: calls at random look like bursts for a shorter time."""

BURST_SIZE, BURST_JITTER, BURST_SILENCE = 4, 0.1, 20.0
"""Two bursts of so many requests are a program's if their pauses differ by no more than this share and there is a
silence of so many seconds between: none of ten million windows over calls at random looked like that."""

ALIKE_SHARE = 0.9
"""Share of the pauses within a factor of two of their median from which on a clock made them, and not chance."""

CALM_SAMPLES = 41
"""Newest requests without a name that tell whether they are calls."""

PHONES_UNKNOWN = 12
"""Unknown accounts that a small office may have when all of its phones fail together."""

STORM_FACTOR = 2.0
"""Times the average of a storm of unproven sources from which on one of them is worse than the others."""

STORM_START, STORM_PACE = 3, 1.0
"""Attempts at once, and then a second, of a small office whose phones all fail: twelve that try again every 20 s make
one in 1.7 s."""

BROKEN_PHONES = 3
"""Phones of one site that may be broken at the same time before they are called a guesser's accounts."""

ROUND_TRIP = 0.5
"""Seconds within which a phone answers a challenge if no packet gets lost, or asks again (T1 of RFC 3261 17.1.1.1)."""

NEVER_NAMED = 4
"""Strangers whom PJSIP does not name before it names one (``unidentified_request_count``), where it does so at all."""

SILENT, SILENT_PROVEN = 1.0, 2.0
"""Seconds after which who hurries will not answer any more: over UDP a phone that got no challenge asks again after
``ROUND_TRIP``; elsewhere only TCP does, which shows in no event, and takes longer where a line is full."""

OPEN_AT_ONCE = 12
"""Open challenges of one source from which on it hurries: calls at a calm pace leave ten open within five seconds."""

BURST_LEAST = 0.5
"""Shortest pause, in seconds, between a program's requests: what comes at the same moment may be pings of several
trunks."""

UNNAMED_SHARE = 0.9
"""Share of the attempts that nobody names from which on they are no mistakes of known people."""

_EXTENSION = re.compile(r"\d{1,6}")
"""Asterisk would know an extension; callers' numbers are longer."""

_INJECTED = re.compile(r"['\"`<>{}|\\]|^\(line ends")
"""What no caller, no monitor and no line of a gateway has in its name: SQL, and what ``Judge.see`` calls line ends."""

_CALLER = re.compile(rf"\+?\d{{{CALLER_DIGITS},}}|anonymous|unavailable|unknown|restricted|private|", re.IGNORECASE)
"""Callers' numbers, and what stands in their place where they are withheld (RFC 3323 4.1.1.3)."""


def is_calm_caller(source: Attempts, measure: Measure, begin: float) -> bool:
    """Tell whether this may be a carrier or a monitor: one account or callers' numbers, at a calm pace."""
    if measure is UNANSWERED:
        return is_calm((source.times[UNANSWERED] or [])[-CALM_SAMPLES:])
    times = (source.times[ATTEMPTS] or [])[-PACE_SAMPLES:]
    names = [*(name for name, at in source.accounts.items() if at >= begin), *source.guessed]
    strange = sum(not _CALLER.fullmatch(name) for name in names)
    at_once = PINGS_AT_ONCE if names and strange == len(names) else CALLS_AT_ONCE
    if source.nameless and source.total > len(source.kept(ATTEMPTS)):
        at_once = CALLS_AT_ONCE  # known for longer: the ping of a carrier may have come right after calls
    if len(times) < 2 or len(times) - at_once > (times[-1] - times[0]) * CALM_PACE:
        return False
    # A carrier pings with a name of its own between the calls.
    return strange == 0 or (strange == 1 and not any(map(_INJECTED.search, names)))


def is_kept_out(source: Source, part: Attempts) -> bool:
    """Tell whether all that came was for accounts that exist: refused by their ACL, or its challenge never answered."""
    return not part.accounts and all(event.account != UNKNOWN for event in source.evidence)


def is_no_carrier(source: Source) -> bool:
    """Tell whether what nobody names can be neither calls nor pings, however few have come."""
    return is_of_a_program(source) or is_hopper(source)


def is_hopper(source: Source) -> bool:
    """Tell whether a source takes one address after the other, as far as its evidence tells."""
    return source.address.version == 6 and len({event.source for event in source.evidence}) > CARRIER_HOSTS


def is_name_of_scanner(account: str) -> bool:
    """Tell whether a name is one under which no phone registers that logs in with another."""
    return _EXTENSION.fullmatch(account) is not None or _INJECTED.search(account) is not None


def is_awaited(source: Source, now: float) -> bool:
    """
    Tell whether names that Asterisk does not know may yet turn out to be those of phones, or of a gateway's lines.

    Where PJSIP also looks for ``auth_username``, so many have come before it names one, and answer within a round trip.
    """
    if len(source.unanswered) < NEVER_NAMED or len(source.accounts) < 2:
        return False
    young = [session for session, at in source.unanswered.items() if at > now - ROUND_TRIP]
    dialogues = (source.dialogues.get(session) for session in young)
    return sum(each is not None and each.asked_as == UNKNOWN for each in dialogues) >= NEVER_NAMED


def is_in_haste(source: Source) -> bool:
    """Tell whether a source leaves more challenges open than calls and pings do."""
    number = len(source.unanswered)
    return number >= OPEN_AT_ONCE or (number >= CARRIER_HOSTS and is_hopper(source))


def has_silent_session(source: Source, now: float) -> bool:
    """Tell whether nobody answers the oldest open challenge."""
    for session, at in source.unanswered.items():
        return _is_silent(source, session, at, now)
    return False


def silent_sessions(source: Source, now: float) -> list[int]:
    """List the dialogues of a source that hurries whose challenges nobody will answer."""
    old = takewhile(lambda each: each[1] <= now - SILENT, source.unanswered.items())
    return [session for session, at in old if _is_silent(source, session, at, now)]


def _is_silent(source: Source, session: int, at: float, now: float) -> bool:
    dialogue = source.dialogues.get(session)
    if dialogue is None or dialogue.asked_again:
        return False
    return at <= now - (SILENT_PROVEN if dialogue.is_proven else SILENT)


def is_back_after_burst(source: Attempts, now: float) -> bool:
    """
    Tell whether a source comes again that made one burst of a program, was silent, and did nothing else ever.

    The first four calls of a carrier that brings ten a minute look like that once in some 60,000 carriers.
    """
    times = source.times[UNANSWERED] or []
    if not source.total == len(times) == BURST_SIZE or times[-1] > now - BURST_SILENCE:
        return False
    return _are_equal(_pauses(times))


def is_calm(times: list[float]) -> bool:
    """
    Tell whether requests that nobody named come as calls or pings do: by chance or by the clock, not in bursts.

    Challenges for ``<unknown>`` tell no account, so only the pace can speak for a carrier or a monitor.
    """
    if _is_faster_than_calls(times) or _are_bursts(times):
        return False
    pauses = _pauses(_begins(times, BURST_LEAST)) or [0.0]
    middle = median(pauses)
    alike = sum(middle / 2 <= each <= middle * 2 for each in pauses)
    # By chance a few pauses are alike; twenty are not.
    return middle >= MONITOR_PAUSE or len(pauses) < PACE_SAMPLES or alike < ALIKE_SHARE * len(pauses)


def _is_faster_than_calls(times: list[float]) -> bool:
    return len(times) - CALLS_AT_ONCE > (times[-1] - times[0]) * CALM_PACE


def _are_bursts(times: list[float]) -> bool:
    """
    Tell whether more requests follow each other soon than chance has it, pings of several trunks at a moment aside.

    Of calls that come at random every six seconds, 28 % follow within ``BURST_PAUSE``; of four tries and a pause, 75 %.
    """
    pauses = _pauses(_begins(times, BURST_LEAST))
    if not pauses:
        return False
    by_chance = 1 - exp(-BURST_PAUSE * len(pauses) / sum(pauses))
    deviation = sqrt(by_chance * (1 - by_chance) / len(pauses))
    share = sum(each < BURST_PAUSE for each in pauses) / len(pauses)
    return share >= max(BURST_SHARE, by_chance + DEVIATIONS * deviation)


def is_crowd_of_phones(source: Attempts, unnamed: int = 0) -> bool:
    """
    Tell whether this may be phones of one place that all fail: each tries again at a phone's pace.

    ``unnamed`` attempts may each be another phone's.
    """
    if len(source.accounts) > PHONES_UNKNOWN:
        return False
    times = (source.times[ATTEMPTS] or [])[-HISTORY:]
    named = len(source.accounts.keys() | source.guessed.keys())
    phones = max(1, named + min(unnamed, PHONES_UNKNOWN))
    return len(times) <= RETRIES * phones * (1 + (times[-1] - times[0]) / PHONE_PAUSE) if times else True


def is_pace_of_site(source: Attempts) -> bool:
    """Tell whether the accounts that exist and fail here come as often as phones try again."""
    times = (source.times[ATTEMPTS] or [])[-HISTORY:]
    pauses = (times[-1] - times[0]) / PHONE_PAUSE if times else 0.0
    return len(times) <= len(source.guessed) * (RETRIES + pauses)


def is_like_its_storm(source: Attempts, usual: float) -> bool:
    """
    Tell whether this may be a small office, or somebody whose address a forger of many addresses uses.

    Phones that fail come one after the other, and a forger who wants to hit many sends about as much in each name:
    ``usual`` is how many attempts a source of the storm makes on average.
    """
    times = (source.times[ATTEMPTS] or [])[-HISTORY:]
    if not times or len(times) <= usual * STORM_FACTOR:
        return True
    return len(times) <= STORM_START + (times[-1] - times[0]) * STORM_PACE


def is_steady_phone(source: Attempts, measure: Measure = ATTEMPTS) -> bool:
    """
    Tell whether this may be one phone with an old password or a deleted account.

    For ``ONE_ACCOUNT`` it is asked of the account tried last, whatever others do behind the same address.
    """
    if measure is not ONE_ACCOUNT:
        measure = ATTEMPTS
        if len(source.accounts.keys() | source.guessed.keys()) > 1:
            return False
    times = list(source.kept(measure)[-PACE_SAMPLES:])
    begins = _begins(times)
    if len(times) > RETRIES * len(begins):
        return False
    return is_steady(begins, pause=PHONE_PAUSE, samples=STEADY_SAMPLES - _is_doubled(times, begins))


def is_broken_site(source: Attempts) -> bool:
    """Tell whether these may be a few phones of one place, each with an old password or a deleted account."""
    if source.unnamed or not (source.has_password or source.guessed):
        return False
    if not 2 <= len(source.accounts.keys() | source.guessed.keys()) <= BROKEN_PHONES:
        return False
    samples = steady = 0
    are_doubled = True
    for times in source.again.values():
        begins = _begins(times)
        if len(times) > RETRIES * len(begins):
            return False
        are_doubled &= _is_doubled(times, begins)
        if pauses := _pauses(begins):
            middle = median(pauses)
            if middle < PHONE_PAUSE:
                return False
            samples += len(pauses)
            steady += sum(middle / 2 <= each <= middle * 2 for each in pauses)
    # Of eight doubled tries with three accounts, only one is a second begin.
    return samples >= (1 if are_doubled else STEADY_SAMPLES) and steady >= STEADY_SHARE * samples


def _begins(times: list[float], pause: float = RETRY_PAUSE) -> list[float]:
    """Return the first tries of those that belong together: with pauses of ``pause`` seconds at most."""
    return times[:1] + [later for earlier, later in pairwise(times) if later - earlier > pause]


def _is_doubled(times: list[float], begins: list[float]) -> bool:
    """Tell whether each try, the newest perhaps aside, was made twice at once, so that half as many pauses came."""
    return len(times) >= RETRIES * len(begins) - 1


def is_of_several(source: Attempts, limit: int) -> bool:
    """Tell whether the newest passwords on accounts that nobody names came from several phones, or a gateway's."""
    return source.row < min(source.unnamed, limit)


def is_pace_of_phone(source: Source, tries: int, now: float) -> bool:
    """Tell whether so many tries since it is known are what one phone makes."""
    since = source.evidence[0].at if source.evidence else now
    return tries <= RETRIES * (1 + (now - since) / PHONE_PAUSE)


def is_unnamed_enumeration(source: Attempts) -> bool:
    """Tell whether all that came were attempts that nobody names, faster than one phone with a deleted account."""
    if not source.unnamed or source.unnamed < source.total:
        return False
    times = (source.times[ATTEMPTS] or [])[-HISTORY:]
    return len(times) > RETRIES * (1 + (times[-1] - times[0]) / PHONE_PAUSE)


def is_beyond_phones(source: Attempts, phones: int) -> bool:
    """Tell whether attempts that nobody names come faster than so many phones with deleted accounts."""
    times = source.kept(ATTEMPTS)[-HISTORY:]
    if not times or source.unnamed < UNNAMED_SHARE * source.total:
        return False
    begins = 1 + sum(pause > RETRY_PAUSE for pause in _pauses(times))
    return begins > phones * (1 + (times[-1] - times[0]) / PHONE_PAUSE)


def is_too_early(source: Attempts, measure: Measure) -> bool:
    """Tell whether too few requests that nobody named have come to know calls from a scanner."""
    if measure is not UNANSWERED:
        return False
    times = (source.times[measure] or [])[-PACE_SAMPLES - 1 :]
    pauses = _pauses(times)
    if are_equal_bursts(pauses[1 - 2 * BURST_SIZE :]) or is_of_a_program(source):
        return False
    if _is_faster_than_calls(times):
        return False
    if len(pauses) < BURST_SAMPLES:
        return True
    return len(pauses) < PACE_SAMPLES and median(pauses) < MONITOR_PAUSE and not _are_bursts(times)


def are_equal_bursts(pauses: list[float]) -> bool:
    """Tell whether a program made these pauses: the same within two bursts, and one long silence between them."""
    if len(pauses) < 2 * BURST_SIZE - 1:
        return False
    silence = max(pauses)
    at = pauses.index(silence)
    # A burst of five may begin before the oldest request that is looked at.
    if silence < BURST_SILENCE or not BURST_SIZE - 2 <= at <= BURST_SIZE:
        return False
    return _are_equal(pauses[:at] + pauses[at + 1 :])


def is_of_a_program(source: Attempts) -> bool:
    """Tell whether all that a source ever sent is a burst of a program, a silence, and one more."""
    times = source.times[UNANSWERED] or []
    if not source.total == len(times) == BURST_SIZE + 1 or times[-1] - times[-2] < BURST_SILENCE:
        return False
    return _are_equal(_pauses(times[:-1]))


def _are_equal(pauses: list[float]) -> bool:
    """Tell whether these are pauses within bursts of a program."""
    middle = median(pauses)
    return BURST_LEAST <= middle < BURST_PAUSE and all(abs(each - middle) <= BURST_JITTER * middle for each in pauses)


def is_steady(times: list[float], *, pause: float, samples: int = STEADY_SAMPLES) -> bool:
    """
    Tell whether the newest of these times come at a steady pace, with at least ``pause`` seconds between.

    On average too: of tries every 11 seconds, as chance has it, most of a few pauses may be longer than 15.
    """
    pauses = _pauses(times[-PACE_SAMPLES:])
    if len(pauses) < samples or sum(pauses) < pause * len(pauses):
        return False
    middle = median(pauses)
    steady = sum(middle / 2 <= each <= middle * 2 for each in pauses)
    return middle >= pause and steady >= STEADY_SHARE * len(pauses)


def _pauses(times: Sequence[float]) -> list[float]:
    return [later - earlier for earlier, later in pairwise(times)]
