"""The keys of a container as Python values, and calls whose every effect is looked at.

`Container.dump` decodes on its own, not by what the broker decodes replies with, and knows every
key that a script may write: it fails at any other. The state is flat: a name like "ready 1 a" (of
group 1, shard a) or "count 1 waiting" stands for each thing that is there. `Container.trace` makes
a call and gives what it changed, by these names. It also holds every call to what all calls
promise: that it may be repeated, and that it leaves a state that agrees with itself.
"""

from __future__ import annotations

import struct
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec
import redis
from tests.redis.scripts.calls import TAG

from taskyard.brokers.redis.calls import Call, container_key

__all__ = [
    "NOW",
    "Claimed",
    "Container",
    "Due",
    "Entry",
    "Lane",
    "Letter",
    "Policy",
    "State",
    "fresh",
    "read_entry",
    "read_transfer",
]

NOW = 1_700_000_000_000_000
TURNS = 1 << 42
LATER = 1_000_000
"""Microseconds after which calls are repeated."""

REMEMBERING = frozenset(
    (
        *("put", "step", "reap", "redrive", "release", "tidy", "declare", "double", "change"),
        *("bound", "changed", "gate", "limit", "park", "attend", "retire", "tell", "cancel"),
    )
)
"""Those whose answer is kept. The others may simply be carried out again."""

State = dict[str, Any]


class Entry(NamedTuple):
    """A message as a lane, a claim or the due set holds it."""

    sequence: int
    since: int
    deliveries: int
    attempts: int
    losses: int
    cap: int
    recorded: bool
    body: bytes
    mark: bytes = b""
    expires: int = 0


class Due(NamedTuple):
    """A message that enters its lane later."""

    at: int
    gid: int
    priority: int
    shard: str
    entry: Entry


class Policy(NamedTuple):
    """What is declared of a group; `split`: where it is, if its queue was split; its gate; `rates`:
    as shared/limits.lua says, but `set_at`: when its limits became what they are, if that is not
    all 0; `bounds`: as shared/bounds.lua says; `minimum`, `lead`: of its batches."""

    key: str
    size: int = 1
    within: int = 0
    bytes: int = 0
    concurrency: int = 0
    max_deliveries: int = 3
    members: tuple[str, ...] = ()
    declared: bool = False
    split: tuple[Any, ...] = ()
    gate: str = "open"
    rates: tuple[Any, ...] = ()
    bounds: tuple[Any, ...] = ()
    minimum: int = 0
    lead: int = 0
    set_at: tuple[int, ...] = ()


class Lane(NamedTuple):
    """The state of a lane that is not of the plainest kind."""

    priorities: tuple[int, ...] = (0,)
    held: int = 0
    blocked: int = 0
    parked: bool = False
    bytes: int = -1
    oldest: int = 0
    back: tuple[int, ...] = ()
    tat: int = 0
    deadline: int = 0


class Claimed(NamedTuple):
    """An open claim; `parts`: per lane shard, flush, priority, number, priority, number…; `since`:
    when it was made, where a rate is limited."""

    key: str
    owner: str
    lease: int
    number: int
    parts: tuple[tuple[Any, ...], ...]
    entries: tuple[Entry, ...]
    since: int = 0
    told: tuple[int, ...] = ()


class Letter(NamedTuple):
    """A dead letter."""

    gid: int
    task: str
    shard: str
    priority: int
    id: bytes
    failure: bytes
    losses: int
    deliveries: int
    attempts: int
    since: int
    at: int
    body: bytes
    mark: str = ""


def fresh(sequence: int, body: bytes | str, *, recorded: bool = False, **history: int) -> Entry:
    """An entry; without more, of a message that was never handed out."""
    data = body.encode() if isinstance(body, str) else body
    plain = Entry(sequence, sequence, 0, 0, 0, 0, recorded, data)
    return plain._replace(**history)


def read_entry(data: bytes) -> Entry:
    """Decode an entry, as shared/entry.lua describes it."""
    sequence, flags = struct.unpack_from(">QB", data)
    assert flags < 16, data
    history: tuple[int, ...] = (sequence, 0, 0, 0, 0)
    head, mark, expires = 9, b"", 0
    if flags & 1:
        history, head = struct.unpack_from(">QIIII", data, 9), 33
    if flags & 4:
        (length,) = struct.unpack_from(">H", data, head)
        mark, head = data[head + 2 : head + 2 + length], head + 2 + length
    if flags & 8:
        (expires,), head = struct.unpack_from(">Q", data, head), head + 8
    return Entry(sequence, *history, bool(flags & 2), data[head:], mark, expires)


