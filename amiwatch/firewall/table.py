"""The firewalls that amiwatch knows, by the name that the settings use."""

from __future__ import annotations

from collections.abc import Callable

from amiwatch.errors import ConfigurationError
from amiwatch.firewall.base import DEFAULT_CAPACITY, Firewall
from amiwatch.firewall.dryrun import DryRunFirewall


def _ipset(prefix: str, maxelem: int) -> Firewall:
    # pyroute2 takes a tenth of a second to import, and most commands never touch the kernel.
    from amiwatch.firewall.ipset import IpsetFirewall

    return IpsetFirewall(prefix, maxelem)


FIREWALLS: dict[str, Callable[[str, int], Firewall]] = {
    "ipset": _ipset,
    "none": lambda _prefix, maxelem: DryRunFirewall(maxelem),
}


def make_firewall(kind: str, *, prefix: str = "amiwatch", maxelem: int = DEFAULT_CAPACITY) -> Firewall:
    """Make the firewall that the settings name; touches nothing until ``open()``. Raises ``ConfigurationError``."""
    if kind not in FIREWALLS:
        raise ConfigurationError([f"There is no firewall {kind!r}: choose one of {', '.join(map(repr, FIREWALLS))}."])
    return FIREWALLS[kind](prefix, maxelem)
