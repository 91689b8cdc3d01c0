"""The worlds by name: small ones that isolate an actor, and whole weeks with everybody in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from amiwatch.testing import forgers, honest, hostile, sites
from amiwatch.testing.actors import DAY, HOUR, Actor, Place
from amiwatch.testing.builders import Case
from amiwatch.testing.world import World

Cast = Callable[[Place], Sequence[Actor]]


def _crowd(place: Place, what: Callable[[Place], Actor], number: int) -> list[Actor]:
    return [what(place) for _ in range(number)]


def _phones(place: Place, number: int = 10) -> list[Actor]:
    return _crowd(place, honest.good_phone, number)


def _trouble(place: Place) -> list[Actor]:
    trusted = partial(honest.old_password, is_trusted=True)
    strange = partial(honest.old_password, is_trusted=False)
    everybody = (
        honest.mistyper, honest.deleted_account, honest.full_aor, honest.refused_phone, honest.manager_program,
        honest.ipv6_phone, trusted, strange,
    )  # fmt: skip
    return [actor for what in everybody for actor in _crowd(place, what, 3)]


def _sites(place: Place) -> list[Actor]:
    return [*_crowd(place, sites.office, 3), sites.moved_site(place), sites.call_centre(place)]


def _pairs(place: Place) -> list[Actor]:
    pairs = (partial(sites.two_broken_phones, is_trusted=is_trusted) for is_trusted in (True, False))
    return [actor for what in pairs for actor in _crowd(place, what, 3)]


def _proxies(place: Place) -> list[Actor]:
    return [*_phones(place), *_crowd(place, sites.proxy, 2)]


def _roaming(place: Place) -> list[Actor]:
    return [*_phones(place), *_crowd(place, honest.roaming_phone, 3), hostile.scanner(place)]


def _strangers(place: Place) -> list[Actor]:
    return [*_crowd(place, honest.unknown_carrier, 4), *_crowd(place, honest.monitor, 4)]


def _power_cut(place: Place) -> list[Actor]:
    return sites.reboot_storm(place, 300)


def _dead_database(place: Place) -> list[Actor]:
    return [*sites.mass_failure(place, is_known=True), hostile.scanner(place), hostile.manager_guesser(place)]


def _dead_at_first(place: Place) -> list[Actor]:
    return sites.mass_failure(place, is_known=False)


def _lost_endpoints(place: Place) -> list[Actor]:
    return sites.mass_failure(place, what=Case.UNKNOWN_ACCOUNT_ANSWERED, is_known=True)


def _lost_at_first(place: Place) -> list[Actor]:
    return sites.mass_failure(place, what=Case.UNKNOWN_ACCOUNT_ANSWERED, is_known=False)


def _scanners(place: Place) -> list[Actor]:
    loud = (hostile.dialler, hostile.sql_injector, hostile.hopper)
    return [
        *_phones(place),
        *_crowd(place, hostile.scanner, 4),
        *(each for it in loud for each in _crowd(place, it, 2)),
    ]


def _waiters(place: Place) -> list[Actor]:
    return [*_phones(place), *_crowd(place, hostile.waiter, 4), *_crowd(place, hostile.masquerader, 3)]


def _patient(place: Place) -> list[Actor]:
    return [*_phones(place), *_crowd(place, hostile.patient, 6)]


def _crackers(place: Place) -> list[Actor]:
    phones = _phones(place, 20)
    one_call, many_calls = (partial(hostile.cracker, has_one_call_id=is_one) for is_one in (True, False))
    everybody = (one_call, many_calls, hostile.dead_end_cracker, hostile.sprayer, hostile.steady_cracker)
    return [*phones, *(actor for what in everybody for actor in _crowd(place, what, 2))]


def _managers(place: Place) -> list[Actor]:
    return _crowd(place, hostile.manager_guesser, 4)


def _campaigns(place: Place) -> list[Actor]:
    return [*_phones(place, 20), hostile.campaign(place), *hostile.probers(place), *hostile.won_campaign(place)]


def _large_campaign(place: Place, transport: str) -> list[Actor]:
    return [*_phones(place, 20), hostile.campaign(place, 5_000, transport=transport)]


def _botnet(place: Place) -> list[Actor]:
    return [*_phones(place, 20), hostile.botnet(place), hostile.scanner(place)]


def _neighbours(place: Place) -> list[Actor]:
    return [*_phones(place), *hostile.neighbours(place)]


def _insiders(place: Place) -> list[Actor]:
    over = [partial(hostile.insider, transport=transport) for transport in ("UDP", "TCP", "TLS", "WSS")]
    return [*_phones(place), *(what(place) for what in over), hostile.inside_guesser(place)]


def _old_sip(place: Place) -> list[Actor]:
    phones = [*_crowd(place, partial(honest.old_sip_phone, is_broken=False), 10), *_phones(place)]
    broken = _crowd(place, partial(honest.old_sip_phone, is_broken=True), 2)
    return [*phones, *broken, hostile.old_sip_scanner(place), forgers.via_forger(place, phones)]


def _forgers(place: Place) -> list[Actor]:
    victims = [*_phones(place), sites.office(place)]
    return [*victims, forgers.forger(place, victims), forgers.injector(place, victims), hostile.scanner(place)]


def _storms(place: Place) -> list[Actor]:
    return [*_phones(place), forgers.storm(place), hostile.manager_guesser(place)]


def _thieves(place: Place) -> list[Actor]:
    thieves = [*_phones(place), *_crowd(place, hostile.thief, 5)]
    return [*thieves, *_crowd(place, hostile.patient_thief, 2), *_crowd(place, honest.corrected_phone, 2)]


SMALL: dict[str, tuple[Cast, float]] = {
    "phones": (partial(_phones, number=30), DAY),
    "honest trouble": (_trouble, DAY),
    "sites": (_sites, 6 * HOUR),
    "two broken phones": (_pairs, DAY),
    "proxies": (_proxies, 12 * HOUR),
    "roaming": (_roaming, DAY),
    "carriers and monitors": (_strangers, DAY),
    "power cut": (_power_cut, HOUR),
    "dead database": (_dead_database, 2 * HOUR),
    "dead database on the first day": (_dead_at_first, HOUR),
    "lost endpoints": (_lost_endpoints, 2 * HOUR),
    "lost endpoints on the first day": (_lost_at_first, HOUR),
    "scanners": (_scanners, 3 * HOUR),
    "burst and wait": (_waiters, 6 * HOUR),
    "slow guessers": (_patient, 4 * DAY),
    "crackers": (_crackers, 12 * HOUR),
    "manager guessers": (_managers, 2 * HOUR),
    "campaign": (_campaigns, 12 * HOUR),
    "large campaign over UDP": (partial(_large_campaign, transport="UDP"), DAY),
    "large campaign over TLS": (partial(_large_campaign, transport="TLS"), DAY),
    "botnet": (_botnet, 12 * HOUR),
    "neighbours": (_neighbours, 6 * HOUR),
    "insiders": (_insiders, 12 * HOUR),
    "chan_sip": (_old_sip, 6 * HOUR),
    "forgers": (_forgers, 3 * HOUR),
    "storm": (_storms, HOUR),
    "thieves": (_thieves, 3 * HOUR),
}
"""Name → who is in it, and how many seconds it lasts."""


def small(name: str, seed: int) -> World:
    """Make one of the ``SMALL`` worlds; seeds with an odd number are FreePBX systems. Raises KeyError."""
    cast, seconds = SMALL[name]
    place = Place(f"{seed}/{name}", seconds, is_freepbx=seed % 2 == 1)
    return World(name, cast(place), seed=seed, is_freepbx=place.is_freepbx)


def mixed_week(seed: int) -> World:
    """Make a week of a busy PBX with everybody in it: more than 250,000 events."""
    place = Place(f"{seed}/week", 7 * DAY, is_freepbx=seed % 2 == 1)
    phones = [honest.good_phone(place, every=every) for every in (300,) * 55 + (3600,) * 40]
    offices = [sites.office(place, 10, every=3600) for _ in range(3)]
    one_call, many_calls = (partial(hostile.cracker, has_one_call_id=is_one) for is_one in (True, False))
    strange = partial(honest.old_password, is_trusted=False)
    trusted = partial(honest.old_password, is_trusted=True)
    others = (
        honest.mistyper, honest.deleted_account, honest.full_aor, strange, trusted, sites.moved_site,
        honest.unknown_carrier, honest.monitor, honest.refused_phone, honest.manager_program, honest.ipv6_phone,
        honest.roaming_phone, partial(sites.two_broken_phones, is_trusted=True),
        hostile.dialler, hostile.sql_injector, hostile.insider, hostile.inside_guesser, hostile.waiter,
        hostile.patient, one_call, many_calls, hostile.dead_end_cracker, hostile.steady_cracker, hostile.sprayer,
        hostile.masquerader, hostile.manager_guesser, hostile.hopper, hostile.thief,
    )  # fmt: skip
    attackers = [*_crowd(place, hostile.scanner, 20), *_crowd(place, hostile.patient, 6), *hostile.probers(place, 200)]
    forged = [forgers.forger(place, [*phones[:5], offices[0]]), forgers.injector(place, phones[:5])]
    everybody = [*phones, *offices, *attackers, *forged, hostile.campaign(place), *(what(place) for what in others)]
    return World("mixed week", everybody, seed=seed, is_freepbx=place.is_freepbx)
