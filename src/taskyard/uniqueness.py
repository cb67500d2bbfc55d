"""From a message to its unique key."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from taskyard.brokers.unique import Keys, Mode
from taskyard.errors import EnqueueError
from taskyard.policy import ShardKey, Unique
from taskyard.sharding import KeyMaker, key_text, values_of

__all__ = ["Uniqueness", "unique_text"]

LONGEST = 100
"""Characters of a key that is stored as it is; of a longer one a hash is."""
_WIDE = 1 << 63


def _brief(value: object) -> str:
    """The text of the commonest keys, as `unique_text` makes it; "" of any other."""
    if type(value) is int and -_WIDE < value < _WIDE:
        return str(value)
    if type(value) is str and len(value) <= LONGEST and value.isprintable() and value != "null":
        return value
    return ""


def unique_text(value: object) -> str:
    """A unique key as it is stored: the same for equal values of a type, in every process.

    Raises:
        EnqueueError: its text could be another one elsewhere.
    """
    try:
        text = key_text("unique", value)
    except EnqueueError as error:
        raise EnqueueError(
            f"{error}. Name other arguments in unique=, or give a function that makes a key of them"
        ) from error.__cause__
    if len(text) <= LONGEST and text.isprintable():
        return text
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=20)
    return f"#{digest.hexdigest()}"


class Uniqueness:
    """How the messages of a task are unique.

    Arguments:
        task: the task's name, for errors.
        unique: what the policy says; None: only what is given with a call.
        signature: the handler's.
        batch: whether a message is an element of a batch.
        single: whether a message is one argument.
        member: the task, in an order group, where others have keys too; else "".
    """

    def __init__(
        self,
        task: str,
        unique: Unique | None,
        signature: inspect.Signature,
        *,
        batch: bool,
        single: bool,
        member: str,
    ) -> None:
        self._unique = unique or Unique()
        self._prefix = f"{member}\n" if member else ""

        def maker(key: ShardKey) -> KeyMaker:
            return KeyMaker("unique", task, key, signature, batch=batch, single=single)

        key = self._unique.key
        self._makers: Sequence[KeyMaker]
        if key is None:
            self._makers = [maker(_itself if batch else values_of(signature))]
        elif isinstance(key, tuple):
            self._makers = [maker(name) for name in key]
        else:
            self._makers = [maker(key)]

    @property
    def is_debounced(self) -> bool:
        """Whether messages are put off, by the times of the policy."""
        return self._unique.mode == "debounce"

    def of_call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        """The key of a call.

        Raises:
            EnqueueError: it cannot be made of the arguments.
        """
        return self._joined([maker.of_call(args, kwargs) for maker in self._makers])

    def of_item(self, item: Any) -> str:
        """The key of an item of `enqueue_many`; raises the same."""
        return self._joined([maker.of_item(item) for maker in self._makers])

    def of_items(self, items: Sequence[Any]) -> list[str]:
        """The keys of items of `enqueue_many`; raises the same."""
        if len(self._makers) != 1:
            return [self.of_item(item) for item in items]
        values, prefix = self._makers[0].of_items(items), self._prefix
        texts = [_brief(value) or unique_text(value) for value in values]
        return [prefix + text for text in texts] if prefix else texts

    def of_value(self, value: object) -> str:
        """The key that was given with a call; raises the same."""
        return self._joined([value])

    def _joined(self, values: Sequence[object]) -> str:
        value = values[0] if len(values) == 1 else tuple(values)
        return self._prefix + unique_text(value)

    def keys(self, texts: list[str]) -> Keys:
        """What a put says of its messages, given their keys."""
        unique = self._unique
        span = unique.window or unique.delay or 0.0
        longest = unique.longest_delay if unique.mode == "debounce" else 0.0
        return Keys(Mode(unique.mode), texts, round(span * 1e6), round(longest * 1e6))


def _itself(item: Any) -> object:
    return item
