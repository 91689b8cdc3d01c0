"""
What the other firewall left in the kernel after a change of ``AMIWATCH_FIREWALL``: found, and taken away.

Rule 1: only what bears our prefix and looks as we make it goes; what somebody else made under that name stays.

Rule 2: what can't be taken away for want of rights is emptied, so that nobody is dropped by what nobody looks at.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, cast

from amiwatch.errors import FirewallError, FirewallPermission
from amiwatch.firewall.base import SetState
from amiwatch.firewall.table import RULES, make_firewall, make_rule

if TYPE_CHECKING:
    from amiwatch.firewall.ipset import IpsetFirewall
    from amiwatch.firewall.nftables import NftablesFirewall

log = logging.getLogger(__name__)


def others(kind: str) -> list[str]:
    """Name the firewalls that drop, beside this one."""
    return [other for other in RULES if other != kind]


async def left_by(kind: str, prefix: str) -> list[SetState]:
    """Return the sets of ours that a firewall has in the kernel; none where it can't be asked."""
    firewall = make_firewall(kind, prefix=prefix)
    try:
        return await firewall.states()
    except FirewallError:
        return []
    finally:
        await firewall.close()


async def remove(kind: str, prefix: str) -> None:
    """Take rule and sets of a firewall away; what is missing is no error. Raises FirewallError."""
    rule, firewall = make_rule(kind, prefix), make_firewall(kind, prefix=prefix)
    assert rule is not None, "only firewalls that drop leave anything"
    try:
        await rule.remove()
        # Those that drop have sets that outlive them.
        await cast("IpsetFirewall | NftablesFirewall", firewall).remove_sets()
    finally:
        await firewall.close()


async def take_over(kind: str, prefix: str) -> None:
    """Take away what the others left, now that this one holds everything. Never raises."""
    for other in others(kind):
        if not await left_by(other, prefix):
            continue
        try:
            await remove(other, prefix)
            log.warning("firewall changed, what the other one left is removed other=%s", other)
        except FirewallPermission as error:
            await _empty(other, prefix, error)
        except FirewallError as error:
            log.error("what the other firewall left can't be removed other=%s reason=%s", other, error)
            await _empty(other, prefix, error)


async def _empty(kind: str, prefix: str, why: FirewallError) -> None:
    firewall = make_firewall(kind, prefix=prefix)
    try:
        await firewall.clear()
        log.warning(
            "firewall changed, the sets of the other one are empty now; 'amiwatch firewall install' as root takes them "
            "away other=%s reason=%s",
            kind,
            why,
        )
    except FirewallError as error:
        log.error("the other firewall still drops what it holds other=%s reason=%s", kind, error)
    finally:
        await firewall.close()
