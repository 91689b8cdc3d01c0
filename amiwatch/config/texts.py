"""From what people write to values. Whatever is wrong raises ValueError with a sentence that says what to write."""

# No postponed annotations: pydantic before 2.10 looks for those of Allowlist where it is used, not where it stands.

import json
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from ipaddress import IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Any, Final, NamedTuple

from pydantic import BeforeValidator, SecretStr

from amiwatch.judgement.rules import TRIPWIRES
from amiwatch.judgement.values import IPNetwork

MAX_DURATION = 3650 * 86400
"""Ten years, in seconds: longer is a slip of the pen, and the arithmetic of dates has an end."""

SUGGESTED = "suggested"
"""Stands for the tripwires that are suggested."""

MAX_TIERS, MAX_CONNECTIONS, MAX_WINDOW = 8, 10_000, 7_200
"""Tiers, connections of one, and its seconds (``firewall/protection.py`` says why)."""

MAX_SIGNATURES = 32
"""Names that are looked for: each costs a search in each packet of a stranger."""

SIGNATURES = (
    "friendly-scanner", "friendly-request", "sipvicious", "sip-scan", "sipscan", "iWar", "sipsak", "sundayddr",
    "siparmyknife", "sipcli", "VaxSIPUserAgent", "pplsip",
)  # fmt: skip
"""Names by which scanners were seen to call themselves. ``smap`` and ``Gulp`` are not among them: honest texts may hold
so short a word."""

UINT32 = 2**32 - 1
"""The largest ``maxelem`` of a kernel set."""

_UNITS: Final = {"w": 604800, "d": 86400, "h": 3600, "m": 60, "s": 1}
_DURATION = re.compile("".join(rf"(?:(?P<{unit}>[0-9]{{1,12}}){unit})?" for unit in _UNITS))
_SIGNATURE = re.compile(r"[A-Za-z0-9._/:@()+][A-Za-z0-9 ._/:@()+-]{2,62}[A-Za-z0-9._/:@()+-]")
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_DNS_NAME = re.compile(rf"(?=.{{1,253}}\Z)(?:{_LABEL}\.)*(?![0-9]+\Z){_LABEL}")
_PORT = re.compile(r"([0-9]{1,5})(?:[-:]([0-9]{1,5}))?(?:/(?:udp|tcp))?")


class Mistakes(ValueError):
    """Several mistakes in the value of one setting, one sentence each."""

    def __init__(self, sentences: Sequence[str]) -> None:
        self.sentences = sentences
        super().__init__("; ".join(sentences))


class Allowlist(NamedTuple):
    """Who is never banned, by the settings."""

    networks: tuple[IPNetwork, ...] = ()
    names: tuple[str, ...] = ()
    """DNS names in lower case, to be resolved by whoever does I/O."""


def parse_duration(text: str, *, least: int = 1, most: int = MAX_DURATION) -> int:
    """Read ``90``, ``10s``, ``10m``, ``1h30m``, ``24h``, ``7d`` or ``2w``. Returns seconds; raises ValueError."""
    bare = text.strip()
    found = _DURATION.fullmatch(bare)
    if not bare or (not found and not re.fullmatch(r"[0-9]{1,12}", bare)):
        raise ValueError(f"{text!r} is no duration; write 90, 10m, 24h or 7d")
    seconds = sum(int(found[unit] or 0) * size for unit, size in _UNITS.items()) if found else int(bare)
    if not least <= seconds <= most:
        raise ValueError(f"{text!r} is out of range; write {duration_text(least)} to {duration_text(most)}")
    return seconds


def duration_text(seconds: int) -> str:
    """Write seconds as ``parse_duration`` reads them, with as few units as possible: 5400 is ``1h30m``."""
    parts = []
    for unit in "dhms":
        amount, seconds = divmod(seconds, _UNITS[unit])
        if amount:
            parts.append(f"{amount}{unit}")
    if parts == ["1d"]:
        return "24h"  # as everybody writes it
    return "".join(parts) or "0s"


