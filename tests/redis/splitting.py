"""Random schedules of producers, workers and splits, one atomic step of a server at a time.

Everything that acts is a chain of calls of the real scripts. A `World` makes them in random order,
repeats calls whose answer it "lost", drops splits half way, and knows what must be true after
each.
"""

from __future__ import annotations

import random
import uuid
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import redis

from taskyard.brokers.base import (
    Back,
    Claim,
    Dead,
    DeadQuery,
    Discard,
    Group,
    GroupWant,
    Operation,
    Outcome,
    Put,
    Retried,
    Settlement,
    Want,
)
from taskyard.brokers.lane import GroupPolicy
from taskyard.brokers.redis import RedisBroker, parse_url
from taskyard.brokers.redis.attempts import every
from taskyard.brokers.redis.calls import Call, Each, ScriptError, container_key
from taskyard.brokers.redis.placement import HOME, TOKENS, Placement, call
from taskyard.brokers.redis.replies import group_key, read_claim
from taskyard.brokers.unique import Keys, Mode
from taskyard.message import Failure, read_envelope
from taskyard.testing.conformance.harness import Clock, body, micros

__all__ = ["QUEUE", "Broken", "World"]

QUEUE = "q"
POLICIES = {
    Group(QUEUE, "plain"): GroupPolicy(max_deliveries=1000),
    Group(QUEUE, "ordered"): GroupPolicy(concurrency=1, max_deliveries=1000),
    Group(QUEUE, "limited"): GroupPolicy(concurrency=2, max_deliveries=1000),
    Group(QUEUE, "batches"): GroupPolicy(
        size=2, within=micros(3), concurrency=1, max_deliveries=1000, minimum=2, lead=micros(0.5)
    ),
}
GROUPS = list(POLICIES)
SHARDS = ["", "a", "b", "c", "e"]
WAITING = 100
"""Producers pause while so many messages are there."""
LEASE = 10.0
DROPPED = 0.03
KILLED = 0.01
"""How likely an answer is lost; how likely a split or a put is abandoned at a step."""
KEPT = micros(1e6)

Steps = Generator[Call | None, Any, Any]

OPEN_CLAIMS = """
local found = {}
for number = 0, tonumber(ARGV[1]) do
    local T = ARGV[2] .. ':{' .. number .. '}'
    for _, token in ipairs(redis.call('ZRANGE', T .. ':claims', 0, -1)) do
        found[#found + 1] = {number, tonumber(token), redis.call('LINDEX', T .. ':c:' .. token, 0)}
    end
end
return found
"""


class Broken(AssertionError):
    """A promise was not kept."""


def promise(kept: object, *what: object) -> None:
    if not kept:
        raise Broken(" ".join(map(str, what)))


@dataclass
class Message:
    """A message, as its producer knows it.

    Attributes:
        place: which one it is of its producer's in that lane and priority.
        ordered: whether it must not run before those in front of it ended.
        key: its unique key, held until it is done; "": it has none.
        state: 'sent' until it was accepted, then 'there', 'ended' or 'dead'; or 'kept back', as
            another one held its key.
        started: whether it was handed out.
    """

    id: str
    group: Group
    shard: str
    priority: int
    producer: str
    place: int
    ordered: bool
    recorded: bool
    key: str = ""
    state: str = "sent"
    started: bool = False


@dataclass
class Held:
    """An open claim."""

    group: Group
    deadline: int
    messages: dict[int, str]
    shards: list[str]


def atomic(operation: Operation[Any]) -> Steps:
    """An operation call by call."""
    try:
        step = next(operation)
        while True:
            try:
                reply = yield from _one(step)
            except ScriptError as error:
                step = operation.throw(error)
            else:
                step = operation.send(reply)
    except StopIteration as end:
        return end.value


def _one(step: Call | Each | list[Call]) -> Steps:
    if isinstance(step, Call):
        return (yield step)
    replies: list[Any] = []
    for one in step:
        try:
            replies.append((yield one))
        except ScriptError as error:
            replies.append(error)
    return replies if isinstance(step, Each) else every(replies)


