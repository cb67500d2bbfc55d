"""The log as a file: a line of JSON that says what was run, then one per outcome.

It is written as outcomes arrive and given to the operating system at once. So a process that is
killed loses what ended in its last 50 ms or so; a machine that loses its power may lose more, as
nothing is forced to the disk. A line that was not written to its end is cut off when the file is
opened again.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from taskyard.dispatch.engine import Finished
from taskyard.dispatch.outcome import CallError, Outcome, Status
from taskyard.errors import DispatchError

__all__ = ["Header", "LogFile", "entry", "save"]

KEPT = (Status.COMPLETED, Status.FAILED)
"""What is not done again when a run is resumed."""

MOST_CALLS = 2**63 - 1
"""Numbers of calls are kept in 8 bytes."""

_BEGIN = b'{"run":{"function":"'


class Header(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What was run.

    Attributes:
        function: the name of the function.
        started: when, as unix seconds.
        kind: what the workers were.
        workers: how many there were at most.
        plan: when calls were due, in words; "": as soon as possible.
        total: how many calls there were to be; None: not known.
    """

    function: str
    started: float = 0.0
    kind: str = ""
    workers: int = 0
    plan: str = ""
    total: int | None = None


class _First(msgspec.Struct):
    run: Header


class _Error(msgspec.Struct):
    kind: str = ""
    message: str = ""
    traceback: str = ""


class _Line(msgspec.Struct):
    id: int
    started: float
    ended: float
    status: Status = Status.COMPLETED
    planned: float | None = None
    result: Any = None
    error: _Error | None = None
    metadata: dict[str, Any] = {}
    attempts: int = 1


def entry(outcome: Outcome) -> dict[str, Any]:
    """An outcome as a dictionary, as it stands in a log; what is empty is left out."""
    made: dict[str, Any] = {
        "id": outcome.id,
        "status": outcome.status.value,
        "planned": outcome.planned,
        "started": outcome.started,
        "ended": outcome.ended,
        "result": outcome.value,
    }
    if outcome.error is not None:
        made["error"] = {
            "kind": outcome.error.kind,
            "message": outcome.error.message,
            "traceback": outcome.error.traceback,
        }
    if outcome.metadata:
        made["metadata"] = outcome.metadata
    if outcome.attempts != 1:
        made["attempts"] = outcome.attempts
    return made


class LogFile:
    """The file of a run, which goes on where an earlier one was cut off.

    Arguments:
        path: the file; it is made if there is none.
        header: what is run now.

    Attributes:
        broken: whether it takes nothing more: a disk that is full, for one.

    Raises:
        DispatchError: the file is of another run, is no log, or another process writes it.
    """

    def __init__(self, path: Path, header: Header) -> None:
        self.path = path
        self.broken = False
        self.earlier: Finished | None = None
        if path.exists() and not path.is_file():
            raise DispatchError(f"the log {path} is no file that a run could go on from")
        try:
            self._file = path.open("a+b")
        except OSError as error:
            raise self._unusable(error) from error
        try:
            self._lock()
            self._read(header)
        except OSError as error:  # it is a device, or the disk is full
            self.broken = True
            self.close()
            raise self._unusable(error) from error
        except BaseException:
            self.close()
            raise

    def write(self, outcomes: Iterable[Outcome]) -> None:
        """Write outcomes, and give them to the operating system.

        Raises:
            OSError: it takes no more.
        """
        try:
            self._file.write(b"".join(map(_encoded, outcomes)))
            self._file.flush()
        except OSError:
            self.broken = True
            raise

    def close(self) -> None:
        """Close the file.

        Raises:
            OSError: it did not take all, which nobody has heard of yet.
        """
        try:
            self._file.close()
        except OSError:  # it tries again to write what it could not
            if not self.broken:
                raise

    def _unusable(self, error: OSError) -> DispatchError:
        why = error.strerror or error
        return DispatchError(f"the log {self.path} cannot be opened: {why}")

    def _lock(self) -> None:
        try:
            import fcntl
        except ImportError:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DispatchError(
                f"another run writes {self.path}: wait until it has ended, or give this one a file "
                f"of its own"
            ) from error

    def _read(self, header: Header) -> None:
        self._file.seek(0)
        first = self._file.readline()
        if not first.endswith(b"\n"):
            if not first.startswith(_BEGIN[: len(first)]):
                raise self._no_log()
            self._file.truncate(0)
            self._file.write(_encode(_First(header)) + b"\n")
            self._file.flush()
            return
        self._check(first, header)
        self.earlier, end = self._earlier(len(first), header)
        self._file.truncate(end)

    def _no_log(self) -> DispatchError:
        return DispatchError(
            f"{self.path} is no log of a run that could go on: its first line does not say what "
            f"was run. Give resume= another file"
        )

    def _check(self, line: bytes, header: Header) -> None:
        try:
            before = msgspec.json.decode(line, type=_First).run
        except msgspec.MsgspecError as error:
            raise self._no_log() from error
        for name, what in (("function", "calls"), ("plan", "has the plan"), ("total", "has items")):
            was, now = getattr(before, name), getattr(header, name)
            if was != now and not (name == "total" and None in {was, now}):
                raise DispatchError(
                    f"{self.path} is the log of another run: it {what} {was!r}, this one {now!r}. "
                    f"Give resume= another file, or remove it"
                )

    def _earlier(self, end: int, header: Header) -> tuple[Finished, int]:
        """What stands behind the first line, and where the last line ends that is whole."""
        decoder = msgspec.json.Decoder(_Line)
        columns = _Columns()
        most = header.total or MOST_CALLS
        seen: set[int] = set()
        for number, text in enumerate(self._file, 2):
            if not text.endswith(b"\n"):
                break
            end += len(text)
            try:
                line = decoder.decode(text)
            except msgspec.MsgspecError as error:
                raise DispatchError(
                    f"line {number} of {self.path} is no outcome of a call ({error}): mend or "
                    f"remove it"
                ) from error
            if not 0 < line.id <= most or line.id in seen:
                what = "is twice" if line.id in seen else "is none"
                raise DispatchError(
                    f"line {number} of {self.path} is of call {line.id}, which {what} in this run: "
                    f"remove the line, or give resume= another file"
                )
            if line.status in KEPT:
                seen.add(line.id)
                columns.add(line)
        return columns.finished(), end


