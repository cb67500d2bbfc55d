"""What threads use to carry out calls: wires, connections, and the pool that they are kept in."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from taskyard.brokers.base import Operation
from taskyard.brokers.redis.attempts import (
    Check,
    Drop,
    Exchange,
    LookUp,
    Parcel,
    Pause,
    Request,
    Scene,
    Wire,
    every,
    perform,
    single,
)
from taskyard.brokers.redis.calls import Call, Each
from taskyard.brokers.redis.connect import SyncConnection
from taskyard.brokers.redis.failures import Broken
from taskyard.brokers.redis.options import Address, RedisOptions
from taskyard.brokers.redis.outages import Outages

__all__ = ["Pool"]

T = TypeVar("T")


class _Line:
    """What one thread at a time uses: wires, and a connection to each server."""

    def __init__(self, options: RedisOptions) -> None:
        self._options = options
        self._connections: dict[Address, SyncConnection] = {}
        self._wires: list[Wire] = []

    def wires(self, count: int) -> list[Wire]:
        while len(self._wires) < count:
            self._wires.append(Wire())
        return self._wires[:count]

    def carry_out(self, request: Request) -> Any:
        if isinstance(request, Exchange):
            if request.timeout is not None:
                return self._hurry(request.parcels, request.timeout)
            return self._exchange(request.parcels)
        if isinstance(request, Drop):
            self._drop(request.address)
        elif isinstance(request, Pause):
            time.sleep(request.seconds)
        else:
            return _look_up(request)
        return None

    def _hurry(self, parcels: list[Parcel], timeout: float) -> list[list[Any] | Broken]:
        # On connections of its own: the others wait as long as the options say.
        line = _Line(replace(self._options, timeout=timeout))
        try:
            return line._exchange(parcels)
        finally:
            line.close()

    def _exchange(self, parcels: list[Parcel]) -> list[list[Any] | Broken]:
        try:
            reused = [parcel.address in self._connections for parcel in parcels]
            # All are sent before the first reply is awaited: the servers work at once.
            failures = list(map(self._send, parcels, reused))
            return list(map(self._receive, parcels, reused, failures))
        except BaseException:
            self.close()  # replies that nobody reads are under way
            raise

    def _send(self, parcel: Parcel, reused: bool) -> Broken | None:
        connected = reused
        try:
            if not reused:
                connection = SyncConnection(self._options, parcel.address)
                self._connections[parcel.address] = connection
                connected = True
            self._connections[parcel.address].send(parcel.data)
        except Exception as error:  # noqa: BLE001 - the rules of failures decide
            self._drop(parcel.address)
            return Broken(error, reused, connected)
        return None

    def _receive(self, parcel: Parcel, reused: bool, failure: Broken | None) -> list[Any] | Broken:
        if failure is not None:
            return failure
        try:
            return self._connections[parcel.address].receive(parcel.replies)
        except Exception as error:  # noqa: BLE001 - the rules of failures decide
            self._drop(parcel.address)
            return Broken(error, reused, True)

    def _drop(self, address: Address) -> None:
        connection = self._connections.pop(address, None)
        if connection is not None:
            connection.close()

    def close(self) -> None:
        for address in list(self._connections):
            self._drop(address)


def _look_up(request: LookUp) -> Exception | None:
    try:
        request.directory.look_up()
    except Exception as error:  # noqa: BLE001 - the rules of failures decide
        return error
    return None


class _Lines:
    """The lines of one process, and who may use how many of them."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.pid = os.getpid()
        self._idle: list[_Line] = []
        self._places = threading.BoundedSemaphore(scene.options.connections)
        self._generation = 0

    def step(self, calls: Sequence[Call]) -> list[Any]:
        with self._places:
            generation = self._generation
            try:
                line = self._idle.pop()  # the last one used: the others may be closed by then
            except IndexError:
                line = _Line(self.scene.options)
            try:
                return self._run(line, calls)
            finally:
                if generation == self._generation:
                    self._idle.append(line)
                else:
                    line.close()

    def _run(self, line: _Line, calls: Sequence[Call]) -> list[Any]:
        course = perform(self.scene, calls, line.wires(len(calls)))
        try:
            request = next(course)
            while True:
                request = course.send(line.carry_out(request))
        except StopIteration as end:
            outcomes: list[Any] = end.value
            return outcomes
        finally:
            course.close()

    def close(self) -> None:
        self._generation += 1
        while self._idle:
            self._idle.pop().close()


class Pool:
    """Runs operations in the calling thread. A child after a fork makes connections of its own.

    Arguments:
        options: where the server is.
        clock: gives microseconds, for tests; None: the server's clock.
        check: looks at each server before its first call.
        outages: where those are noted that it meets; None: it has its own.
    """

    def __init__(
        self,
        options: RedisOptions,
        clock: Callable[[], int] | None = None,
        check: Check | None = None,
        outages: Outages | None = None,
    ) -> None:
        self._scene = partial(Scene, options, clock, check, outages)
        self._lines = _Lines(self._scene())

    def _own(self) -> _Lines:
        if self._lines.pid != os.getpid():  # the sockets are the parent's
            self._lines = _Lines(self._scene())
        return self._lines

    def run(self, operation: Operation[T]) -> T:
        """See `Driver.run`."""
        try:
            step = next(operation)
            while True:
                try:
                    reply = self._step(step)
                except BaseException as error:  # noqa: BLE001 - the operation decides
                    step = operation.throw(error)
                else:
                    step = operation.send(reply)
        except StopIteration as end:
            value: T = end.value
            return value

    def _step(self, step: Call | list[Call]) -> Any:
        if isinstance(step, Call):
            return single(self._own().step((step,)))
        outcomes = self._own().step(step)
        return outcomes if isinstance(step, Each) else every(outcomes)

    def close(self) -> None:
        """Close what is idle now, and the rest when it is not used any more."""
        self._own().close()