def duration(value: object, least: int, most: int) -> int:
    if isinstance(value, timedelta):
        value = int(value.total_seconds())
    if not isinstance(value, int | str) or isinstance(value, bool):
        raise ValueError(f"{value!r} is no duration; write 90, 10m, 24h or 7d")
    return parse_duration(str(value), least=least, most=most)


def seconds_between(least: int = 1, most: int = MAX_DURATION) -> BeforeValidator:
    return BeforeValidator(lambda value: duration(value, least, most))


def whole(least: int, most: int = UINT32) -> BeforeValidator:
    return BeforeValidator(lambda value: whole_number(value, least, most))


def whole_number(value: object, least: int, most: int) -> int:
    text = str(value).strip().replace("_", "")
    if not re.fullmatch("[0-9]{1,12}", text):
        raise ValueError(f"{value!r} is no whole number; write {least} to {most}")
    if not least <= int(text) <= most:
        raise ValueError(f"{value!r} is out of range; write {least} to {most}")
    return int(text)


def none_or(least: int, most: int) -> BeforeValidator:
    """Read 0, or a whole number within bounds."""

    def read(value: object) -> int:
        if str(value).strip() == "0":
            return 0
        try:
            return whole_number(value, least, most)
        except ValueError as error:
            raise ValueError(f"{error}, or 0 for never") from None

    return BeforeValidator(read)


def share(value: object) -> float:
    text = str(value).strip()
    if not re.fullmatch(r"0|0?\.[0-9]{1,6}", text) or float(text) > 0.9:
        raise ValueError(f"{value!r} is no such share; write 0 to 0.9")
    return float(text)


def yes_or_no(value: object) -> bool:
    word = str(value).strip().lower()
    if word in ("true", "yes", "on", "1"):
        return True
    if word in ("false", "no", "off", "0"):
        return False
    raise ValueError(f"{value!r} is neither; write true or false")


def one_of(words: Iterable[str]) -> BeforeValidator:
    known = tuple(words)

    def read(value: object) -> str:
        word = str(value).strip().lower()
        if word not in known:
            raise ValueError(f"{value!r} is not known; write one of {', '.join(known)}")
        return word

    return BeforeValidator(read)


def line(value: object) -> str:
    """Return a text that fits into one line of the AMI. What is wrong is said without the text: it may be a secret."""
    if not isinstance(value, str):
        raise ValueError("is no text; put it into quotes")
    if re.search(r"[\x00-\x1f\x7f]", value):
        raise ValueError("holds a line break or another control character; write it on one line")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("is not UTF-8") from None
    return value


def secret_line(value: object) -> object:
    return value if isinstance(value, SecretStr) else line(value)


def host(value: object) -> str:
    text = line(value).strip()
    if not text or re.search(r"[\s/]", text):
        raise ValueError(f"{value!r} is no host; write a name or an address, without port")
    return text.removeprefix("[").removesuffix("]")


def matching(pattern: re.Pattern[str], wanted: str) -> BeforeValidator:
    def read(value: object) -> str:
        if not isinstance(value, str) or not pattern.fullmatch(value.strip()):
            raise ValueError(f"{value!r} is no such name; {wanted}")
        return value.strip()

    return BeforeValidator(read)


