"""A banned source that is still heard is told with its cause; one whose packets were on their way is not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network

import pytest

from amiwatch.daemon.doubts import CALM, CONFIRM, GRACE, KIND, PAUSE, SEVERAL, SPAN, Doubts
from amiwatch.daemon.enforcer import Enforcer
from amiwatch.firewall.base import Entry, Firewall
from amiwatch.firewall.protection import Protection
from amiwatch.firewall.table import make_rule
from amiwatch.judgement.judge import Judge
from amiwatch.judgement.rules import Policy
from amiwatch.judgement.values import Alert, Ban, Evidence
from amiwatch.testing.builders import security_event
from amiwatch.testing.firewall import FakeFirewall
from tests.firewall.conftest import fresh_ipset, fresh_nftables

ATTACKER, NETWORK = "198.51.100.20", ip_network("198.51.100.20/32")
BEGIN = 1000.0
CLOCK = 1_700_000_000.0
"""What Asterisk's clock says when ours says 0."""


@dataclass
class Ground:
    """A judge, an enforcer and the doubts about them, with a clock that a test turns."""

    firewall: Firewall
    rule: object = None
    host: str = ""
    at: float = BEGIN
    alerts: list[Alert] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.judge = Judge(Policy())
        self.enforcer = Enforcer(
            self.firewall,
            self.judge.ledger,
            now=lambda: self.at,
            done=lambda done: None,
            adopted=lambda network, seconds: None,
            evicted=lambda network: None,
            protection=Protection(),
        )
        self.doubts = Doubts(
            self.judge,
            self.enforcer,
            rule=self.rule,
            host=lambda pbx: self.host,
            alert=lambda alert, pbx: self.alerts.append(alert),
            now=lambda: self.at,
        )

    async def ban(self, address: str = ATTACKER) -> None:
        network = ip_network(f"{address}/32")
        self.judge.ledger.put(network, self.at + 10 * 3600)
        await self.firewall.add([Entry(network, 3600)])
        evidence = [Evidence(CLOCK + self.at, "InvalidAccountID", "PJSIP", "100", "x", "UDP", address, 5060)]
        self.doubts.begin(Ban(network, ip_address(address), self.at, 3600, 1, "scan", "", evidence=evidence))

    async def hear(self, times: int, *, every: float = 1.0, late: float = 0.0, source: str = ATTACKER) -> None:
        """Let events arrive, ``late`` seconds after Asterisk raised them, and look after each."""
        for _ in range(times):
            self.at += every
            at = CLOCK + self.at - late
            self.judge.see(security_event("InvalidAccountID", source=source, at=at, session=str(at)), self.at)
            await self.doubts.look()


async def ground_after_a_ban(firewall: Firewall, **more: object) -> Ground:
    ground = Ground(firewall, **more)
    ground.at += 60
    await ground.ban()
    return ground


@pytest.fixture
async def fake() -> FakeFirewall:
    firewall = FakeFirewall()
    await firewall.open()
    return firewall


async def test_a_source_that_is_heard_for_seconds_after_its_ban_is_told(fake: FakeFirewall) -> None:
    ground = await ground_after_a_ban(fake)
    await ground.hear(10)
    (alert,) = ground.alerts
    assert (alert.kind, str(alert.address), alert.account) == (KIND, ATTACKER, "")
    assert alert.reason.startswith("198.51.100.20/32 is banned, but ")
    assert ground.doubts.cause is not None
    assert alert.reason.endswith(f"{ground.doubts.cause.text}. {ground.doubts.cause.remedy}.")


async def test_packets_that_were_on_their_way_raise_no_doubt(fake: FakeFirewall) -> None:
    ground = await ground_after_a_ban(fake)
    await ground.hear(1000, every=(GRACE - 0.1) / 1000)
    ground.at += 60
    assert ground.alerts == []


async def test_events_that_waited_for_us_raise_no_doubt(fake: FakeFirewall) -> None:
    ground = await ground_after_a_ban(fake)
    ground.at += 20
    await ground.hear(100, every=0.1, late=30)
    assert ground.alerts == []


