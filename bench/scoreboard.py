"""What becomes of everybody in simulated worlds: who was banned, how late, and which alerts were right."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Protocol

from amiwatch.ami.wire import Tampered, Wire
from amiwatch.judgement.networks import source_key
from amiwatch.judgement.values import Alert, Ban, IPAddress, Lift, SecurityEvent, Verdict
from amiwatch.testing.actors import SLOW_BAR, Actor, Role
from amiwatch.testing.world import Happening, World

MANY, ENOUGH = 20, 10
"""Attempts from which on an attacker has to be banned always, and nearly always."""

MISSED_SHARE = 0.01
"""Share of those with ``ENOUGH`` attempts that may be missed."""

LATE = 2
"""How many times its bar an attacker may need before he is shown by name."""

CAMPAIGN_BAR = 50
"""Attempts of a campaign before its alert, at most."""


class Player(Protocol):
    """Whoever can be asked what he would do."""

    def see(self, event: SecurityEvent, now: float) -> Sequence[Verdict]: ...

    def refuse(self, block: Tampered, now: float) -> None: ...

    def is_banned(self, source: IPAddress, now: float) -> bool: ...


@dataclass
class Score:
    """What became of the sources of one kind of actor."""

    role: Role
    bar: int
    actors: int = 0
    sources: int = 0
    banned: int = 0
    lifted: int = 0
    many: int = 0
    many_missed: int = 0
    enough: int = 0
    enough_missed: int = 0
    plain: list[int] = field(default_factory=list)
    """Attempts of each attacker before his first ban, on systems that name every stranger."""
    freepbx: list[int] = field(default_factory=list)
    """The same where PJSIP also looks for ``auth_username`` and names few."""
    tried: int = 0
    arrived: int = 0
    """Attempts that were not dropped, before the first ban and after the last."""
    right: int = 0
    wrong: Counter[str] = field(default_factory=Counter)
    silent: int = 0
    """Actors that were not banned, and about whom an alert should have come and none did."""
    must_alert: int = 0

    @property
    def through(self) -> list[int]:
        """Attempts of each attacker before his first ban, everywhere."""
        return self.plain + self.freepbx

    def merge(self, other: Score) -> None:
        """Add what became of more of them."""
        for name, value in vars(other).items():
            if name not in ("role", "bar"):
                setattr(self, name, getattr(self, name) + value)


@dataclass
class Board:
    """The sums over worlds and seeds."""

    scores: dict[str, Score] = field(default_factory=dict)
    strangers: int = 0
    """Addresses without an owner, used by a forger, that were banned."""
    misjudged: list[str] = field(default_factory=list)
    """Honest sources that were banned, and attackers who were not."""
    late: list[str] = field(default_factory=list)
    """Attackers who were banned long after the bar of their kind."""
    wrong: list[str] = field(default_factory=list)
    """Alerts that were wrong, or did not come."""
    alarms: list[int] = field(default_factory=list)
    """Attempts of each campaign before its alert."""
    campaigns: int = 0
    bans: Counter[str] = field(default_factory=Counter)
    general: Counter[str] = field(default_factory=Counter)
    """Alerts about nobody, by kind, that were right."""
    general_wrong: Counter[str] = field(default_factory=Counter)
    events: int = 0
    seconds: float = 0.0

    def play(self, world: World, player: Player, *, by_wire: bool) -> None:
        """Let this world happen, and note what becomes of everybody."""
        play = Play(world, player)
        began = time.process_time()
        play.run(by_wire=by_wire)
        self.seconds += time.process_time() - began
        self.events += play.events
        for actor in world.actors:
            self._add(play, actor)
        self.bans.update(play.rules)
        self.general.update(play.general)
        self.general_wrong.update(play.general_wrong)
        self.wrong += [f"{play.where}wrong {kind} {number} about nobody" for kind, number in play.general_wrong.items()]
        self.strangers += len(play.strangers)

    def merge(self, other: Board) -> None:
        """Add what was noted of other worlds."""
        for name, value in vars(other).items():
            if name != "scores":
                setattr(self, name, getattr(self, name) + value)
        for name, score in other.scores.items():
            if name in self.scores:
                self.scores[name].merge(score)
            else:
                self.scores[name] = score

    def _add(self, play: Play, actor: Actor) -> None:
        score = self.scores.setdefault(actor.name, Score(actor.role, actor.bar))
        score.actors += 1
        keys = {source_key(source) for source in actor.sources}
        for key in keys:
            self._add_source(score, play, actor, key)
        score.tried += sum(play.world.tried[key] for key in keys)
        score.arrived += play.made[actor]
        told = play.told[actor]
        score.right += sum(number for kind, number in told.items() if kind in actor.alerts)
        wrong = Counter({kind: number for kind, number in told.items() if kind not in actor.alerts})
        score.wrong.update(wrong)
        self.wrong += [f"{play.where}wrong {kind} {number} about {actor.name}" for kind, number in wrong.items()]
        if actor.must_alert:
            score.must_alert += 1
            if not keys & play.banned.keys() and not told.keys() & actor.alerts:
                score.silent += 1
                self.wrong.append(f"{play.where}no {' or '.join(sorted(actor.alerts))} about {actor.name}")
        if "account_attacked" in actor.alerts:
            self.campaigns += 1
            self.alarms += [play.alarmed[actor]] if actor in play.alarmed else []

    def _add_source(self, score: Score, play: Play, actor: Actor, key: int) -> None:
        score.sources += 1
        is_banned, tried = key in play.banned, play.world.tried[key]
        score.banned += is_banned
        score.lifted += key in play.lifted
        if actor.role is Role.HONEST and is_banned:
            self.misjudged.append(f"{play.where}{actor.name}: {play.banned[key]}")
        if actor.role is not Role.ATTACKER:
            return
        score.many += tried >= MANY
        score.enough += tried >= ENOUGH
        if is_banned:
            (score.freepbx if play.world.is_freepbx else score.plain).append(play.through[key])
            if play.through[key] > LATE * actor.bar:
                self.late.append(f"{play.where}{actor.name} after {play.through[key]}: {play.banned[key]}")
        elif tried >= ENOUGH:
            score.enough_missed += 1
            score.many_missed += tried >= MANY
            self.misjudged.append(f"{play.where}missed {actor.name}, {tried} tries")


class Play:
    """One world, played through by one judge."""

    def __init__(self, world: World, player: Player) -> None:
        self.world = world
        self.where = f"{world.name}, seed {world.seed}: "
        self.has_forger = any(actor.role is Role.FORGER for actor in world.actors)
        self.player = player
        self.events = 0
        self.banned: dict[int, str] = {}
        """Source → why it was banned first; not for a ban that was lifted."""
        self.lifted: set[int] = set()
        """Sources whose ban was lifted, so that it lasted seconds."""
        self.through: Counter[int] = Counter()
        """Source → attempts that arrived before its first ban."""
        self.made: Counter[Actor] = Counter()
        self.told: dict[Actor, Counter[str]] = defaultdict(Counter)
        self.general: Counter[str] = Counter()
        self.general_wrong: Counter[str] = Counter()
        self.alarmed: dict[Actor, int] = {}
        self.strangers: set[int] = set()
        self.rules: Counter[str] = Counter()

    def run(self, *, by_wire: bool) -> None:
        """Let everything happen; ``by_wire`` as bytes that are parsed."""
        wire = Wire(has_pings=False)
        for happening in self.world.happenings(self.player.is_banned):
            self.events += 1
            if happening.is_attempt:
                self._count(happening)
            if not by_wire and not happening.is_tampered:
                self._take(happening, happening.event)
                continue
            for item in wire.feed(happening.to_bytes()):
                if isinstance(item, SecurityEvent):
                    self._take(happening, item)
                elif isinstance(item, Tampered):
                    self.player.refuse(item, happening.event.at)

    def _count(self, happening: Happening) -> None:
        self.made[happening.actor] += 1
        key = source_key(happening.event.source)
        if key not in self.banned:
            self.through[key] += 1

    def _take(self, happening: Happening, event: SecurityEvent) -> None:
        for verdict in self.player.see(event, event.at):
            if isinstance(verdict, Ban):
                self._ban(verdict)
            elif isinstance(verdict, Lift):
                self._lift(verdict)
            else:
                self._alert(verdict, happening.actor)

    def _ban(self, ban: Ban) -> None:
        self.rules[ban.rule] += 1
        key = source_key(ban.address)
        self.banned.setdefault(key, f"{ban.rule}: {ban.reason}")
        if self.world.owner(ban.address) is None:
            self.strangers.add(key)

    def _lift(self, lift: Lift) -> None:
        key = source_key(lift.address)
        self.banned.pop(key, None)
        self.strangers.discard(key)
        self.lifted.add(key)

    def _alert(self, alert: Alert, sender: Actor) -> None:
        owner = None if alert.address is None else self.world.owner(alert.address)
        # What a sweep finds comes with the next event of anybody.
        is_forged = sender.role is Role.FORGER or (self.has_forger and alert.kind == "chan_sip_offender")
        if owner is not None and not (is_forged and alert.kind in SAID_OF_VICTIMS):
            self.told[owner][alert.kind] += 1
            return
        meant = [actor for actor in self.world.actors if alert.kind in actor.alerts]
        is_right = bool(meant) or alert.kind in SAID_OF_VICTIMS
        (self.general if is_right else self.general_wrong)[alert.kind] += 1
        for actor in meant:
            if actor.must_alert:
                self.told[actor][alert.kind] += 1
                if alert.kind == "account_attacked":
                    self.alarmed.setdefault(actor, self.made[actor])


SAID_OF_VICTIMS = frozenset(
    (
        "trusted_offender", "allowed_offender", "chan_sip_offender", "shared_address", "broken_phone", "broken_site",
        "unknown_carrier", "phone_kept_out",
    )
)  # fmt: skip
"""Alerts that are right about somebody in whose name a forger sends: that is what his address was seen to send."""


# Printing.

HEAD = (
    "who", "sources", "banned", "lifted", f"missed >={MANY}", f"missed >={ENOUGH}", "median", "plain", "FreePBX",
    "90 %", "worst", "arrived", "alerts right", "wrong", "missing",
)  # fmt: skip


def by_role(board: Board) -> list[tuple[str, Score]]:
    """List the scores, the honest first."""
    return sorted(board.scores.items(), key=lambda item: (item[1].role != Role.HONEST, item[1].role, item[0]))


def show(title: str, board: Board, *, details: int) -> None:
    """Print everybody's row, and the first misjudgements."""
    rate = board.events / max(board.seconds, 1e-9)
    print(f"\n## {title}: {board.events:,} events, {rate:,.0f} a second of CPU time\n")
    print("| " + " | ".join(HEAD) + " |\n|" + "---|" * len(HEAD))
    for name, score in by_role(board):
        print("| " + " | ".join(map(str, _row(name, score))) + " |")
    print(f"\nalerts about nobody: right {dict(board.general)}, wrong {dict(board.general_wrong)}")
    print(f"strangers banned whose addresses were forged: {board.strangers}; bans by rule: {dict(board.bans)}")
    for lines in (board.misjudged, board.wrong, board.late):
        for line in sorted(lines)[:details]:
            print(f"  {line}")


