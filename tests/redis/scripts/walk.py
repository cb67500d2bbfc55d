"""A walk through all scripts: random calls on one container, the same for the same seed."""

from __future__ import annotations

import random
from typing import Any

from tests.redis.scripts.calls import (
    call,
    claim,
    dead,
    declare,
    envelope,
    item,
    letters,
    put,
    reap,
    settlement,
    step,
    tidy,
    want,
)
from tests.redis.scripts.container import NOW, Claimed, Container, Entry

from taskyard.brokers.redis.calls import Call

__all__ = ["Walk"]

POLICIES: dict[str, dict[str, Any]] = {
    "q\0plain": {},
    "q\0ordered": {"concurrency": 1},
    "q\0limited": {"concurrency": 2, "max_deliveries": 2},
    "q\0batch": {"size": 3, "within": 500, "bytes_": 60, "max_deliveries": 1},
    "r\0ordered batch": {"size": 2, "within": 300, "concurrency": 1},
    "r\0several": {"members": ["x", "y"], "max_deliveries": 1},
}
GROUPS = [*POLICIES]
SHARDS = ["", "a", "b", "c"]
OWNERS = ["ann", "bob"]
TTL = 2000
LEASE = 900


def recorded_id(entry: Entry) -> str:
    """The id of a message; they are all short."""
    return entry.body[2 : 2 + entry.body[1] - 0xA0].decode()


