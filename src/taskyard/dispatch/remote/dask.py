"""Calls on a Dask cluster.

Calls travel in chunks, which take about `GOAL` seconds each, or one by one where they take longer.
Their instants are those of the worker's clock, so they are only as good as the clocks agree; they
are never before the call was sent, or after its outcome was known.

Dask repeats what a worker was doing when it died, up to its `allowed-failures`; what kills its
worker each time is lost. So other than on this machine, calls may be made more than once.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import pickle
import threading
import time
from array import array
from collections.abc import Sequence
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple
from uuid import uuid4

from taskyard.dispatch.calls import Call, next_delay
from taskyard.dispatch.engine import Chunk, Engine, Finished, Job
from taskyard.dispatch.outcome import CallError, Status
from taskyard.dispatch.remote.chunks import one_by_one
from taskyard.dispatch.remote.frame import RemoteEngine
from taskyard.errors import (
    BrokerUnavailable,
    DispatchError,
    MissingExtra,
    PolicyError,
    WorkerError,
)

__all__ = ["DaskEngine", "DaskTarget", "connected"]

GOAL = 0.1
"""Seconds that a chunk of calls should take."""
MOST = 5000
"""Calls in a chunk, at most."""
AHEAD = 2
"""Chunks per thread of the cluster that are sent before their turn: so that no thread waits."""
OPEN_LOOP = 1000
"""Planned calls that are sent and have not ended, at most."""
PATIENCE = 10.0
"""Seconds to connect to a scheduler."""
CANCELLING = 2.0
"""Seconds for a cluster to hear that what was sent is not wanted any more."""
SILENCE = 2.0
"""Seconds in which nothing ends, after which it is looked whether there are workers at all."""

log = logging.getLogger("taskyard.run")


def connected(address: str) -> DaskTarget:
    """Connect to a scheduler.

    Raises:
        MissingExtra: Dask is not installed.
        BrokerUnavailable: there is no scheduler there.
    """
    try:
        from distributed import Client
    except ImportError:
        raise MissingExtra(
            "on='dask://…' needs the package distributed: pip install 'taskyard[dask]'"
        ) from None
    try:
        client: Any = Client(  # type: ignore[no-untyped-call] # Dask is typed in part
            address, timeout=PATIENCE, set_as_default=False
        )
    except (OSError, ValueError) as error:
        raise BrokerUnavailable(
            f"there is no Dask scheduler at {address}: {error}. Is `dask scheduler` running there?"
        ) from error
    return DaskTarget(client, owned=True)


class DaskTarget:
    """A Dask cluster.

    Arguments:
        client: a `distributed.Client` that is connected to it; not an asynchronous one.
        owned: whether it is closed at the end.
    """

    kind = "dask"
    window = 4 * MOST

    def __init__(self, client: Any, *, owned: bool = False) -> None:
        if client.asynchronous:
            raise PolicyError("on= takes a distributed.Client that is not asynchronous=True")
        if client.status != "running":
            raise PolicyError(
                f"on= takes a distributed.Client that is connected, and this one is {client.status}"
            )
        self._client = client
        self._owned = owned

    def workers(self, *, open_loop: bool) -> int:
        """Of planned calls, more than there are threads: what is due is sent, and waits there."""
        return OPEN_LOOP if open_loop else max(1, sum(self._client.nthreads().values()))

    def check(self, job: Job) -> None:
        """A thread of a Dask worker cannot be stopped."""
        if job.timeout is not None:
            raise PolicyError(
                "timeout= has no effect on a Dask worker, which cannot end a call: let the "
                "function watch its own time"
            )

    def engine(self, job: Job) -> Engine:
        return DaskEngine(self._client, job, owned=self._owned)


# On the worker.


class _Made(NamedTuple):
    """What a chunk has become.

    Attributes:
        started: when calls began, as unix seconds of the worker.
        ended: when they ended.
        values: what was returned, pickled: for Dask, a value that cannot be is the end of all.
        failures: by position.
        metadata: by position.
        attempts: by position.
    """

    started: list[float]
    ended: list[float]
    values: bytes
    failures: dict[int, CallError]
    metadata: dict[int, dict[str, Any]]
    attempts: dict[int, int]


class _Chunked:
    """Makes the calls of a chunk: it is what travels to the workers, once for each of them."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def __call__(
        self, ids: Sequence[int], items: list[Any], planned: Sequence[float | None]
    ) -> _Made:
        made, values = _Made([], [], b"", {}, {}, {}), []
        for at, (id_, item) in enumerate(zip(ids, items, strict=True)):
            call = Call(id_, planned[at] if planned else None)
            made.started.append(time.time())
            value, error = self._attempts(call, item)
            made.ended.append(time.time())
            values.append(value)
            if error is not None:
                made.failures[at] = error
            if call.metadata:
                made.metadata[at] = call.metadata
            if call.attempt > 1:
                made.attempts[at] = call.attempt
        return made._replace(values=_packed(values, made.failures))

    def _attempts(self, call: Call, item: Any) -> tuple[Any, CallError | None]:
        job = self._job
        while True:
            try:
                return (job.function(item, call) if job.context else job.function(item)), None
            except BaseException as error:  # noqa: BLE001 - the function's; an outcome like others
                delay = next_delay(job.retry, error, call)
                if delay is None:
                    return None, _without_exception(CallError.of(error))
            time.sleep(delay)
            call.attempt += 1


