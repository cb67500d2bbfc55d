"""What the demonstration looks like while it runs: bars on a terminal, plain lines elsewhere."""

import threading
import time
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import NamedTuple, Self

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

__all__ = ["Progress", "Sample"]


class Sample(NamedTuple):
    """The numbers of a moment.

    Attributes:
        put: lines in the queue or through it.
        waiting: lines that wait in the queue.
        files: files that have such lines.
        workers: lines that each worker process has stored, by its id.
    """

    put: int
    waiting: int
    files: int
    workers: dict[int, int]

    @property
    def stored(self) -> int:
        return sum(self.workers.values())


class Progress:
    """Shows samples in a thread of its own, until left.

    Arguments:
        console: where to.
        total: how many lines there will be.
        look: takes a sample.
    """

    def __init__(self, console: Console, total: int, look: Callable[[], Sample]) -> None:
        self.killed: set[int] = set()
        self._console, self._total, self._look = console, total, look
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._began = time.monotonic()
        self._samples = [(self._began, Sample(0, 0, 0, {}))]
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end.set()
        self._thread.join()
        if self._live:
            self._live.stop()

    def say(self, text: str) -> None:
        """Print something above the bars."""
        self._console.print(text, soft_wrap=True)

    def _run(self) -> None:
        while True:
            ended = self._end.wait(0.2 if self._live else 1.0)
            sample = self._look()
            # The last seconds, so that the rates are those of now.
            self._samples = [
                *self._samples[-12 if self._live else -3 :],
                (time.monotonic(), sample),
            ]
            if self._live:
                self._live.update(self._bars(sample), refresh=True)
            else:
                self._console.print(self._line(sample), soft_wrap=True)
            if ended:
                return

    def _rate(self, number: Callable[[Sample], int]) -> str:
        (then, before), (now, after) = self._samples[0], self._samples[-1]
        return f"{(number(after) - number(before)) / (now - then):,.0f}/s"

    def _bars(self, sample: Sample) -> Table:
        table = Table.grid(padding=(0, 2))
        for align in ("left", "left", "right", "right", "right"):
            table.add_column(justify=align)
        for name, value, rate in [
            ("put", sample.put, self._rate(lambda at: at.put)),
            ("stored", sample.stored, self._rate(lambda at: at.stored)),
        ]:
            table.add_row(name, self._bar(value), f"{value / self._total:.0%}", f"{value:,}", rate)
        for pid, lines in sample.workers.items():
            of_worker: Callable[[Sample], int] = partial(_of_worker, pid)
            end = "[red]kill -9" if pid in self.killed else self._rate(of_worker)
            table.add_row(f"  worker {pid}", self._bar(lines), "", f"{lines:,}", end)
        waiting = f"{sample.waiting:,} lines of {sample.files:,} files"
        table.add_row("in the queue", waiting, "", "", f"{time.monotonic() - self._began:.0f} s")
        return table

    def _bar(self, value: int) -> ProgressBar:
        return ProgressBar(
            total=self._total,
            completed=value,
            width=40,
            complete_style="cyan",
            finished_style="green",
        )

    def _line(self, sample: Sample) -> str:
        workers = ", ".join(
            f"worker {pid} {lines:,}{' (killed)' if pid in self.killed else ''}"
            for pid, lines in sample.workers.items()
        )
        return (
            f"{time.monotonic() - self._began:4.0f} s  "
            f"put {sample.put / self._total:4.0%}  stored {sample.stored / self._total:4.0%}  "
            f"{self._rate(lambda at: at.stored):>10}  {workers}"
        )


def _of_worker(pid: int, sample: Sample) -> int:
    return sample.workers.get(pid, 0)
