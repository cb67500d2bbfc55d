"""The message that everything here stores: 128 bytes with its envelope."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

TEXT = "x" * 100
FIRST = 1_000_000
"""Numbers from here on all take five bytes."""


class Item(NamedTuple):
    """What a handler gets. Its number is also the shard, for tasks that shard."""

    n: int
    text: str


def keys(shards: int, seed: int = 7) -> Iterator[int]:
    """Shard keys without end: every shard once in random order, then again in another one.

    So 100 in a row belong to 100 shards that are neighbours nowhere.
    """
    shuffler = random.Random(seed)
    numbers = list(range(FIRST, FIRST + shards))
    while True:
        shuffler.shuffle(numbers)
        yield from numbers


def batches(count: int, size: int, shards: int = 0, seed: int = 7) -> Iterator[list[Item]]:
    """Items in lists.

    Arguments:
        count: how many items.
        size: of a list.
        shards: over how many keys they are spread; 0: numbered.
        seed: of the order of the keys.
    """
    numbers = islice(keys(shards, seed) if shards else iter(range(FIRST, FIRST + count)), count)
    while part := [Item(number, TEXT) for number in islice(numbers, size)]:
        yield part
