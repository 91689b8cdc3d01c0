"""
Of ``amiwatch check`` what concerns the firewall: our rights, what works here, the sets, the drop rule and its limits.

Rule 1: nothing is changed. What can't be looked at for lack of rights is said, and is no fault.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, cast

from amiwatch.cli.asking import living
from amiwatch.cli.findings import Finding, Mark
from amiwatch.cli.text import counted
from amiwatch.errors import FirewallError, FirewallPermission, StoreError

if TYPE_CHECKING:
    from amiwatch.config import Settings
    from amiwatch.firewall.base import SetState
    from amiwatch.firewall.ipset import IpsetFirewall
    from amiwatch.firewall.nftables import NftablesFirewall
    from amiwatch.firewall.rule import FamilyRule

CAP_NET_ADMIN = 12
"""Its bit in /proc/self/status (capabilities(7))."""

LEGACY = {
    Path("/proc/net/ip_tables_names"): "iptables-legacy-save",
    Path("/proc/net/ip6_tables_names"): "ip6tables-legacy-save",
}
"""Where the kernel names the tables of the older iptables, and what lists the rules in them."""

NEARLY_FULL = 0.9
"""Share of a set from which on it is too small."""

_IPSET_TO_DO = (
    "Debian: apt-get install ipset; Red Hat: dnf install kernel-modules-extra ipset; or AMIWATCH_FIREWALL=auto"
)
_NFTABLES_TO_DO = "mend that, or AMIWATCH_FIREWALL=auto takes what works here"


def rights(settings: Settings) -> Finding:
    """Say whether we may look at the kernel's sets."""
    if settings.firewall == "none":
        return Finding("rights", Mark.GOOD, "none needed for a dry run")
    if has_net_admin():
        return Finding("rights", Mark.GOOD, "CAP_NET_ADMIN")
    return Finding(
        "rights",
        Mark.DOUBT,
        "CAP_NET_ADMIN is missing here, so the kernel's sets can't be looked at",
        "run 'amiwatch check' as root; the daemon gets it from systemd, or from --cap-add NET_ADMIN",
    )


def has_net_admin() -> bool:
    """Tell whether this process may change the kernel's sets."""
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> CAP_NET_ADMIN & 1)
    return False


async def kernel(settings: Settings) -> list[Finding]:
    """Say what works here and what is in force: none of it where we may not look."""
    if settings.firewall == "none":
        return [
            Finding("kernel", Mark.DOUBT, "dry run: nothing is ever dropped", "AMIWATCH_FIREWALL=ipset drops for real")
        ]
    if not has_net_admin():
        return []
    from amiwatch.firewall.table import make_firewall

    firewall = make_firewall(settings.firewall, prefix=settings.set_name, maxelem=settings.set_size)
    # A dry run did not come this far.
    states, found = await _sets(cast("IpsetFirewall | NftablesFirewall", firewall))
    rules = await _rule(settings, firewall.name, states)
    left = await _leftovers(firewall.name, settings.set_name)
    return [
        *_abilities(settings, firewall.name),
        *await _programs(),
        *_other_settings(settings, firewall.name),
        *found,
        *rules,
        *_beside(firewall.name),
        *left,
        *_saved(settings.set_name),
    ]


def _beside(chosen: str) -> Iterator[Finding]:
    """Say what firewalld does to a rule of iptables."""
    from amiwatch.firewall.choice import has_firewalld

    if chosen == "ipset" and has_firewalld():
        text = (
            "firewalld throws our rule away with each reload: nothing is dropped for seconds, and no more at all where "
            "neither the daemon may place it again (CAP_NET_RAW) nor amiwatch-rule.path runs"
        )
        yield Finding("firewalld", Mark.DOUBT, text, "AMIWATCH_FIREWALL=nftables and a restart: firewalld leaves it be")


async def _leftovers(chosen: str, prefix: str) -> list[Finding]:
    """Find what another firewall left under our name: it may drop whom nobody looks at any more."""
    from amiwatch.firewall.leftovers import left_by, others

    to_do = "the daemon takes it over when it starts; what then is left goes with 'amiwatch firewall install' as root"
    return [
        Finding("sets", Mark.DOUBT, f"{kind} has sets of ours, too, with {counted(number, 'entry', 'entries')}", to_do)
        for kind in others(chosen)
        if (states := await left_by(kind, prefix))
        for number in [sum(state.count for state in states)]
    ]


