"""
Bans that drop nothing: a banned source that is still heard, and why.

Rule 1: what was on its way when the ban came is no reason to doubt: only what Asterisk heard ``GRACE`` seconds later,
several times.

Rule 2: what was only inferred is told when it is still so ``CONFIRM`` seconds later: somebody may have flushed our
sets, and they are there again when we look.

Rule 3: one cause is told once an hour, whoever shows it: a missing rule lets everybody in.
"""

from __future__ import annotations

import logging
import socket
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from amiwatch.daemon.host import lookup
from amiwatch.errors import FirewallError
from amiwatch.firewall.diagnosis import Cause, Suspect, cause, diagnose
from amiwatch.firewall.rule import Rule
from amiwatch.judgement.values import PROVEN_TRANSPORTS, Alert, Ban, IPAddress, IPNetwork, SecurityEvent

if TYPE_CHECKING:
    from amiwatch.daemon.enforcer import Enforcer
    from amiwatch.judgement.judge import Judge

log = logging.getLogger(__name__)

KIND = "ban_not_working"

GRACE = 3.0
"""Seconds after a ban in which its source may still be heard: packets wait in Asterisk, events on their way to us."""

SPAN = 2.0
"""Seconds that lie at least between the first and the last of the events that make a doubt."""

SEVERAL = 3
"""Events that make a doubt."""

LOOK_TIME = 1.0
"""Seconds between two looks at what came from the banned."""

CALM = 60.0
"""Seconds without such an event until a doubt is forgotten; also between two diagnoses, which may list a whole set."""

CONFIRM = 10.0
"""Seconds until a second look at what can't be seen but only inferred; what was flushed is mended within five."""

INFERRED = frozenset({"other_way", "other_host", "elsewhere", "own_rule", "other_address"})
"""Causes that remain where sets and rule are right."""

PAUSE = 3600.0
"""Seconds until the same cause is told again."""

MAX_DOUBTS = 100
"""Sources that are doubted at once: one of them is enough to find a cause."""

MAX_BEGUN = 10_000
"""Newest bans whose begin is remembered: those of the last ``GRACE`` seconds, and many more, unless somebody makes
3,000 bans a second."""


class _Begin(NamedTuple):
    at: float
    """When the kernel had the ban (our clock)."""
    heard_at: float
    """When Asterisk heard what led to it (its clock); 0 where nothing did."""


@dataclass(slots=True)
class _Doubt:
    """A banned source that is still heard."""

    source: IPAddress
    network: IPNetwork
    protocol: str
    port: int
    pbx: str
    first_at: float
    last_at: float
    """Both by Asterisk's clock."""
    seen_at: float
    """By ours."""
    count: int = 0
    dropped: int | None = None
    """What the kernel had dropped of it when the doubt was ripe."""

    @property
    def is_ripe(self) -> bool:
        return self.count >= SEVERAL and self.last_at - self.first_at >= SPAN


