"""Which firewall ``auto`` takes, shown on the real kernel."""

import logging
import os
import subprocess
import sys

import pytest

from amiwatch.firewall import choice, libnftables
from amiwatch.firewall.choice import choose, ipset_fault, nftables_fault
from amiwatch.firewall.table import make_firewall
from tests.firewall.conftest import SBIN, fresh_nftables

pytestmark = pytest.mark.kernel

REAL_PATH = os.environ["PATH"]


@pytest.fixture
def without_iptables(monkeypatch, tmp_path):
    """Let no program be found but those of this empty folder."""
    monkeypatch.setattr(choice, "SYSTEM_PATHS", "")
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.fixture
def without_library(monkeypatch):
    libnftables._library.cache_clear()
    monkeypatch.setattr(libnftables, "LIBRARY", "libnftables-of-nobody.so.1")
    yield
    libnftables._library.cache_clear()


def test_where_both_work_ipset_is_taken(iptables_present):
    assert (ipset_fault(), nftables_fault()) == ("", "")
    assert choose("nobody").kind == "ipset"


def test_without_iptables_it_is_nftables_and_the_log_says_why(without_iptables, caplog):
    assert "no program 'iptables'" in ipset_fault()
    with caplog.at_level(logging.INFO):
        assert make_firewall("auto", prefix="nobody").name == "nftables"
    assert "firewall chosen kind=nftables reason=ipset does not work here" in caplog.text


def test_where_neither_works_it_is_ipset_whose_errors_say_what_to_do(without_iptables, without_library):
    kind, why = choose("nobody")
    assert kind == "ipset"
    assert "iptables" in why
    assert "libnftables1" in why


async def test_a_table_that_holds_our_bans_already_is_kept(iptables_present):
    async with fresh_nftables() as firewall:
        assert choose(firewall.prefix).kind == "nftables"
        name = f"{firewall.prefix}4"
        subprocess.run(["ipset", "create", name, "hash:net"], check=True, env={"PATH": f"{REAL_PATH}:{SBIN}"})
        try:
            assert choose(firewall.prefix).kind == "ipset"
        finally:
            subprocess.run(["ipset", "destroy", name], check=True, env={"PATH": f"{REAL_PATH}:{SBIN}"})


@pytest.fixture
def firewalld():
    """Its table, with a rule, as firewalld makes it."""
    script = "table inet firewalld { chain filter_INPUT { type filter hook input priority 10; accept; }; }"
    environ = {"PATH": f"{REAL_PATH}:{SBIN}"}
    subprocess.run(["nft", "-f", "-"], input=script, text=True, check=True, env=environ)
    yield
    subprocess.run(["nft", "delete", "table", "inet", "firewalld"], check=True, env=environ)


async def test_beside_firewalld_it_is_nftables_unless_ipset_holds_our_bans(iptables_present, firewalld):
    choice = choose("nobody")
    assert (choice.kind, "firewalld" in choice.why) == ("nftables", True)
    environ = {"PATH": f"{REAL_PATH}:{SBIN}"}
    subprocess.run(["ipset", "create", "nobody4", "hash:net"], check=True, env=environ)
    try:
        assert choose("nobody").kind == "ipset"
    finally:
        subprocess.run(["ipset", "destroy", "nobody4"], check=True, env=environ)


async def test_beside_firewalld_a_table_of_ours_is_kept_whatever_ipset_left(iptables_present, firewalld):
    async with fresh_nftables() as firewall:
        name, environ = f"{firewall.prefix}4", {"PATH": f"{REAL_PATH}:{SBIN}"}
        subprocess.run(["ipset", "create", name, "hash:net"], check=True, env=environ)
        try:
            assert choose(firewall.prefix).kind == "nftables"
        finally:
            subprocess.run(["ipset", "destroy", name], check=True, env=environ)


def test_beside_firewalld_it_is_ipset_where_nftables_can_t_be_had(iptables_present, firewalld, without_library):
    assert choose("nobody").kind == "ipset"


def test_without_rights_it_says_that_it_could_not_look():
    script = "from amiwatch.firewall.choice import *; print(ipset_fault(), nftables_fault(), choose('x'))"
    without = ["setpriv", "--bounding-set", "-net_admin,-net_raw", "--inh-caps", "-net_admin,-net_raw"]
    done = subprocess.run([*without, sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.count("CAP_NET_ADMIN") >= 2
    assert "kind='ipset'" in done.stdout