def _saved(prefix: str) -> Iterator[Finding]:
    """Find files that iptables-restore will refuse at boot, where our sets are not there yet."""
    from amiwatch.firewall.saved import holding, pattern

    for path in holding(prefix):
        text = f"{path} holds our rules: at boot, before our sets are there, iptables-restore refuses the whole file"
        yield Finding("saved", Mark.BAD, text, f"sed -i '/{pattern(prefix)}/d' {path}")


def _abilities(settings: Settings, chosen: str) -> Iterator[Finding]:
    """Say of each backend whether it works here, whichever the settings name; for ``auto``, why it is this one."""
    from amiwatch.firewall.choice import choose, ipset_fault, nftables_fault

    why = f" (auto: {choose(settings.set_name).why})" if settings.firewall == "auto" else ""
    for name, fault in (("ipset", ipset_fault()), ("nftables", nftables_fault())):
        use = f", and is what bans here{why}" if name == chosen else f" (AMIWATCH_FIREWALL={name})"
        if fault:
            yield Finding(name, Mark.DOUBT, f"does not work here: {fault}")
        else:
            yield Finding(name, Mark.GOOD, f"works here{use}")


def _other_settings(settings: Settings, chosen: str) -> Iterator[Finding]:
    """Find a daemon that was started with another firewall: then all that follows looks in the wrong place."""
    with suppress(StoreError):
        running = living(settings.database)
        if running is not None and running.firewall not in (chosen, ""):
            text = f"the daemon that runs uses {running.firewall}, these settings say {chosen}"
            yield Finding("firewall", Mark.BAD, text, "restart the daemon, or give this command the daemon's settings")


async def _programs() -> list[Finding]:
    """Say which iptables is here, and whether the older one has rules beside it."""
    from amiwatch.firewall import iptables

    try:
        version = (await iptables.run([iptables.PROGRAMS[4], "--version"])).strip()
    except FirewallError:
        return []  # whoever needs it is told above
    older = await _legacy_rules() if "legacy" not in version else 0
    if not older:
        return [Finding("iptables", Mark.GOOD, version)]
    text = f"{version}; iptables-legacy has {counted(older, 'rule')}, too, and both are in force"
    return [Finding("iptables", Mark.DOUBT, text, "'iptables -S' does not show them: look at iptables-legacy-save")]


async def _legacy_rules() -> int:
    """Count the rules of the older iptables; 0 also where it was never used, for to ask it would load its modules."""
    from amiwatch.firewall import iptables

    found = 0
    for names, program in LEGACY.items():
        with suppress(OSError, FirewallError):
            if names.read_text(encoding="ascii").strip():
                lines = (await iptables.run([program])).splitlines()
                found += sum(line.startswith("-A") for line in lines)
    return found


async def _sets(firewall: IpsetFirewall | NftablesFirewall) -> tuple[list[SetState], list[Finding]]:
    try:
        states = await firewall.states()
        fault = await _foreign(firewall)
    except FirewallError as error:
        to_do = _NFTABLES_TO_DO if firewall.name == "nftables" else _IPSET_TO_DO
        return [], [Finding("sets", Mark.BAD, str(error), to_do, error.exit_code)]
    finally:
        await firewall.close()
    if fault is not None:
        return [], [fault]
    if len(states) < 2:
        to_do = "'amiwatch run' makes them"
        return states, [Finding("sets", Mark.DOUBT, "not made yet", to_do)]
    return states, [_filled(state) for state in states]


async def _foreign(firewall: IpsetFirewall | NftablesFirewall) -> Finding | None:
    try:
        await firewall.refuse_foreign()
    except FirewallError as error:
        return Finding("sets", Mark.BAD, str(error), "then 'amiwatch run' makes ours", error.exit_code)
    return None


def _filled(state: SetState) -> Finding:
    text = f"{state.name}: {state.count} of {state.capacity} entries"
    if state.count < state.capacity * NEARLY_FULL:
        return Finding("sets", Mark.GOOD, text)
    return Finding("sets", Mark.BAD, text, "raise AMIWATCH_SET_SIZE: a full set gives bans up early")


