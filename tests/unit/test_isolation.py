"""Suspects run alone: what the pools of a worker tell each other."""

from __future__ import annotations

from taskyard.brokers.base import Claim, ClaimedLane, Delivery, Group, Step, Want
from taskyard.worker.isolation import Isolation

GROUP = Group("default", "save")


class Pool:
    """A pool, reduced to what an isolation asks of it."""

    def __init__(self) -> None:
        self.notified = 0

    def notify(self) -> None:
        self.notified += 1


class Pools:
    """Two pools of a worker."""

    def __init__(self) -> None:
        self.running: set[int] = set()
        self.pools = {"a": Pool(), "b": Pool()}
        self.isolation = Isolation(lambda: len(self.running))

    def may_claim(self, pool: str = "a") -> bool:
        return self.isolation.may_claim(self.pools[pool])

    def notified(self, pool: str = "a") -> int:
        return self.pools[pool].notified

    def ask(self, pool: str = "a") -> Want:
        assert self.may_claim(pool)
        want = Want([], "worker", 1, alone=self.isolation.is_idle)
        self.isolation.asks(want)
        return want

    def answer(self, want: Want, *claims: Claim, suspects: bool = False, pool: str = "a") -> None:
        self.running.update(claim.token for claim in claims)
        self.isolation.is_answered(
            self.pools[pool], want, Step([], list(claims), 0, suspects=suspects)
        )

    def end(self, token: int) -> None:
        self.running.remove(token)
        self.isolation.has_ended(token)


def claim(token: int, *, suspect: bool = False) -> Claim:
    message = Delivery(1, 1, 0, 0, 0, 1 if suspect else 0, b"")
    return Claim(token, GROUP, [ClaimedLane("", None, [(0, message)])], 0)


def test_at_first_anything_may_be_claimed() -> None:
    pools = Pools()
    assert pools.isolation.is_idle
    assert pools.may_claim("a")


def test_only_who_runs_nothing_asks_alone() -> None:
    pools = Pools()
    pools.answer(pools.ask(), claim(1))
    assert not pools.isolation.is_idle
    assert pools.ask().alone is False


def test_while_one_asks_alone_nobody_else_asks() -> None:
    pools = Pools()
    want = pools.ask()
    assert want.alone
    assert not pools.may_claim("a")
    pools.answer(want)
    assert pools.notified() == 1
    assert pools.may_claim("a")


def test_nothing_is_claimed_beside_a_suspect() -> None:
    pools = Pools()
    pools.answer(pools.ask(), claim(1, suspect=True))
    assert not pools.may_claim("a")
    pools.end(1)
    assert pools.notified() == 1
    assert pools.may_claim("a")


def test_only_who_was_refused_is_notified() -> None:
    pools = Pools()
    want = pools.ask("a")
    assert not pools.may_claim("b")
    pools.answer(want, pool="a")
    assert (pools.notified("a"), pools.notified("b")) == (0, 1)
    pools.answer(pools.ask("b"), pool="b")
    assert (pools.notified("a"), pools.notified("b")) == (0, 1)


def test_nobody_is_notified_who_was_not_refused() -> None:
    pools = Pools()
    pools.answer(pools.ask(), claim(1))
    pools.end(1)
    assert pools.notified() == 0


def test_who_hears_of_a_suspect_lets_everything_end_first() -> None:
    pools = Pools()
    pools.answer(pools.ask(), claim(1), claim(2))
    pools.answer(pools.ask(), claim(3), suspects=True)
    assert not pools.may_claim("a")
    pools.end(1)
    pools.end(2)
    assert not pools.may_claim("a")
    before = pools.notified()
    pools.end(3)
    assert pools.notified() == before + 1
    want = pools.ask()
    assert want.alone
    pools.answer(want, claim(4, suspect=True))
    pools.end(4)
    assert pools.may_claim("a")


def test_a_suspect_that_somebody_else_took_is_not_waited_for() -> None:
    pools = Pools()
    pools.answer(pools.ask(), claim(1))
    pools.answer(pools.ask(), suspects=True)
    pools.end(1)
    pools.answer(pools.ask(), claim(2))  # alone, and there was no suspect any more
    assert pools.may_claim("a")


def test_a_question_without_an_answer_hinders_nobody() -> None:
    pools = Pools()
    want = pools.ask()
    pools.isolation.is_answered("a", want, None)
    assert pools.isolation.is_idle
    assert pools.may_claim("a")


def test_a_busy_pool_does_not_starve_the_suspect_of_another() -> None:
    pools = Pools()
    pools.answer(pools.ask("a"), claim(1), pool="a")
    pools.answer(pools.ask("b"), suspects=True, pool="b")
    assert not pools.may_claim("a"), "it would keep the worker busy"
    assert not pools.may_claim("b"), "something runs"
    pools.end(1)
    assert not pools.may_claim("a")
    want = pools.ask("b")
    assert want.alone
    pools.answer(want, claim(2, suspect=True), pool="b")
    pools.end(2)
    pools.answer(pools.ask("b"), pool="b")
    assert pools.may_claim("a")
