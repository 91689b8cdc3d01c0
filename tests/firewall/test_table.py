import subprocess
import sys

import pytest

from amiwatch.errors import ConfigurationError
from amiwatch.firewall.dryrun import DryRunFirewall
from amiwatch.firewall.ipset import IpsetFirewall
from amiwatch.firewall.nftables import NftablesFirewall
from amiwatch.firewall.nftables_rule import NftablesRule
from amiwatch.firewall.rule import DropRule
from amiwatch.firewall.table import FIREWALLS, make_firewall, make_rule


def test_the_settings_name_makes_the_firewall():
    kernel = make_firewall("ipset", prefix="pbx", maxelem=7)
    assert isinstance(kernel, IpsetFirewall)
    assert (kernel.name, kernel.prefix, kernel.maxelem) == ("ipset", "pbx", 7)

    kernel = make_firewall("nftables", prefix="pbx", maxelem=7)
    assert isinstance(kernel, NftablesFirewall)
    assert (kernel.name, kernel.prefix, kernel.maxelem) == ("nftables", "pbx", 7)

    dry = make_firewall("none", maxelem=7)
    assert isinstance(dry, DryRunFirewall)
    assert (dry.name, dry.capacity) == ("none", 7)


def test_every_firewall_is_called_as_it_is_named_in_the_table():
    assert {kind: make_firewall(kind).name for kind in FIREWALLS} == {kind: kind for kind in FIREWALLS}


def test_each_firewall_has_the_rule_that_fits_it_and_a_dry_run_has_none():
    assert isinstance(make_rule("ipset", "pbx"), DropRule)
    assert isinstance(make_rule("nftables", "pbx"), NftablesRule)
    assert make_rule("none", "pbx") is None


def test_an_unknown_firewall_is_a_mistake_that_names_the_known_ones():
    with pytest.raises(ConfigurationError, match=r"'pf'.*'ipset', 'nftables', 'none', 'auto'"):
        make_firewall("pf")


def test_the_dry_run_never_imports_netlink():
    script = (
        "import sys; from amiwatch.firewall.table import make_firewall\n"
        "make_firewall('none'); print('pyroute2' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