async def _rule(settings: Settings, kind: str, states: list[SetState]) -> list[Finding]:
    from amiwatch.firewall.table import make_rule

    rule = make_rule(kind, settings.set_name)
    if rule is None or settings.drop_rule == "manual":
        return _all_used(states)
    try:
        state = await rule.show()
    except FirewallPermission:
        # iptables wants CAP_NET_RAW too; but that a rule uses the sets, the sets tell.
        return _all_used(states)
    except FirewallError as error:
        to_do = "mend that, then 'amiwatch firewall install' as root"
        return [Finding("rule", Mark.BAD, str(error), to_do, error.exit_code)]
    return [*(_placed(settings, one) for one in state.families), *_limits(settings, state.families)]


def _all_used(states: list[SetState]) -> list[Finding]:
    if states:
        return [_used(state) for state in states]
    text = "none can use sets that are not made yet, so nothing is dropped"
    return [Finding("rule", Mark.BAD, text, "'amiwatch firewall install' as root; then place your rule", 69)]


def _used(state: SetState) -> Finding:
    if state.references:
        return Finding("rule", Mark.GOOD, f"{state.name}: used by {counted(state.references, 'rule')}")
    text = f"{state.name}: no rule uses it, so nothing is dropped"
    return Finding("rule", Mark.BAD, text, "place your rule, or 'amiwatch firewall install' as root", 69)


def _placed(settings: Settings, one: FamilyRule) -> Finding:
    from amiwatch.cli.firewall import wanted

    if not one.is_present:
        return _missing_rule(settings, one)
    to_do = "amiwatch firewall install"
    if not one.closes(wanted(settings).scope):
        text = f"IPv{one.family}: does not drop what AMIWATCH_PORTS={settings.ports} says"
        return Finding("rule", Mark.BAD, text, to_do, 69)
    if not one.is_first:
        late = [f"number {position} in {place}" for place, position in one.positions.items() if position != 1]
        text = f"IPv{one.family}: {', '.join(late)}; rules before it may accept"
        return Finding("rule", Mark.DOUBT, text, to_do)
    text = f"IPv{one.family}: first in {one.place}, {counted(one.packets, 'packet')} dropped"
    return Finding("rule", Mark.GOOD, text)


def _limits(settings: Settings, families: Sequence[FamilyRule]) -> Iterator[Finding]:
    from amiwatch.cli.firewall import NO_SIGNATURES, wanted

    protection = wanted(settings)
    if not all(one.limits_are(protection) for one in families):
        text = "not what AMIWATCH_TIERS, AMIWATCH_SIGNATURES and 'amiwatch firewall tiers' say"
        yield Finding("limits", Mark.DOUBT, text, "'amiwatch run' places them within seconds, as root")
    elif protection.tiers:
        packets = sum(limit.packets for one in families for limit in one.limits)
        text = f"rate tiers {settings.tiers} are on, {counted(packets, 'packet')} dropped by limits"
        if settings.allowlist.networks or settings.allowlist.names:
            yield Finding("limits", Mark.GOOD, text)
        else:
            yield Finding(
                "limits", Mark.DOUBT, f"{text}; the allowlist is empty", "allow your carriers: they never log in"
            )
    if protection.signatures and not all(one.reads_names for one in families):
        yield Finding(
            "limits", Mark.DOUBT, NO_SIGNATURES, "AMIWATCH_FIREWALL=ipset, or leave AMIWATCH_SIGNATURES empty"
        )


def _missing_rule(settings: Settings, one: FamilyRule) -> Finding:
    """Only where a daemon runs that ought to have placed it, is it wrong: who may look at it may place it, too."""
    if settings.mode == "observe":
        to_do = "in enforce mode 'amiwatch run' places it, as root; so does 'amiwatch firewall install'"
        return Finding("rule", Mark.GOOD, f"IPv{one.family}: none, and observe mode needs none", to_do)
    text = f"IPv{one.family}: missing, so nothing is dropped"
    if _is_watched(settings.database):
        return Finding("rule", Mark.BAD, text, "amiwatch firewall install", 69)
    return Finding("rule", Mark.DOUBT, text, "'amiwatch run' places it, as root; so does 'amiwatch firewall install'")


def _is_watched(path: Path) -> bool:
    with suppress(StoreError):
        return living(path) is not None
    return False
