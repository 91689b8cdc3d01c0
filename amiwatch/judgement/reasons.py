"""
Verdicts in words and numbers.

Rule 1: what an attacker chose is written with ``repr`` and cut, so that it can't forge a sentence.
"""

from __future__ import annotations

from amiwatch.judgement.found import Found
from amiwatch.judgement.rules import DAY, HOUR, MINUTE, Measure, Rule
from amiwatch.judgement.sources import Source
from amiwatch.judgement.values import UNKNOWN, Ban, IPNetwork, SecurityEvent

NAMES_SHOWN = 5
"""Accounts named in a reason."""

_NOUNS = {
    Measure.ATTEMPTS: ("attempt", "attempts"),
    Measure.ACCOUNTS: ("unknown account", "unknown accounts"),
    Measure.GUESSES: ("password guess on existing accounts", "password guesses on existing accounts"),
    Measure.UNANSWERED: ("unanswered challenge", "unanswered challenges"),
    Measure.AMI: ("failed manager login", "failed manager logins"),
    Measure.TRIPWIRE: ("attempt on a tripwire account", "attempts on tripwire accounts"),
    Measure.ONE_ACCOUNT: ("attempt on one account", "attempts on one account"),
    Measure.ADDRESSES: ("address that guesses at one account", "addresses that guess at one account"),
}


def duration(seconds: float) -> str:
    """``5400`` to ``1 h 30 min``: two units at most."""
    rest = round(seconds)
    parts: list[str] = []
    for size, unit in ((DAY, "d"), (HOUR, "h"), (MINUTE, "min"), (1, "s")):
        if rest >= size and len(parts) < 2:
            parts.append(f"{rest // size} {unit}")
            rest %= size
    return " ".join(parts) or "0 s"


def rule_words(measure: Measure, count: int) -> str:
    """Name what a rule counts, for so many of them."""
    one, many = _NOUNS[measure]
    return one if count == 1 else many


def _amount(count: int, measure: Measure) -> str:
    return f"{count} {rule_words(measure, count)}"


def _names(source: Source) -> str:
    names = list(dict.fromkeys([*source.accounts, *source.guessed, *(event.account for event in source.evidence)]))
    names = [name for name in names if name != UNKNOWN]
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(repr(name[:40]) for name in names[:NAMES_SHOWN]) + more


def window(source: Source, rule: Rule, now: float) -> str:
    """``5 unknown accounts in 41 s (limit 5 in 10 min)``."""
    if rule.measure is Measure.ADDRESSES:
        return f"one of {rule.limit} addresses or more that guessed at one account within {duration(rule.find_time)}"
    times = source.since(rule.measure, now - rule.find_time)
    took = duration(max(1.0, now - times[0])) if times else "0 s"
    return f"{_amount(len(times), rule.measure)} in {took} (limit {rule.limit} in {duration(rule.find_time)})"


def ban_reason(source: Source, rule: Rule, now: float, *, level: int, is_trusted: bool, is_proven: bool) -> str:
    """Say why a source is banned."""
    names = _names(source)
    parts = [
        window(source, rule, now) + (f": {names}" if names else ""),
        f"{_amount(source.total, Measure.ATTEMPTS)} in all",
        "passwords tried" if source.has_password else "no password tried",
        "its address is proven" if is_proven else "its address is not proven (UDP)",
        "trusted before" if is_trusted else "no trust",
        "first offence" if level == 1 else f"offence {level}",
    ]
    return "; ".join(parts)


def quiet_reason(source: Source, rule: Rule, now: float) -> str:
    """Say why a source that never tried a password is not banned."""
    return (
        f"{window(source, rule, now)}, but no password was ever tried and the pace is calm: maybe a carrier or a "
        f"monitor that Asterisk doesn't know ({_names(source)})"
    )


def kept_out_reason(source: Source, rule: Rule, now: float) -> str:
    """Say why a source is not banned that only asks for accounts that exist, and never gets to try a password."""
    why = (
        "its ACL refuses this address"
        if source.guessed
        else "no challenge is ever answered, so the answers of the PBX may not reach the phone"
    )
    return f"{window(source, rule, now)} at a calm pace, all for {_names(source)}, which exists, but {why}"


def phone_reason(source: Source, event: SecurityEvent) -> str:
    """Say why a source that fails steadily with one account is not banned."""
    return (
        f"{source.total} failures with the one account {event.account[:40]!r} at a steady pace: probably a phone with "
        f"an old password or a deleted account"
    )


def site_reason(source: Source) -> str:
    """Say why a source that fails steadily with a few accounts is not banned."""
    return (
        f"{source.total} failures with the accounts {_names(source)}, each at a steady pace: probably phones with old "
        "passwords or deleted accounts"
    )