def _row(name: str, score: Score) -> Iterator[object]:
    through, is_attacker = sorted(score.through), score.role is Role.ATTACKER
    yield f"{name} ({score.role})"
    yield f"{score.sources:,}"
    yield f"{score.banned:,}"
    yield f"{score.lifted:,}" if score.lifted else ""
    yield f"{score.many_missed} of {score.many}" if is_attacker else ""
    yield f"{score.enough_missed} of {score.enough}" if is_attacker else ""
    for numbers in (through, score.plain, score.freepbx):
        yield _middle(numbers)
    yield ninetieth(through) if through else ""
    yield through[-1] if through else ""
    yield f"{score.arrived:,} of {score.tried:,}" if score.tried else ""
    yield score.right
    yield ", ".join(f"{kind} {number}" for kind, number in sorted(score.wrong.items())) or 0
    yield f"{score.silent} of {score.must_alert}" if score.must_alert else ""


def _middle(numbers: Sequence[int]) -> str:
    return f"{median(numbers):g}" if numbers else ""


def ninetieth(numbers: Sequence[int]) -> int:
    """Return the number that nine tenths don't exceed; ``numbers`` are sorted."""
    return numbers[min(len(numbers) - 1, int(0.9 * len(numbers)))]


def compare(boards: dict[str, Board]) -> None:
    """Print what the judges did to the honest, and what they let through, side by side."""
    first, *_ = boards.values()
    print("\n## Side by side\n\n| who | of | " + " | ".join(boards) + " |\n|" + "---|" * (len(boards) + 2))
    for name, score in by_role(first):
        pick: Callable[[Score], int]
        if score.role is Role.HONEST:
            what, total, pick = "banned", score.sources, lambda each: each.banned
        elif score.role is Role.ATTACKER:
            what, total, pick = "attempts that arrived", score.tried, lambda each: each.arrived
        else:
            continue
        cells = [f"{pick(board.scores[name]):,}" for board in boards.values()]
        print(f"| {name} ({score.role}): {what} | {total:,} | {' | '.join(cells)} |")
    strangers = [f"{board.strangers:,}" for board in boards.values()]
    print(f"| strangers whose addresses a forger used: banned | | {' | '.join(strangers)} |")


