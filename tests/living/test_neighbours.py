"""What other firewalls and people do beside us: our drop works again within 5 s, and nothing of theirs is touched."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from amiwatch.testing.netns import Wire
from tests.daemon.test_end_to_end import ATTACKER, ATTACKER6, PHONE, arrives
from tests.firewall.conftest import SBIN
from tests.living.conftest import Guarded, both, run, theirs, until_dropped

pytestmark = pytest.mark.kernel

TABLES = ("raw", "mangle", "nat", "filter")


def flush_iptables() -> None:
    for table in TABLES:
        both("-t", table, "-F")
        both("-t", table, "-X")


def restore_without_us() -> None:
    """Load a saved file that knows nothing of us, as netfilter-persistent does at its restart."""
    rules = "".join(f"*{table}\n-A {hook} -p tcp --dport 9 -j ACCEPT\nCOMMIT\n" for table, hook in HOOKS.items())
    both(text=rules, restore=True)


HOOKS = {"raw": "PREROUTING", "mangle": "FORWARD", "filter": "INPUT"}


def destroy_sets() -> None:
    """Destroy every set, which the kernel allows when no rule uses one any more."""
    for table in ("raw", "mangle", "filter"):
        both("-t", table, "-F")
    run("ipset", "destroy")


def firewalld_with_iptables() -> None:
    """Give the commands of ``firewall-cmd --reload`` with FirewallBackend=iptables: every table is flushed."""
    for table in TABLES:
        for flag in ("-F", "-X", "-Z"):
            both("-t", table, flag)
    rules = "*filter\n:IN_public - [0:0]\n-A INPUT -j IN_public\n-A IN_public -p udp --dport 5060 -j ACCEPT\nCOMMIT\n"
    both("-n", text=rules, restore=True)


def firewalld_with_nftables() -> None:
    """Give the commands of ``firewall-cmd --reload`` with the usual backend: its own table goes and comes again."""
    run("nft", "add table inet firewalld; delete table inet firewalld; add table inet firewalld")
    run("nft", "add chain inet firewalld filter_INPUT { type filter hook input priority 10; policy accept; }")
    run("nft", "add rule inet firewalld filter_INPUT ct state established,related accept")
    run("nft", "add chain inet firewalld raw_PREROUTING { type filter hook prerouting priority -290; policy accept; }")


def accept_in_front() -> None:
    for table, hook in (("raw", "PREROUTING"), ("mangle", "INPUT"), ("filter", "INPUT")):
        both("-t", table, "-I", hook, "1", "-p", "udp", "-j", "ACCEPT")


def nft_accept_in_front() -> None:
    run("nft", "add table inet early")
    run("nft", "add chain inet early first { type filter hook prerouting priority -450; policy accept; }")
    run("nft", "add rule inet early first udp dport 5060 accept")


def fail2ban() -> None:
    """Give the commands of fail2ban's action ``iptables-multiport``: start, ban, stop, start."""
    for command in (
        ("-N", "f2b-asterisk"),
        ("-A", "f2b-asterisk", "-j", "RETURN"),
        ("-I", "INPUT", "-p", "udp", "-m", "multiport", "--dports", "5060,5061", "-j", "f2b-asterisk"),
    ):
        both(*command)
    run("iptables", "-w", "-I", "f2b-asterisk", "1", "-s", "203.0.113.99", "-j", "REJECT")
    both("-D", "INPUT", "-p", "udp", "-m", "multiport", "--dports", "5060,5061", "-j", "f2b-asterisk")
    both("-F", "f2b-asterisk")
    both("-X", "f2b-asterisk")
    both("-N", "f2b-asterisk")
    both("-A", "f2b-asterisk", "-j", "RETURN")
    both("-I", "INPUT", "-p", "udp", "-m", "multiport", "--dports", "5060,5061", "-j", "f2b-asterisk")


HARMS = {
    "iptables -F of every table": flush_iptables,
    "iptables-restore without our lines": restore_without_us,
    "nft flush ruleset": lambda: run("nft", "flush", "ruleset"),
    "ipset flush": lambda: run("ipset", "flush"),
    "ipset destroy": destroy_sets,
    "firewalld reload, iptables": firewalld_with_iptables,
    "firewalld reload, nftables": firewalld_with_nftables,
    "accept in front of us": accept_in_front,
    "nftables accept in front of us": nft_accept_in_front,
    "fail2ban restart": fail2ban,
}


