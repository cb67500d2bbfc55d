"""What cancelling means: the pure part."""

from __future__ import annotations

import pytest

from taskyard.brokers.cancelling import (
    NOTED,
    Cancellation,
    Cancelled,
    blocked_after,
    frees_key,
    is_noted,
    joined,
)
from taskyard.brokers.unique import Mode


@pytest.mark.parametrize(
    ("note", "sequence", "now", "noted"),
    [
        (100, 99, 100, True),  # put before
        (100, 100, 100, False),
        (100, 101, 200, False),  # a later one of the same id
        (100, 99, 99 + NOTED, True),
        (100, 99, 100 + NOTED, False),  # forgotten
        (100, 99, 5, True),  # a clock that was set back
    ],
)
def test_a_note_means_what_was_put_before_for_a_while(
    note: int, sequence: int, now: int, noted: bool
) -> None:
    assert is_noted(note, sequence, now) is noted


@pytest.mark.parametrize(
    ("blocked", "due", "after"),
    [
        (0, 0, 0),
        (50, 50, 0),  # it was what the lane waited for
        (50, 0, 50),  # another one is
        (50, 40, 50),  # another one is, for longer
    ],
)
def test_a_lane_is_held_up_by_others_only(blocked: int, due: int, after: int) -> None:
    assert blocked_after(blocked, due) == after


@pytest.mark.parametrize(
    ("parts", "whole"),
    [
        ("unknown unknown", "unknown"),
        ("unknown removed", "removed"),
        ("ended unknown", "ended"),
        ("noted told noted", "told"),
        ("noted noted", "noted"),
    ],
)
def test_what_happened_anywhere_counts(parts: str, whole: str) -> None:
    made = [Cancellation(Cancelled(part)) for part in parts.split()]
    assert joined(made).outcome == whole


@pytest.mark.parametrize(
    ("outcome", "modes"),
    [
        ("removed", {Mode.WINDOW}),  # others release their keys by their end
        ("told", {Mode.WINDOW}),
        ("noted", set(Mode)),  # when its turn comes nobody could have waited for the key
        ("ended", set()),
        ("unknown", set()),
    ],
)
def test_which_keys_a_cancellation_frees(outcome: str, modes: set[Mode]) -> None:
    assert {mode for mode in Mode if frees_key(mode, Cancelled(outcome))} == modes
