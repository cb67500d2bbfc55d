"""Unique keys of messages that have a time to expire of their own: they are released as others."""

from __future__ import annotations

import pytest

from taskyard.brokers.base import Back, Discard, Retried
from taskyard.brokers.unique import Mode
from taskyard.testing.conformance.harness import Harness, micros

EXPIRES = 100.0


def put(harness: Harness, mode: Mode, id_: str) -> str | None:
    return harness.put_unique(mode, id_, expires=EXPIRES)


def test_a_claim_releases_the_key_of_what_it_starts(harness: Harness) -> None:
    assert put(harness, Mode.STARTED, "a") is None
    assert put(harness, Mode.STARTED, "b") == "a"
    harness.take()
    assert put(harness, Mode.STARTED, "c") is None


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("again", [False, True])
def test_what_is_done_releases_its_key(harness: Harness, many: bool, again: bool) -> None:
    assert put(harness, Mode.DONE, "a") is None
    if many:
        harness.put("beside", "it")
    claim = harness.take(3)
    if again:  # it has a history then, and is stored another way
        harness.settle(claim, every=Back(started=True))
        claim = harness.take(3)
    assert put(harness, Mode.DONE, "b") == "a"
    harness.settle(claim)
    assert put(harness, Mode.DONE, "c") is None


def test_what_is_done_before_the_rest_of_its_claim_releases_its_key(harness: Harness) -> None:
    assert put(harness, Mode.DONE, "a") is None
    harness.put("beside", "it")
    harness.settle(harness.take(3), {"beside": Discard("beside")}, keep=["it"])
    assert put(harness, Mode.DONE, "b") is None


def test_what_is_retried_keeps_its_key_until_it_is_done(harness: Harness) -> None:
    assert put(harness, Mode.DONE, "a") is None
    harness.settle(harness.take(), every=Retried(micros(1)))
    harness.clock.advance(1)
    assert put(harness, Mode.DONE, "b") == "a"
    harness.settle(harness.take())
    assert put(harness, Mode.DONE, "c") is None
