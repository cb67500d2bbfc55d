"""From a message to the key of its shard."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from taskyard.errors import EnqueueError
from taskyard.message import is_text
from taskyard.policy import ShardKey

__all__ = ["Sharding", "shard_text"]

LONGEST = 500


def shard_text(value: object) -> str:
    """The key of a shard as it is stored: text; None is no shard.

    Raises:
        EnqueueError: it is too long.
    """
    if value is None:
        return ""
    text = value if isinstance(value, str) else str(value)
    if len(text) > LONGEST:
        raise EnqueueError(f"a shard key may have {LONGEST} characters; this one has {len(text)}")
    if not is_text(text):
        raise EnqueueError(f"a shard key must be valid Unicode, not {text!r}")
    return text


class Sharding:
    """How the messages of a task are sharded.

    Arguments:
        task: the task's name, for errors.
        key: what the policy says; None: not at all.
        signature: the handler's.
        batch: whether a message is an element of a batch.
        single: whether a message is one argument.
    """

    def __init__(
        self,
        task: str,
        key: ShardKey | None,
        signature: inspect.Signature,
        *,
        batch: bool,
        single: bool,
    ) -> None:
        self._task = task
        self._key = key
        self._signature = signature
        self._single = single
        self._of_one = self._make(key, batch) if single and key is not None else None

    def _make(self, key: ShardKey, batch: bool) -> Callable[[Any], object]:
        if callable(key):
            return key
        if not batch and key in self._signature.parameters:
            return _itself
        return lambda item: item[key] if type(item) is dict else getattr(item, key)

    def of_call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        """The shard of a call.

        Raises:
            EnqueueError: the key cannot be made of the arguments.
        """
        if self._key is None:
            return ""
        try:
            if self._of_one is not None and len(args) == 1 and not kwargs:
                value = self._of_one(args[0])
            elif callable(self._key):
                value = self._key(*args, **kwargs)
            else:
                value = self._argument(self._key, args, kwargs)
        except Exception as error:  # the user's function, or an argument without that field
            raise EnqueueError(
                f"task {self._task!r}: the shard key {self._key!r} cannot be made of this "
                f"message: {type(error).__name__}: {error}"
            ) from error
        return shard_text(value)

    def of_item(self, item: Any) -> str:
        """The shard of an item of `enqueue_many`.

        Raises:
            EnqueueError: the key cannot be made of it.
        """
        if self._single:
            return self.of_call((item,), {})
        if isinstance(item, Mapping):
            return self.of_call((), item)
        return self.of_call(tuple(item), {})

    def _argument(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> object:
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return bound.arguments[name] if name in bound.arguments else bound.kwargs[name]


def _itself(value: Any) -> object:
    return value
