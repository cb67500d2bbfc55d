"""Batch tasks and handler classes."""

from __future__ import annotations

from typing import reveal_type

from taskyard import Batch, BatchTask, Handler, Yard

yard = Yard("memory://")


@yard.task(batch=Batch(size=300, within=5.0))
def save(rows: list[int]) -> None: ...


@yard.task(batch=100)
def double(numbers: list[int]) -> list[str]:
    return [str(number) for number in numbers]


@yard.task(batch=100)
async def adouble(numbers: list[int]) -> list[str]:
    return [str(number) for number in numbers]


@yard.task(batch=100)
async def asave(rows: list[int]) -> None: ...


@yard.task(batch=100)
def maybe(numbers: list[int]) -> list[str] | None:
    return None


@yard.task(batch=100)
async def amaybe(numbers: list[int]) -> list[str] | None:
    return None


# A message is one item

reveal_type(save)  # type: BatchTask[int, None]
reveal_type(double)  # type: BatchTask[int, str]
reveal_type(adouble)  # type: BatchTask[int, str]
reveal_type(asave)  # type: BatchTask[int, None]
reveal_type(maybe)  # type: BatchTask[int, str | None]
reveal_type(amaybe)  # type: BatchTask[int, str | None]
reveal_type(double.enqueue(1))  # type: Result[str]
reveal_type(double.enqueue(1).get())  # type: str
reveal_type(double.enqueue(1, delay=5))  # type: Result[str]
reveal_type(double.enqueue_many([1, 2]))  # type: Results[str]
reveal_type(double([1, 2]))  # type: Any

double.enqueue("one")  # error: call-overload
double.enqueue([1, 2])  # error: call-overload
double.enqueue(1, 2)  # error: call-overload
double.options(delay=5).enqueue("one")  # error: arg-type
double(1)  # error: arg-type

Batch(size="ten")  # error: arg-type
yard.task(batch="ten")  # error: call-overload


# Classes. mypy takes no notice of what a decorator makes of a class, so call it.


class Notifier(Handler[str]):
    def handle(self, user: str) -> int:
        return len(user)


class Saver(Handler[list[int]]):
    async def handle(self, numbers: list[int]) -> None: ...


notifier = yard.task(ordered=True, shard="user")(Notifier)
saver = yard.task(batch=10)(Saver)
plain = yard.task(Notifier)

reveal_type(notifier)  # type: Task[[str], Any]
reveal_type(saver)  # type: BatchTask[int, Any]
reveal_type(plain)  # type: Task[[str], Any]
reveal_type(notifier.enqueue("ann"))  # type: Result[Any]
reveal_type(saver.enqueue(5))  # type: Result[Any]
notifier.enqueue(5)  # error: call-overload
saver.enqueue("five")  # error: call-overload

kept: BatchTask[int, str] = double
