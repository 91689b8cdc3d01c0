"""What our kernel objects are called: two sets and one chain, all derived from one prefix."""

from __future__ import annotations

import re

from amiwatch.errors import ConfigurationError

MAX_PREFIX = 24
"""Longest prefix: the longest name made of it, ``<prefix>4.new``, must fit 31 bytes, the chain 28 (xtables)."""

_PREFIX = re.compile(rf"[a-z][a-z0-9_-]{{0,{MAX_PREFIX - 1}}}")

_REHEARSAL = "-test"

_TAKEN = frozenset(
    ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING", "ACCEPT", "DROP", "QUEUE", "RETURN", "REJECT", "LOG")
)
"""Chains and targets that iptables has already; a chain of ours must never be one of them."""


def checked_prefix(prefix: str) -> str:
    """Return the prefix, or raise ``ConfigurationError`` if the kernel or iptables would stumble over it."""
    if _PREFIX.fullmatch(prefix) and prefix.upper() not in _TAKEN:
        return prefix
    raise ConfigurationError(
        [
            f"The name {prefix!r} can't begin our sets: use 1 to {MAX_PREFIX} of a-z, 0-9, '_' and '-', "
            "a letter first, and no name that iptables has already."
        ]
    )


def set_name(prefix: str, family: int) -> str:
    """Name the set of a family, 4 or 6."""
    return f"{prefix}{family}"


def spare_name(prefix: str, family: int) -> str:
    """Name the set that exists only while a set of ours is rebuilt with other options."""
    return f"{prefix}{family}.new"


def chain_name(prefix: str) -> str:
    """Name our chain in the tables of iptables."""
    return prefix.upper()


def rehearsal_name(prefix: str) -> str:
    """Return the prefix of what ``firewall test`` makes where nothing may be in the live sets."""
    return f"{prefix[: MAX_PREFIX - len(_REHEARSAL)]}{_REHEARSAL}"


def strangers_name(prefix: str) -> str:
    """Name the chain for those who are not exempt from limits; in small letters no prefix ends like that."""
    return f"{chain_name(prefix)}-new"
