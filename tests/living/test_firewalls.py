"""firewalld, ufw, fail2ban and netfilter-persistent themselves: we drop, and what they make is as without us."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from amiwatch.testing.netns import Wire
from tests.daemon.test_end_to_end import ATTACKER, arrives
from tests.living.conftest import PREFIX, Guarded, install_theirs, remove_everything, run, theirs, until_dropped
from tests.living.machine import Machine
from tests.living.unit import lone_daemon, until_arriving

pytestmark = pytest.mark.kernel

HONEST = ("203.0.113.150", "2001:db8:cafe::150")

FIREWALLD = """
cat >/run/bus.conf <<end
<busconfig>
  <type>system</type><listen>unix:path=/run/dbus/system_bus_socket</listen><auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/>
  </policy>
</busconfig>
end
dbus-daemon --config-file=/run/bus.conf --fork
sed -i s/^FirewallBackend=.*/FirewallBackend={backend}/ /etc/firewalld/firewalld.conf
firewall-offline-cmd --add-port=5060/udp
"""
START_FIREWALLD = "firewalld; until firewall-cmd --state; do sleep 0.1; done"
STOP_FIREWALLD = "pid=$(cat /run/firewalld.pid); kill $pid; while kill -0 $pid; do sleep 0.1; done"


def firewalld(backend: str) -> tuple[str, ...]:
    direct = "firewall-cmd --permanent --direct --add-rule"
    return (
        FIREWALLD.format(backend=backend) + START_FIREWALLD,
        "firewall-cmd --reload",
        "firewall-cmd --add-rich-rule='rule family=ipv4 source address=203.0.113.7 drop'",
        "firewall-cmd --permanent --new-ipset=bad --type=hash:ip",
        "firewall-cmd --permanent --ipset=bad --add-entry=203.0.113.8",
        # In front of us, where a direct rule can be: in the raw table.
        f"{direct} ipv4 raw PREROUTING 0 -p udp --dport 5060 -j ACCEPT",
        f"{direct} ipv4 filter INPUT 0 -p udp --dport 5060 -j ACCEPT",
        "firewall-cmd --reload",
        "firewall-cmd --complete-reload",
        f"{STOP_FIREWALLD}; {START_FIREWALLD}",
        STOP_FIREWALLD,
    )


def ufw(builtins: str) -> tuple[str, ...]:
    return (
        # As its installation does; without sysctl, which would change the namespace for the tests that follow.
        f"""
        cp /usr/share/ufw/iptables/*.rules /usr/share/ufw/ufw.conf /etc/ufw
        sed -i -e s/^IPT_SYSCTL=.*/IPT_SYSCTL=/ -e s/^MANAGE_BUILTINS=.*/MANAGE_BUILTINS={builtins}/ /etc/default/ufw
        ufw allow 5060/udp
        ufw --force enable
        """,
        "ufw reload",
        "ufw deny from 203.0.113.7",
        "ufw reload",
        "ufw disable",
        "ufw --force enable",
    )


FAIL2BAN = """
cat >/etc/fail2ban/jail.local <<end
[DEFAULT]
backend = polling
[sshd]
enabled = false
[asterisk]
enabled = true
logpath = /var/log/pbx
banaction = {banaction}
action = %(action_)s
         told
