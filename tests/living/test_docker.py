"""A published port of a container, with the chains that Docker makes: dropped before, while and after it restarts."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from amiwatch.testing.netns import Wire
from tests.firewall.test_forwarding import BRIDGE, CONTAINER, HONEST, Container
from tests.living.conftest import PATIENCE, Guarded, run, theirs

pytestmark = pytest.mark.kernel

PUBLISHED = 5060
STRANGER = "198.51.100.7"
BRIDGE_NAME = "dock0"


@pytest.fixture
def container(wire: Wire) -> Iterator[Container]:
    behind = Container(wire, 4)
    yield behind
    behind.close()


def start_docker() -> None:
    """Give the commands of dockerd at its start, and of ``docker run -p 5060:5060/udp``."""
    for command in (
        "-t nat -N DOCKER",
        "-N DOCKER",
        "-N DOCKER-USER",
        "-N DOCKER-ISOLATION-STAGE-1",
        "-A DOCKER-USER -j RETURN",
        "-A DOCKER-ISOLATION-STAGE-1 -j RETURN",
        "-P FORWARD DROP",
        f"-I FORWARD -o {BRIDGE_NAME} -j DOCKER",
        f"-I FORWARD -o {BRIDGE_NAME} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        f"-I FORWARD -i {BRIDGE_NAME} ! -o {BRIDGE_NAME} -j ACCEPT",
        "-I FORWARD -j DOCKER-ISOLATION-STAGE-1",
        "-I FORWARD -j DOCKER-USER",
        "-t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER",
        f"-t nat -A POSTROUTING -s {BRIDGE[4]}/30 ! -o {BRIDGE_NAME} -j MASQUERADE",
        f"-t nat -A DOCKER ! -i {BRIDGE_NAME} -p udp --dport {PUBLISHED} -j DNAT --to-destination {CONTAINER[4]}:5060",
        f"-A DOCKER -d {CONTAINER[4]}/32 ! -i {BRIDGE_NAME} -o {BRIDGE_NAME} -p udp --dport 5060 -j ACCEPT",
    ):
        run("iptables", "-w", *command.split())


def stop_docker() -> None:
    """Flush and delete its chains, as dockerd does before it makes them anew."""
    run("iptables", "-w", "-t", "nat", "-F")
    run("iptables", "-w", "-t", "nat", "-X", "DOCKER")
    run("iptables", "-w", "-F", "FORWARD")
    for chain in ("DOCKER", "DOCKER-USER", "DOCKER-ISOLATION-STAGE-1"):
        run("iptables", "-w", "-F", chain)
        run("iptables", "-w", "-X", chain)


async def test_a_published_port_stays_closed_to_the_banned_while_docker_comes_and_goes(
    guarded: Guarded, wire: Wire, container: Container
) -> None:
    async with guarded() as it:
        target = {"to": wire.here[4], "port": PUBLISHED}
        await asyncio.to_thread(start_docker)
        before = theirs()
        assert container.hears(STRANGER, **target)
        # The flow has a conntrack entry now, and Docker accepts what is established.
        await it.attack(STRANGER)
        await it.watcher.until_banned(f"{STRANGER}/32")
        assert not container.hears(STRANGER, **target)
        await asyncio.to_thread(stop_docker)
        await asyncio.to_thread(start_docker)
        made = theirs()
        async with asyncio.timeout(PATIENCE):
            while container.hears(STRANGER, **target):  # noqa: ASYNC110 - nobody is told
                await asyncio.sleep(0.1)
        assert theirs() == made
        assert made == before
        assert container.hears(HONEST[4], **target)