def _packed(values: list[Any], failures: dict[int, CallError]) -> bytes:
    """Pickle values; such as cannot be are failures of their calls."""
    import cloudpickle  # type: ignore[import-untyped] # Dask needs it, so it is there

    try:
        return bytes(cloudpickle.dumps(values))
    except Exception:  # noqa: BLE001 - whatever a class's __reduce__ does
        for at, value in enumerate(values):
            try:
                cloudpickle.dumps(value)
            except Exception as error:  # noqa: BLE001 - the same
                text = f"what the function returned cannot be pickled: {error}"
                failures[at], values[at] = CallError(type(error).__qualname__, text), None
        return bytes(cloudpickle.dumps(values))


def _without_exception(error: CallError) -> CallError:
    """As text only: the class may not be known where it goes to."""
    return CallError(error.kind, error.message, error.stack)


# Here.


class _Sent(NamedTuple):
    chunk: Chunk
    future: Any
    at: float


class DaskEngine(RemoteEngine[_Sent]):
    """Makes calls on a Dask cluster.

    Arguments:
        client: connected to it.
        job: what to do.
        owned: whether the client is closed with it.
    """

    def __init__(self, client: Any, job: Job, *, owned: bool = False) -> None:
        super().__init__()
        self._client = client
        self._owned = owned
        self._job = job
        self._work = _Chunked(job)
        self._size = 1
        self._name = f"taskyard-run-{uuid4().hex}"
        self._numbers = itertools.count(1)
        self._sent: dict[str, _Sent] = {}
        self._ended: SimpleQueue[str | None] = SimpleQueue()
        self._alone = False  # it was said that there are no workers

    def prepare(self) -> None:
        """Look whether the function can be sent; its workers are there already, or they are not.

        Raises:
            WorkerError: the function cannot travel.
        """
        import cloudpickle

        try:
            cloudpickle.dumps(self._work)
        except Exception as error:
            raise WorkerError(
                f"the function cannot be sent to Dask workers, as it cannot be pickled: {error}"
            ) from error

    def tend(self) -> None:
        """Notice that the cluster is gone: nothing tells of it."""
        if self._client.status not in ("running", "connecting") and not self._told:
            self._break(DispatchError(f"the Dask client is {self._client.status}"))

    def abandon(self) -> None:
        """Cancel what was sent. What runs on a worker goes on there, and nobody hears of it."""
        self.stop()
        left = self._give_up(Status.CANCELLED)
        self._end_if_idle()
        # The cluster may not answer, and nobody is to wait for it then.
        futures = [sent.future for sent in left]
        cancelling = threading.Thread(target=self._cancel, args=(futures,), daemon=True)
        cancelling.start()
        cancelling.join(CANCELLING)

    def busy(self) -> int:
        return min(self._out, self._job.workers)

    def close(self) -> None:
        self.stop()
        self._ended.put(None)
        if self._owned:
            self._client.close()

    def _is_empty(self) -> bool:
        return not self._sent

    def _take_all(self) -> list[_Sent]:
        left = list(self._sent.values())
        self._sent.clear()
        return left

    def _leave(self) -> None:
        self._ended.put(None)

    def _cancel(self, futures: list[Any]) -> None:
        with contextlib.suppress(Exception):  # whatever it is: the run is over
            self._client.cancel(futures, force=True)

    # Sending.

    def _send_all(self) -> None:
        while not self._stopped.is_set():
            was_full = self._wait_for_room()
            chunk = None if self._stopped.is_set() else self._next_chunk()
            if chunk is None:
                return
            for part in one_by_one(chunk) if chunk.planned else [chunk]:
                if not self._wait_until(part.planned):
                    return
                if was_full and part.planned and part.planned[0] < time.monotonic():
                    self.limited += len(part.ids)
                self._send(part)

    def _next_chunk(self) -> Chunk | None:
        return self._source.take(1 if self._job.open_loop else self._size)

    def _wait_for_room(self) -> bool:
        most = self._job.workers * (1 if self._job.open_loop or self._size == 1 else AHEAD)
        with self._room:
            full = len(self._sent) >= most
            self._room.wait_for(lambda: len(self._sent) < most or self._stopped.is_set())
        return full

    def _send(self, chunk: Chunk) -> None:
        offset = self._source.offset
        planned = None if chunk.planned is None else [at + offset for at in chunk.planned]
        sent_at = time.monotonic()
        try:
            future = self._client.submit(
                self._work,
                list(chunk.ids),
                chunk.items,
                planned,
                key=f"{self._name}-{next(self._numbers)}",
                pure=False,
                retries=0,
            )
        except (TypeError, pickle.PicklingError) as error:  # what Dask raises if it cannot pickle
            self._refuse(chunk, sent_at, error)
            return
        with self._room:
            given_up = self._given_up
            if not given_up:
                self._sent[future.key] = _Sent(chunk, future, sent_at)
                self._out += len(chunk.ids)
        if given_up:
            self._cancel([future])
            return
        future.add_done_callback(lambda done: self._ended.put(done.key))

    def _refuse(self, chunk: Chunk, at: float, error: Exception) -> None:
        """An item of a chunk cannot be pickled: that is the failure of its call."""
        if len(chunk.ids) > 1:
            for part in one_by_one(chunk):
                self._send(part)
            return
        text = f"the item cannot be sent to a Dask worker, as it cannot be pickled: {error}"
        failed = CallError("PicklingError", text)
        self._put_each(_Sent(chunk, None, at), {0: failed}, {})

    # Collecting.

    def _collect_all(self) -> None:
        while (key := self._next_ended()) is not None:
            with self._room:
                sent = self._sent.pop(key, None)  # so that nobody else tells of it, too
                self._held += 1
            if sent is not None:
                self._settle_or_leave(sent)
            with self._room:
                self._held -= 1
                self._room.notify_all()
            self._end_if_idle()

    def _next_ended(self) -> str | None:
        while True:
            try:
                return self._ended.get(timeout=SILENCE)
            except Empty:
                self._look_for_workers()

    def _look_for_workers(self) -> None:
        """Say it if there are none: Dask keeps calls until one comes, and does not tell."""
        if not self._sent:
            return
        try:
            alone = not self._client.nthreads()
        except Exception:  # noqa: BLE001 - whatever it is: `tend` looks whether the cluster is gone
            return
        if alone and not self._alone:
            log.warning("the Dask cluster has no workers: calls wait there until one comes")
        self._alone = alone

    def _settle_or_leave(self, sent: _Sent) -> None:
        try:
            self._settle(sent)
        except Exception:
            with self._room:
                self._sent[sent.future.key] = sent  # its outcome is not known
            raise
        with self._room:
            self._out = max(0, self._out - len(sent.chunk.ids))

    def _settle(self, sent: _Sent) -> None:
        try:
            made = sent.future.result()  # waits if the worker that had it died: it is made again
        except BaseException as error:
            if sent.future.status == "cancelled":
                raise DispatchError(
                    "the Dask cluster has lost what it was doing, or cancelled it"
                ) from error
            if sent.future.status != "error":
                raise  # the cluster does not answer
            self._settle_failed(sent, error)
        else:
            self._put(sent, made)

    def _settle_failed(self, sent: _Sent, error: BaseException) -> None:
        if type(error).__name__ != "KilledWorker":
            self._fail(sent, error)
        elif len(sent.chunk.ids) > 1 and not self._stopped.is_set():
            for part in one_by_one(sent.chunk):  # one of them kills; the others need not be lost
                self._send(part)
        else:
            self._tell_all([sent], Status.LOST)

    def _put(self, sent: _Sent, made: _Made) -> None:
        chunk, now, offset = sent.chunk, time.monotonic(), self._source.offset
        started = array("d", [min(max(at - offset, sent.at), now) for at in made.started])
        ended = array("d", [min(max(at - offset, sent.at), now) for at in made.ended])
        self._adapt(len(started), made.ended[-1] - made.started[0])
        self._sink.put(
            Finished(
                chunk.ids,
                started,
                ended,
                pickle.loads(made.values),  # noqa: S301 - from the cluster that runs our code
                None if chunk.planned is None else array("d", chunk.planned),
                made.failures,
                {},
                made.metadata,
                made.attempts,
            )
        )

    def _adapt(self, number: int, seconds: float) -> None:
        wanted = MOST if seconds <= 0 else int(number * GOAL / seconds)
        self._size = max(1, min(MOST, wanted, self._size * 4))

    def _fail(self, sent: _Sent, error: BaseException) -> None:
        """The chunk could not be made: its function or a value did not travel."""
        chunk = sent.chunk
        if len(chunk.ids) > 1 and not self._stopped.is_set():
            for part in one_by_one(chunk):
                self._send(part)
            return
        failed = CallError.of(error)
        self._put_each(sent, dict.fromkeys(range(len(chunk.ids)), failed), {})

    def _tell_all(self, left: list[_Sent], status: Status) -> None:
        for sent in left:
            self._put_each(sent, {}, dict.fromkeys(range(len(sent.chunk.ids)), status))

    def _put_each(
        self, sent: _Sent, failures: dict[int, CallError], statuses: dict[int, Status]
    ) -> None:
        chunk, number = sent.chunk, len(sent.chunk.ids)
        self._sink.put(
            Finished(
                chunk.ids,
                array("d", [sent.at] * number),
                array("d", [time.monotonic()] * number),
                [None] * number,
                None if chunk.planned is None else array("d", chunk.planned),
                failures,
                statuses,
            )
        )
