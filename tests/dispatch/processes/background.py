"""A run that a test can look at while it goes on."""

from __future__ import annotations

import threading
from queue import SimpleQueue
from typing import Any

from taskyard.dispatch.conduct import Conductor
from taskyard.dispatch.outcome import Outcome
from taskyard.dispatch.plan import make_plan

__all__ = ["Background"]


class Background:
    """A run in a thread; arguments are those of `run`.

    Attributes:
        conductor: what runs it.
        seen: outcomes, as they come.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        self.seen: SimpleQueue[Outcome] = SimpleQueue()
        self._results: list[Any] = []
        self.conductor = Conductor(make_plan(*args, **options), on_result=self.seen.put)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._results.append(self.conductor.run())
        except BaseException as error:
            self._results.append(error)

    @property
    def engine(self) -> Any:
        """What makes its calls."""
        return self.conductor._engine

    def held(self) -> int:
        """How many calls its processes hold."""
        return sum(member.open for member in list(self.engine._members.values()))

    def stop(self) -> None:
        """End it in order, as a signal does."""
        self.conductor._note_signal("SIGTERM")

    def result(self) -> Any:
        """Wait for its end."""
        self._thread.join(30)
        assert not self._thread.is_alive()
        (result,) = self._results
        if isinstance(result, BaseException):
            raise result
        return result