def words_of(value: object, separator: str = r"[\s,]+") -> list[str]:
    """Split a list, however it is written: JSON, TOML, or a text with commas. Raises ValueError."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ValueError(f'{value!r} is no JSON list; write ["one", "two"], or one, two') from None
    if isinstance(value, str | int):
        value = re.split(separator, str(value).strip())
    if not isinstance(value, list | tuple | set | frozenset) or not all(isinstance(word, str | int) for word in value):
        raise ValueError("is no list of texts; write one, two")
    return [text for text in (str(word).strip() for word in value) if text]


def _each(words: Iterable[str], read: Callable[[str], Any]) -> list[Any]:
    """Read all words, so that all wrong ones are known. Raises Mistakes."""
    values, sentences = [], []
    for word in words:
        try:
            values.append(read(word))
        except ValueError as error:
            sentences.append(str(error))
    if sentences:
        raise Mistakes(sentences)
    return values


def ladder(value: object) -> tuple[int, ...]:
    rungs = tuple(_each(words_of(value), parse_duration))
    if not 0 < len(rungs) <= 20:
        raise ValueError("is no ladder; write 1 to 20 durations, for example 1h,24h,7d")
    return rungs


def accounts(value: object) -> frozenset[str]:
    found = words_of(value, separator=",")
    hidden = [word for word in found if not word.isprintable()]
    if hidden:
        raise Mistakes([f"{word!r} holds a character that can't be seen; write it without" for word in hidden])
    if SUGGESTED in found:
        found += TRIPWIRES
    return frozenset(found) - {SUGGESTED}


def allowed(value: object) -> Allowlist:
    if isinstance(value, Allowlist):
        return value
    found = dict.fromkeys(_each(words_of(value), network_or_name))
    return Allowlist(
        tuple(one for one in found if not isinstance(one, str)), tuple(one for one in found if isinstance(one, str))
    )


def allowed_texts(allowlist: Allowlist) -> list[str]:
    return [*map(str, allowlist.networks), *allowlist.names]


def network_or_name(word: str) -> IPNetwork | str:
    name = word.lower().removesuffix(".")
    if _DNS_NAME.fullmatch(name):
        return name
    try:
        if "/" not in word and isinstance(address := ip_address(word), IPv6Address) and address.ipv4_mapped:
            return ip_network(address.ipv4_mapped)
        return ip_network(word, strict=False)
    except ValueError:
        raise ValueError(
            f"{word!r} is no address, network or DNS name; write 192.0.2.7, 192.0.2.0/24 or office.example.com"
        ) from None


def port_list(value: object) -> str:
    words = [word.lower() for word in words_of(value)]
    if not words or ("all" in words and len(words) > 1):
        raise ValueError(f"{value!r} names no ports; write voip, all, or for example 5060,5061,10000-20000")
    return ",".join(_each(words, _port))


def _port(word: str) -> str:
    found = _PORT.fullmatch(word)
    if word not in ("voip", "all") and not (found and 0 < int(found[1]) <= int(found[2] or found[1]) <= 65535):
        raise ValueError(f"{word!r} is no port; write 5060, 5060-5069 or 5060/udp, between 1 and 65535")
    return word


def tier_list(value: object) -> str:
    tiers = sorted(_each(words_of(value), _tier), key=lambda tier: tier[1])
    if not 0 < len(tiers) <= MAX_TIERS or len({seconds for _, seconds in tiers}) < len(tiers):
        raise ValueError(f"{value!r} are no tiers; write 1 to {MAX_TIERS}, each with another time: 3/60s,100/1h")
    return ",".join(f"{connections}/{seconds}s" for connections, seconds in tiers)


def _tier(word: str) -> tuple[int, int]:
    connections, slash, time = word.partition("/")
    if not slash or not re.fullmatch("[0-9]{1,5}", connections) or not 0 < int(connections) <= MAX_CONNECTIONS:
        raise ValueError(f"{word!r} is no tier; write 3/60s, with 1 to {MAX_CONNECTIONS} connections")
    return int(connections), parse_duration(time, most=MAX_WINDOW)


def signatures(value: object) -> frozenset[str]:
    found = words_of(value, separator=",")
    if SUGGESTED in found:
        found = [*found, *SIGNATURES]
    names = frozenset(_each([word for word in found if word != SUGGESTED], _signature))
    if len(names) > MAX_SIGNATURES:
        raise ValueError(f"are {len(names)} names; write {MAX_SIGNATURES} at most, for each is searched in each packet")
    return names


def _signature(word: str) -> str:
    if not _SIGNATURE.fullmatch(word):
        raise ValueError(
            f"{word!r} is no name of a scanner; write it as packets have it, with 4 to 64 of letters, digits, space "
            "and ._-/:@()+"
        )
    return word


def location(value: object) -> Path:
    if not isinstance(value, str | Path) or not str(value).strip() or not str(value).isprintable():
        raise ValueError(f"{value!r} is no path of a file")
    try:
        return Path(value).expanduser()
    except RuntimeError:
        raise ValueError(f"{value!r} begins in the home of somebody who is not known here") from None