class Container:
    """A container of keys.

    Attributes:
        client: talks to its server.
        tag: its hash tag. For the container of an inbox, the list that others push to.
        key: names it.
        now: what the scripts are told is the time, microseconds; None: they use the server's.

    Arguments:
        client: to talk to the server by.
        tag: see above.
    """

    def __init__(self, client: redis.Redis, tag: str = TAG) -> None:
        self.client = client
        self.tag = tag
        self.key = container_key("x", tag)
        self.now: int | None = NOW
        self._number = 0

    # Calling

    def run(self, call: Call, *, slot: str | None = None, number: int = 1) -> Any:
        """Make a call; by default the first of a slot that nobody else uses."""
        if slot is None:
            self._number += 1
            slot = f"slot{self._number}"
        clock = "" if self.now is None else self.now
        return self.client.eval(call.script.source, 1, self.key, slot, number, clock, *call.args)

    def tokens(self, call: Call) -> list[int]:
        """Make a step; returns the tokens of its claims."""
        return [claim[0] for claim in self.run(call)[4]]

    def trace(self, call: Call, *, consistent: bool = True) -> tuple[Any, State]:
        """Make a call and look at everything.

        Arguments:
            call: what to do.
            consistent: whether the state must agree with itself afterwards.

        Returns:
            What it replied, and what it changed: None for what is no more.
        """
        assert self.now is not None
        before = self.dump()
        self._number += 1
        slot = f"traced{self._number}"
        try:
            reply = self.run(call, slot=slot, number=7)
        except redis.ResponseError:
            assert self.dump() == before  # whoever refuses has changed nothing
            raise
        after = self.dump()
        if consistent:
            check(after)
        self._repeat(call, slot, reply, after)
        return reply, changes(before, after)

    def trace_once(self, call: Call) -> tuple[Any, State]:
        """The same for a call that gives things out, so that its repetition gives others."""
        before = self.dump()
        reply = self.run(call)
        after = self.dump()
        check(after)
        return reply, changes(before, after)

    def _repeat(self, call: Call, slot: str, reply: Any, after: State) -> None:
        assert self.now is not None
        remembers = call.script.name in REMEMBERING
        if remembers and self.client.exists(f"{self.key}:call:{slot}"):
            self.now += LATER
            assert self.run(call, slot=slot, number=7) == _renewed(call, reply)
            self.now -= LATER
        assert self.run(call, slot=slot, number=7) == reply
        assert self.dump() == after

    # Looking

    def dump(self) -> State:
        """All that there is but what is remembered of calls; that is seen to expire."""
        keys = [key.decode() for key in self.client.keys("*") if key.decode() != self.tag]
        pipeline = self.client.pipeline(transaction=False)
        kinds = []
        for key in keys:
            assert key.startswith(f"{self.key}:"), f"a key of nobody: {key!r}"
            kind, _, name = key.removeprefix(f"{self.key}:").partition(":")
            kinds.append((kind, name))
            KINDS[kind][0](pipeline, key)
        state: State = {}
        for (kind, name), found in zip(kinds, pipeline.execute(), strict=True):
            for path, value in KINDS[kind][1](name, found):
                assert path not in state, path
                state[path] = value
        self._check_records(state)
        return state

    def _check_records(self, state: State) -> None:
        """Only those of messages that ended expire."""
        names = [path for path in state if path.startswith("record ")]
        pipeline = self.client.pipeline(transaction=False)
        for name in names:
            pipeline.ttl(f"{self.key}:k:{name.removeprefix('record ')}")
        for name, ttl in zip(names, pipeline.execute(), strict=True):
            assert (state[name]["expires"] == 0) == (ttl == -1), name


def _renewed(call: Call, reply: Any) -> Any:
    """What a call replies that is repeated `LATER`: claims are leased anew, as they come late."""
    if call.script.name != "step":
        return reply
    lost, at, upcoming, suspects, claims, *moved = reply
    claims = [[token, key, deadline + LATER, *rest] for token, key, deadline, *rest in claims]
    return [lost, at, upcoming, suspects, claims, *moved]