end
cat >/etc/fail2ban/action.d/told.conf <<end
[Definition]
actionban = touch /run/told-<ip>
actionunban = rm /run/told-<ip>
end
touch /var/log/pbx
"""
"""The last action tells that those before it are done: fail2ban bans behind the back of its client."""

UNTIL_BANNED = "until [ -e /run/told-203.0.113.99 ] && [ -e /run/told-2001:db8:9::1 ]; do sleep 0.05; done"


def fail2ban(banaction: str) -> tuple[str, ...]:
    return (
        FAIL2BAN.format(banaction=banaction) + "fail2ban-client start",
        f"fail2ban-client set asterisk banip 203.0.113.99 2001:db8:9::1; {UNTIL_BANNED}",
        "fail2ban-client reload",
        f"fail2ban-client restart asterisk; {UNTIL_BANNED}",
        "fail2ban-client set asterisk unbanip 203.0.113.99",
        "fail2ban-client stop",
    )


def persistent(save: str) -> tuple[str, ...]:
    return save, "netfilter-persistent reload", "netfilter-persistent flush", "netfilter-persistent start"


SAVED_WITHOUT_US = f"""
mkdir -p /etc/iptables
iptables-save | grep -v -i {PREFIX} >/etc/iptables/rules.v4
ip6tables-save | grep -v -i {PREFIX} >/etc/iptables/rules.v6
"""

NEIGHBOURS = {
    "firewalld, nftables": firewalld("nftables"),
    "firewalld, iptables": firewalld("iptables"),
    "ufw": ufw("no"),
    "ufw, MANAGE_BUILTINS=yes": ufw("yes"),
    "fail2ban, iptables-multiport": fail2ban("iptables-multiport"),
    "fail2ban, iptables-ipset-proto6": fail2ban("iptables-ipset-proto6"),
    "fail2ban, nftables-multiport": fail2ban("nftables-multiport"),
    "netfilter-persistent, saved before us": persistent(SAVED_WITHOUT_US),
    "netfilter-persistent, saved with us": persistent("netfilter-persistent save"),
}


NewMachine = Callable[[], Machine]


@pytest.fixture
def new_machine(tmp_path_factory: pytest.TempPathFactory) -> NewMachine:
    return lambda: Machine(tmp_path_factory.mktemp("machine"))


_alone: dict[str, list[dict[str, object]]] = {}


def alone(name: str, new_machine: NewMachine) -> list[dict[str, object]]:
    """Let a neighbour do everything without us; return all that stands in the kernel after each of its commands."""
    if name not in _alone:
        install_theirs()
        found = []
        with new_machine() as machine:
            for commands in NEIGHBOURS[name]:
                machine.run(commands)
                found.append(theirs())
        remove_everything()
        _alone[name] = found
    return _alone[name]


@pytest.mark.parametrize("name", NEIGHBOURS)
async def test_the_drop_works_after_each_command_and_what_they_make_is_the_same(
    guarded: Guarded, wire: Wire, new_machine: NewMachine, name: str, backend: str
) -> None:
    expected = await asyncio.to_thread(alone, name, new_machine)
    async with guarded():
        with new_machine() as machine:
            for commands, made in zip(NEIGHBOURS[name], expected, strict=True):
                await asyncio.to_thread(machine.run, commands)
                if backend == "nftables":
                    assert not arrives(wire, ATTACKER), f"a table of ours was touched by {commands}"
                await until_dropped(wire)
                assert theirs() == made, commands
                assert all(arrives(wire, honest) for honest in HONEST), commands


async def test_under_the_systemd_unit_auto_drops_on_beside_firewalld(
    wire: Wire, new_machine: NewMachine, tmp_path: Path
) -> None:
    """The daemon has CAP_NET_ADMIN alone; only what the unit does first is done by root."""
    with new_machine() as machine:
        machine.run(NEIGHBOURS["firewalld, nftables"][0])
        async with lone_daemon(tmp_path, FIREWALL="auto") as it:
            assert it.prepared.startswith(
                "Firewall: nftables, for firewalld is here, which throws rules of iptables away"
            )
            await it.ban(ATTACKER)
            await until_arriving(wire, ATTACKER, is_arriving=False)
            for commands in ("firewall-cmd --reload", "firewall-cmd --complete-reload", STOP_FIREWALLD):
                await asyncio.to_thread(machine.run, commands)
                await until_arriving(wire, ATTACKER, is_arriving=False)
                assert arrives(wire, HONEST[0])


async def test_under_the_systemd_unit_ipset_says_loudly_what_firewalld_does_to_it(
    wire: Wire, new_machine: NewMachine, tmp_path: Path
) -> None:
    with new_machine() as machine:
        machine.run(NEIGHBOURS["firewalld, nftables"][0])
        async with lone_daemon(tmp_path, FIREWALL="ipset") as it:
            await it.ban(ATTACKER)
            await it.until_said("firewalld throws rules of iptables away with each reload")
            found = await it.amiwatch("check")
            assert "! firewalld firewalld throws our rule away with each reload" in found
            assert "→ AMIWATCH_FIREWALL=nftables and a restart" in found
            await asyncio.to_thread(machine.run, "firewall-cmd --reload")
            await it.until_said("no rule uses our sets, so nothing is dropped: run 'amiwatch firewall install' as root")
            await it.amiwatch("firewall", "install")
            await until_arriving(wire, ATTACKER, is_arriving=False)


@pytest.mark.parametrize("backend", ["ipset"])
async def test_a_saved_file_that_boot_would_refuse_for_our_rules_is_told_with_the_remedy(
    guarded: Guarded, wire: Wire, new_machine: NewMachine
) -> None:
    check = f"AMIWATCH_SET_NAME={PREFIX} AMIWATCH_AMI__SECRET=secret {sys.executable} -m amiwatch check || true"
    with new_machine() as machine:
        async with guarded():
            before = theirs()
            assert "saved" not in await asyncio.to_thread(machine.run, check)
            await asyncio.to_thread(machine.run, "netfilter-persistent save")
            told = await asyncio.to_thread(machine.run, check)
        remedies = re.findall("sed -i .*", told)
        assert len(remedies) == 2

        boot_without_our_sets()
        machine.run("netfilter-persistent start")
        assert "iptables-nft-save" not in theirs()

        machine.run("\n".join(remedies))
        assert "saved" not in machine.run(check)
        machine.run("netfilter-persistent start")
        after = theirs()
        for rules in ("iptables-nft-save", "ip6tables-nft-save"):
            assert after[rules] == before[rules]


def boot_without_our_sets() -> None:
    remove_everything()
    run("ipset", "create", "theirs", "hash:ip")
