"""The firewalls that amiwatch knows, by the name that the settings use, and the rule that goes with each."""

from __future__ import annotations

import logging
from collections.abc import Callable

from amiwatch.errors import ConfigurationError
from amiwatch.firewall.base import DEFAULT_CAPACITY, Firewall
from amiwatch.firewall.dryrun import DryRunFirewall
from amiwatch.firewall.rule import DropRule, Rule

log = logging.getLogger(__name__)

AUTO = "auto"


def _ipset(prefix: str, maxelem: int) -> Firewall:
    # pyroute2 takes a tenth of a second to import, and most commands never touch the kernel.
    from amiwatch.firewall.ipset import IpsetFirewall

    return IpsetFirewall(prefix, maxelem)


def _nftables(prefix: str, maxelem: int) -> Firewall:
    from amiwatch.firewall.nftables import NftablesFirewall

    return NftablesFirewall(prefix, maxelem)


def _nftables_rule(prefix: str) -> Rule:
    from amiwatch.firewall.nftables_rule import NftablesRule

    return NftablesRule(prefix)


FIREWALLS: dict[str, Callable[[str, int], Firewall]] = {
    "ipset": _ipset,
    "nftables": _nftables,
    "none": lambda _prefix, maxelem: DryRunFirewall(maxelem),
}

RULES: dict[str, Callable[[str], Rule]] = {"ipset": DropRule, "nftables": _nftables_rule}


def make_firewall(kind: str, *, prefix: str = "amiwatch", maxelem: int = DEFAULT_CAPACITY) -> Firewall:
    """
    Make the firewall that the settings name; its ``name`` says which it is. Raises ``ConfigurationError``.

    Nothing is touched until ``open()``; for ``auto``, the kernel is asked what it can.
    """
    if kind == AUTO:
        kind = _chosen(prefix)
    if kind not in FIREWALLS:
        known = ", ".join(map(repr, [*FIREWALLS, AUTO]))
        raise ConfigurationError([f"There is no firewall {kind!r}: choose one of {known}."])
    return FIREWALLS[kind](prefix, maxelem)


def make_rule(kind: str, prefix: str = "amiwatch") -> Rule | None:
    """Make the rule that drops what a firewall of this ``name`` holds; None for one that drops nothing."""
    return RULES[kind](prefix) if kind in RULES else None


def _chosen(prefix: str) -> str:
    from amiwatch.firewall.choice import choose

    kind, why = choose(prefix)
    log.info("firewall chosen kind=%s reason=%s", kind, why)
    return kind