class Actor:
    """Something that acts, step by step; each has a broker of its own, so also maps of its own."""

    def __init__(self, world: World, name: str, life: Callable[[Actor], Steps]) -> None:
        self.world = world
        self.name = name
        self.broker = world.make_broker()
        self.life = life
        self.begin()

    def begin(self) -> None:
        """Begin, or begin again after it was killed."""
        self._steps = self.life(self)
        self._slot = f"{self.name}-{uuid.uuid4().hex[:6]}"
        self._number = 0
        self._call = next(self._steps, None)
        self._answered = True

    def act(self, *, reliable: bool = False) -> None:
        """Take one step; its answer may be lost, then the next time it is asked for again."""
        if self._call is None:
            self._go_on(self._steps.send, None)
            return
        if self._answered:
            self._number += 1
        again = not self._answered
        outcome = self.world.carry_out(self._call, self._slot, self._number, again=again)
        self._answered = reliable or self.world.random.random() > DROPPED
        if not self._answered:
            return
        if isinstance(outcome, ScriptError):
            self._go_on(self._steps.throw, outcome)
        else:
            self._go_on(self._steps.send, outcome)

    def _go_on(self, how: Callable[[Any], Call | None], what: Any) -> None:
        try:
            self._call = how(what)
        except StopIteration:
            self.begin()

    def finish(self) -> None:
        """Answer what was asked for, and let it be idle."""
        while not self._answered:
            self.act(reliable=True)


