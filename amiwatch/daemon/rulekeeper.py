"""
Keeps the drop rule as it should be, and tells the kernel whom no limit may concern.

Rule 1: without the rule nothing is dropped, so that it is missing is said, whoever may place it.

Rule 2: limits (tiers, signatures) that the kernel refuses keep no ban out.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from ipaddress import ip_network
from math import inf
from time import perf_counter

from amiwatch.errors import FirewallError, FirewallPermission, LimitsRefused
from amiwatch.firewall.base import Firewall
from amiwatch.firewall.choice import has_firewalld
from amiwatch.firewall.protection import Protection
from amiwatch.firewall.rule import Rule, spoken
from amiwatch.judgement.values import IPNetwork
from amiwatch.notify import systemd

log = logging.getLogger(__name__)

RULE_TIME = 2.5
"""Seconds between two looks at the drop rule, where that is allowed: four programs that take some milliseconds each."""

ASK_SOON, ASK_SELDOM = 3.0, 60.0
"""Seconds until root is asked again, because the rule is still missing, or somebody changed rules once more and ours
may not be the first any more: each time twice as many, up to the second, for each costs the start of a program (half a
second of a core), and fail2ban changes rules with each of its bans. Begun anew after twice as long without one."""

COMMITTED = 2.0
"""Seconds until the database surely has what root's step reads there, such as a port that was learned."""

INSTALL_IT = "run 'amiwatch firewall install' as root"

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
        self.needless = {4, 6} - set(spoken())
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
        self._asks = False
        """Root places the rule when it is asked for."""
        self._is_due = False
        """Root is to be asked."""
        self._asked_at = -inf
        self._ask_pause = ASK_SOON

    @property
    def places_rule(self) -> bool:
        """Tell whether the rule is ours to place, and the rights are there, or somebody has them for us."""
        return self._rule is not None or self._asks

    def protect(self, protection: Protection) -> None:
        """Have something else dropped from the next look at the rule on."""
        if protection != self.protection and self._asks:
            self._is_due, self._asked_at = True, perf_counter() - self._ask_pause + COMMITTED
        elif protection != self.protection and self._rule is None and self._is_blocking():
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
                self._give_up(error)
            else:
                if not self._is_needless_known:
                    # A machine without IPv6 gets no rule for it, and needs none.
                    self.needless, self._is_needless_known = await self._unused(), True
                self._is_said = False
                return
        self._say_missing(is_missing=bool(await self._unused()))
        if self._is_due or self._is_said:
            self._ask()

    def _give_up(self, error: FirewallPermission) -> None:
        """Leave the rule to root."""
        self._rule, self._asks = None, systemd.places_rule()
        log.info("drop rule not looked at, only whether any rule uses our sets reason=%s", error)
        if not self._asks and has_firewalld():
            log.warning(BESIDE_FIREWALLD)

    def _say_missing(self, *, is_missing: bool) -> None:
        if is_missing and not self._is_said:
            to_do = f"systemd is asked for amiwatch-rule.service, else {INSTALL_IT}" if self._asks else INSTALL_IT
            is_beside = self._limits is not None and not self._asks and has_firewalld()
            more = f"; {BESIDE_FIREWALLD}" if is_beside else ""
            log.error("no rule uses our sets, so nothing is dropped: %s%s", to_do, more)
        elif self._is_said and not is_missing:
            self._is_due, self._ask_pause = False, ASK_SOON  # what told us of a change was root's step
            log.warning("a rule uses our sets again")
        self._is_said = is_missing

    def _ask(self) -> None:
        """Have root place the rule, unless that was just asked for; what is missing stays due until it is there."""
        self._is_due, rest = self._asks, perf_counter() - self._asked_at
        if not self._asks or rest < self._ask_pause:
            return
        self._ask_pause = min(2 * self._ask_pause, ASK_SELDOM) if rest < 2 * ASK_SELDOM else ASK_SOON
        self._asked_at, self._is_due = perf_counter(), self._is_said
        systemd.ask_for_rule()

    async def is_right(self) -> bool:
        """Look at the rule, now and then; tell whether it may stay as it is."""
        if self._is_due:
            await self.check()
        if self._rule is None or perf_counter() - self._checked_at < RULE_TIME:
            return True
        self._checked_at = perf_counter()
        try:
            families = (await self._rule.show()).families
        except FirewallError:
            return False  # the other look says what is wrong
        self.limited = sum(limit.packets for one in families for limit in one.limits)
        return all(one.covers(self._dropped) and one.is_first for one in families)

    def note_change(self) -> None:
        """Note that somebody changed rules: ours may not be the first any more, which only root sees."""
        self._is_due = self._is_due or self._asks

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