async def test_a_clock_of_asterisk_that_differs_changes_nothing(fake: FakeFirewall) -> None:
    ground = Ground(fake)
    ground.at += 60
    network = ip_network(f"{ATTACKER}/32")
    ground.judge.ledger.put(network, ground.at + 3600)
    evidence = [Evidence(ground.at - 86_400, "InvalidAccountID", "PJSIP", "100", "x", "UDP", ATTACKER, 5060)]
    ground.doubts.begin(Ban(network, ip_address(ATTACKER), ground.at, 3600, 1, "scan", "", evidence=evidence))
    await ground.hear(10, late=CLOCK + 86_400)
    assert len(ground.alerts) == 1


@pytest.mark.parametrize(("times", "every"), [(SEVERAL - 1, GRACE), (100, SPAN / 200)], ids=["too few", "all at once"])
async def test_a_few_stragglers_or_a_burst_raise_no_doubt(fake: FakeFirewall, times: int, every: float) -> None:
    ground = await ground_after_a_ban(fake)
    ground.at += GRACE
    await ground.hear(times, every=every)
    assert ground.alerts == []


async def test_one_cause_is_told_once_an_hour_whoever_shows_it(fake: FakeFirewall) -> None:
    ground = await ground_after_a_ban(fake)
    for number in range(1, 20):
        await ground.ban(f"203.0.113.{number}")
    for _ in range(50):
        for number in range(1, 20):
            await ground.hear(1, every=0.1, source=f"203.0.113.{number}")
    assert len(ground.alerts) == 1
    await ground.hear(int(PAUSE / 10), every=10)
    assert len(ground.alerts) == 2


async def test_the_cause_is_forgotten_when_nothing_arrives_any_more(fake: FakeFirewall) -> None:
    ground = await ground_after_a_ban(fake)
    await ground.hear(10)
    assert ground.doubts.cause is not None
    ground.at += CALM + 1
    await ground.doubts.look()
    assert ground.doubts.cause is None


async def test_where_nothing_is_to_be_dropped_nothing_is_doubted(fake: FakeFirewall) -> None:
    ground = await ground_after_a_ban(fake)
    ground.enforcer.is_enforcing = False
    await ground.hear(20)
    assert ground.alerts == []


async def test_a_kernel_that_refuses_is_the_cause(fake: FakeFirewall) -> None:
    ground = await ground_after_a_ban(fake)
    ground.enforcer.has_trouble = True
    await ground.hear(10)
    assert [ground.doubts.cause.kind, len(ground.alerts)] == ["refused", 1]


@pytest.fixture(params=[fresh_ipset, fresh_nftables], ids=["ipset", "nftables"])
async def real(request: pytest.FixtureRequest) -> AsyncIterator[Firewall]:
    async with request.param() as firewall:
        yield firewall


@pytest.mark.kernel
async def test_a_rule_that_somebody_took_out_is_named(real: Firewall) -> None:
    ground = await ground_after_a_ban(real, rule=make_rule(real.name, real.prefix))
    await ground.hear(10)
    assert ground.doubts.cause.kind == "no_rule"
    assert "Run amiwatch firewall install as root." in ground.alerts[0].reason


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("host", "kind"), [("127.0.0.1", "elsewhere"), ("203.0.113.99", "other_host")], ids=["here", "another host"]
)
async def test_an_asterisk_that_is_elsewhere_is_named(real: Firewall, host: str, kind: str) -> None:
    rule = make_rule(real.name, real.prefix)
    await rule.install(Protection())
    ground = await ground_after_a_ban(real, rule=rule, host=host)
    await ground.hear(int(GRACE + SPAN + CONFIRM))
    assert ground.doubts.cause is None
    await ground.hear(5)
    await rule.remove()
    assert ground.doubts.cause.kind == kind
    assert len(ground.alerts) == 1


@pytest.mark.kernel
async def test_what_was_flushed_and_is_mended_raises_no_alert(real: Firewall) -> None:
    rule = make_rule(real.name, real.prefix)
    await rule.install(Protection())
    ground = await ground_after_a_ban(real, rule=rule)
    ground.at += 60
    await ground.hear(5)  # while the sets were empty; now they are not
    for _ in range(100):
        ground.at += 1
        await ground.doubts.look()
    await rule.remove()
    assert ground.alerts == []


async def test_after_a_panic_its_packets_are_on_their_way_too(fake: FakeFirewall) -> None:
    ground = await ground_after_a_ban(fake)
    ground.enforcer.is_held = True
    await ground.hear(100)
    ground.enforcer.is_held = False
    await ground.hear(100, every=(GRACE - 0.1) / 100)
    assert ground.alerts == []
