"""What a change of ``AMIWATCH_FIREWALL`` leaves behind is told by check, and goes with install or remove."""

import pytest

from tests.firewall.conftest import run

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("both_firewalls")]

PREFIX = "changed"
KINDS = [("ipset", "nftables"), ("nftables", "ipset")]


@pytest.fixture
def kernel(call):
    def kernel(kind: str, *arguments: str):
        return call(*arguments, AMIWATCH_FIREWALL=kind, AMIWATCH_SET_NAME=PREFIX)

    yield kernel
    kernel("ipset", "firewall", "remove", "--yes")


def ours() -> list[str]:
    shown = run("ipset", "list", "-n") + run("nft", "--stateless", "list", "ruleset")
    return [line for line in shown.splitlines() if PREFIX in line.lower()]


@pytest.mark.parametrize(("old", "new"), KINDS)
def test_an_empty_rest_goes_with_the_next_install_and_one_that_drops_stays_until_it_is_taken_over(kernel, old, new):
    assert kernel(old, "ban", "198.51.100.7").exit_code == 0
    assert kernel(old, "firewall", "install").exit_code == 0
    assert "is removed" not in kernel(new, "firewall", "install").stdout
    checked = kernel(new, "check").stdout
    assert f"{old} has sets of ours, too, with 1 entry" in checked
    assert kernel(old, "unban", "198.51.100.7").exit_code == 0
    assert f"What {old} had left is removed." in kernel(new, "firewall", "install").stdout
    assert "has sets of ours, too" not in kernel(new, "check").stdout
    assert kernel(new, "firewall", "show").exit_code == 0


@pytest.mark.parametrize(("old", "new"), KINDS)
def test_removal_leaves_no_trace_of_either(kernel, old, new):
    for kind in (old, new):
        assert kernel(kind, "ban", "198.51.100.7").exit_code == 0
        assert kernel(kind, "firewall", "install").exit_code == 0
    assert ours()
    done = kernel(new, "firewall", "remove", "--yes")
    assert f"What {old} had left is removed." in done.stdout
    assert ours() == []
