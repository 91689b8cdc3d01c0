"""
The rules: what makes a source an offender, as tables that a person can read.

Rule 1: everything that decides about a ban is a row or a number in this file; ``judge.py`` only looks it up.

Rule 2: a limit counts distinct attempts or distinct accounts of one source, never events. All windows run at once.

Rule 3: evidence has classes. *Proven* evidence came over TCP, TLS, WS, WSS or AMI; *unproven* evidence (UDP) could be a
stranger's forged packets, so it needs more, and its bans are shorter and have ceilings. That of chan_sip is worthless.

The numbers start from what operators use (FreePBX 8 in 10 min, Grandstream 5 in 10 min, Brekeke 60 in 3 days,
sipcheck 5 in 1 h); each can be changed by a setting.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import IntEnum, StrEnum, auto

MINUTE, HOUR, DAY = 60, 3600, 86400


class Measure(IntEnum):
    """What is counted for a source."""

    ATTEMPTS = 0
    """Dialogues (or guesses within one) that failed: unknown account, wrong password, refused, never answered."""
    ACCOUNTS = auto()
    """Distinct accounts that don't exist."""
    GUESSES = auto()
    """Passwords tried on accounts that exist and for which the source has no trust."""
    UNANSWERED = auto()
    """Challenges for ``<unknown>`` that nobody ever answered."""
    AMI = auto()
    """Failed logins to the manager itself."""
    TRIPWIRE = auto()
    """Attempts on an account of the tripwire list; the manager's users are none (FreePBX has an ``admin``)."""
    ONE_ACCOUNT = auto()
    """Failed attempts on one and the same account, whether it exists or not."""
    ADDRESSES = auto()
    """Addresses without trust that guess at one and the same account: counted for the account, not for a source."""


ATTEMPTS, ACCOUNTS, GUESSES, UNANSWERED, AMI, TRIPWIRE, ONE_ACCOUNT, ADDRESSES = Measure
"""The same by name: looking up a member of an enum takes 0.1 us (Python 3.11), and an attempt needs ten of them."""


class Unless(StrEnum):
    """Honest trouble that looks like an attack: where it applies, the rule raises an alert instead of a ban."""

    CARRIER = "carrier"
    """No password ever tried, at a calm pace, and always the same account or callers' numbers."""
    PHONE = "phone"
    """One single account, failing again and again at a steady pace: an old password, a deleted account."""
    RETRIES = "retries"
    """Each unknown account no more often than a phone tries again; or one that exists, or was not named: people err."""
    CROWD = "crowd"
    """Many quiet sources begin to fail at once (``crowds.py``), and this one is no worse than phones that fail."""


@dataclass(frozen=True, slots=True)
class Rule:
    """So many of ``measure`` within ``find_time`` seconds make an offender."""

    name: str
    measure: Measure
    limit: int
    """How many of them, if they are proven; 0 switches the row off."""
    unproven_limit: int
    """How many of them in all, at least ``limit``; 0 lets only proven ones ban."""
    find_time: int
    unless: frozenset[Unless] = frozenset()


def _rule(name: str, measure: Measure, limits: tuple[int, int], find_time: int, *unless: Unless) -> Rule:
    return Rule(name, measure, *limits, find_time, frozenset(unless))


_M, _U = Measure, Unless
_OFF = (0, 0)

_CAMPAIGN = _rule("campaign", _M.ADDRESSES, (20, 0), HOUR)
"""Those addresses are banned together, if each is proven and nothing speaks for it (``campaigns.py``): over UDP one
forged packet each would ban any. A telephone with an old password that roams has fewer of them."""

OFFICE: tuple[Rule, ...] = (
    _rule("tripwire", _M.TRIPWIRE, (1, 2), 7 * DAY),
    _rule("scan_rush", _M.ACCOUNTS, (4, 5), 10, _U.CARRIER, _U.CROWD),
    _rule("scan", _M.ACCOUNTS, (4, 5), 10 * MINUTE, _U.CARRIER, _U.CROWD),
    _rule("scan_day", _M.ACCOUNTS, (5, 6), DAY, _U.CARRIER, _U.CROWD),
    _rule("scan_week", _M.ACCOUNTS, (7, 8), 7 * DAY, _U.CARRIER, _U.CROWD),
    _rule("unknown_rush", _M.ATTEMPTS, (4, 5), 10, _U.CARRIER, _U.RETRIES, _U.CROWD),
    _rule("attempts_rush", _M.ATTEMPTS, (7, 8), 5, _U.CARRIER, _U.CROWD),
    _rule("attempts", _M.ATTEMPTS, (8, 10), 10 * MINUTE, _U.CARRIER, _U.PHONE, _U.CROWD),
    _rule("attempts_day", _M.ATTEMPTS, (16, 18), DAY, _U.CARRIER, _U.PHONE, _U.CROWD),
    _rule("attempts_week", _M.ATTEMPTS, (18, 20), 7 * DAY, _U.CARRIER, _U.PHONE, _U.CROWD),
    _rule("guess", _M.GUESSES, (8, 10), 10 * MINUTE, _U.PHONE, _U.CROWD),
    _rule("guess_day", _M.GUESSES, (16, 18), DAY, _U.PHONE, _U.CROWD),
    _rule("one_account", _M.ONE_ACCOUNT, _OFF, 10 * MINUTE, _U.CARRIER, _U.PHONE, _U.CROWD),
    _rule("one_account_day", _M.ONE_ACCOUNT, _OFF, DAY, _U.CARRIER, _U.PHONE, _U.CROWD),
    _rule("unanswered", _M.UNANSWERED, (7, 8), 30 * MINUTE, _U.CARRIER, _U.CROWD),
    _rule("unanswered_day", _M.UNANSWERED, (24, 30), DAY, _U.CARRIER, _U.CROWD),
    _rule("ami", _M.AMI, (3, 3), 10 * MINUTE),
    _rule("ami_day", _M.AMI, (6, 6), DAY),
    _CAMPAIGN,
)
"""For offices and most others: phones come from anywhere, people mistype, carriers ping."""

