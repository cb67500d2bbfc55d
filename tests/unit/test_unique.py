"""The rules of unique keys."""

from __future__ import annotations

import pytest

from taskyard.brokers.unique import (
    Finding,
    Holder,
    Keys,
    Mode,
    admit,
    debounced_due,
    find,
    is_released_at_entry,
    is_released_at_start,
    is_taken_again,
    key_of,
    mark_of,
    mode_of,
)

NOW = 1_000
FREE, HELD, REPLACES = Finding.FREE, Finding.HELD, Finding.REPLACES
S, D, W, B = Mode.STARTED, Mode.DONE, Mode.WINDOW, Mode.DEBOUNCE


@pytest.mark.parametrize(
    ("holder", "mode", "expected"),
    [
        (None, S, FREE),
        (None, D, FREE),
        (None, W, FREE),
        (None, B, FREE),
        (Holder(S, "a"), S, HELD),
        (Holder(D, "a"), D, HELD),
        (Holder(D, "a"), B, HELD),
        (Holder(B, "a"), D, HELD),
        (Holder(B, "a"), B, REPLACES),
        (Holder(W, "a", until=NOW + 1), W, HELD),
        (Holder(W, "a", until=NOW), W, FREE),
        (Holder(W, "a", until=NOW), B, FREE),
        (Holder(W, "a", until=NOW + 1), D, HELD),
    ],
)
def test_what_a_put_finds(holder: Holder | None, mode: Mode, expected: Finding) -> None:
    assert find(holder, mode, NOW) is expected


@pytest.mark.parametrize(
    ("first", "now", "due"),
    [(100, 100, 110), (100, 105, 115), (100, 145, 150), (100, 149, 150), (100, 150, 150)],
)
def test_when_a_debounced_message_is_due(first: int, now: int, due: int) -> None:
    assert debounced_due(first, now, 10, 50) == due


@pytest.mark.parametrize(
    ("mode", "keys", "admitted", "standing"),
    [
        (D, "kl", [0, 1], {}),
        (D, "kk", [0], {1: "m0"}),
        (D, "h", [], {0: "x"}),
        (D, "khk", [0], {1: "x", 2: "m0"}),
        (W, "kk", [0], {1: "m0"}),
        (B, "kk", [0, 1], {1: "m1"}),
        (B, "h", [], {0: "x"}),
        (B, "b", [0], {0: "m0"}),
    ],
)
def test_which_messages_are_admitted(
    mode: Mode, keys: str, admitted: list[int], standing: dict[int, str]
) -> None:
    held = {"h": Holder(D, "x"), "b": Holder(B, "y", first=7)}
    ids = [f"m{index}" for index in range(len(keys))]
    made = admit(Keys(mode, [*keys], 10, 50), ids, held, NOW)
    assert (made.admitted, made.standing) == (admitted, standing)


def test_a_replacement_counts_from_the_first() -> None:
    held = {"k": Holder(B, "y", first=7)}
    admit(Keys(B, ["k"], 10, 50), ["m"], held, NOW)
    assert (held["k"].id, held["k"].first) == ("m", 7)


@pytest.mark.parametrize(
    ("mode", "start", "entry", "again"),
    [(S, True, False, True), (D, False, False, True), (B, False, True, False)],
)
def test_who_releases_what(mode: Mode, start: bool, entry: bool, again: bool) -> None:
    mark = mark_of(mode, "key")
    assert (mode_of(mark), key_of(mark)) == (mode, "key")
    assert is_released_at_start(mark) is start
    assert is_released_at_entry(mark) is entry
    assert is_taken_again(mark) is again


def test_of_a_window_nothing_travels() -> None:
    assert mark_of(W, "key") == ""
    assert not is_taken_again("")
