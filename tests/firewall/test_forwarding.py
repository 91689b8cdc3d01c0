"""A PBX behind this host: published by DNAT as Docker does it, or routed. Shown with packets through namespaces."""

import socket
from collections.abc import AsyncIterator, Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest
from pyroute2 import IPRoute

from amiwatch.firewall.base import Entry
from amiwatch.firewall.nftables_rule import NftablesRule
from amiwatch.firewall.protection import Protection
from amiwatch.firewall.rule import DropRule
from amiwatch.firewall.scope import Scope
from amiwatch.judgement.values import source_network
from amiwatch.testing.netns import Namespace, Wire
from tests.firewall.conftest import Guard, fresh_ipset, fresh_nftables, run

pytestmark = pytest.mark.kernel

STRANGER = {4: "198.51.100.7", 6: "2001:db8:bad::7"}
HONEST = {4: "203.0.113.20", 6: "2001:db8:cafe::20"}
BRIDGE = {4: "192.0.2.129", 6: "2001:db8:d0c::1"}
CONTAINER = {4: "192.0.2.130", 6: "2001:db8:d0c::2"}
LENGTH = {4: 30, 6: 64}
PROGRAM = {4: "iptables", 6: "ip6tables"}
PUBLISHED = 15060
ONLINK = 4
"""RTNH_F_ONLINK, linux/rtnetlink.h"""


class Container:
    """A namespace of its own behind this one, with a PBX on port 5060."""

    def __init__(self, wire: Wire, family: int) -> None:
        self.wire, self.family = wire, family
        self.namespace = Namespace()
        forwarding = "ipv4/ip_forward" if family == 4 else "ipv6/conf/all/forwarding"
        Path(f"/proc/sys/net/{forwarding}").write_text("1")
        with IPRoute() as routes:
            routes.link(
                "add", ifname="dock0", kind="veth", peer={"ifname": "dock1", "net_ns_fd": self.namespace.descriptor}
            )
        configure("dock0", BRIDGE[family], family)
        self.namespace.run(lambda: configure("dock1", CONTAINER[family], family, gateway=BRIDGE[family]))
        wire.add_address(HONEST[family])
        wire.far.run(lambda: self._route(wire.here[family]))
        self.pbx = self.namespace.run(lambda: listening(CONTAINER[family], family))

    def _route(self, gateway: str) -> None:
        with IPRoute() as routes:
            routes.route(
                "add",
                dst=f"{CONTAINER[self.family]}/{32 if self.family == 4 else 128}",
                gateway=gateway,
                oif=routes.link_lookup(ifname="wire1")[0],
                flags=ONLINK,
            )

    def publish(self, port: int) -> None:
        """Do what Docker does for ``-p 15060:5060/udp``."""
        there = f"{CONTAINER[4]}:5060" if self.family == 4 else f"[{CONTAINER[6]}]:5060"
        dialled = ("-p", "udp", "--dport", str(port))
        run(PROGRAM[self.family], "-t", "nat", "-A", "PREROUTING", *dialled, "-j", "DNAT", "--to", there)
        run(PROGRAM[self.family], "-I", "FORWARD", "-j", "ACCEPT")

    def send(self, sender: str, payload: bytes, *, to: str, port: int) -> None:
        with self.wire.far_socket(sender) as endpoint:
            endpoint.sendto(payload, (to, port))

    def hears(self, sender: str, *, to: str, port: int) -> bool:
        """Send one packet from somebody and one from an honest phone; tell whether the first arrived."""
        self.send(sender, b"stranger", to=to, port=port)
        self.send(HONEST[self.family], b"honest", to=to, port=port)
        heard = []
        while b"honest" not in heard:
            heard.append(self.pbx.recv(2048))
        return b"stranger" in heard

    def close(self) -> None:
        self.pbx.close()
        with IPRoute() as routes:
            routes.link("del", ifname="dock0")
        self.namespace.close()
        for table in ("nat", "filter"):
            run(PROGRAM[self.family], "-t", table, "-F")


