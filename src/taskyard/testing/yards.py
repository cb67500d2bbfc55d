"""A yard in a test: its messages are in memory, its clock stands still."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from taskyard.errors import TestingError
from taskyard.task import Task
from taskyard.testing.broker import NotingBroker
from taskyard.testing.clock import Clock
from taskyard.testing.enqueued import Enqueued, read_noted
from taskyard.testing.slots import Loops
from taskyard.testing.workbench import Workbench
from taskyard.yard import Yard

__all__ = ["YardInTest", "checked_clock"]


def checked_clock(yard: object, clock: object) -> Clock:
    """Check what a test gave; returns the clock, or one that begins now.

    Raises:
        TestingError: it is no yard, or no clock.
    """
    if not isinstance(yard, Yard):
        raise TestingError(f"give the Yard that the program's tasks are declared on, not {yard!r}")
    if clock is None:
        return Clock()
    if not isinstance(clock, Clock):
        raise TestingError(f"clock= takes a taskyard.testing.Clock(moment), not {clock!r}")
    return clock


class YardInTest:
    """What `stored` and `inline` have in common. Use it by `with`.

    Arguments:
        yard: the program's own; in the block it has a broker in memory instead of its own.
        broker: the one in memory.

    Attributes:
        yard: the program's own.
        clock: the time of its broker.
    """

    def __init__(self, yard: Yard, broker: NotingBroker) -> None:
        self.yard = yard
        self.clock: Clock = broker.clock
        self._broker = broker
        self._loops = Loops()
        self._workbench = Workbench(yard, broker)
        self._block = ExitStack()

    def enqueued(self, task: Task[..., Any] | str | None = None) -> Sequence[Enqueued]:
        """What was enqueued in the block, in order: by the test, by handlers, by schedules.

        It stays here when it has run.

        Arguments:
            task: only of this task, given as such or by its name.

        Raises:
            PayloadError: a message does not fit its handler.
        """
        name = task.name if isinstance(task, Task) else task
        found = [one for noted in self._broker.noted for one in read_noted(self.yard, noted)]
        return [one for one in found if name in (None, one.task)]

    def check(self) -> None:
        """Check that the yard still has the broker of the test.

        Raises:
            TestingError: it has another one.
        """
        if self.yard.broker is not self._broker:
            raise TestingError(
                f"the yard does not use the broker of the test, but {self.yard.broker.url}: call "
                f"this within the `with` block, and let nothing in it call yard.use()"
            )

    def __enter__(self) -> Self:
        self._workbench.declare()
        self._block.enter_context(self.yard.using(self._broker))
        self._block.callback(self._loops.close)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._block.close()