class _Columns:
    """Lines as what has ended."""

    def __init__(self) -> None:
        self._ids: list[int] = []
        self._started, self._ended, self._planned = array("d"), array("d"), array("d")
        self._values: list[Any] = []
        self._failures: dict[int, CallError] = {}
        self._metadata: dict[int, dict[str, Any]] = {}
        self._attempts: dict[int, int] = {}

    def add(self, line: _Line) -> None:
        at = len(self._ids)
        self._ids.append(line.id)
        self._started.append(line.started)
        self._ended.append(line.ended)
        self._planned.append(line.started if line.planned is None else line.planned)
        self._values.append(line.result)
        if line.status is Status.FAILED:
            error = line.error or _Error()
            known = CallError(error.kind, error.message)
            stack = error.traceback.removesuffix(f"{known.summary}\n")
            self._failures[at] = CallError(error.kind, error.message, stack)
        if line.metadata:
            self._metadata[at] = line.metadata
        if line.attempts != 1:
            self._attempts[at] = line.attempts

    def finished(self) -> Finished:
        """All of them."""
        return Finished(
            self._ids,
            self._started,
            self._ended,
            self._values,
            None if self._planned == self._started else self._planned,
            self._failures,
            {},
            self._metadata,
            self._attempts,
        )


def save(path: Path, header: Header, outcomes: Iterable[Outcome]) -> None:
    """Write a log as a whole, in place of what the file held.

    Raises:
        OSError: it cannot be written.
    """
    with path.open("wb") as file:
        file.write(_encode(_First(header)) + b"\n")
        file.writelines(map(_encoded, outcomes))


_encode = msgspec.json.Encoder(enc_hook=repr).encode


def _encoded(outcome: Outcome) -> bytes:
    made = entry(outcome)
    if outcome.planned == outcome.started:
        del made["planned"]
    if outcome.value is None:
        del made["result"]
    try:
        return _encode(made) + b"\n"
    except Exception:  # noqa: BLE001 - a value that JSON cannot hold, or whose repr raises
        made["result"] = _shown(outcome.value)
        for name in made.keys() & {"metadata", "error"}:
            made[name] = {_clean(str(key)): _shown(value) for key, value in made[name].items()}
        return _encode(made) + b"\n"


def _shown(value: object) -> str:
    try:
        return _clean(value if isinstance(value, str) else repr(value))
    except Exception:  # noqa: BLE001 - a user's class
        return f"<{type(value).__qualname__}>"


def _clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