CLOSED: tuple[Rule, ...] = (
    _rule("tripwire", _M.TRIPWIRE, (1, 2), 7 * DAY),
    _rule("scan_rush", _M.ACCOUNTS, (1, 2), 10),
    _rule("scan", _M.ACCOUNTS, (1, 2), 10 * MINUTE),
    _rule("scan_day", _M.ACCOUNTS, (1, 2), DAY),
    _rule("scan_week", _M.ACCOUNTS, (1, 2), 7 * DAY),
    _rule("unknown_rush", _M.ATTEMPTS, _OFF, 10),
    _rule("attempts_rush", _M.ATTEMPTS, (4, 5), 5),
    _rule("attempts", _M.ATTEMPTS, (4, 5), 10 * MINUTE),
    _rule("attempts_day", _M.ATTEMPTS, (8, 10), DAY),
    _rule("attempts_week", _M.ATTEMPTS, (10, 12), 7 * DAY),
    _rule("guess", _M.GUESSES, (4, 5), 10 * MINUTE),
    _rule("guess_day", _M.GUESSES, (6, 8), DAY),
    _rule("one_account", _M.ONE_ACCOUNT, _OFF, 10 * MINUTE),
    _rule("one_account_day", _M.ONE_ACCOUNT, _OFF, DAY),
    _rule("unanswered", _M.UNANSWERED, (4, 5), 10 * MINUTE),
    _rule("unanswered_day", _M.UNANSWERED, (6, 8), DAY),
    _rule("ami", _M.AMI, (1, 1), 10 * MINUTE),
    _rule("ami_day", _M.AMI, (1, 1), DAY),
    _CAMPAIGN,
)
"""For systems on which every phone is known: one account that doesn't exist bans (over UDP a second one)."""

CARRIER: tuple[Rule, ...] = (
    _rule("tripwire", _M.TRIPWIRE, (3, 6), 7 * DAY),
    _rule("scan_rush", _M.ACCOUNTS, (12, 16), 10, _U.CARRIER, _U.CROWD),
    _rule("scan", _M.ACCOUNTS, (14, 18), 10 * MINUTE, _U.CARRIER, _U.CROWD),
    _rule("scan_day", _M.ACCOUNTS, (18, 22), DAY, _U.CARRIER, _U.CROWD),
    _rule("scan_week", _M.ACCOUNTS, (20, 24), 7 * DAY, _U.CARRIER, _U.CROWD),
    _rule("unknown_rush", _M.ATTEMPTS, (12, 16), 10, _U.CARRIER, _U.RETRIES, _U.CROWD),
    _rule("attempts_rush", _M.ATTEMPTS, (20, 30), 5, _U.CARRIER, _U.CROWD),
    _rule("attempts", _M.ATTEMPTS, (60, 80), 10 * MINUTE, _U.CARRIER, _U.PHONE, _U.CROWD),
    _rule("attempts_day", _M.ATTEMPTS, _OFF, DAY, _U.CARRIER, _U.PHONE, _U.CROWD),
    _rule("attempts_week", _M.ATTEMPTS, _OFF, 7 * DAY, _U.CARRIER, _U.PHONE, _U.CROWD),
    _rule("guess", _M.GUESSES, (60, 80), 10 * MINUTE, _U.PHONE, _U.CROWD),
    _rule("guess_day", _M.GUESSES, _OFF, DAY, _U.PHONE, _U.CROWD),
    _rule("one_account", _M.ONE_ACCOUNT, (8, 10), 10 * MINUTE, _U.CARRIER, _U.PHONE, _U.CROWD),
    _rule("one_account_day", _M.ONE_ACCOUNT, (16, 20), DAY, _U.CARRIER, _U.PHONE, _U.CROWD),
    _rule("unanswered", _M.UNANSWERED, (40, 60), 10 * MINUTE, _U.CARRIER, _U.CROWD),
    _rule("unanswered_day", _M.UNANSWERED, _OFF, DAY, _U.CARRIER, _U.CROWD),
    _rule("ami", _M.AMI, (3, 3), 10 * MINUTE),
    _rule("ami_day", _M.AMI, (6, 6), DAY),
    _CAMPAIGN,
)
"""For carriers and hosters, many of whose customers share an address: attempts count by account, and an address has to
be far worse than an office before it is banned."""

