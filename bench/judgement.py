"""
Wire and judgement: events a second, with 100,000 active sources too, and memory against a flood of invented ones.

``python -m bench.judgement`` prints all; ``python -m bench.judgement memory [SOURCES]`` is the memory run alone, and
``active [SOURCES]`` the one with active sources.
"""

from __future__ import annotations

import gc
import gzip
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address
from pathlib import Path
from random import Random
from typing import NamedTuple

from amiwatch.ami.wire import Wire
from amiwatch.daemon.collector import NEVER, YOUNG_OBJECTS, YOUNG_ROUNDS
from amiwatch.judgement.judge import Judge
from amiwatch.judgement.rules import Policy
from amiwatch.judgement.values import Ban, SecurityEvent
from amiwatch.testing.builders import STEPS, Case, attempt_bytes

FLOOD = Path(__file__).parents[1] / "tests" / "recordings" / "ast22-pjsip-flood-reg-unknown-max.ami.gz"
RUNS = 5
READ = 65_536
"""Bytes of one read of the socket."""

INVENTED = 0x0B000000
OFFENDER = IPv4Address("203.0.113.66")
MEMORY_LIMIT = 400
"""What a million invented sources may take, in MB."""


def read(data: bytes) -> Iterable[SecurityEvent]:
    """Yield the events as they come off the wire: the daemon keeps none of them."""
    wire = Wire(has_pings=False)
    for at in range(0, len(data), READ):
        yield from (item for item in wire.feed(data[at : at + READ]) if type(item) is SecurityEvent)


def parse(data: bytes) -> int:
    """Parse and throw away; return how many there were."""
    wire = Wire(has_pings=False)
    return sum(len(wire.feed(data[at : at + READ])) for at in range(0, len(data), READ))


def judge(events: Iterable[SecurityEvent], sources: Policy | None = None) -> Judge:
    judge = Judge(sources or Policy())
    for event in events:
        judge.see(event, event.at)
    return judge


