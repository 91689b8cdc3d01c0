"""
Is the judge right? ``make judge``, or ``python -m bench.judge [--seeds N] [--first SEED] [--wire] [WORLD ...]``.

Plays labelled worlds (``amiwatch.testing.worlds``) and prints who was banned that should not have been, who was not
that should have been, how many attempts got through before the ban, and which alerts were right. Beside it, on the same
worlds, two plain judges that count events for each address, with the defaults of fail2ban and of sipban.

``--wire`` lets the worlds go through the parser as bytes; otherwise only those with forged messages do.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from random import Random
from statistics import median
from typing import Protocol

from amiwatch.ami.wire import Wire
from amiwatch.judgement.judge import Judge
from amiwatch.judgement.networks import key_network, source_key
from amiwatch.judgement.rules import POLICIES, Policy
from amiwatch.judgement.values import Alert, Ban, IPAddress, SecurityEvent, Verdict
from amiwatch.testing.actors import Actor, Role
from amiwatch.testing.world import Happening, World
from amiwatch.testing.worlds import SMALL, mixed_week, small

MANY, ENOUGH = 20, 10
"""Attempts from which on an attacker has to be banned always, and nearly always."""


class Player(Protocol):
    """Whoever can be asked what he would do."""

    def see(self, event: SecurityEvent, now: float) -> Sequence[Verdict]: ...

    def is_banned(self, source: IPAddress, now: float) -> bool: ...


class Ours:
    """The judge of the package."""

    def __init__(self, policy: Policy) -> None:
        self.judge = Judge(policy, random=Random(0))

    def see(self, event: SecurityEvent, now: float) -> Sequence[Verdict]:
        return self.judge.see(event, now)

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
        self.seen: dict[IPAddress, deque[float]] = defaultdict(lambda: deque(maxlen=rule.limit))
        self.banned: dict[IPAddress, float] = {}

    def see(self, event: SecurityEvent, now: float) -> Sequence[Verdict]:
        if event.kind not in self.rule.kinds:
            return ()
        times = self.seen[event.source]
        times.append(now)
        if len(times) < self.rule.limit or now - times[0] > self.rule.find_time:
            return ()
        times.clear()
        self.banned[event.source] = now + self.rule.ban_time
        network = key_network(source_key(event.source))
        return (Ban(network, event.source, now, int(self.rule.ban_time), 1, "count", ""),)

    def is_banned(self, source: IPAddress, now: float) -> bool:
        return self.banned.get(source, 0.0) > now


@dataclass
class Score:
    """What became of the sources of one kind of actor, over all seeds."""

    role: Role
    sources: int = 0
    banned: int = 0
    many: int = 0
    many_missed: int = 0
    enough: int = 0
    enough_missed: int = 0
    through: list[int] = field(default_factory=list)
    """Attempts of each attacker before his first ban."""
    tried: int = 0
    arrived: int = 0
    """Attempts that were not dropped, before the first ban and after the last."""
    right: int = 0
    wrong: Counter[str] = field(default_factory=Counter)
    silent: int = 0
    """Actors about whom an alert should have come and none did."""
    actors: int = 0


class Board:
    """The sums over all worlds and seeds."""

    def __init__(self) -> None:
        self.scores: dict[str, Score] = {}
        self.strangers = 0
        """Addresses without an owner, used by a forger, that were banned."""
        self.misjudged: list[str] = []
        self.alarms: list[int] = []
        """Attempts of each campaign before its alert."""
        self.bans: Counter[str] = Counter()
        self.general: Counter[str] = Counter()
        self.events = 0
        self.seconds = 0.0

    def play(self, world: World, player: Player, *, by_wire: bool) -> None:
        play = Play(world, player)
        began = time.process_time()
        play.run(by_wire=by_wire)
        self.seconds += time.process_time() - began
        self.events += play.events
        for actor in world.actors:
            self._add(play, actor)
        self.bans.update(play.rules)
        self.general.update(play.general)
        self.strangers += len(play.strangers)

    def _add(self, play: Play, actor: Actor) -> None:
        score = self.scores.setdefault(actor.name, Score(actor.role))
        score.actors += 1
        for key in {source_key(source) for source in actor.sources}:
            score.sources += 1
            is_banned, tried = key in play.banned, play.world.tried[key]
            score.banned += is_banned
            if actor.role is Role.HONEST and is_banned:
                self.misjudged.append(f"{play.world.name}, seed {play.world.seed}: {actor.name}: {play.banned[key]}")
            if actor.role is not Role.ATTACKER:
                continue
            score.many += tried >= MANY
            score.enough += tried >= ENOUGH
            if is_banned:
                score.through.append(play.through[key])
            elif tried >= ENOUGH:
                score.enough_missed += 1
                score.many_missed += tried >= MANY
                self.misjudged.append(f"{play.world.name}, seed {play.world.seed}: missed {actor.name}, {tried} tries")
        score.tried += sum(play.world.tried[key] for key in {source_key(source) for source in actor.sources})
        score.arrived += play.made[actor]
        told = play.told[actor]
        score.right += sum(number for kind, number in told.items() if kind in actor.alerts)
        score.wrong.update({kind: number for kind, number in told.items() if kind not in actor.alerts})
        is_out = any(source_key(source) in play.banned for source in actor.sources)
        if actor.must_alert and not is_out and not told.keys() & actor.alerts:
            score.silent += 1
        if "account_attacked" in actor.alerts and actor in play.alarmed:
            self.alarms.append(play.alarmed[actor])


class Play:
    """One world, played through by one judge."""

    def __init__(self, world: World, player: Player) -> None:
        self.world = world
        self.player = player
        self.events = 0
        self.banned: dict[int, str] = {}
        """Source → why it was banned first."""
        self.through: Counter[int] = Counter()
        """Source → attempts that arrived before its first ban."""
        self.made: Counter[Actor] = Counter()
        self.told: dict[Actor, Counter[str]] = defaultdict(Counter)
        self.general: Counter[str] = Counter()
        self.alarmed: dict[Actor, int] = {}
        self.strangers: set[int] = set()
        self.rules: Counter[str] = Counter()

    def run(self, *, by_wire: bool) -> None:
        wire = Wire(has_pings=False)
        for happening in self.world.happenings(self.player.is_banned):
            self.events += 1
            if happening.is_attempt:
                self._count(happening)
            if by_wire:
                for item in wire.feed(happening.to_bytes()):
                    if isinstance(item, SecurityEvent):
                        self._take(happening, item)
            elif not happening.is_tampered:
                self._take(happening, happening.event)

    def _count(self, happening: Happening) -> None:
        self.made[happening.actor] += 1
        key = source_key(happening.event.source)
        if key not in self.banned:
            self.through[key] += 1

    def _take(self, happening: Happening, event: SecurityEvent) -> None:
        for verdict in self.player.see(event, event.at):
            if isinstance(verdict, Ban):
                self._ban(verdict)
            else:
                self._alert(verdict, happening.actor)

    def _ban(self, ban: Ban) -> None:
        self.rules[ban.rule] += 1
        for source in (ban.address,):
            key = source_key(source)
            self.banned.setdefault(key, f"{ban.rule}: {ban.reason}")
            if self.world.owner(source) is None:
                self.strangers.add(key)

    def _alert(self, alert: Alert, sender: Actor) -> None:
        owner = None if alert.address is None else self.world.owner(alert.address)
        if sender.role is Role.FORGER and alert.kind in ("trusted_offender", "allowed_offender"):
            owner = None  # said of the victim, and right
        if owner is None:
            self.general[alert.kind] += 1
            for actor in self.world.actors:
                if alert.kind in actor.alerts and actor.must_alert:
                    self.told[actor][alert.kind] += 1
                    self.alarmed.setdefault(actor, self.made[actor])
        else:
            self.told[owner][alert.kind] += 1


def ninetieth(numbers: Sequence[int]) -> int:
    return sorted(numbers)[min(len(numbers) - 1, int(0.9 * len(numbers)))]


def show(title: str, board: Board, *, details: int) -> None:
    print(f"\n## {title}: {board.events:,} events, {board.events / max(board.seconds, 1e-9):,.0f} a second\n")
    head = (
        "who",
        "sources",
        "banned",
        "missed >=20",
        "missed >=10",
        "median",
        "p90",
        "arrived",
        "alerts",
        "wrong",
        "none",
    )
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for name, score in sorted(
        board.scores.items(), key=lambda item: (item[1].role != Role.HONEST, item[1].role, item[0])
    ):
        through = score.through
        is_attacker = score.role is Role.ATTACKER
        row = (
            f"{name} ({score.role})",
            score.sources,
            score.banned,
            f"{score.many_missed} of {score.many}" if is_attacker else "",
            f"{score.enough_missed} of {score.enough}" if is_attacker else "",
            f"{median(through):g}" if through else "",
            ninetieth(through) if through else "",
            f"{score.arrived:,} of {score.tried:,}" if score.tried else "",
            score.right,
            ", ".join(f"{kind} {number}" for kind, number in sorted(score.wrong.items())) or 0,
            score.silent,
        )
        print("| " + " | ".join(map(str, row)) + " |")
    print("\n" + summary(board))
    for line in board.misjudged[:details]:
        print(f"  {line}")


def summary(board: Board) -> str:
    scores = board.scores.values()
    honest = [score for score in scores if score.role is Role.HONEST]
    enough, missed = sum(s.enough for s in scores), sum(s.enough_missed for s in scores)
    many, many_missed = sum(s.many for s in scores), sum(s.many_missed for s in scores)
    wrong = sum((score.wrong for score in scores), Counter[str]())
    return (
        f"honest sources banned: {sum(s.banned for s in honest)} of {sum(s.sources for s in honest)}; "
        f"strangers banned because of forged addresses: {board.strangers}; "
        f"attackers with >= {MANY} attempts missed: {many_missed} of {many}; "
        f"with >= {ENOUGH}: {missed} of {enough}; "
        f"alerts right {sum(s.right for s in scores)}, wrong {sum(wrong.values())} {dict(wrong)}, "
        f"missing {sum(s.silent for s in scores)}; about nobody {dict(board.general)}; "
        f"campaigns alerted after {sorted(board.alarms)} attempts; rules {dict(board.bans)}"
    )


def worlds(names: Sequence[str], seeds: Iterable[int]) -> Iterable[World]:
    for seed in seeds:
        for name in names:
            yield mixed_week(seed) if name == "week" else small(name, seed)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.judge", description="Is the judge right?")
    parser.add_argument("worlds", nargs="*", help=f"of {', '.join([*SMALL, 'week'])}; all unless told")
    parser.add_argument("--seeds", type=int, default=3, help="how many (3)")
    parser.add_argument("--first", type=int, default=100, help="the first of them (100)")
    parser.add_argument("--policy", choices=POLICIES, default="office")
    parser.add_argument("--wire", action="store_true", help="let all go through the parser as bytes")
    parser.add_argument("--alone", action="store_true", help="without the plain judges")
    parser.add_argument("--details", type=int, default=10, help="misjudgements to show of each judge (10)")
    chosen = parser.parse_args(arguments)
    seeds = range(chosen.first, chosen.first + chosen.seeds)
    names = chosen.worlds or [*SMALL, "week"]
    print(f"seeds {seeds.start} to {seeds.stop - 1}, worlds: {', '.join(names)}")
    policy = Policy(chosen.policy, POLICIES[chosen.policy])
    judges: dict[str, Callable[[], Player]] = {"amiwatch": lambda: Ours(policy)}
    if not chosen.alone:
        judges |= {"fail2ban's counting": lambda: Counting(FAIL2BAN), "sipban's counting": lambda: Counting(SIPBAN)}
    ours = Board()
    for title, make in judges.items():
        board = ours if title == "amiwatch" else Board()
        for world in worlds(names, seeds):
            board.play(world, make(), by_wire=chosen.wire or world.name == "forgers")
        show(title, board, details=chosen.details)
    return 1 if any(score.role is Role.HONEST and score.banned for score in ours.scores.values()) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