class Doubts:
    """
    Looks at a sample of what comes from banned sources.

    ``rule`` is None where it is the administrator's; ``host`` tells where a PBX is; ``alert`` is called with what is to
    be said.
    """

    def __init__(
        self,
        judge: Judge,
        enforcer: Enforcer,
        *,
        rule: Rule | None,
        host: Callable[[str], str],
        alert: Callable[[Alert, str], None],
        now: Callable[[], float],
    ) -> None:
        self.cause: Cause | None = None
        """Why bans drop nothing, as far as is known and as long as it lasts."""
        self._judge = judge
        self._enforcer = enforcer
        self._rule = rule
        self._host = host
        self._alert = alert
        self._now = now
        self._since = now()
        self._begun: OrderedDict[IPNetwork, _Begin] = OrderedDict()
        self._doubts: dict[IPNetwork, _Doubt] = {}
        self._told: dict[str, float] = {}
        self._diagnosed_at = -CALM
        self._guess: tuple[str, float] = ("", 0.0)
        """What was inferred last, and when."""

    def begin(self, ban: Ban) -> None:
        """Note that the kernel has a ban from now on."""
        heard_at = max((one.at for one in ban.evidence), default=0.0)
        self._begun[ban.network] = _Begin(self._now(), heard_at)
        self._begun.move_to_end(ban.network)
        if len(self._begun) > MAX_BEGUN:
            self._begun.popitem(last=False)

    async def look(self) -> None:
        """Go through what came from the banned since the last look."""
        repeats, now = [*self._judge.repeats], self._now()
        self._judge.repeats.clear()
        if not self._enforcer.is_blocking or self._enforcer.firewall.name == "none":
            self._since = now
            return  # nothing is to be dropped, and status says so
        for event, seen_at, pbx in repeats:
            self._note(event, seen_at, pbx)
        self._doubts = {network: one for network, one in self._doubts.items() if one.seen_at > now - CALM}
        if not self._doubts:
            self.cause = None
        ripe = next((one for one in self._doubts.values() if one.is_ripe and one.seen_at > now - 2 * LOOK_TIME), None)
        if ripe is not None and self._diagnosed_at <= now - CALM:
            await self._ponder(ripe, now)

    def _note(self, event: SecurityEvent, seen_at: float, pbx: str) -> None:
        if event.service == "SIP":
            return  # chan_sip reports the address that its sender names
        network = self._judge.ledger.covering(event.source, seen_at)
        if network is None or seen_at < self._since + GRACE or self._was_on_its_way(network, event, seen_at):
            return
        doubt = self._doubts.get(network)
        if doubt is None:
            if len(self._doubts) >= MAX_DOUBTS:
                return
            protocol = "tcp" if event.service == "AMI" or event.transport in PROVEN_TRANSPORTS else "udp"
            doubt = _Doubt(event.source, network, protocol, event.local_port, pbx, event.at, event.at, seen_at)
            self._doubts[network] = doubt
        doubt.count += 1
        doubt.last_at, doubt.seen_at = event.at, seen_at

    def _was_on_its_way(self, network: IPNetwork, event: SecurityEvent, seen_at: float) -> bool:
        begun = self._begun.get(network)
        # Asterisk's own clock tells best: its events may wait for us, and its clock may differ from ours.
        return begun is not None and (seen_at < begun.at + GRACE or event.at < begun.heard_at + GRACE)

    async def _ponder(self, doubt: _Doubt, now: float) -> None:
        """Look twice at what the kernel dropped of it, for that tells much; then find the cause."""
        if doubt.dropped is None:
            doubt.dropped = await self._dropped(doubt.network)
            return
        self._diagnosed_at, found = now, await self._found(doubt)
        if found.kind in INFERRED and not self._is_confirmed(found.kind, now):
            self._diagnosed_at = now - CALM + CONFIRM
            return
        self.cause = found
        if self._told.get(self.cause.kind, -PAUSE) <= now - PAUSE:
            self._told[self.cause.kind] = now
            self._alert(Alert(now, KIND, doubt.source, "", _words(doubt, self.cause)), doubt.pbx)

    def _is_confirmed(self, kind: str, now: float) -> bool:
        before, at = self._guess
        if before == kind and now - at <= CALM:
            return True
        self._guess = (kind, now)
        return False

    async def _found(self, doubt: _Doubt) -> Cause:
        enforcer = self._enforcer
        if enforcer.has_trouble:
            return cause("refused", "the log says what it refuses")
        suspect = Suspect(doubt.network, doubt.protocol, doubt.port, await self._elsewhere(doubt.pbx))
        return await diagnose(
            suspect, enforcer.firewall, self._rule, enforcer.rule.protection, dropped_before=doubt.dropped
        )

    async def _dropped(self, network: IPNetwork) -> int:
        try:
            entry = await self._enforcer.firewall.entry(network)
        except FirewallError:
            return 0  # the diagnosis will say it
        return entry.packets if entry else 0

    async def _elsewhere(self, pbx: str) -> str:
        """Say where a PBX is, if that is not on this host."""
        host = self._host(pbx)
        addresses = await lookup(host) if host else []
        return "" if not addresses or any(map(_is_ours, addresses)) else host


def _is_ours(address: IPAddress) -> bool:
    """Tell whether this is an address of this host, in this network namespace: only such can be bound."""
    with socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((str(address), 0))
        except OSError:
            return False
    return True


def _words(doubt: _Doubt, cause: Cause) -> str:
    return f"{doubt.network} is banned, but {doubt.count} of its events came since: {cause.text}. {cause.remedy}."
