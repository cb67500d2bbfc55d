"""`DispenserClient`: adds values to queues."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import msgspec

from taskyard.brokers.urls import REDIS_HOST, REDIS_PORT, redis_url
from taskyard.errors import PayloadError
from taskyard.plain import remote_plain
from taskyard.values import brief
from taskyard.yard import Yard

__all__ = ["DispenserClient"]

_MISSING: Any = object()


class DispenserClient:
    """Adds values to the queues that dispensers serve.

    Threads may share it. It ends with the program; `with`, or `close`, ends it sooner.

    Arguments:
        host: of the Redis.
        port: there.
        password: None: that of the environment variable `TASKYARD_REDIS_PASS`, if there is one.
        setup: whether the settings are looked at now; otherwise with the first value.

    Raises:
        MissingExtra: redis-py is not installed.
        BrokerError: the host or the port is none.
    """

    def __init__(
        self,
        host: str = REDIS_HOST,
        port: int = REDIS_PORT,
        password: str | None = None,
        setup: bool = True,
    ) -> None:
        self.host = host
        self.port = port
        self.password = password
        self._yard: Yard | None = None
        if setup:
            self.setup()

    def __repr__(self) -> str:
        return f"DispenserClient({self.host!r}, {self.port})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def setup(self) -> None:
        """Get ready; nothing is sent before the first value."""
        self._ready()

    def add(self, qname: str, args: Any = _MISSING, *, task_args: Any = _MISSING) -> str:
        """Add a value to a queue.

        When this returns, it is stored.

        Arguments:
            qname: the queue.
            args: the value: whatever JSON has, and what becomes that (tuples, dates, dataclasses).
            task_args: another name for it.

        Returns:
            The id of its message.

        Raises:
            TypeError: there is no value, or there are two.
            PayloadError: JSON has no such value.
            BrokerError: the Redis is away, or refuses it.
        """
        if (args is _MISSING) is (task_args is _MISSING):
            raise TypeError("add takes one value: add('q1', [1]) or add('q1', task_args=[1])")
        value = _as_json(task_args if args is _MISSING else args)
        return remote_plain(self._ready(), qname).enqueue(value).id

    def close(self) -> None:
        """Close the connections. The client may be used again."""
        yard, self._yard = self._yard, None
        if yard is not None:
            yard.close()

    def _ready(self) -> Yard:
        if self._yard is None:
            self._yard = Yard(redis_url(self.host, self.port, self.password))
        return self._yard


def _as_json(value: Any) -> Any:
    """What is left of a value when it was JSON."""
    try:
        return msgspec.to_builtins(value, str_keys=True, enc_hook=_as_scalar)
    except (TypeError, ValueError, RecursionError) as error:
        raise PayloadError(
            f"a value must be one that JSON has, not {brief(value)}: {error}"
        ) from error


def _as_scalar(value: Any) -> Any:
    """What a text or a number of another class, as numpy's are, is as JSON."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, int):
        return int.__int__(value)
    raise TypeError(f"it holds one of type {type(value).__qualname__}")
