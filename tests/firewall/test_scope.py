import pytest

from amiwatch.errors import ConfigurationError
from amiwatch.firewall.scope import EVERYTHING, MULTIPORT, Ports, Scope


def test_the_default_scope_is_what_a_pbx_listens_on():
    assert Scope().matches() == [("udp", "4569,5060:5061"), ("tcp", "5038,5060:5061,8088:8089")]
    assert Scope.parse("voip").matches() == Scope().matches()


def test_everything_is_one_match_without_ports():
    assert Scope.parse(" ALL ") == EVERYTHING
    assert EVERYTHING.matches() == [("", "")]


def test_ports_without_a_protocol_are_both():
    assert Scope.parse("5060, 6000-6010/udp").matches() == [("udp", "5060,6000:6010"), ("tcp", "5060")]


def test_extra_ports_join_the_voip_ports():
    assert Scope.parse("voip,5062-5070/udp").matches()[0] == ("udp", "4569,5060:5070")


def test_ranges_that_overlap_become_one():
    assert Scope.parse("5060-5070/udp,5065-5080/udp,5075/udp").matches() == [("udp", "5060:5080")]


def test_many_ports_are_split_into_what_one_match_takes():
    text = ",".join(f"{port}/udp" for port in range(5000, 5080, 2)) + ",7000-7010/udp"

    matches = Scope.parse(text).matches()

    sizes = [sum(2 if ":" in port else 1 for port in ports.split(",")) for _, ports in matches]
    assert sizes == [MULTIPORT, MULTIPORT, 12]
    assert ",".join(ports for _, ports in matches).split(",")[-1] == "7000:7010"


@pytest.mark.parametrize(
    "text", ["", " , ", "0", "65536", "5070-5060", "sip", "5060/sctp", "5060;reboot", "all,5060", "-1"]
)
def test_what_is_no_port_is_refused_by_name(text):
    with pytest.raises(ConfigurationError, match="port"):
        Scope.parse(text)


def test_a_scope_can_be_built_from_ranges():
    assert Scope((Ports("tcp", 1, 65535),)).matches() == [("tcp", "1:65535")]
