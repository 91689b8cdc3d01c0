"""
Is the judge right? ``make judge``, or ``python -m bench.judge [--seeds N] [--first SEED] [--weeks N] [WORLD ...]``.

Plays labelled worlds (``amiwatch.testing.worlds``) on all cores and prints who was banned that should not have been,
who was not that should have been, how many attempts got through before the ban, and which alerts were right. Beside
it, on the same worlds, two plain judges that count events for each address, with the defaults of fail2ban and sipban.

``--wire`` lets the worlds go through the parser as bytes; otherwise only forged messages do.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import defaultdict, deque
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from random import Random

from amiwatch.ami.wire import Tampered
from amiwatch.judgement.judge import Judge
from amiwatch.judgement.networks import key_network, source_key
from amiwatch.judgement.rules import POLICIES, Policy
from amiwatch.judgement.values import Ban, IPAddress, SecurityEvent, Verdict
from amiwatch.testing.worlds import SMALL, mixed_week, small
from bench.scoreboard import Board, Player, bars, compare, show

SWEEP_PAUSE = 5.0
"""How often the daemon lets the judge look for challenges that stay unanswered, in seconds."""

WEEK = "week"


class Ours:
    """The judge of the package."""

    def __init__(self, policy: Policy) -> None:
        self.judge = Judge(policy, random=Random(0))
        self._sweep_at = 0.0

    def see(self, event: SecurityEvent, now: float) -> Sequence[Verdict]:
        if now < self._sweep_at:
            return self.judge.see(event, now)
        self._sweep_at = now + SWEEP_PAUSE
        return (*self.judge.sweep(now), *self.judge.see(event, now))

    def refuse(self, block: Tampered, now: float) -> None:
        self.judge.refuse(block.session, now)

    def is_banned(self, source: IPAddress, now: float) -> bool:
        return self.judge.ledger.is_banned(source_key(source), source, now)


@dataclass(frozen=True)
class Plain:
    """A rule of those who count: so many of these events from one address within ``find_time`` seconds."""

    kinds: frozenset[str]
    limit: int
    find_time: float
    ban_time: float


FAIL2BAN = Plain(
    frozenset({"InvalidAccountID", "ChallengeResponseFailed", "InvalidPassword", "FailedACL"}), 5, 600, 600
)
"""fail2ban's defaults: maxretry 5, findtime and bantime 10 minutes, on the lines that its filter knows."""

SIPBAN = Plain(frozenset({"InvalidAccountID"}), 1, 1, 7 * 86400)
"""sipban's: the first InvalidAccountID bans for a week."""


class Counting:
    """A judge that counts events for each address and knows nothing else."""

    def __init__(self, rule: Plain) -> None:
        self.rule = rule
        self.seen: dict[int, deque[float]] = defaultdict(lambda: deque(maxlen=rule.limit))
        self.banned: dict[int, float] = {}

    def see(self, event: SecurityEvent, now: float) -> Sequence[Verdict]:
        if event.kind not in self.rule.kinds:
            return ()
        times = self.seen[int(event.source)]
        times.append(now)
        if len(times) < self.rule.limit or now - times[0] > self.rule.find_time:
            return ()
        times.clear()
        self.banned[int(event.source)] = now + self.rule.ban_time
        network = key_network(source_key(event.source))
        return (Ban(network, event.source, now, int(self.rule.ban_time), 1, "count", ""),)

    def refuse(self, block: Tampered, now: float) -> None:
        """Do nothing: the parser spares it what fails others."""

    def is_banned(self, source: IPAddress, now: float) -> bool:
        return self.banned.get(int(source), 0.0) > now


PLAIN = {"fail2ban's counting": FAIL2BAN, "sipban's counting": SIPBAN}
OURS = "amiwatch"


def play(title: str, policy: str, name: str, seed: int, by_wire: bool) -> Board:
    """Play one world with one judge."""
    player: Player = Counting(PLAIN[title]) if title in PLAIN else Ours(Policy(policy, POLICIES[policy]))
    board = Board()
    board.play(mixed_week(seed) if name == WEEK else small(name, seed), player, by_wire=by_wire)
    return board


def play_all(
    titles: Sequence[str], worlds: Sequence[tuple[str, int]], *, policy: str, by_wire: bool
) -> dict[str, Board]:
    """Play these worlds with these judges, in as many processes as there are cores."""
    boards = {title: Board() for title in titles}
    # The longest first, or the last of them is waited for.
    ordered = sorted(worlds, key=lambda world: world[0] != WEEK)
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        tasks = {
            pool.submit(partial(play, title, policy, name, seed, by_wire)): (title, name, seed)
            for name, seed in ordered
            for title in titles
        }
        for task in as_completed(tasks):
            boards[tasks[task][0]].merge(task.result())
    return boards


def main(arguments: Sequence[str]) -> int:
    """Play, print, and return 1 if an honest source was banned or an attacker who went on was missed."""
    parser = argparse.ArgumentParser(prog="python -m bench.judge", description="Is the judge right?")
    every = [*SMALL, WEEK]
    parser.add_argument("names", nargs="*", metavar="WORLD", help=f"of {', '.join(every)}; all unless told")
    parser.add_argument("--worlds", nargs="+", default=[], metavar="WORLD", help="the same, as an option")
    parser.add_argument("--seeds", type=int, default=3, help="how many (3)")
    parser.add_argument("--first", type=int, default=100, help="the first of them (100)")
    parser.add_argument("--weeks", type=int, help="how many of the seeds also get a mixed week (all)")
    parser.add_argument("--policy", choices=POLICIES, default="office")
    parser.add_argument("--wire", action="store_true", help="let all go through the parser as bytes")
    parser.add_argument("--alone", action="store_true", help="without the plain judges")
    parser.add_argument(
        "--details",
        type=int,
        default=10,
        help="lines of each sort of mistake (10)",
    )
    chosen = parser.parse_args(arguments)
    names = [*chosen.names, *chosen.worlds] or every
    if strange := set(names) - set(every):
        parser.error(f"no world is called {', '.join(sorted(strange))}; there are {', '.join(every)}")
    weeks = chosen.seeds if chosen.weeks is None else chosen.weeks
    seeds = range(chosen.first, chosen.first + chosen.seeds)
    worlds = [(name, seed) for name in names for seed in (seeds[:weeks] if name == WEEK else seeds)]
    titles = [OURS] if chosen.alone else [OURS, *PLAIN]
    print(f"seeds {seeds.start} to {seeds.stop - 1}, {len(worlds)} worlds: {', '.join(names)}", flush=True)
    began = time.monotonic()
    boards = play_all(titles, worlds, policy=chosen.policy, by_wire=chosen.wire)
    for title, board in boards.items():
        show(title, board, details=chosen.details)
    if len(boards) > 1:
        compare(boards)
    print(f"\n## Bars ({time.monotonic() - began:,.0f} s)\n")
    held = bars(boards[OURS])
    for is_held, line in held:
        print(f"{'held  ' if is_held else 'MISSED'} {line}")
    return 0 if all(is_held for is_held, _ in held) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