class Walk:
    """Random calls, and a look at everything after each.

    Arguments:
        box: an empty container.
        seed: of the random choices.
    """

    def __init__(self, box: Container, seed: int) -> None:
        self.box = box
        self.state = box.dump()
        self._random = random.Random(seed)
        self._made = 0
        self._now = NOW
        self._ids: list[str] = []
        self._steps = [
            *[self._put] * 6,
            *[self._claim] * 5,
            *[self._settle] * 6,
            *[self._pass_time] * 3,
            self._declare,
            self._extend,
            self._reap,
            self._records,
            self._redrive,
            self._release,
            self._leave,
            self._look,
        ]

    def go(self, steps: int) -> None:
        """Make some calls."""
        for _ in range(steps):
            self._random.choice(self._steps)()

    def finish(self) -> None:
        """Work off what there is, wake whoever sleeps, and let time pass."""
        for _ in range(100):
            self._pass(1000)
            self._let_go()
            settlements = [self._done(token, claimed) for token, claimed in self._held().items()]
            serving = want(groups=GROUPS, members=["x", "y"], claims=100, drain=True)
            self._do(step(settlements, serving, b"result"))
            if not self._held() and not self._some("list ", "back ", "due ", "letter "):
                break
        self._pass(TTL)

    def _let_go(self) -> None:
        for path in self._some("parked "):
            gid, shard = path.split(" ", 2)[1:]
            self._do(call("release", self.state[f"name {gid}"], shard))
        for path in self._some("letter "):
            self._do(call("redrive", "discard", path.split()[1]))
        for path in self._some("sleeper "):
            self._do(call("leave", path.split()[1]))

    def _some(self, *kinds: str) -> list[str]:
        return [path for path in self.state if path.startswith(kinds)]

    def _held(self) -> dict[int, Claimed]:
        return {int(path.split()[1]): self.state[path] for path in self._some("held ")}

    def _do(self, what: Call) -> Any:
        # Between a declaration and its settling, lanes are not yet where they belong.
        reply, _ = self.box.trace(what, consistent=what.script.name not in ("declare", "resettle"))
        self.state = self.box.dump()
        return reply

    def _pass(self, time: int) -> None:
        self._now += time
        self.box.now = self._now

    def _pass_time(self) -> None:
        self._pass(self._random.choice([1, 50, 200, 400, 1000, -150]))

    def _group(self) -> str:
        return self._random.choice(GROUPS)

    def _shard(self) -> str:
        return self._random.choice(SHARDS)

    def _put(self) -> None:
        items = []
        for _ in range(self._random.choice([1, 1, 2])):
            group = self._group()
            ids = [f"m{self._made + index}" for index in range(self._random.choice([1, 1, 2, 5]))]
            self._made += len(ids)
            recorded = self._random.random() < 0.5
            self._ids += ids if recorded else []
            member = "" if group != GROUPS[-1] else self._random.choice("xy")
            items.append(
                item(
                    *(envelope(id_, b"", member) for id_ in ids),
                    group=group,
                    shard=self._shard(),
                    priority=self._random.choice([0, 0, 0, -1, 5]),
                    delay=self._random.choice([0, 0, 0, 100, 700]),
                    ttl=TTL,
                    member=member,
                    ids=ids if recorded else [],
                )
            )
        assert self._do(put(*items)) == 1

    def _wanted(self) -> dict[str, Any]:
        return {
            "groups": self._random.sample(GROUPS, self._random.randint(1, len(GROUPS))),
            "members": self._random.choice([[], ["x"], ["x", "y"]]),
            "owner": self._random.choice(OWNERS),
            "lease": self._random.choice([LEASE, 10 * LEASE]),
            "claims": self._random.choice([1, 1, 3]),
            "bytes_": self._random.choice([1, 30, 1 << 20]),
            "drain": self._random.random() < 0.2,
            "alone": self._random.random() < 0.5,
            "listener": self._random.choice(["", "", "ear1", "ear2"]),
        }

    def _claim(self) -> None:
        self._do(claim(self._random.choice([1, 2, 10]), **self._wanted()))

    def _settle(self) -> None:
        held = self._held()
        chosen = self._random.sample([*held], min(len(held), self._random.choice([1, 1, 2])))
        settlements = [self._settlement(token, held[token]) for token in chosen]
        wanted = None
        if self._random.random() < 0.5:
            wanted = want(self._random.choice([1, 3]), **self._wanted())
        self._do(step([*settlements, settlement(5)], wanted, b"why", limit=4))

    def _done(self, token: int, claimed: Claimed) -> tuple[Any, ...]:
        ids = [recorded_id(entry) for entry in claimed.entries if entry.recorded]
        return settlement(token, results=[(id_, 5) for id_ in ids])

    def _settlement(self, token: int, claimed: Claimed) -> tuple[Any, ...]:
        outcomes: dict[int, tuple[Any, ...]] = {}
        keep, results = [], []
        for entry in claimed.entries:
            id_ = recorded_id(entry) if entry.recorded else ""
            kind = self._random.choice(
                ["done"] * 3 + ["keep", "back", "retried", "dead", "discard"]
            )
            if kind == "keep":
                keep.append(entry.sequence)
            elif kind == "back":
                park = self._random.random() < 0.3
                outcomes[entry.sequence] = ("back", self._random.random() < 0.5, park)
            elif kind == "retried":
                outcomes[entry.sequence] = ("retried", self._random.choice([0, 200, 800]), id_)
            elif kind == "dead":
                outcomes[entry.sequence] = ("dead", 5, id_, "", True)
            elif kind == "discard":
                outcomes[entry.sequence] = ("discard", id_)
            elif id_:
                results.append((id_, 5))
        return settlement(token, outcomes, keep=keep, results=results)

    def _declare(self) -> None:
        group = self._group()
        policy = dict(POLICIES[group])
        if self._random.random() < 0.5:
            policy |= self._random.choice(
                [{"within": 0}, {"within": 100}, {"bytes_": 0}, {"size": 7}, {"concurrency": 3}]
            )
        if self._do(declare(group, **policy))[0] != 1:
            return
        gid = next(path.split()[1] for path in self.state if self.state[path] == group)
        shards = {path.split(" ", 2)[2] for path in self._some(f"ready {gid} ", f"lane {gid} ")}
        self._do(call("resettle", group, *sorted(shards)))

    def _extend(self) -> None:
        self._do(call("extend", LEASE, *[*self._held()][:3], 5))

    def _reap(self) -> None:
        self._do(reap(*self._random.choice([[], ["ann"], OWNERS]), limit=4))

    def _records(self) -> None:
        self._do(call("records", self._random.choice(["", "ear1"]), *self._ids[-20:], "none"))

    def _redrive(self) -> None:
        dead = [int(path.split()[1]) for path in self._some("letter ")]
        if dead:
            what = self._random.choice(["retry", "discard"])
            self._do(call("redrive", what, *dead[:3], 10_000))

    def _release(self) -> None:
        for path in self._some("parked ")[:2]:
            gid, shard = path.split(" ", 2)[1:]
            assert self._do(call("release", self.state[f"name {gid}"], shard)) == 1

    def _leave(self) -> None:
        self._do(call("leave", self._random.choice(["ear1", "ear2"])))

    def _look(self) -> None:
        group = self._group()
        queue = self._random.choice([None, "q"])
        self._do(letters(*self._do(dead(queue=queue))[4:], queue=queue))
        self._do(call("lanes", group, self._random.choice("rs"), 0))
        self._do(call("oldest", group, *SHARDS))
        self._do(tidy(1000, 2))
        self.box.run(call("counts", 0))  # its memory is about, and about otherwise the next time
        self._do(call("places", group, 0))
