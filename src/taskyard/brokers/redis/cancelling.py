"""Cancelling messages, in whatever containers they are, and telling who runs them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import msgspec

from taskyard.brokers.base import Group, Operation
from taskyard.brokers.cancelling import Cancellation, Cancelled, frees_key, joined
from taskyard.brokers.redis.calls import Argument, Each
from taskyard.brokers.redis.placement import TOKENS, Placements, call
from taskyard.brokers.redis.replies import group_key
from taskyard.brokers.redis.split import Splits
from taskyard.brokers.unique import Mode, letter_of

__all__ = ["cancel", "cancel_key", "pulse"]

_pack = msgspec.msgpack.Encoder().encode
_MOVING = b"moving"
_DEBOUNCED = letter_of(Mode.DEBOUNCE).encode()
PATIENCE = 1.0
"""Seconds for which a container is tried again that cannot be reached, while others may be."""


def cancel(placements: Placements, id_: str, *, note: bool) -> Operation[Cancellation]:
    """See `Broker.cancel`.

    It is looked for where messages are known to go, then everywhere; a split may move it from one
    look to the other. What cannot be found is noted in all containers. One that joins later gets
    its messages from those, and noted ones do not leave them.
    """
    found, moving = yield from _cancel_in(placements.containers(), id_, note=False)
    if found.outcome is not Cancelled.UNKNOWN:
        return found
    everywhere = yield from placements.everywhere()
    for _ in range(2 if len(everywhere) > 1 else 0):
        found, moves = yield from _cancel_in(everywhere, id_, note=False)
        moving |= moves
        if found.outcome is not Cancelled.UNKNOWN:
            return found
    if not note and not moving:
        return found
    noted: list[int] = []
    while missing := [container for container in everywhere if container not in noted]:
        further, _ = yield from _cancel_in(missing, id_, note=True)
        found = joined([found, further])
        noted += missing
        everywhere = yield from placements.everywhere()
    return found


def _cancel_in(
    containers: Iterable[int], id_: str, *, note: bool
) -> Operation[tuple[Cancellation, bool]]:
    """Cancel it in some containers; also whether it is on its way from one to another."""
    replies = yield [call("cancel", container, id_, int(note)) for container in containers]
    moving = any(what == _MOVING for what, *_ in replies)
    told = [
        Cancellation(Cancelled(what.decode()), *(name.decode() for name in worker))
        for what, *worker in replies
        if what != _MOVING
    ]
    return joined([*told, Cancellation(Cancelled.UNKNOWN)]), moving


def cancel_key(
    placements: Placements, splits: Splits, group: Group, shard: str, key: str
) -> Operation[Cancellation]:
    """See `Broker.cancel_key`.

    Where a message holds a key, there it is. Only a window says nothing of where its message is,
    and a shard that moved may have a debounced message here, and a later one there.
    """
    place = (group_key(group), shard, key)
    placement = yield from splits.current(group.queue)
    while True:
        found: list[Cancellation] = [Cancellation(Cancelled.UNKNOWN)]
        may_be_elsewhere = placement.before(shard) is not None
        for looking in splits.find(group.queue, placement, shard):
            container = yield from looking
            what, worker, holder, mode = yield call(
                "cancel", container, "", int(not may_be_elsewhere), *place
            )
            done = Cancellation(Cancelled(what.decode()), worker.decode())
            if holder and done.outcome is Cancelled.UNKNOWN:
                done = yield from cancel(placements, holder.decode(), note=True)
                if frees_key(Mode.WINDOW, done.outcome):
                    yield call("cancel", container, holder, 1, *place)
            found.append(done)
            if holder and mode != _DEBOUNCED:
                break
        whole = joined(found)
        looked, placement = placement, (yield from splits.current(group.queue))
        if whole.outcome is not Cancelled.UNKNOWN or looked == placement:  # else it may have moved
            return whole


def pulse(
    tokens: Sequence[int], progress: Sequence[tuple[int, str, bytes]]
) -> Operation[list[tuple[int, int]]]:
    """See `Broker.pulse`."""
    asked: dict[int, list[int]] = defaultdict(list)
    notes: dict[int, list[tuple[int, str, bytes]]] = defaultdict(list)
    for token in tokens:
        container, inside = TOKENS.inside(token)
        asked[container].append(inside)
    for token, id_, told in progress:
        container, inside = TOKENS.inside(token)
        notes[container].append((inside, id_, told))
    containers = [*asked, *(one for one in notes if one not in asked)]
    replies = yield Each(
        call("pulse", one, *_arguments(asked[one], notes[one]))._replace(retry=PATIENCE)
        for one in containers
    )
    if replies and all(isinstance(reply, Exception) for reply in replies):
        raise replies[0]
    return [
        (TOKENS.outside(container, token), sequence)
        for container, reply in zip(containers, replies, strict=True)
        if not isinstance(reply, Exception)
        for token, sequence in reply
    ]


def _arguments(tokens: list[int], notes: list[tuple[int, str, bytes]]) -> list[Argument]:
    first = 5  # the index in ARGV behind the packed part
    told = [(token, id_, index) for index, (token, id_, _) in enumerate(notes, first)]
    return [_pack((tokens, told)), *(data for _, _, data in notes)]