@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS.keys())
async def test_whatever_others_do_the_drop_works_again_and_nothing_of_theirs_is_touched(
    guarded: Guarded, wire: Wire, harm
) -> None:
    async with guarded():
        assert not arrives(wire, ATTACKER)
        assert not arrives(wire, ATTACKER6)
        before = theirs()
        assert before
        await asyncio.to_thread(harm)
        after = theirs()
        await until_dropped(wire)
        assert theirs() == after
        assert arrives(wire, "203.0.113.150")


async def test_what_we_place_and_take_away_leaves_everything_of_others_as_it_was(guarded: Guarded, wire: Wire) -> None:
    async with guarded():
        before = theirs()
        assert any(name.startswith("iptables") for name in before)
        assert "ipset theirs" in before
        assert not arrives(wire, ATTACKER)
    assert theirs() == before


@pytest.mark.parametrize("reconcile_time", ["1h"])
async def test_a_long_reconcile_time_delays_no_repair(guarded: Guarded, wire: Wire, reconcile_time: str) -> None:
    async with guarded(reconcile_time=reconcile_time):
        for harm in (lambda: run("ipset", "flush"), lambda: run("nft", "flush", "ruleset")):
            await asyncio.to_thread(harm)
            await until_dropped(wire)


@pytest.mark.parametrize("backend", ["ipset"])
async def test_with_the_older_iptables_which_the_kernel_tells_nobody_of(
    guarded: Guarded, wire: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    legacy = shutil.which("xtables-legacy-multi", path=SBIN)
    if legacy is None or "PREROUTING" not in run("iptables-legacy", "-t", "raw", "-S", check=False):
        pytest.skip("there is no iptables-legacy")
    for program in ("iptables", "ip6tables"):
        for name in (program, f"{program}-restore"):
            (tmp_path / name).symlink_to(legacy)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    async with guarded():
        assert "LIVING" in run("iptables-legacy", "-t", "raw", "-S")
        for program in ("iptables-legacy", "ip6tables-legacy"):
            for table in ("raw", "mangle", "filter"):
                run(program, "-t", table, "-F")
        assert arrives(wire, ATTACKER)
        await until_dropped(wire)


async def test_an_established_flow_of_the_banned_is_dropped_too(guarded: Guarded, wire: Wire) -> None:
    """A conntrack entry and an accept for it stand in filter: both come after us."""
    attacker = "198.51.100.77"
    async with guarded() as it:
        both("-I", "INPUT", "1", "-m", "conntrack", "--ctstate", "ESTABLISHED,RELATED", "-j", "ACCEPT")
        with wire.receiver(5060) as sip, wire.far_socket(attacker, port=40000) as phone:
            phone.settimeout(5)
            phone.sendto(b"OPTIONS", (wire.here[4], 5060))
            _, sender = sip.recvfrom(100)
            sip.sendto(b"200 OK", sender)
            assert phone.recv(100) == b"200 OK"
            phone.sendto(b"OPTIONS again", (wire.here[4], 5060))
            assert sip.recv(100) == b"OPTIONS again"
            await it.attack(attacker)
            await it.watcher.until_banned(f"{attacker}/32")
            phone.sendto(b"OPTIONS once more", (wire.here[4], 5060))
            wire.send_from(PHONE, 5060, b"the phone")
            assert sip.recv(100) == b"the phone"


# ufw: its own script, of the package or of the folder that UFW_ROOT names.

UFW_ROOT = Path(os.environ.get("UFW_ROOT", "/"))
UFW_DEFAULTS = (
    'IPV6=yes\nDEFAULT_INPUT_POLICY="DROP"\nDEFAULT_OUTPUT_POLICY="ACCEPT"\nDEFAULT_FORWARD_POLICY="DROP"\n'
    'DEFAULT_APPLICATION_POLICY="SKIP"\nMANAGE_BUILTINS={builtins}\nIPT_SYSCTL=\nIPT_MODULES=""\n'
)


class Ufw:
    """ufw-init with settings of its own; where it is not installed, the commands that it gives."""

    def __init__(self, folder: Path, builtins: str) -> None:
        self.folder, self.builtins = folder, builtins
        self.program = UFW_ROOT / "lib/ufw/ufw-init"
        if self.is_real:
            self._write()

    @property
    def is_real(self) -> bool:
        return self.program.exists()

    def _write(self) -> None:
        rules = self.folder / "etc/ufw"
        rules.mkdir(parents=True)
        (self.folder / "etc/default").mkdir()
        (self.folder / "etc/default/ufw").write_text(UFW_DEFAULTS.format(builtins=self.builtins))
        (rules / "ufw.conf").write_text("ENABLED=yes\nLOGLEVEL=low\n")
        for found in [
            *(UFW_ROOT / "usr/share/ufw").glob("*.rules"),
            *(UFW_ROOT / "usr/share/ufw/iptables").glob("*.rules"),
        ]:
            text = found.read_text()
            if found.name.startswith("user"):
                chain = "ufw6-user-input" if "6" in found.name else "ufw-user-input"
                text = text.replace("### RULES ###", f"### RULES ###\n-A {chain} -p udp --dport 5060 -j ACCEPT")
            (rules / found.name).write_text(text)
        shutil.copytree(UFW_ROOT / "lib/ufw", self.folder / "lib/ufw")

    def enable(self) -> None:
        self._init("start") if self.is_real else self._start()

    def reload(self) -> None:
        self._init("force-reload") if self.is_real else self._stop_and_start()

    def _init(self, verb: str) -> None:
        command = [self.folder / "lib/ufw/ufw-init", "--rootdir", self.folder, "--datadir", self.folder, verb]
        subprocess.run(["sh", *map(str, command)], check=True, capture_output=True)

    def _stop_and_start(self) -> None:
        for number in ("", "6"):
            program = f"ip{number}tables"
            for chain in ("before-input", "user-input"):
                run(program, "-w", "-F", f"ufw{number}-{chain}")
            run(program, "-w", "-X", f"ufw{number}-user-input")
            run(f"{program}-restore", "-n", text="*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\nCOMMIT\n")
        self._start()

    def _start(self) -> None:
        if self.builtins == "yes":
            both("-F")
            both("-X")
            for hook in ("INPUT", "OUTPUT", "FORWARD", "PREROUTING", "POSTROUTING"):
                both("-t", "mangle", "-F", hook)
            for hook in ("OUTPUT", "PREROUTING", "POSTROUTING"):
                run("iptables", "-w", "-t", "nat", "-F", hook)
        for number in ("", "6"):
            restore = f"ip{number}tables-restore"
            before, user = f"ufw{number}-before-input", f"ufw{number}-user-input"
            if f"-N {before}" not in run(f"ip{number}tables", "-w", "-S"):
                run(restore, "-n", text=f"*filter\n:{before} - [0:0]\n-A INPUT -j {before}\nCOMMIT\n")
            established = f"-A {before} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
            found = f"-A {before} -p {'ipv6-icmp' if number else 'icmp'} -j ACCEPT"
            run(restore, "-n", text=f"*filter\n:{before} - [0:0]\n{established}\n{found}\nCOMMIT\n")
            allowed = f":{user} - [0:0]\n-A {user} -p udp --dport 5060 -j ACCEPT\n-A {before} -j {user}\n"
            run(restore, "-n", text=f"*filter\n{allowed}COMMIT\n")
            run(restore, "-n", text="*filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\nCOMMIT\n")


@pytest.mark.parametrize("builtins", ["no", "yes"], ids=["as installed", "MANAGE_BUILTINS=yes"])
async def test_ufw_is_enabled_and_reloaded_and_the_drop_works(
    guarded: Guarded, wire: Wire, tmp_path: Path, builtins: str
) -> None:
    ufw = Ufw(tmp_path / "ufw", builtins)
    async with guarded():
        await asyncio.to_thread(ufw.enable)
        enabled = theirs()
        await until_dropped(wire)
        assert theirs() == enabled
        await asyncio.to_thread(ufw.reload)
        reloaded = theirs()
        await until_dropped(wire)
        assert theirs() == reloaded
        assert arrives(wire, "203.0.113.150")