def changes(before: State, after: State) -> State:
    """What is other than it was."""
    return {
        path: after.get(path)
        for path in sorted({*before, *after})
        if before.get(path) != after.get(path)
    }


# Decoding, key by key

Pairs = Iterator[tuple[str, Any]]
Decoder = Callable[[str, Any], Pairs]


def _hash(server: redis.Redis, key: str) -> None:
    server.hgetall(key)


def _list(server: redis.Redis, key: str) -> None:
    server.lrange(key, 0, -1)


def _zset(server: redis.Redis, key: str) -> None:
    server.zrange(key, 0, -1, withscores=True)


def _set(server: redis.Redis, key: str) -> None:
    server.smembers(key)


def _string(server: redis.Redis, key: str) -> None:
    server.get(key)


def _ttl(server: redis.Redis, key: str) -> None:
    server.ttl(key)


Scored = list[tuple[bytes, float]]


def _scores(found: Scored) -> Iterator[tuple[bytes, int]]:
    for member, score in found:
        assert score.is_integer()
        yield member, int(score)


def _call(name: str, ttl: int) -> Pairs:
    assert 0 < ttl <= 900
    yield from ()


def _meta(name: str, found: dict[bytes, bytes]) -> Pairs:
    for field, value in found.items():
        yield f"meta {field.decode()}", int(value)


def _groups(name: str, found: dict[bytes, bytes]) -> Pairs:
    for key, packed in found.items():
        gid, *numbers, members, declared = msgspec.msgpack.decode(packed)[:8]
        more = msgspec.msgpack.decode(packed)[8:]
        split, gate = more[:4], more[4] if more[4:] and more[4] else "open"
        rates = _tuple(more[5]) if more[5:] and more[5] else ()
        bounds = tuple(more[6]) if more[6:] and more[6] else ()
        if split == 4 * [False]:  # it is not split, but not open either
            split = []
        set_at = rates[7:] if any(rates[7:]) else ()
        where = (tuple(split), gate, rates[:7], bounds, *more[7:])
        declaration = (key.decode(), *numbers, tuple(members), declared)
        policy = Policy(*declaration, *where, set_at=set_at)
        yield f"policy {gid}", policy


def _gates(name: str, found: dict[bytes, bytes]) -> Pairs:
    for queue, gate in found.items():
        yield f"gate {queue.decode()}", gate.decode()


def _rates(name: str, found: dict[bytes, bytes]) -> Pairs:
    for queue, packed in found.items():
        yield f"rate {queue.decode()}", _tuple(msgspec.msgpack.decode(packed))


def _tuple(value: Any) -> Any:
    return tuple(map(_tuple, value)) if isinstance(value, list) else value


def _tats(name: str, found: dict[bytes, bytes]) -> Pairs:
    for field, tat in found.items():
        yield f"tat {field.decode()}", int(tat)


def _bounds(name: str, found: dict[bytes, bytes]) -> Pairs:
    for queue, packed in found.items():
        *said, gids = msgspec.msgpack.decode(packed)
        yield f"bounds {queue.decode()}", (*(each and tuple(each) for each in said), tuple(gids))


def _names(name: str, found: dict[bytes, bytes]) -> Pairs:
    for gid, key in found.items():
        yield f"name {gid.decode()}", key.decode()


def _places(name: str, found: dict[bytes, bytes]) -> Pairs:
    for queue, packed in found.items():
        yield f"place {queue.decode()}", msgspec.msgpack.decode(packed)


def _counters(name: str, found: dict[bytes, bytes]) -> Pairs:
    for field, value in found.items():
        # One that came back to zero is as good as none.
        if int(value):
            yield f"count {name} {field.decode()}", int(value)


def _waiting(name: str, found: list[bytes]) -> Pairs:
    yield f"list {name.replace(':', ' ', 2)}", [read_entry(entry) for entry in found]


def _back(name: str, found: Scored) -> Pairs:
    entries = []
    for data, score in _scores(found):
        entries.append(read_entry(data))
        assert entries[-1].sequence == score
    yield f"back {name.replace(':', ' ', 2)}", entries


def _states(name: str, found: dict[bytes, bytes]) -> Pairs:
    for shard, packed in found.items():
        yield f"lane {name} {shard.decode()}", msgspec.msgpack.decode(packed, type=Lane)