def spread(data: bytes, sources: int) -> bytes:
    """Let the recorded flood come from so many sources, in turn; the bytes keep their length."""
    blocks = data.split(b"\r\n\r\n")
    mark = b"RemoteAddress: IPV4/UDP/203.0.113."
    for at, block in enumerate(blocks):
        if mark in block:
            head, _, tail = block.partition(mark)
            number = (at // 2) % sources
            rest = tail.partition(b"/")[2]
            blocks[at] = head + b"RemoteAddress: IPV4/UDP/198.18.%d.%d/" % (number >> 8, number & 255) + rest
    return b"\r\n\r\n".join(blocks)


def measure(what: str, count: int, run: Callable[[], object]) -> None:
    rates = []
    for _ in range(RUNS):
        begin = time.process_time()
        run()
        rates.append(count / (time.process_time() - begin))
    rates.sort()
    print(f"{what:<56}{rates[len(rates) // 2]:>12,.0f}{rates[-1]:>12,.0f}")


def speed() -> None:
    flood = gzip.decompress(FLOOD.read_bytes())
    print(f"{'events a second of CPU time, ' + str(RUNS) + ' runs':<56}{'median':>12}{'best':>12}")
    for sources in (20, 1_000, 50_000):
        data = flood if sources == 20 else spread(flood, sources)
        count = parse(data)
        name = f"{count:,} recorded events, {sources:,} attackers"
        measure(f"{name}: wire", count, lambda data=data: parse(data))  # type: ignore[misc]
        measure(f"{name}: wire, judge", count, lambda data=data: judge(read(data)))  # type: ignore[misc]


ROUNDS = 3
"""Times that each active source comes back while the clock runs, after ``WARM`` times when it does not."""

WARM = 2
RATE = 10_000
"""Events a second of the recorded time: what a real Asterisk sent at most, rounded."""

DRAIN = 5.0
"""Seconds of the recorded time after which the sums are taken, as the daemon does."""


class Kind(NamedTuple):
    """What one of the active sources does each time it comes."""

    share: int
    """Of a hundred sources."""
    case: Case
    transport: str
    has_new_account: bool = False


KINDS = (
    Kind(60, Case.RIGHT_PASSWORD, "UDP"),
    Kind(20, Case.RIGHT_PASSWORD, "TLS"),
    Kind(5, Case.WRONG_PASSWORD, "UDP"),
    Kind(5, Case.UNKNOWN_ACCOUNT, "UDP"),
    Kind(4, Case.UNKNOWN_ACCOUNT, "UDP", has_new_account=True),
    Kind(3, Case.UNKNOWN_ACCOUNT_ANSWERED, "TCP", has_new_account=True),
    Kind(3, Case.WRONG_PASSWORD, "UDP", has_new_account=True),
)
"""Phones that log in, phones with an old password, monitors; then scanners, and guessers at accounts that exist."""


def active_bytes(sources: int, turn: int) -> tuple[bytes, int]:
    """Let each source come once, in an order of its own each turn; return the bytes and how many events they are."""
    cast = [kind for kind in KINDS for _ in range(kind.share)]
    order = list(range(sources))
    Random(turn).shuffle(order)
    parts, count = [], 0
    begin = 1e9 + turn * sources * 3 / RATE
    for number in order:
        kind = cast[number % 100]
        account = str(10_000 + number + (turn * sources if kind.has_new_account else 0))
        parts.append(
            attempt_bytes(
                kind.case,
                account=account,
                source=IPv4Address(INVENTED + number),
                session=f"{number:08x}-{turn:04x}-4c8c-9d5c@host",
                transport=kind.transport,
                at=round(begin + count / RATE, 3),
            )
        )
        count += len(STEPS[kind.case])
    return b"".join(parts), count


def feed(watch: Judge, wire: Wire, data: bytes) -> None:
    """Parse and judge as the daemon does."""
    drain_at = 0.0
    for at in range(0, len(data), READ):
        for item in wire.feed(data[at : at + READ]):
            if type(item) is SecurityEvent:
                watch.see(item, item.at)
                if item.at >= drain_at:
                    watch.tally.drain()
                    watch.sweep(item.at)
                    drain_at = item.at + DRAIN


def active(sources: int) -> int:
    """Measure with so many sources alive in the tables."""
    gc.set_threshold(YOUNG_OBJECTS, YOUNG_ROUNDS, NEVER)  # as the daemon does
    watch, wire, rates = Judge(Policy(max_trusted=sources)), Wire(has_pings=False), []
    for turn in range(WARM + ROUNDS):
        data, count = active_bytes(sources, turn)
        begin = time.process_time()
        feed(watch, wire, data)
        if turn >= WARM:
            rates.append(count / (time.process_time() - begin))
    rates.sort()
    print(
        f"{sources:,} active sources, {count:,} events a turn: {rates[len(rates) // 2]:,.0f} events/s "
        f"(median of {ROUNDS} turns, best {rates[-1]:,.0f}); alive in the tables: {len(watch.sources):,} watched, "
        f"{len(watch.trust):,} trusted, {len(watch.ledger):,} banned"
    )
    return 0


def invented(count: int) -> Iterable[SecurityEvent]:
    """One request of each of so many sources, and an offender who tries five accounts meanwhile."""
    for number in range(count):
        at, session = 1e9 + number / 5_000, f"{number:08x}-8f1c-4c8c-9d5c@host"
        source = IPv4Address(INVENTED + number)
        plain = SecurityEvent("InvalidAccountID", at, "PJSIP", str(number), session, "UDP", source, 5060, 5060)
        yield plain
        yield plain._replace(kind="ChallengeSent", account="<unknown>")
        if number % 50_000 == 1:
            yield plain._replace(source=OFFENDER, session=session + "x")


def memory(sources: int) -> int:
    watch, banned = Judge(Policy()), set()
    begin = time.process_time()
    for event in invented(sources):
        banned |= {verdict.address for verdict in watch.see(event, event.at) if isinstance(verdict, Ban)}
    took = time.process_time() - begin
    # Not getrusage: its peak is inherited from the process that started this one.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    peak = int(status["VmHWM"].split()[0]) / 1000
    print(
        f"{sources:,} invented sources: {peak:.0f} MB at most (limit {MEMORY_LIMIT}), "
        f"{2 * sources / took:,.0f} events/s, {len(watch.sources):,} watched, "
        f"offender {'caught' if banned == {OFFENDER} else 'MISSED'}"
    )
    return 0 if peak < MEMORY_LIMIT and banned == {OFFENDER} else 1


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["memory"]:
        return memory(int(arguments[1]) if arguments[1:] else 1_000_000)
    if arguments[:1] == ["active"]:
        return active(int(arguments[1]) if arguments[1:] else 100_000)
    speed()
    parts = [
        subprocess.run([sys.executable, "-m", "bench.judgement", part], check=False) for part in ("active", "memory")
    ]
    return sum(part.returncode for part in parts)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