def moved_reason(source: Source, home: IPNetwork, silence: float) -> str:
    """Say why a source whose accounts logged in elsewhere is not banned."""
    return (
        f"{source.total} failures with {_names(source)}, which logged in at {home} until {duration(silence)} ago, when "
        "that fell silent: probably the site moved"
    )


def shared_reason(source: Source, rule: Rule, now: float, accounts: int) -> str:
    """Say why an address that many phones share is not banned."""
    return (
        f"{window(source, rule, now)} ({_names(source)}), but {accounts} accounts log in from there: a ban would stop "
        "them all"
    )


def mistyped_reason(account: str, tried: int) -> str:
    """Say that somebody needed several tries."""
    return f"{account[:40]!r} logged in from an address without trust after {tried} wrong passwords"


def trusted_reason(source: Source, rule: Rule, now: float, is_proven: bool, factor: int) -> str:
    """Say why a source whose phones log in is not banned; of unknown accounts it may try ``factor`` times as many."""
    why = "so it is not banned for failing with accounts that exist"
    if not is_proven:
        why = "and over UDP a stranger can forge its address"
    elif source.accounts:
        why = f"so only {factor} times as many unknown accounts as from strangers ban it"
    return f"{window(source, rule, now)} ({_names(source)}), but phones of ours log in from there, {why}"


def allowed_reason(source: Source, rule: Rule, now: float, allowed: tuple[IPNetwork, str]) -> str:
    """Say why a source is never banned."""
    return f"{window(source, rule, now)}, but {allowed[0]} is never banned: {allowed[1]}"


def chan_sip_reason(source: Source, rule: Rule, now: float) -> str:
    """Say why a source that chan_sip reports is not banned."""
    return (
        f"{window(source, rule, now)} ({_names(source)}) over chan_sip, which reports whatever address the sender "
        "writes into Via, so nobody is banned for it"
    )


def ceiling_reason(limit: int) -> str:
    """Say that bans are held back."""
    return f"more than {limit} new bans a minute on evidence that forged UDP packets could make: held back"


def share_reason(limit: int) -> str:
    """Say that bans are held back until others end."""
    return (
        f"{limit} bans on evidence that forged UDP packets could make are in force, their share of the set: "
        "more of them are held back until some end; proven attackers are still banned"
    )


def alerts_reason(kind: str, limit: int, standing: str) -> str:
    """Say which alerts are held back; ``standing`` says what they rest on."""
    return f"more than {limit} new alerts {kind} a minute {standing}: the others of this kind are held back"


def mass_reason(sources: int, lifted: int, *, is_storm: bool) -> str:
    """Say that everybody fails at once."""
    begin = f"{sources} sources or more that were quiet began to fail within a minute"
    also = f", and {lifted} of the last minute {'was' if lifted == 1 else 'were'} lifted" if lifted else ""
    if is_storm:
        return (
            f"{begin}, nearly all strangers over UDP: forged addresses, or a reload that lost endpoints. "
            f"Bans without proof are held back{also}; proven attackers are still banned"
        )
    return (
        f"{begin}: a dead database, a reload that lost endpoints, or a restart of many phones? Sources that behave "
        f"like phones are not banned meanwhile{also}"
    )


def lift_reason(ban: Ban) -> str:
    """Say why a ban was hasty."""
    return f"banned by the rule {ban.rule!r}, but then it showed that many others fail just as this source does"


def attacked_reason(account: str, addresses: int, seconds: float) -> str:
    """Say that one account is guessed from many addresses."""
    return (
        f"wrong passwords for {account[:40]!r} came from {addresses} addresses without trust within {duration(seconds)}"
    )


def aor_reason(event: SecurityEvent, *, is_full: bool) -> str:
    """Say why a phone that logged in can't register."""
    why = "its aor has as many contacts as it may" if is_full else "no aor of this name takes it"
    return f"{event.account[:40]!r} may log in, but its registration was refused: {why} ({event.detail[:80]})"


def found_reason(event: SecurityEvent, found: Found) -> str:
    """Say that a source seems to have found a password, and what else it may be."""
    account, accounts = repr(event.account[:40]), found.accounts
    tried = f"{found.tried} wrong {'password' if found.tried == 1 else 'passwords'}"
    if found.addresses:
        return (
            f"{account}, at which {found.addresses} addresses or more guess, logged in from one without trust after "
            f"{tried} from there: a phone at a new address, or one of them found the password"
        )
    said = (
        f"{account} logged in after {tried} for it and "
        f"tries on {accounts} {'account' if accounts == 1 else 'accounts'} from the same source"
    )
    if found.is_phone:
        said += ", at the steady pace of a phone: somebody corrected its password, or a patient guesser found it"
    if not found.is_proven:
        said += "; the wrong ones came over UDP, where a stranger can forge them"
    return said
