"""Plain tasks: arguments of `enqueue`, and the types of results."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Literal, reveal_type

from taskyard import Result, Results, Retry, Task, Yard, current_context

yard = Yard("memory://")


@yard.task
def resize(path: str, size: int = 5) -> int:
    return size


@yard.task
async def fetch(url: str) -> bytes:
    return url.encode()


@yard.task(retry=3, timeout=timedelta(seconds=5))
def index(path: str, *, deep: bool = False) -> list[str]:
    return [path]


@yard.task(ordered=True, shard="user", on_error="park", retry=Retry(3, "linear"))
async def notify(user: str) -> None: ...


@yard.task(shard=lambda user: user, result_ttl=None, queue="mail")
def mail(user: str) -> None: ...


# Declaring

reveal_type(resize)  # type: Task[[path: str, size: int =], int]
reveal_type(fetch)  # type: Task[[url: str], bytes]
reveal_type(index)  # type: Task[[path: str, *, deep: bool =], list[str]]
reveal_type(notify)  # type: Task[[user: str], None]

yard.task(on_error="stop")  # error: call-overload
yard.task(nope=1)  # error: call-overload
yard.task(priority="high")  # error: call-overload
yard.task(retry="often")  # error: call-overload
Retry(3, "sometimes")  # error: arg-type

# Enqueueing

reveal_type(resize.enqueue("a.png"))  # type: Result[int]
reveal_type(resize.enqueue("a.png", size=3))  # type: Result[int]
reveal_type(resize.enqueue("a.png", delay=5))  # type: Result[int]
reveal_type(resize.enqueue("a.png", priority=-1, id="x"))  # type: Result[int]
reveal_type(resize.enqueue("a.png", due=datetime.now(UTC)))  # type: Result[int]
reveal_type(fetch.enqueue("url"))  # type: Result[bytes]
reveal_type(fetch.enqueue("url").get(timeout=5))  # type: bytes
reveal_type(index.enqueue("a", deep=True).get())  # type: list[str]

resize.enqueue(5)  # error: call-overload
resize.enqueue()  # error: call-overload
resize.enqueue("a.png", "big")  # error: call-overload
resize.enqueue("a.png", sise=3)  # error: call-overload
resize.enqueue("a.png", delay="soon")  # error: call-overload
index.enqueue("a", True)  # error: call-overload

# Cancelling by unique keys

reveal_type(resize.cancel("a.png"))  # type: Cancellation
reveal_type(resize.cancel(unique_key="nightly"))  # type: Cancellation
reveal_type(resize.cancel(unique_key=5, shard="a"))  # type: Cancellation
reveal_type(resize.options(shard="a").cancel("a.png"))  # type: Cancellation
resize.cancel(5)  # error: call-overload
resize.cancel()  # error: call-overload
resize.options(shard="a").cancel(5)  # error: arg-type

# With the types of the arguments and with options

reveal_type(resize.options(delay=5).enqueue("a.png"))  # type: Result[int]
resize.options(delay=5).enqueue(5)  # error: arg-type
resize.options(delay="soon")  # error: arg-type
resize.options(nope=1)  # error: call-arg
resize.options(delay=5).enqueue("a.png", sise=3)  # error: call-arg

# Many

reveal_type(resize.enqueue_many(["a.png"]))  # type: Results[int]
reveal_type(resize.enqueue_many(["a.png"])[0])  # type: Result[int]
reveal_type([result.get() for result in resize.enqueue_many(["a.png"])])  # type: list[int]
reveal_type(resize.options(priority=5).enqueue_many(["a.png"]))  # type: Results[int]
resize.enqueue_many(5)  # error: arg-type

# Looking

reveal_type(resize.result("id").get())  # type: int
reveal_type(yard.result("id"))  # type: Result[Any]
reveal_type(resize.enqueue("a").status().final)  # type: bool


async def main() -> None:
    reveal_type(await resize.aenqueue("a.png"))  # type: Result[int]
    reveal_type(await (await fetch.aenqueue("url")).aget(5))  # type: bytes
    reveal_type(await resize.aenqueue("a.png", delay=1))  # type: Result[int]
    reveal_type(await resize.aenqueue_many(["a.png"]))  # type: Results[int]
    await resize.aenqueue(5)  # error: call-overload
    reveal_type(await resize.acancel("a.png"))  # type: Cancellation
    reveal_type(await resize.acancel(unique_key="nightly"))  # type: Cancellation
    await resize.options(delay=1).aenqueue(5)  # error: arg-type
    reveal_type(current_context().messages[0].id)  # type: str


# Names that others use

kept: Task[[str], bytes] = fetch
result: Result[int] = resize.enqueue("a.png")
results: Results[int] = resize.enqueue_many(["a.png"])
anything: Any = yard.remote("elsewhere").enqueue(1, b="two")
policy: Literal["block", "skip", "park"] = notify.policy.on_error
