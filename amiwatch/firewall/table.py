"""The firewalls that amiwatch knows, by the name that the settings use."""

from __future__ import annotations

from collections.abc import Callable

from amiwatch.errors import ConfigurationError
from amiwatch.firewall.base import Firewall
from amiwatch.firewall.dryrun import DryRunFirewall
from amiwatch.firewall.ipset import DEFAULT_MAXELEM, IpsetFirewall

FIREWALLS: dict[str, Callable[[str, int], Firewall]] = {
    "ipset": lambda prefix, maxelem: IpsetFirewall(prefix, maxelem),
    "none": lambda _prefix, maxelem: DryRunFirewall(maxelem),
}


def make_firewall(kind: str, *, prefix: str = "amiwatch", maxelem: int = DEFAULT_MAXELEM) -> Firewall:
    """Make the firewall that the settings name; touches nothing until ``open()``. Raises ``ConfigurationError``."""
    if kind not in FIREWALLS:
        raise ConfigurationError([f"There is no firewall {kind!r}: choose one of {', '.join(map(repr, FIREWALLS))}."])
    return FIREWALLS[kind](prefix, maxelem)