def bars(board: Board) -> list[tuple[bool, str]]:
    """List what has to hold, each with whether it does."""
    scores = board.scores.values()
    honest = [score for score in scores if score.role is Role.HONEST]
    banned, sources = sum(s.banned for s in honest), sum(s.sources for s in honest)
    lifted = sum(s.lifted for s in honest)
    many, many_missed = sum(s.many for s in scores), sum(s.many_missed for s in scores)
    enough, missed = sum(s.enough for s in scores), sum(s.enough_missed for s in scores)
    slow = max((max(s.through, default=0) for s in scores if s.bar == SLOW_BAR), default=0)
    found = [score for name, score in board.scores.items() if "finder of a password" in name]
    wrong = sum((s.wrong for s in scores), Counter[str]()) + board.general_wrong
    silent, must = sum(s.silent for s in scores), sum(s.must_alert for s in scores)
    alarm = max(board.alarms, default=0)
    return [
        (not banned + lifted, f"honest sources banned: {banned} of {sources:,}; banned and soon lifted: {lifted}"),
        (not board.strangers, f"strangers banned whose addresses were forged: {board.strangers}"),
        (not many_missed, f"attackers with {MANY} attempts or more missed: {many_missed} of {many:,}"),
        (missed <= MISSED_SHARE * enough, f"attackers with {ENOUGH} attempts or more missed: {missed} of {enough:,}"),
        (slow <= SLOW_BAR, f"most attempts before the ban of somebody slow or inside: {slow}"),
        _is_early(board, "everywhere", lambda score: score.through),
        _is_early(board, "plain", lambda score: score.plain),
        _is_early(board, "FreePBX", lambda score: score.freepbx),
        (alarm <= CAMPAIGN_BAR and len(board.alarms) == board.campaigns,
         f"campaigns alerted: {len(board.alarms)} of {board.campaigns}, after {alarm} attempts at most"),
        (not any(s.silent for s in found),
         f"passwords found without an alarm: {sum(s.silent for s in found)} of {sum(s.actors for s in found)}"),
        (not silent, f"troubles and attacks without their alert: {silent} of {must:,}"),
        (not wrong, f"wrong alerts: {dict(wrong) or 0}, of {sum(s.right for s in scores) + wrong.total():,}"),
    ]  # fmt: skip


def _is_early(board: Board, where: str, pick: Callable[[Score], Sequence[int]]) -> tuple[bool, str]:
    """Tell whether half of the attackers of each kind are banned in time there."""
    late = [
        f"{name} {_middle(pick(score))}"
        for name, score in board.scores.items()
        if pick(score) and median(pick(score)) > score.bar
    ]
    return not late, f"median of attempts before the ban above its bar ({where}): {', '.join(late) or 'of nobody'}"