class World:
    """A queue, those who use it, and what must be true of it.

    Arguments:
        client: talks to the server.
        url: of the server.
        seed: of all that is random.
        partitions: how many the queue has at first; 0: it is at home.
    """

    def __init__(self, client: redis.Redis, url: str, seed: int, partitions: int) -> None:
        self.random = random.Random(seed)
        self.clock = Clock()
        self._client = client
        self._prefix = f"split-{uuid.uuid4().hex[:8]}"
        self._url = f"{url}?prefix={self._prefix}"
        self._partitions = partitions
        self.messages: dict[str, Message] = {}
        self.lanes: dict[tuple[str, Group, str, int], list[Message]] = defaultdict(list)
        self.held: dict[tuple[int, int], Held] = {}
        self.parked: set[tuple[Group, str]] = set()
        self.splits_done = 0
        self.calls = 0
        self._actor("boss", _declare).finish()
        self.producers = [self._actor(f"producer{n}", _produce) for n in range(2)]
        self.workers = [self._actor(f"worker{n}", _work) for n in range(3)]
        self.others = [self._actor("keeper", _keep), self._actor("looker", _look)]
        self.migrators: list[Actor] = []

    def make_broker(self) -> RedisBroker:
        broker = RedisBroker(parse_url(self._url), clock=self.clock)
        if self._partitions:
            broker.set_partitions(QUEUE, self._partitions)
        return broker

    def _actor(self, name: str, life: Callable[[Actor], Steps]) -> Actor:
        actor = Actor(self, name, life)
        if life is _declare:
            self.run(_declare(actor))
        return actor

    def run(self, steps: Steps) -> Any:
        """Take all steps at once."""
        slot, number = f"now-{uuid.uuid4().hex[:8]}", 0
        try:
            asked = next(steps)
            while True:
                if asked is None:
                    asked = steps.send(None)
                    continue
                number += 1
                outcome = self.carry_out(asked, slot, number, again=False)
                throws = isinstance(outcome, ScriptError)
                asked = steps.throw(outcome) if throws else steps.send(outcome)
        except StopIteration as end:
            return end.value

    # The schedule

    def live(self, steps: int, splits: int) -> None:
        """Let everybody act in random order, while the queue is split."""
        begins = {self.random.randrange(steps // 10, steps // 4)}
        for step in range(steps):
            if step in begins:
                self.migrators = [self._actor(f"migrator{n}", _split) for n in range(2)]
            if self.random.random() < 0.03:
                self.clock.advance(self.random.choice([0.2, 1, 4, LEASE + 1]))
            actors = [*self.producers * 2, *self.workers * 2, *self.others, *self.migrators * 2]
            actor = self.random.choice(actors)
            kind = actor.name.rstrip("0123456789")
            if kind in ("migrator", "producer") and self.random.random() < KILLED:
                actor.begin()
            else:
                actor.act()
            if self.splits_done and splits > 1 and not self.migrators:
                self.splits_done, splits = 0, splits - 1
                begins = {step + 1}

    def end(self) -> None:
        """Finish what was begun, work everything off, and look whether all ended well."""
        for actor in [*self.producers, *self.workers, *self.others, *self.migrators]:
            actor.finish()
        boss = Actor(self, "end", _declare)
        placement = self._finish_split(boss.broker)
        self._check_left(placement)
        self._work_off(boss)
        self._check_end(boss.broker)

    def _finish_split(self, broker: RedisBroker) -> Placement:
        number = 0
        for _ in range(100):
            # Claims whose workers are gone hold up the end of a split.
            self.clock.advance(LEASE + 1)
            self.run(atomic(broker.reap()))
            progress = self.run(atomic(broker.split(QUEUE, number)))
            number = progress.partitions
            if progress.done:
                break
        promise(number, "no split")
        promise(progress.done, "the split does not end", progress)
        _, [epoch, *numbers] = self.run(atomic(_places()))
        promise(len(numbers) == number)
        return Placement(epoch, tuple(numbers))

    def _work_off(self, boss: Actor) -> None:
        for _ in range(200):
            self.clock.advance(LEASE + 1)
            # As they are counted: one without a limit of claims may have been parked anew in one
            # container while it was released in the other, so nobody here knows for sure.
            for one in self.run(atomic(boss.broker.counts())):
                for shard in one.parked_shards:
                    self.run(atomic(boss.broker.release(one.group, shard)))
                    self.parked.discard((one.group, shard))
            self.run(atomic(boss.broker.reap()))
            want = _want("end", 50, drain=True)
            step = self.run(atomic(boss.broker.step([], want)))
            settled = [Settlement(claim.token) for claim in step.claims]
            lost = self.run(atomic(boss.broker.step(settled, None))).lost
            promise(not lost, "lost", lost)
            counts = self.run(atomic(boss.broker.counts()))
            if not any(one.waiting + one.delayed + one.running for one in counts):
                return
        raise Broken(f"it is not worked off: {counts}")

    # What is true in the end

    def _keys(self, container: int, kind: str) -> Iterator[str]:
        key = f"{container_key(self._prefix, str(container))}:{kind}:"
        for found in self._client.scan_iter(f"{_escaped(key)}*", 1000):
            yield found.decode().removeprefix(key)

    def _check_left(self, placement: Placement) -> None:
        """No container has anything of lanes that are not its own."""
        for container in placement.containers:
            for kind in ("l", "b"):
                for name in self._keys(container, kind):
                    shard = name.split(":", 2)[2]
                    promise(placement.of(shard) == container, kind, name, "in", container)
            key = container_key(self._prefix, str(container))
            for field in self._client.hkeys(f"{key}:u"):
                length = int.from_bytes(field[4:6], "big")
                shard = field[6 : 6 + length].decode()
                promise(placement.of(shard) == container, "the key", field, "of", shard)
            promise(not [*self._keys(container, "gone")], "released keys are left")
            for packed in self._client.hvals(f"{key}:letters"):
                shard, id_ = _letter(packed)
                promise(placement.of(shard) == container, "the letter", id_, "of", shard)
            for member in self._client.zrange(f"{key}:due", 0, -1):
                length = int.from_bytes(member[14:16], "big")
                shard = member[16 : 16 + length].decode()
                promise(placement.of(shard) == container, "due:", member)
            for kind in ("m", "x", "o", "w", "away", "back", "slot"):
                promise(not [*self._keys(container, kind)], kind, "is left")
            for gid in self._keys(container, "s"):
                for shard in self._client.hkeys(f"{key}:s:{gid}"):
                    promise(placement.of(shard.decode()) == container, "a state of", shard)

    def _check_end(self, broker: RedisBroker) -> None:
        for key in self._client.scan_iter(f"{_escaped(self._prefix)}*:u", 1000):
            promise(False, "keys are left:", key, self._client.hgetall(key))
        lost = [one for one in self.messages.values() if one.state == "there"]
        promise(not lost, "lost:", lost)
        letters = self.run(atomic(broker.dead(DeadQuery(limit=10_000))))
        dead = sorted(one.id for one in self.messages.values() if one.state == "dead")
        promise(sorted(letter.id for letter in letters) == dead, "dead letters", dead)

    # Each call

    def carry_out(self, asked: Call, slot: str, number: int, *, again: bool) -> Any:
        """Make a call and draw conclusions; one that is repeated must not do anything."""
        self.calls += 1
        name = asked.script.name
        letters = {} if again else self._letters_of(asked)
        key = container_key(self._prefix, asked.tag)
        arguments = (1, key, slot, number, self.now_in(int(asked.tag)), *asked.args)
        try:
            try:
                reply = self._client.evalsha(asked.script.sha, *arguments)
            except redis.exceptions.NoScriptError:
                reply = self._client.eval(asked.script.source, *arguments)
        except redis.ResponseError as error:
            return _refusal(error)
        if not again:
            if name == "step":
                self._stepped(int(asked.tag), asked, reply)
            elif name == "reap":
                self._look_at_claims()
            elif name == "redrive":
                kept = {number.decode() for number in self._client.hkeys(f"{key}:letters")}
                self._redriven({n: id_ for n, id_ in letters.items() if n not in kept})
            elif name == "release" and reply:
                group = Group(*asked.args[0].split("\0"))
                self.parked.discard((group, asked.args[1]))
        return reply

    def now_in(self, container: int) -> int:
        """The time there: the nodes of a cluster have clocks of their own."""
        return self.clock.now + (3 - container) % 4 * micros(20)

    def _letters_of(self, asked: Call) -> dict[str, str]:
        """Dead letters that a call is about to put back: number -> id."""
        if asked.script.name != "redrive":
            return {}
        key = f"{container_key(self._prefix, asked.tag)}:letters"
        found = {}
        for number in asked.args[1:]:
            packed = self._client.hget(key, str(number))
            if packed:
                found[str(number)] = _letter(packed)[1]
        return found

    def _redriven(self, letters: dict[str, str]) -> None:
        for id_ in letters.values():
            message = self.messages[id_]
            promise(message.state == "dead", id_, "was put back, but is", message.state)
            message.state, message.ordered = "there", False

    def _stepped(self, container: int, asked: Call, reply: Any) -> None:
        settlements, _, _ = msgspec.msgpack.decode(asked.args[0])
        for token, outcomes, _, keep in settlements:
            if token not in reply[0]:
                self._settled((container, token), dict(map(tuple, outcomes)), set(keep))
        groups = {group_key(group): group for group in GROUPS}
        made = []
        for claim in reply[4]:
            group = groups[claim[1].decode()]
            made.append(read_claim(claim, group, TOKENS.outside(container, claim[0])))
        for claim in made:
            self._claimed((container, TOKENS.inside(claim.token)[1]), claim)
        self._look_at_claims()

    def _settled(self, key: tuple[int, int], outcomes: dict[int, Any], keep: set[int]) -> None:
        held = self.held.get(key)
        promise(held is not None, "settled what nobody holds:", key)
        assert held is not None
        for sequence, id_ in list(held.messages.items()):
            if sequence in keep:
                continue
            del held.messages[sequence]
            message, outcome = self.messages[id_], outcomes.get(sequence, ["done"])
            if outcome[0] in ("done", "discard"):
                self._end(message, "ended")
            elif outcome[0] == "dead":
                self._end(message, "dead")
            elif outcome[0] == "back" and outcome[2]:
                self.parked.add((message.group, message.shard))
        if not held.messages:
            del self.held[key]

    def _end(self, message: Message, state: str) -> None:
        promise(message.state in ("sent", "there"), message, "ends twice")
        message.state = state

    def _claimed(self, key: tuple[int, int], claim: Claim) -> None:
        held = Held(claim.group, claim.deadline, {}, [lane.shard for lane in claim.lanes])
        for lane in claim.lanes:
            before: set[str] = set()
            for priority, delivery in lane.messages:
                envelope = read_envelope(delivery.body)
                assert envelope is not None
                message = self.messages[envelope.id]
                promise(message.state in ("sent", "there"), message, "runs again")
                promise((message.shard, message.priority) == (lane.shard, priority))
                self._check_key(message)
                self._check_order(message, before)
                before.add(message.id)
                message.started = True
                held.messages[delivery.sequence] = message.id
        self.held[key] = held

    def _check_order(self, message: Message, before: set[str]) -> None:
        if POLICIES[message.group].concurrency != 1 or not message.ordered:
            return
        lane = self.lanes[message.producer, message.group, message.shard, message.priority]
        for other in lane:
            if not other.ordered:
                continue
            if other.place < message.place:
                ended = other.state != "there" or other.id in before
                promise(ended, message, "runs before", other)
            elif other.place > message.place and not message.started:
                promise(not other.started, other, "ran before", message)

    def _check_key(self, message: Message) -> None:
        """No other one of its key has begun and not ended."""
        where = (message.group, message.shard, message.key)
        for other in self.messages.values() if message.key else ():
            if other is not message and (other.group, other.shard, other.key) == where:
                alive = other.started and other.state in ("sent", "there")
                promise(not alive, message, "runs beside", other)

    def _look_at_claims(self) -> None:
        """Nobody claims what others hold, over all containers."""
        highest = self._client.hget(f"{container_key(self._prefix, '0')}:meta", "containers")
        found = self._client.eval(OPEN_CLAIMS, 0, int(highest or 0), self._prefix)
        owners: dict[tuple[str, str], int] = defaultdict(int)
        still = set()
        for container, token, packed in found:
            key, _, _, _, parts, *_ = msgspec.msgpack.decode(packed)
            still.add((container, token))
            for part in parts:
                owners[key, part[0]] += 1
        for group, policy in POLICIES.items():
            for shard in SHARDS:
                number = owners[group_key(group), shard]
                promise(not policy.concurrency or number <= policy.concurrency, group, shard)
        for key in [key for key in self.held if key not in still]:
            taken_back = self.held.pop(key)
            promise(taken_back.deadline < self.now_in(key[0]), "lost before its time:", taken_back)


def _refusal(error: redis.ResponseError) -> ScriptError:
    word, code, text = f"{error} ".split(" ", 2)
    if word != "TASKYARD":
        raise error
    return ScriptError(code, text.strip())


def _letter(packed: bytes) -> tuple[str, str]:
    """The shard and the id of a dead letter, whose failure is no text."""
    fields = msgspec.msgpack.decode(packed, type=list[msgspec.Raw])
    return msgspec.msgpack.decode(fields[2]), msgspec.msgpack.decode(fields[4])


def _escaped(pattern: str) -> str:
    return pattern.replace("{", "\\{").replace("}", "\\}")


def _places() -> Operation[Any]:
    return (yield call("places", HOME, QUEUE, 0))


# Those who act


def _declare(actor: Actor) -> Steps:
    for group, policy in POLICIES.items():
        yield from atomic(actor.broker.declare(group, policy))


def _produce(actor: Actor) -> Steps:
    world = actor.world
    roll = world.random
    there = sum(message.state == "there" for message in world.messages.values())
    if there > WAITING:
        yield None
        return
    puts: list[Put] = []
    sent: list[list[Message]] = []
    only = roll.choice([None, None, *GROUPS])  # of one group, and plain: they are put as one
    for _ in range(roll.choice([1, 1, 2, 3]) if only is None else 4):
        group, shard = only or roll.choice([*GROUPS, GROUPS[1]]), roll.choice(SHARDS)
        priority = roll.choice([0, 0, 0, 0, 0, -1, 1])
        delay = roll.choice([0, 0, 0, 0, 0.5, 6]) if only is None else 0
        recorded = roll.random() < 0.3 and only is None
        keyed = roll.random() < 0.3 and only is None
        expires = roll.choice([0, 0, 2]) if only is None else 0
        made = []
        lane = world.lanes[actor.name, group, shard, priority]
        for _ in range(roll.choice([1, 3, 6])):
            id_ = f"m{len(world.messages)}"
            message = Message(
                id_, group, shard, priority, actor.name, len(lane), not delay, recorded
            )
            message.key = roll.choice("kl") if keyed else ""
            world.messages[id_] = message
            lane.append(message)
            made.append(message)
        bodies = [body(message.id) for message in made]
        ids = [message.id for message in made] if recorded else None
        unique = Keys(Mode.DONE, [message.key for message in made]) if keyed else None
        puts.append(
            Put(
                group,
                bodies,
                shard,
                priority,
                micros(delay),
                0,
                ids,
                KEPT,
                unique=unique,
                expires=micros(expires),
            )
        )
        sent.append(made)
    yield from atomic(actor.broker.put(puts))
    for put, made in zip(puts, sent, strict=True):
        for index in (put.unique and put.unique.standing) or ():
            promise(made[index].state == "sent", made[index], "is kept back, but was there")
            made[index].state = "kept back"
    for message in (message for made in sent for message in made):
        if message.state == "sent":
            message.state = "there"


def _want(owner: str, messages: int, **more: Any) -> Want:
    served = [GroupWant(group, messages) for group in GROUPS]
    return Want(served, owner, micros(LEASE), **more)


def _work(actor: Actor) -> Steps:
    roll = actor.world.random
    settlements: list[Settlement] = []
    for _ in range(30):
        want = _want(actor.name, roll.choice([1, 2, 7]), claims=roll.choice([1, 2, 4]))
        step = yield from atomic(actor.broker.step(settlements, want))
        settlements = []
        for claim in step.claims:
            fate = roll.random()
            if fate > 0.06:  # else it is never heard of again
                settlements.append(_settlement(actor, claim))
        for _ in range(roll.choice([0, 0, 1, 4, 20])):
            yield None
    yield from atomic(actor.broker.step(settlements, None))


def _settlement(actor: Actor, claim: Claim) -> Settlement:
    roll = actor.world.random
    outcomes: dict[int, Outcome] = {}
    retry_ids: dict[int, str] = {}
    results = []
    run = [message for lane in claim.lanes for _, message in lane.messages]
    stops = POLICIES[claim.group].concurrency == 1
    for index, message in enumerate(run):
        envelope = read_envelope(message.body)
        assert envelope is not None
        recorded = actor.world.messages[envelope.id].recorded
        fate = roll.random()
        if fate < 0.7:
            if recorded:
                results.append((envelope.id, b"1"))
            continue
        if fate < 0.8:
            outcomes[message.sequence] = Retried(micros(roll.choice([0, 0.5, 5])))
            if recorded:
                retry_ids[message.sequence] = envelope.id
        elif fate < 0.9:
            outcomes[message.sequence] = Back(roll.random() < 0.5, park=roll.random() < 0.2)
        elif fate < 0.95:
            failure = Failure("error", "Error", "it failed")
            outcomes[message.sequence] = Dead(failure, envelope.id, claim.group.name)
            continue
        else:
            outcomes[message.sequence] = Discard(envelope.id)
            continue
        if stops:  # what is behind it goes back as well
            for other in run[index + 1 :]:
                outcomes[other.sequence] = Back()
            break
    return Settlement(claim.token, outcomes, results, frozenset(), retry_ids)


def _keep(actor: Actor) -> Steps:
    """Releases what is parked, and tries dead letters again."""
    world = actor.world
    for _ in range(world.random.choice([5, 30])):
        yield None
    for group, shard in sorted(world.parked):
        released = yield from atomic(actor.broker.release(group, shard))
        promise(released, group, shard, "is parked, but was not found")
    if world.random.random() < 0.5:
        yield from atomic(actor.broker.retry_dead(DeadQuery(limit=3)))


def _look(actor: Actor) -> Steps:
    """Looks up records, and counts."""
    world = actor.world
    unstored = ("sent", "kept back")
    recorded = [m for m in world.messages.values() if m.recorded and m.state not in unstored]
    for message in world.random.sample(recorded, min(3, len(recorded))):
        before = message.state
        [record] = yield from atomic(actor.broker.records([message.id]))
        promise(record is not None, "no record of", message)
        if before == message.state == "there":
            promise(not record.state.final, record, "of", message)
        elif before == message.state:
            promise(record.state.final, record, "of", message)
    for _ in range(10):
        yield None
    there = sum(message.state == "there" for message in world.messages.values())
    counts = world.run(atomic(actor.broker.counts()))
    counted = sum(one.waiting + one.delayed + one.running for one in counts)
    promise(counted >= there, counted, "counted of", there)


def _split(actor: Actor) -> Steps:
    number = 0
    for _ in range(100):
        progress = yield from atomic(actor.broker.split(QUEUE, number))
        number = progress.partitions
        if progress.done:
            actor.world.splits_done += 1
            actor.world.migrators = []
            return
        yield None
