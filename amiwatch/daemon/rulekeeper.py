"""
Keeps the drop rule as it should be, and tells the kernel whom no limit may concern.

Rule 1: without the rule nothing is dropped, so that it is missing is said, whoever may place it.

Rule 2: limits (tiers, signatures) that the kernel refuses keep no ban out.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from ipaddress import ip_network
from time import perf_counter

from amiwatch.errors import FirewallError, FirewallPermission, LimitsRefused
from amiwatch.firewall.base import Firewall
from amiwatch.firewall.choice import has_firewalld
from amiwatch.firewall.protection import Protection
from amiwatch.firewall.rule import Rule
from amiwatch.judgement.values import IPNetwork

log = logging.getLogger(__name__)

RULE_TIME = 2.5
"""Seconds between two looks at the drop rule, where that is allowed: four programs that take some milliseconds each."""

BESIDE_FIREWALLD = (
    "firewalld throws rules of iptables away with each reload, and this daemon may not place ours again (CAP_NET_RAW): "
    "set AMIWATCH_FIREWALL=nftables and restart"
)

EVERYBODY = (ip_network("0.0.0.0/0"), ip_network("::/0"))


class RuleKeeper:
    """Owns the rule, where it is ours to place; ``is_blocking`` tells whether it may drop anything now."""

    def __init__(
        self,
        firewall: Firewall,
        rule: Rule | None,
        *,
        protection: Protection,
        exempt: Callable[[], Collection[IPNetwork]],
        is_blocking: Callable[[], bool],
    ) -> None:
        self.protection = protection
        """What the rule is to drop; ``protect`` changes it."""
        self.refused = ""
        """Why limits are not in the kernel, in a sentence; empty where they are, or nobody wants any."""
        self.limited = 0
        """Packets that tiers and signatures have dropped, when the rule was looked at last."""
        self.needless: set[int] = set()
        """Families that need no rule here."""
        self._firewall = firewall
        self._rule = rule
        self._limits = rule
        """Who may not place the rule may exempt from its limits, for that is only a set."""
        self._exempt = exempt
        """Tells whom no limit may concern; nobody at all means that this is not known yet."""
        self._is_blocking = is_blocking
        self._is_needless_known = False
        self._is_said = False
        self._checked_at = 0.0

    @property
    def places_rule(self) -> bool:
        """Tell whether the rule is ours to place, and the rights are there."""
        return self._rule is not None

    def protect(self, protection: Protection) -> None:
        """Have something else dropped from the next look at the rule on."""
        if protection != self.protection and self._rule is None and self._is_blocking():
            log.warning("what is to be dropped has changed, and the rule is not ours: see 'amiwatch firewall show'")
        self.protection = protection
        self._checked_at = 0.0

    async def check(self) -> None:
        """
        Place the rule, or say that it is missing. Raises FirewallError.

        That a rule uses our sets is seen by anybody; whether packets still get to it, only by who may place it.
        """
        self._checked_at = perf_counter()
        if self._rule is not None:
            try:
                await self._place(self._rule)
            except FirewallPermission as error:
                # Asking again every few seconds would change nothing.
                log.info("drop rule not looked at, only whether any rule uses our sets reason=%s", error)
                self._rule = None
                if has_firewalld():
                    log.warning(BESIDE_FIREWALLD)
            else:
                if not self._is_needless_known:
                    # A machine without IPv6 gets no rule for it, and needs none.
                    self.needless, self._is_needless_known = await self._unused(), True
                self._is_said = False
                return
        is_missing = bool(await self._unused())
        if is_missing and not self._is_said:
            log.error(
                "no rule uses our sets, so nothing is dropped: run 'amiwatch firewall install' as root%s",
                f"; {BESIDE_FIREWALLD}" if self._limits is not None and has_firewalld() else "",
            )
        self._is_said = is_missing

    async def is_right(self) -> bool:
        """Look at the rule, now and then; tell whether it may stay as it is."""
        if self._rule is None or perf_counter() - self._checked_at < RULE_TIME:
            return True
        self._checked_at = perf_counter()
        try:
            families = (await self._rule.show()).families
        except FirewallError:
            return False  # the other look says what is wrong
        self.limited = sum(limit.packets for one in families for limit in one.limits)
        return all(one.covers(self._dropped) and one.is_first for one in families)

    async def note_unused(self) -> None:
        """Have the rule looked at soon; where it is not ours to place, say that it is missing."""
        if self._rule is None:
            await self.check()
        else:
            self._checked_at = 0.0

    async def keep_exempt(self) -> bool:
        """Exempt from limits whom they may not concern now; False if that failed, which is said, and tried again."""
        if self._limits is None or not self.protection.has_limits:
            return True
        # Where nothing may be blocked, limits that are in the kernel already concern nobody.
        networks = self._exempt() if self._is_blocking() else EVERYBODY
        try:
            if networks:
                await self._limits.exempt(networks)
        except FirewallError as error:
            self._say_refused(error)
            return False
        return True

    @property
    def _dropped(self) -> Protection:
        """What the rule is to drop now: nothing but what the sets hold, where nothing may be blocked."""
        return self.protection if self._is_blocking() else self.protection.bare()

    async def _place(self, rule: Rule) -> None:
        """Place the rule; where only limits are refused, say so, and go on."""
        is_known = await self.keep_exempt()
        try:
            await rule.install(self._dropped)
        except LimitsRefused as error:
            self._say_refused(error)
        else:
            self.refused = "" if is_known else self.refused

    def _say_refused(self, error: FirewallError) -> None:
        if not self.refused:
            log.error("tiers and signatures not as they should be, trying again reason=%s", error)
        self.refused = str(error)

    async def _unused(self) -> set[int]:
        """Return the families whose set no rule uses."""
        unused = {state.family for state in await self._firewall.states() if not state.references}
        return unused - self.needless
