"""The bars of the judgement, held on simulated worlds. ``make judge`` plays many more of them."""

import pytest

from amiwatch.judgement.rules import Policy
from amiwatch.testing.actors import Role
from amiwatch.testing.worlds import small
from bench.judge import FAIL2BAN, SIPBAN, Counting, Ours
from bench.scoreboard import ENOUGH, MANY, Board

WORLDS = (
    "carriers and monitors", "dead database", "dead database on the first day", "lost endpoints",
    "lost endpoints on the first day", "scanners", "burst and wait", "slow guessers", "crackers", "manager guessers",
    "campaign", "forgers", "thieves",
)  # fmt: skip


def played(name: str, seed: int) -> Board:
    board = Board()
    board.play(small(name, seed), Ours(Policy()), by_wire=name == "forgers")
    return board


@pytest.mark.parametrize(("name", "seed"), [(name, 40 + number % 2) for number, name in enumerate(WORLDS)])
def test_no_honest_source_is_banned_and_no_attacker_who_goes_on_is_missed(name: str, seed: int) -> None:
    board = played(name, seed)
    assert not board.misjudged
    assert board.strangers == 0
    for score in board.scores.values():
        assert not score.wrong
        assert not score.silent


def test_the_plain_judges_ban_offices_and_let_the_patient_go_on() -> None:
    counting = Board()
    counting.play(small("dead database", 40), Counting(FAIL2BAN), by_wire=False)
    assert any("office" in line for line in counting.misjudged)
    first = Board()
    first.play(small("carriers and monitors", 40), Counting(SIPBAN), by_wire=False)
    assert first.scores["unknown carrier"].banned > 0
    patient = Board()
    patient.play(small("slow guessers", 40), Counting(FAIL2BAN), by_wire=False)
    guessers, ours = patient.scores["slow guesser"], played("slow guessers", 40).scores["slow guesser"]
    assert guessers.arrived > 3 * ours.arrived  # ten minutes later they go on


def test_a_board_tells_what_was_missed() -> None:
    """A judge that never bans misses everybody."""

    class Asleep(Ours):
        def see(self, event: object, now: float) -> tuple[()]:
            return ()

    board = Board()
    board.play(small("scanners", 40), Asleep(Policy()), by_wire=False)
    attackers = [score for score in board.scores.values() if score.role is Role.ATTACKER]
    assert all(score.many_missed == score.many == score.sources for score in attackers)
    assert len(board.misjudged) == sum(score.sources for score in attackers)
    assert ENOUGH < MANY