def _ready(name: str, found: Scored) -> Pairs:
    for shard, score in _scores(found):
        yield f"ready {name} {shard.decode()}", divmod(score, TURNS)


def _later(name: str, found: Scored) -> Pairs:
    for member, at in _scores(found):
        yield f"later {int.from_bytes(member[:4], 'big')} {member[4:].decode()}", at


def _fading(name: str, found: Scored) -> Pairs:
    for member, at in _scores(found):
        yield f"fading {int.from_bytes(member[:4], 'big')} {member[4:].decode()}", at


def _filling(name: str, found: Scored) -> Pairs:
    for shard, at in _scores(found):
        yield f"filling {name} {shard.decode()}", at


def _shards(kind: str) -> Decoder:
    def decode(name: str, found: set[bytes]) -> Pairs:
        for shard in found:
            yield f"{kind} {name} {shard.decode()}", True

    return decode


def _values(kind: str) -> Decoder:
    def decode(name: str, found: list[bytes]) -> Pairs:
        yield kind, found

    return decode


def _fields(kind: str) -> Decoder:
    def decode(name: str, found: dict[bytes, bytes]) -> Pairs:
        for field, value in found.items():
            yield f"{kind} {field.decode()}", value

    return decode


def _dues(kind: str) -> Decoder:
    def decode(name: str, found: Scored) -> Pairs:
        for member, at in _scores(found):
            sequence, gid, priority, length = struct.unpack_from(">QIhH", member)
            shard, entry = member[16 : 16 + length].decode(), member[:8] + member[16 + length :]
            yield f"{kind} {sequence}", Due(at, gid, priority, shard, read_entry(entry))

    return decode


def _claims(name: str, found: Scored) -> Pairs:
    for token, deadline in _scores(found):
        yield f"claim {token.decode()}", deadline


class _Header(NamedTuple):
    key: str
    owner: str
    lease: int
    number: int
    parts: tuple[tuple[Any, ...], ...]
    since: int | bool = False
    keyed: bool = False
    told: tuple[int, ...] = ()


def _claim(name: str, found: list[bytes]) -> Pairs:
    header = msgspec.msgpack.decode(found[0], type=_Header)
    entries = tuple(map(read_entry, found[1:]))
    assert header.number == len(entries) == sum(sum(part[3::2]) for part in header.parts)
    assert header.keyed == any(entry.mark and entry.mark[:1] != b"s" for entry in entries)
    yield f"held {name}", Claimed(*header[:5], entries, int(header.since), header.told)


def _numbers(kind: str) -> Decoder:
    def decode(name: str, found: Scored) -> Pairs:
        for number, score in _scores(found):
            assert int(number) == score
            yield f"{kind} {name} {score}", True

    return decode


def _buried(name: str, found: Scored) -> Pairs:
    for member, at in _scores(found):
        yield f"buried {member.decode().replace(':', ' ')}", at


# Ids, failures and bodies need not be text, though they are packed as such.
class _PackedLetter(NamedTuple):
    gid: int
    task: str
    shard: str
    priority: int
    id: msgspec.Raw
    failure: msgspec.Raw
    losses: int
    deliveries: int
    attempts: int
    since: int
    at: int
    body: msgspec.Raw
    mark: str = ""


_letter = msgspec.msgpack.Decoder(_PackedLetter, strict=False)


def _bytes(text: msgspec.Raw) -> bytes:
    raw = bytes(text)
    return raw[{0xD9: 2, 0xDA: 3, 0xDB: 5}.get(raw[0], 1) :]


def _read_letter(packed: msgspec.Raw | bytes) -> Letter:
    values = _letter.decode(packed)
    return Letter(*(_bytes(each) if isinstance(each, msgspec.Raw) else each for each in values))


def _letters(name: str, found: dict[bytes, bytes]) -> Pairs:
    for number, packed in found.items():
        yield f"letter {number.decode()}", _read_letter(packed)


# Rules and what is to be put are no text, though they are packed as such.
_any = msgspec.msgpack.Decoder(list[msgspec.Raw])


def _decoded(packed: bytes) -> list[Any]:
    """An array, whose strings come as bytes."""
    values: list[Any] = []
    for raw in map(bytes, _any.decode(packed)):
        if 0x90 <= raw[0] <= 0x9F:
            values.append(_decoded(raw))
        elif 0xA0 <= raw[0] <= 0xBF or raw[0] in (0xD9, 0xDA, 0xDB):
            values.append(_bytes(msgspec.Raw(raw)))
        else:
            values.append(msgspec.msgpack.decode(raw))
    return values