POLICIES: dict[str, tuple[Rule, ...]] = {"office": OFFICE, "closed": CLOSED, "carrier": CARRIER}
"""Each has all rows, so that a setting can switch any of them on or off."""


TRIPWIRES = (
    "admin", "administrator", "root", "sysadmin", "superuser", "nobody", "ubuntu", "oracle", "postgres", "mysql",
    "www-data", "password", "sipvicious",
)  # fmt: skip
"""Names that scanners try and no phone has. Left out because honest ones say them: ``asterisk`` (other PBXs that ping),
``anonymous``, ``guest``, ``test``, ``sipp``, and all numbers."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules in force and every other number of the judgement. Durations are seconds."""

    name: str = "office"
    rules: tuple[Rule, ...] = OFFICE
    ladder: tuple[int, ...] = (HOUR, DAY, 7 * DAY, 30 * DAY)
    """Ban times, from the first offence on; the last serves for all further ones."""
    unproven_ladder: tuple[int, ...] = (20 * MINUTE, 4 * HOUR, DAY, 7 * DAY)
    """The same on unproven evidence, never longer than those of ``ladder``: whose address was forged is back soon, and
    a scanner who comes again climbs."""
    jitter: float = 0.1
    """Share by which a ban is made longer or shorter at random, so that a scanner can't count on its end."""
    decay: int = 30 * DAY
    """Quiet time after which an offender falls one rung."""
    trust_time: int = 7 * DAY
    """How long a successful login protects its source."""
    trust_factor: int = 4
    """A trusted source may probe this many times as many unknown accounts."""
    answer_time: int = 5
    """How long a challenge may stay unanswered before it counts. A phone answers within a round trip or two."""
    unproven_bans: int = 300
    """Ceiling of new bans per minute on evidence that forged UDP packets could have made. The largest botnet reported
    brought 3 million sources in 12 days, 174 a minute; one forger made 5,000 a second."""
    unproven_entries: int = 500_000
    """Bans on such evidence that may be in force at once: half of the kernel set stays free for proven attackers."""
    tripwires: frozenset[str] = field(default_factory=frozenset)
    """Accounts that nobody honest uses (compared without regard to case)."""
    ban_chan_sip: bool = False
    """Ban on events of chan_sip, whose addresses the attacker chooses."""
    ipv6_prefix: int = 64
    """Width of the IPv6 networks that are counted and banned as one, 48 to 64: who owns a /48 (RFC 6177) has 65,536
    addresses to count by /64. Trust stays with each /64."""
    bad_neighbours: int = 3
    """Banned addresses of an IPv4 /24 from which on its others may try half as many unknown accounts; 0 for never. In a
    network that is let to customers one by one, two of them may be infected by chance."""
    shared_accounts: int = 30
    """Accounts that logged in lately from one address before it is called shared, and no rule bans it; 0 for never. A
    ban would stop so many phones."""
    moved_time: int = 10 * MINUTE
    """How long nobody may have logged in at the old address of a site that moved; phones register every few minutes."""
    mass_failure: int = 10
    """Quiet sources that begin to fail within a minute before that is called a mass failure (``crowds.py`` says which);
    0 for never. The busiest honeypot network reported saw 366 attackers a day on 39 sensors: one in four minutes."""
    storm: int = 30
    """The same for strangers on unproven evidence, which are held back then; 0 for never."""
    attacked_by: int = 20
    """Addresses without trust that guess at one account before it is reported as attacked; 0 for never. A telephone
    with an old password that roams has fewer."""
    attacked_time: int = DAY
    """Within how long."""
    found_after: int = 5
    """Passwords tried on an account before its success is called a guess: people need up to four."""
    alert_time: int = HOUR
    """The same alert about the same source comes once in so long."""
    alerts_a_minute: int = 30
    """New alerts of one kind a minute about addresses or accounts, on evidence that nobody can forge and, apart, about
    trusted sources and about others: each invented address could raise one, and each of a thousand phones after one
    mistake at the PBX."""
    max_sources: int = 100_000
    """Sources watched at once; each takes up to about 2 kB."""
    max_offenders: int = 200_000
    """Former offenders remembered for the ladder."""
    max_trusted: int = 50_000
    """Trusted sources remembered."""

    @property
    def campaign(self) -> Rule:
        """The rule about addresses that guess at one account; one that is switched off if there is none."""
        off = replace(_CAMPAIGN, limit=0)
        return next((rule for rule in self.rules if rule.measure is Measure.ADDRESSES), off)


def longest(rules: tuple[Rule, ...]) -> int:
    """Return the longest window of these rules, in seconds."""
    return max((rule.find_time for rule in rules if rule.limit), default=0)