def configure(interface: str, address: str, family: int, gateway: str = "") -> None:
    with IPRoute() as routes:
        index = routes.link_lookup(ifname=interface)[0]
        flags = {"flags": 0x02} if family == 6 else {}  # without duplicate address detection
        routes.addr("add", index=index, address=address, prefixlen=LENGTH[family], **flags)
        routes.link("set", index=index, state="up")
        if gateway:
            routes.route(
                "add", dst="default", gateway=gateway, family=socket.AF_INET if family == 4 else socket.AF_INET6
            )


def listening(address: str, family: int) -> socket.socket:
    endpoint = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
    endpoint.settimeout(5)
    endpoint.bind((address, 5060))
    return endpoint


@pytest.fixture(params=["ipset", "nftables"])
async def guard(request, iptables_present) -> AsyncIterator[Guard]:
    fresh = fresh_ipset if request.param == "ipset" else fresh_nftables
    async with fresh() as firewall:
        rule = DropRule(firewall.prefix) if request.param == "ipset" else NftablesRule(firewall.prefix)
        yield Guard(firewall, rule)
        await rule.remove()


@pytest.fixture(params=[4, 6])
def container(request, wire) -> Iterator[Container]:
    behind = Container(wire, request.param)
    yield behind
    behind.close()


def ban(address: str) -> Entry:
    return Entry(source_network(ip_address(address)), 600)


async def test_a_published_port_is_closed_to_the_banned_though_the_host_dials_it_otherwise(guard, container):
    family = container.family
    container.publish(PUBLISHED)
    target = {"to": container.wire.here[family], "port": PUBLISHED}
    await guard.rule.install(Protection())
    assert container.hears(STRANGER[family], **target)

    await guard.firewall.add([ban(STRANGER[family])])

    assert not container.hears(STRANGER[family], **target)
    state = await guard.rule.show()
    assert {one.family: one.packets for one in state.families}[family] == state.packets == 1
    assert [entry.packets for entry in await guard.firewall.entries()] == [1]
    assert state.covers(Protection())


async def test_a_banned_stranger_still_reaches_what_else_is_published(guard, container):
    family = container.family
    container.publish(PUBLISHED)
    await guard.rule.install(Protection(Scope.parse("5080")))
    await guard.firewall.add([ban(STRANGER[family])])
    assert container.hears(STRANGER[family], to=container.wire.here[family], port=PUBLISHED)


async def test_a_pbx_that_this_host_routes_to_is_guarded_and_each_packet_counted_once(guard, container):
    family = container.family
    target = {"to": CONTAINER[family], "port": 5060}
    await guard.rule.install(Protection())
    assert container.hears(STRANGER[family], **target)
    await guard.firewall.add([ban(STRANGER[family])])
    assert not container.hears(STRANGER[family], **target)
    assert (await guard.rule.show()).packets == 1
    assert [entry.packets for entry in await guard.firewall.entries()] == [1]


async def test_a_port_that_is_redirected_to_the_pbx_on_this_host_is_closed_too(guard, wire):
    run(
        "iptables",
        "-t",
        "nat",
        "-A",
        "PREROUTING",
        "-p",
        "udp",
        "--dport",
        "5099",
        "-j",
        "REDIRECT",
        "--to-ports",
        "5060",
    )
    try:
        await guard.rule.install(Protection())
        await guard.firewall.add([ban(STRANGER[4])])
        with wire.receiver(5060) as pbx:
            wire.send_from(STRANGER[4], 5099, b"banned")
            wire.send_from(HONEST[4], 5099, b"honest")
            assert pbx.recv(2048) == b"honest"
    finally:
        run("iptables", "-t", "nat", "-F")


async def test_what_is_missing_behind_the_translation_is_seen_and_put_back(guard, container):
    await guard.rule.install(Protection())
    if isinstance(guard.rule, DropRule):
        run("iptables", "-t", "mangle", "-F", "FORWARD")
    else:
        run("nft", "flush", "chain", "inet", guard.firewall.prefix, "forward")
    state = await guard.rule.show()
    assert state.is_present
    assert not state.covers(Protection())
    await guard.rule.install(Protection())
    assert (await guard.rule.show()).covers(Protection())