TEXTS = {"state", "shard", "waiters"}
BLOBS = {"result", "failure", "progress"}


def _read_record(found: dict[bytes, bytes]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for field, value in found.items():
        word = field.decode()
        fields[word] = value if word in BLOBS else value.decode() if word in TEXTS else int(value)
    return fields


def _record(name: str, found: dict[bytes, bytes]) -> Pairs:
    yield f"record {name}", _read_record(found)


# What leaves a container, and of queues that are split


def _epochs(name: str, found: dict[bytes, bytes]) -> Pairs:
    for queue, packed in found.items():
        yield f"epoch {queue.decode()}", tuple(msgspec.msgpack.decode(packed))


def _queues(kind: str) -> Decoder:
    def decode(name: str, found: dict[bytes, bytes]) -> Pairs:
        for queue, number in found.items():
            yield f"{kind} {queue.decode()}", int(number)

    return decode


_transfer = msgspec.msgpack.Decoder(tuple[int, list[list[msgspec.Raw]]])


def _raw_record(raw: msgspec.Raw) -> dict[str, Any] | None:
    if bytes(raw) == b"\xc2":  # false
        return None
    values = [_bytes(each) for each in msgspec.msgpack.decode(raw, type=list[msgspec.Raw])]
    return _read_record(dict(zip(values[::2], values[1::2], strict=True)))


def read_transfer(packed: bytes) -> tuple[int, list[tuple[Any, ...]]]:
    """Decode what export.lua has on its way: its number, and things as it describes them."""
    number, things = _transfer.decode(packed)
    return number, [_thing(*map(bytes, thing)) for thing in things]


def _thing(kind: bytes, *rest: bytes) -> tuple[Any, ...]:
    word, plain = _bytes(msgspec.Raw(kind)).decode(), msgspec.msgpack.decode
    if word in "su":
        return (word, *map(plain, rest))
    if word == "x":
        key, letter, record = rest
        return (word, plain(key), _read_letter(letter), _raw_record(msgspec.Raw(record)))
    key, shard, priority, entry, record, *due = rest
    read = read_entry(_bytes(msgspec.Raw(entry)))
    head = (word, plain(key), plain(shard), plain(priority), read)
    return (*head, _raw_record(msgspec.Raw(record)), *map(plain, due))


def _slot(name: str, found: bytes) -> Pairs:
    yield f"slot {name}", read_transfer(found)


def _sleepers(name: str, found: dict[bytes, bytes]) -> Pairs:
    for listener, packed in found.items():
        yield f"sleeper {listener.decode()}", msgspec.msgpack.decode(packed)


def _packed(kind: str) -> Decoder:
    def decode(name: str, found: dict[bytes, bytes]) -> Pairs:
        for member, packed in found.items():
            yield f"{kind} {member.decode()}", _decoded(packed)

    return decode


def _line(name: str, found: Scored) -> Pairs:
    for listener, order in _scores(found):
        yield f"line {name} {listener.decode()}", order


def _schedules(name: str, found: dict[bytes, bytes]) -> Pairs:
    for schedule, packed in found.items():
        yield f"schedule {schedule.decode()}", _decoded(packed)


def _schedule_names(name: str, found: Scored) -> Pairs:
    for schedule, score in _scores(found):
        assert score == 0
        yield f"schedulename {schedule.decode()}", True


def _changes(name: str, found: dict[bytes, bytes]) -> Pairs:
    for schedule, packed in found.items():
        yield f"change {schedule.decode()}", _decoded(packed)


def _times(kind: str) -> Decoder:
    def decode(name: str, found: Scored) -> Pairs:
        for member, at in _scores(found):
            yield f"{kind} {member.decode()}", at

    return decode


def _field(packed: bytes) -> str:
    """A unique key: of which group and shard, and it."""
    gid, length = struct.unpack_from(">IH", packed)
    shard, key = packed[6 : 6 + length].decode(), packed[6 + length :].decode()
    return f"{gid} {shard} {key}"


def _unique(name: str, found: dict[bytes, bytes]) -> Pairs:
    for field, value in found.items():
        mode, rest = value[:1].decode(), value[1:]
        first: tuple[int, ...] = ()
        if mode in "wb":
            first, rest = struct.unpack_from(">Q", rest), rest[8:]
        if mode == "b":
            (length,) = struct.unpack_from(">H", rest)
            rest = rest[2 : 2 + length]
        yield f"key {_field(field)}", (mode, rest.decode(), *first)


def _windows(name: str, found: Scored) -> Pairs:
    for field, end in _scores(found):
        yield f"window {_field(field)}", end


KINDS: dict[str, tuple[Callable[[redis.Redis, str], None], Decoder]] = {
    "call": (_ttl, _call),
    "meta": (_hash, _meta),
    "groups": (_hash, _groups),
    "gates": (_hash, _gates),
    "rates": (_hash, _rates),
    "tats": (_hash, _tats),
    "fading": (_zset, _fading),
    "bounds": (_hash, _bounds),
    "names": (_hash, _names),
    "places": (_hash, _places),
    "g": (_hash, _counters),
    "l": (_list, _waiting),
    "b": (_zset, _back),
    "s": (_hash, _states),
    "r": (_zset, _ready),
    "later": (_zset, _later),
    "f": (_zset, _filling),
    "p": (_set, _shards("parked")),
    "o": (_set, _shards("open")),
    "w": (_set, _shards("closed")),
    "m": (_set, _shards("moving")),
    "x": (_zset, _numbers("leaving")),
    "away": (_zset, _dues("away")),
    "slot": (_string, _slot),
    "imported": (_hash, _queues("imported")),
    "splits": (_hash, _queues("split")),
    "epochs": (_hash, _epochs),
    "transfers": (_hash, _fields("transfer")),
    "out": (_list, _values("out")),
    "woken": (_list, _values("woken")),
    "lot": (_hash, _fields("lot")),
    "notes": (_zset, _times("note")),
    "due": (_zset, _dues("due")),
    "claims": (_zset, _claims),
    "c": (_list, _claim),
    "d": (_zset, _numbers("dead")),
    "buried": (_zset, _buried),
    "back": (_set, _shards("returning")),
    "letters": (_hash, _letters),
    "k": (_hash, _record),
    "sleepers": (_hash, _sleepers),
    "i": (_zset, _line),
    "schedules": (_hash, _schedules),
    "schedulenames": (_zset, _schedule_names),
    "agenda": (_zset, _times("agenda")),
    "changes": (_hash, _changes),
    "removed": (_zset, _times("removed")),
    "workers": (_hash, _packed("worker")),
    "seen": (_zset, _times("seen")),
    "mail": (_hash, _packed("mail")),
    "u": (_hash, _unique),
    "windows": (_zset, _windows),
    "gone": (_list, _values("gone")),
}
"""By what stands behind the container in a key: how it is read, and what it says."""


# What must agree

Some = Callable[[str], dict[str, Any]]


def check(state: State) -> None:
    """Hold what is written twice against each other, and places against what lanes hold."""
    things: dict[str, dict[str, Any]] = {}
    for path, value in state.items():
        kind, _, name = path.partition(" ")
        things.setdefault(kind, {})[name] = value

    def some(kind: str) -> dict[str, Any]:
        return things.get(kind, {})

    assert _gids(some) == {key: gid for gid, key in some("name").items()}
    assert some("claim").keys() == some("held").keys()
    assert {name.split()[1] for name in some("dead")} == some("letter").keys()
    buried = {f"{letter.gid} {number}": letter.at for number, letter in some("letter").items()}
    assert some("dead").keys() == buried.keys()
    assert some("buried") == buried
    assert some("leaving").keys() <= some("dead").keys()
    assert {name.split()[1] for name in some("line")} <= some("sleeper").keys()
    _check_numbers(some)
    _check_lanes(some)
    _check_schedules(some)
    _check_workers(some)
    _check_gates(some)
    _check_rates(some)
    _check_bounds(some)


def _check_workers(some: Some) -> None:
    seen = {name: entry[0] for name, entry in some("worker").items()}
    assert some("seen") == seen
    assert some("mail").keys() <= seen.keys()


def _check_schedules(some: Some) -> None:
    assert some("schedule").keys() == some("schedulename").keys()
    under_way = {name for name, change in some("change").items() if change[1]}
    assert some("removed").keys() == some("change").keys() - under_way
    assert not some("removed").keys() & some("schedule").keys()
    for name in {*some("schedule"), *some("agenda")} - under_way:
        _, pending, _, paused, *_ = some("schedule")[name]
        assert some("agenda").get(name) == (pending if pending and not paused else None)


def _check_gates(some: Some) -> None:
    for policy in some("policy").values():
        queue = policy.key.partition("\0")[0]
        assert policy.gate == some("gate").get(queue, "open"), policy.key


def _check_rates(some: Some) -> None:
    for policy in some("policy").values():
        of_queue = some("rate").get(policy.key.partition("\0")[0], (False, False))[:2]
        assert (policy.rates[4:6] or (False, False)) == of_queue, policy.key
        assert policy.rates == () or any(policy.rates[:6])


def _check_bounds(some: Some) -> None:
    gids = _gids(some)
    for policy in some("policy").values():
        queue = policy.key.partition("\0")[0]
        declared, chosen, known = some("bounds").get(queue, (False, False, (gids[policy.key],)))
        effective = chosen or declared or (0, 0)
        assert policy.bounds == (effective if any(effective[:2]) else ()), policy.key
        assert gids[policy.key] in known


def _gids(some: Some) -> dict[str, str]:
    return {policy.key: gid for gid, policy in some("policy").items()}


def _lengths(some: Some) -> dict[str, Counter[tuple[str, int]]]:
    """Of each lane, how many messages are where."""
    lengths: defaultdict[str, Counter[tuple[str, int]]] = defaultdict(Counter)
    for kind in ("list", "back"):
        for name, entries in some(kind).items():
            gid, priority, shard = name.split(" ", 2)
            lengths[f"{gid} {shard}"][kind, int(priority)] += len(entries)
    return lengths


def _check_numbers(some: Some) -> None:
    counted: Counter[str] = Counter()
    for name, lengths in _lengths(some).items():
        gid = name.split()[0]
        counted[f"{gid} waiting"] += lengths.total()
        counted[f"{gid} lanes"] += 1
    for due in (*some("due").values(), *some("away").values()):
        counted[f"{due.gid} delayed"] += 1
    gids = _gids(some)
    # What left counts here until it arrived.
    for _, things in some("slot").values():
        for kind, key, *_ in things:
            if kind in ("m", "d"):
                counted[f"{gids[key]} {'waiting' if kind == 'm' else 'delayed'}"] += 1
    for claimed in some("held").values():
        counted[f"{gids[claimed.key]} running"] += claimed.number
    numbers = ("waiting", "lanes", "delayed", "running")
    said = {name: value for name, value in some("count").items() if name.split()[1] in numbers}
    assert said == dict(counted)


def _check_lanes(some: Some) -> None:
    all_lengths, lanes = _lengths(some), some("lane")
    assert {name: lane.held for name, lane in lanes.items() if lane.held} == _held(some)
    assert {name for name, lane in lanes.items() if lane.parked} == some("parked").keys()
    assert some("filling").items() <= some("later").items()
    assert not some("ready").keys() & some("later").keys()
    for name in {*all_lengths, *lanes, *some("ready"), *some("later"), *some("fading")}:
        lane, lengths = lanes.get(name, Lane()), all_lengths.get(name, Counter())
        policy = some("policy")[name.split()[0]]
        full = policy.concurrency and lane.held >= policy.concurrency
        somewhere = lengths.total() > 0 and not lane.parked and not full
        somewhere = somewhere and name not in some("closed")
        assert somewhere == (name in some("ready") or name in some("later")), name
        fades = lengths.total() == 0 and lane.tat > 0 and not lane.parked and not full
        assert fades == (name in some("fading")), name
        assert {priority for _, priority in lengths} <= {*lane.priorities}
        assert {priority for kind, priority in lengths if kind == "back"} <= {*lane.back}
        assert list(lane.priorities) == sorted({*lane.priorities})
        assert some("ready").get(name, lane.priorities)[0] == lane.priorities[0]


def _held(some: Some) -> dict[str, int]:
    held: Counter[str] = Counter()
    gids = _gids(some)
    for claimed in some("held").values():
        gid = gids[claimed.key]
        if some("policy")[gid].concurrency:
            held.update(f"{gid} {part[0]}" for part in claimed.parts)
    return dict(held)
