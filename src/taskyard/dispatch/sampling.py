"""From a log to what a report is made from."""

from __future__ import annotations

from array import array

from taskyard.dispatch.log import CODES
from taskyard.dispatch.outcome import Status
from taskyard.dispatch.result import Run
from taskyard.report import Conditions, Samples

__all__ = ["samples_of"]

_COMPLETED, _FAILED = CODES[Status.COMPLETED], CODES[Status.FAILED]


def samples_of(run: Run) -> Samples:
    """The columns of a run: its calls that completed or failed, and how many did neither."""
    log, info, counts = run.log, run.info, run.counts
    codes = log.codes
    ended = counts.completed + counts.failed == len(log)
    rows = range(len(log)) if ended else [at for at, code in enumerate(codes) if code <= _FAILED]
    places = {row: at for at, row in enumerate(rows)} if log.failures or log.metadata else {}

    def shifted(column: array[float]) -> array[float]:
        offset = log.offset
        if ended:
            return array("d", [instant + offset for instant in column])
        return array("d", [column[row] + offset for row in rows])

    started = shifted(log.started)
    return Samples(
        planned=started if log.planned is None else shifted(log.planned),
        started=started,
        ended=shifted(log.ended),
        success=bytearray(codes[row] == _COMPLETED for row in rows),
        ids=log.ids if ended else array("q", [log.ids[row] for row in rows]),
        kinds={places[row]: error.kind for row, error in log.failures.items() if row in places},
        messages={
            places[row]: error.message for row, error in log.failures.items() if row in places
        },
        metadata={places[row]: noted for row, noted in log.metadata.items() if row in places},
        undispatched=counts.undispatched,
        cancelled=counts.cancelled,
        lost=counts.lost,
        unknown=counts.unknown,
        conditions=Conditions(
            function=info.function,
            kind=info.kind,
            workers=info.workers,
            plan=info.plan,
            open_loop=bool(info.plan),
            limited=info.limited,
            interrupted=bool(info.interrupted) or run.error is not None,
        ),
    )
