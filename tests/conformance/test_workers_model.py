"""Who works, and what workers are told: every broker is observed like the memory broker."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from operator import methodcaller
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.conformance.conftest import EMBEDDED

from taskyard.brokers.base import Broker, Operation
from taskyard.brokers.memory import MemoryBroker
from taskyard.brokers.workers import KEPT, Present, Workers
from taskyard.testing.conformance.harness import Clock

EXPIRY = KEPT / 1e6

OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("attend"), st.sampled_from("abc"), st.integers(0, 4)),
        st.tuples(st.just("tell"), st.sets(st.sampled_from("abcd")), st.sampled_from(["x", "y"])),
        st.tuples(st.just("retire"), st.sampled_from("abcd"), st.none()),
        st.tuples(st.just("pass"), st.sampled_from([1.0, EXPIRY / 2, EXPIRY]), st.none()),
    ),
    max_size=30,
)


@pytest.mark.parametrize("broker", [*EMBEDDED, "redis"])
def test_they_are_observed_like_the_model(
    maker: Callable[[str], Callable[..., Broker]], broker: str, tmp_path: Path
) -> None:
    folders = itertools.count()

    @settings(max_examples=40, deadline=None, database=None)
    @given(OPERATIONS)
    def compare(operations: list[tuple[Any, ...]]) -> None:
        clock, folder = Clock(), tmp_path / str(next(folders))
        folder.mkdir()
        brokers = [MemoryBroker(clock=clock), maker(broker)(folder, clock)]
        drivers = [(one.workers, one.driver()) for one in brokers]
        numbers = [0]

        def both(operation: Callable[[Workers], Operation[Any]]) -> Any:
            first, second = (driver.run(operation(one)) for one, driver in drivers)
            assert first == second
            return first

        for what, whom, more in operations:
            if what == "attend":
                heard = numbers[-min(more, len(numbers))] if more else 0
                both(methodcaller("attend", whom, b"report", "", heard))
            elif what == "tell":
                both(methodcaller("tell", sorted(whom), "pause", more))
            elif what == "retire":
                both(methodcaller("retire", [whom]))
            else:
                clock.advance(whom)
            present = both(_sorted)
            for entry in present.workers:
                mail = both(methodcaller("mail", entry.id, 0))
                numbers += [message.number for message in mail]
        for _, driver in drivers:
            driver.close()

    compare()


def _sorted(workers: Workers) -> Operation[Present]:
    present = yield from workers.find()
    return Present(present.now, sorted(present.workers, key=lambda entry: entry.id))
