"""What event loops use to carry out calls: wires, connections, and where they are kept."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

from taskyard.brokers.base import Operation
from taskyard.brokers.redis.attempts import (
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
from taskyard.brokers.redis.failures import Broken
from taskyard.brokers.redis.options import Address, RedisOptions
from taskyard.brokers.redis.stream import AsyncConnection

__all__ = ["AsyncLines"]

T = TypeVar("T")


class _Line:
    """What one task at a time uses: wires, and a connection to each server."""

    def __init__(self, options: RedisOptions) -> None:
        self._options = options
        self._connections: dict[Address, AsyncConnection] = {}
        self._wires: list[Wire] = []

    def wires(self, count: int) -> list[Wire]:
        while len(self._wires) < count:
            self._wires.append(Wire())
        return self._wires[:count]

    async def carry_out(self, request: Request) -> Any:
        if isinstance(request, Exchange):
            if request.timeout is not None:
                return await self._hurry(request.parcels, request.timeout)
            return await self._exchanges(request.parcels)
        if isinstance(request, Drop):
            self._drop(request.address)
        elif isinstance(request, Pause):
            await asyncio.sleep(request.seconds)
        else:
            return await _look_up(request)
        return None

    async def _hurry(self, parcels: list[Parcel], timeout: float) -> list[list[Any] | Broken]:
        # On connections of its own: the others wait as long as the options say.
        line = _Line(replace(self._options, timeout=timeout))
        try:
            return await line._exchanges(parcels)
        finally:
            line.close()

    async def _exchanges(self, parcels: list[Parcel]) -> list[list[Any] | Broken]:
        if len(parcels) == 1:
            return [await self._exchange(parcels[0])]
        return await asyncio.gather(*map(self._exchange, parcels))

    async def _exchange(self, parcel: Parcel) -> list[Any] | Broken:
        connection = self._connections.get(parcel.address)
        reused = connection is not None
        try:
            if connection is None:
                connection = await AsyncConnection.open(self._options, parcel.address)
                self._connections[parcel.address] = connection
            return await connection.exchange(parcel.data, parcel.replies)
        except Exception as error:  # noqa: BLE001 - the rules of failures decide
            self._drop(parcel.address)
            return Broken(error, reused, connection is not None)
        except BaseException:
            self._drop(parcel.address)
            raise

    def _drop(self, address: Address) -> None:
        connection = self._connections.pop(address, None)
        if connection is not None:
            connection.close()

    def close(self) -> None:
        for address in list(self._connections):
            self._drop(address)


async def _look_up(request: LookUp) -> Exception | None:
    # It is rare, and redis-py's ways of asking are written twice: a thread spares the second.
    try:
        await asyncio.get_running_loop().run_in_executor(None, request.directory.look_up)
    except Exception as error:  # noqa: BLE001 - the rules of failures decide
        return error
    return None


class AsyncLines:
    """The lines of one loop, and who may use how many of them.

    Arguments:
        scene: what all calls have in common.
    """

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._idle: list[_Line] = []
        self._lines: set[_Line] = set()
        self._places = asyncio.Semaphore(scene.options.connections)
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self, operation: Operation[T]) -> T:
        """See `AsyncDriver.run`."""
        task = asyncio.get_running_loop().create_task(self._run(operation))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def _run(self, operation: Operation[T]) -> T:
        try:
            step = next(operation)
            while True:
                try:
                    reply = await self._step(step)
                except BaseException as error:  # noqa: BLE001 - the operation decides
                    step = operation.throw(error)
                else:
                    step = operation.send(reply)
        except StopIteration as end:
            value: T = end.value
            return value

    async def _step(self, step: Call | list[Call]) -> Any:
        if isinstance(step, Call):
            return single(await self._carry_out((step,)))
        outcomes = await self._carry_out(step)
        return outcomes if isinstance(step, Each) else every(outcomes)

    async def _carry_out(self, calls: Sequence[Call]) -> list[Any]:
        async with self._places:
            line = self._idle.pop() if self._idle else _Line(self._scene.options)
            self._lines.add(line)
            course = perform(self._scene, calls, line.wires(len(calls)))
            try:
                request = next(course)
                while True:
                    request = course.send(await line.carry_out(request))
            except StopIteration as end:
                outcomes: list[Any] = end.value
                return outcomes
            finally:
                course.close()
                self._idle.append(line)

    async def finish(self) -> None:
        """Let what is under way end, then close; if this is cancelled, break it off."""
        try:
            if self._tasks:
                await asyncio.wait(self._tasks)
        finally:
            for task in self._tasks:
                task.cancel()
            self.close()

    def close(self) -> None:
        """Close all connections, also those in use, and when the loop is closed."""
        for line in self._lines:
            line.close()
