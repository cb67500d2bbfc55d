"""What is declared with a task, checked when it is declared."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from taskyard.codec import Codec, checked_codecs
from taskyard.errors import PolicyError, Verdict

if TYPE_CHECKING:
    from taskyard.context import Context

__all__ = [
    "Backoff",
    "Batch",
    "OnError",
    "Policy",
    "RateLimit",
    "Retry",
    "RetryFunction",
    "ShardKey",
    "Unique",
    "UniqueKey",
    "UniqueMode",
    "checked_limit",
    "checked_name",
    "checked_rate",
    "policy",
    "seconds",
]

LONGEST = 100 * 365 * 86_400.0
FASTEST = 1e6
"""Messages per second of the highest rate limit: brokers count in microseconds."""
LARGEST = 256 << 20
"""Bytes of a message: half of what Redis takes, so that there is room for what is sent with it."""
LEAD = 1.0
"""Seconds before a message's deadline at which its batch waits no more, unless it is declared."""
PRIORITIES = range(-1024, 1024)

OnError = Literal["block", "skip", "park"]
Answer = float | int | timedelta | Verdict | type[Verdict] | None
RetryFunction = Callable[["Context", BaseException], Answer]
Backoff = Literal["constant", "linear", "exponential"] | RetryFunction
ShardKey = str | Callable[..., object]
UniqueKey = str | tuple[str, ...] | Callable[..., object] | None
UniqueMode = Literal["started", "done", "window", "debounce"]


def seconds(name: str, value: object, *, least: float = 0.0, open_: bool = False) -> float:
    """Check a duration.

    Arguments:
        name: what the duration is called in the error.
        value: seconds, or a timedelta.
        least: the smallest value allowed, in seconds.
        open_: whether `least` itself is refused.

    Returns:
        The duration in seconds.

    Raises:
        PolicyError: it is no number, not finite, too small or longer than a hundred years.
    """
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise PolicyError(f"{name} must be a number of seconds or a timedelta, not {value!r}")
    if value < least or (open_ and value == least):
        bound = "more than" if open_ else "at least"
        raise PolicyError(f"{name} must be {bound} {least:g} seconds, not {value!r}")
    if value > LONGEST:
        raise PolicyError(f"{name} of {value!r} seconds is longer than a hundred years")
    return float(value)


def _whole(name: str, value: object, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise PolicyError(f"{name} must be a whole number, not {value!r}")
    if not least <= value <= most:
        raise PolicyError(f"{name} must be from {least:,} to {most:,}, not {value!r}")
    return value


def checked_limit(name: str, value: object) -> int:
    """Check how many bytes a message may have.

    Raises:
        PolicyError: it is no number, or no broker could hold so many.
    """
    return _whole(name, value, 1, LARGEST)


def checked_rate(name: str, value: object) -> None:
    """Check that something is a rate limit, or None.

    Raises:
        PolicyError: it is something else.
    """
    if value is not None and not isinstance(value, RateLimit):
        raise PolicyError(f"{name} must be a RateLimit, as RateLimit(100, per=60), not {value!r}")


def checked_name(what: str, value: object) -> str:
    """Check the name of a task, queue or order.

    Raises:
        PolicyError: it is no short printable text.
    """
    if not isinstance(value, str) or not value or len(value) > 200 or not value.isprintable():
        raise PolicyError(f"{what} must be 1 to 200 printable characters, not {value!r}")
    return value


@dataclass(frozen=True, slots=True)
class Batch:
    """How messages are gathered for one call of a batch handler.

    Arguments:
        size: the most messages of one call, 1 to 10,000.
        within: seconds that the oldest message may wait for a batch to fill. 0: never wait, a
            call gets what is there, up to `size`.
        bytes: a batch is ready, and full, when its encoded payloads reach this many bytes.
        minimum: a batch of so many messages is ready, and need not wait to fill; `size`, if left
            out. Smaller ones are handed out only for their age, bytes or deadline, or on a drain.
        lead: a batch does not wait for longer than until so many seconds before the end of the
            time that one of its messages may wait (`expires=` of a call), so that a worker gets it
            in time. If left out, a second, or `within` if that is less.

    Raises:
        PolicyError: a value is wrong, or two contradict each other.
    """

    size: int = 100
    within: float = 0.0
    bytes: int | None = None
    minimum: int | None = None
    lead: float | None = None

    def __post_init__(self) -> None:
        _whole("batch size", self.size, 1, 10_000)
        object.__setattr__(self, "within", seconds("batch within", self.within))
        if self.bytes is not None:
            _whole("batch bytes", self.bytes, 1, 1 << 30)
        if self.size == 1 and self.within:
            raise PolicyError(
                "a batch of size 1 is full with its first message, so within= never applies: "
                "drop within= or raise size="
            )
        self._check_patience()

    def _check_patience(self) -> None:
        if self.minimum is not None:
            _whole("batch minimum", self.minimum, 1, 10_000)
            if self.minimum == 1 and self.within:
                raise PolicyError(
                    "with a minimum of 1 a batch is ready with its first message, so within= never "
                    "applies: drop both, or raise minimum="
                )
            if self.minimum > self.size:
                raise PolicyError(
                    f"no batch could hold the minimum of {self.minimum} messages, as its size is "
                    f"{self.size}: lower minimum= or raise size="
                )
        if self.lead is not None:
            object.__setattr__(self, "lead", seconds("batch lead", self.lead))
        for name in ("minimum", "lead"):
            if getattr(self, name) is not None and not self.within:
                raise PolicyError(
                    f"{name}= says for how long a batch waits to fill, but without within= it "
                    f"never waits: give within= or drop {name}="
                )

    @property
    def lead_seconds(self) -> float:
        """How long before a message's own deadline its batch waits no more."""
        return min(LEAD, self.within) if self.lead is None else self.lead


@dataclass(frozen=True, slots=True)
class Retry:
    """When a failed attempt is tried again.

    Arguments:
        count: retries after the first attempt; None: without limit.
        backoff: `"constant"` (always `delay`), `"linear"` (`delay` × attempt), `"exponential"`
            (`delay` × 2^(attempt - 1)), or a function of the message's context and the error,
            which answers a delay in seconds, None to fail, or a `RetryMessage`,
            `FailMessage` or `DiscardMessage` (returned or raised).
        delay: the base of the back-off, in seconds.
        longest: no back-off is longer than this, in seconds.
        jitter: the share of a delay that is random: 0.2 waits between 80 % and 100 % of it.
    """

    count: int | None = 3
    backoff: Backoff = "exponential"
    delay: float = 1.0
    longest: float = 3600.0
    jitter: float = 0.1

    def __post_init__(self) -> None:
        if self.count is not None:
            _whole("retry count", self.count, 0, 1_000_000)
        if not callable(self.backoff) and self.backoff not in ("constant", "linear", "exponential"):
            raise PolicyError(
                f"backoff must be 'constant', 'linear', 'exponential' or a function, "
                f"not {self.backoff!r}"
            )
        object.__setattr__(self, "delay", seconds("retry delay", self.delay))
        object.__setattr__(self, "longest", seconds("longest retry delay", self.longest))
        jitter: object = self.jitter
        number = isinstance(jitter, (int, float)) and not isinstance(jitter, bool)
        if not number or not 0 <= self.jitter <= 1:
            raise PolicyError(f"jitter must be a share from 0 to 1, not {jitter!r}")

    def delay_after(self, attempt: int, random: float) -> float:
        """The delay before the next attempt, where `backoff` is no function.

        Arguments:
            attempt: the attempt that failed, from 1.
            random: from 0 to 1, for jitter.

        Returns:
            Seconds.
        """
        match self.backoff:
            case "linear":
                delay = self.delay * attempt
            case "exponential":
                delay = self.delay * 2.0 ** min(attempt - 1, 60)
            case _:
                delay = self.delay
        return min(delay, self.longest) * (1 - self.jitter * random)


@dataclass(frozen=True, slots=True)
class RateLimit:
    """How many messages may be handed out in a time, over all workers.

    In no time are more handed out than `burst` and what the rate gives in it.

    Arguments:
        count: so many messages…
        per: … in so many seconds, on average. Up to a million per second.
        burst: how many at once, after a pause; a claim takes no more than these. If left out, what
            the rate gives in a tenth of a second, at least 1.

    Raises:
        PolicyError: a value is wrong.
    """

    count: float
    per: float | timedelta = 1.0
    burst: int | None = None

    def __post_init__(self) -> None:
        count, per = self.count, round(seconds("rate limit per", self.per, least=1e-6), 6)
        if isinstance(count, bool) or not isinstance(count, (int, float)):
            raise PolicyError(f"the count of a rate limit must be a number, not {count!r}")
        if not math.isfinite(count) or count <= 0:
            raise PolicyError(
                f"the count of a rate limit must be more than 0, not {count!r}; to let nothing "
                f"through, pause the queue"
            )
        if count / per > FASTEST:
            raise PolicyError(f"a rate limit allows at most a million per second, not {self!r}")
        object.__setattr__(self, "per", per)
        burst = max(1, int(count / per / 10)) if self.burst is None else self.burst
        object.__setattr__(self, "burst", _whole("burst of a rate limit", burst, 1, 1_000_000))
        if burst * per / count > LONGEST:
            raise PolicyError(
                f"{self!r}: it would take more than a hundred years until the burst may be "
                f"repeated: give a higher rate or a smaller burst"
            )


@dataclass(frozen=True, slots=True)
class Unique:
    """Which messages of a task are the same, and for how long no second one is put beside them.

    Arguments:
        key: what they are told apart by: the name of an argument (or of a field of a batch's
            elements), several of them, or a function of the arguments; None: all arguments.
        mode: until when a message keeps others away: `"started"` (until a worker gets it), `"done"`
            (until it ended, through all retries), `"window"` (for `window` seconds from when it
            was enqueued), or `"debounce"`: each replaces the one before, and is put off by `delay`.
        window: seconds.
        delay: seconds.
        max_delay: seconds by which messages are put off at most, counted from the first one; ten
            times `delay`, if left out.
    """

    key: UniqueKey = None
    mode: UniqueMode = "done"
    window: float | None = None
    delay: float | None = None
    max_delay: float | None = None

    def __post_init__(self) -> None:
        key: object = self.key
        if isinstance(key, list):
            object.__setattr__(self, "key", tuple(key))
        if not _is_unique_key(self.key):
            raise PolicyError(
                f"unique must be the name of an argument or field, several names, a function of "
                f"the arguments or a Unique, not {self.key!r}"
            )
        if self.mode not in ("started", "done", "window", "debounce"):
            raise PolicyError(
                f"the mode of unique must be 'started', 'done', 'window' or 'debounce', "
                f"not {self.mode!r}"
            )
        for name, mode in (("window", "window"), ("delay", "debounce"), ("max_delay", "debounce")):
            value = getattr(self, name)
            if value is not None and self.mode != mode:
                raise PolicyError(f"{name}= belongs to mode={mode!r}, not to {self.mode!r}")
            if value is not None:
                object.__setattr__(self, name, seconds(name, value, open_=True))
        if self.mode == "window" and self.window is None:
            raise PolicyError("mode='window' needs window=, the seconds for which a key is taken")
        if self.mode == "debounce" and self.delay is None:
            raise PolicyError("mode='debounce' needs delay=, the seconds that messages are put off")
        if self.max_delay is not None and self.delay is not None and self.max_delay < self.delay:
            raise PolicyError(
                f"max_delay ({self.max_delay:g} s) must be at least delay ({self.delay:g} s)"
            )

    @property
    def longest_delay(self) -> float:
        """Seconds by which messages are put off at most."""
        return 10 * (self.delay or 0.0) if self.max_delay is None else self.max_delay


def _is_unique_key(key: object) -> bool:
    if isinstance(key, tuple):
        return bool(key) and all(isinstance(name, str) and name for name in key)
    return key is None or callable(key) or (isinstance(key, str) and bool(key))


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Everything that is declared with a task. `Yard.task` documents the arguments.

    Raises:
        PolicyError: a value is wrong, or two contradict each other.
    """

    queue: str = "default"
    batch: Batch | None = None
    shard: ShardKey | None = None
    ordered: bool = False
    shard_concurrency: int | None = None
    order: str | None = None
    priority: int = 0
    retry: Retry = field(default_factory=Retry)
    timeout: float | None = None
    expires: float | None = None
    max_deliveries: int = 3
    on_error: OnError = "block"
    result_ttl: float | Literal["auto"] | None = "auto"
    linger: float = 1.0
    unique: Unique | None = None
    max_bytes: int | None = None
    codec: Codec | Sequence[Codec] | None = None
    rate: RateLimit | None = None
    shard_rate: RateLimit | None = None

    def __post_init__(self) -> None:
        checked_name("queue", self.queue)
        if self.order is not None:
            checked_name("order", self.order)
        if self.shard is not None and not isinstance(self.shard, str) and not callable(self.shard):
            raise PolicyError(
                f"shard must be the name of an argument or field, or a function of the "
                f"arguments, not {self.shard!r}"
            )
        if not isinstance(self.ordered, bool):
            raise PolicyError(f"ordered must be True or False, not {self.ordered!r}")
        if self.shard_concurrency is not None:
            _whole("shard_concurrency", self.shard_concurrency, 1, 1_000_000)
        _whole("priority", self.priority, PRIORITIES.start, PRIORITIES.stop - 1)
        _whole("max_deliveries", self.max_deliveries, 1, 1_000)
        if self.on_error not in ("block", "skip", "park"):
            raise PolicyError(f"on_error must be 'block', 'skip' or 'park', not {self.on_error!r}")
        for name in ("timeout", "expires", "result_ttl"):
            value = getattr(self, name)
            if value is not None and not (name == "result_ttl" and value == "auto"):
                object.__setattr__(self, name, seconds(name, value, open_=True))
        object.__setattr__(self, "linger", seconds("linger", self.linger))
        if self.max_bytes is not None:
            checked_limit("max_bytes", self.max_bytes)
        if self.codec is not None:
            object.__setattr__(self, "codec", checked_codecs(self.codec))
        checked_rate("rate", self.rate)
        checked_rate("shard_rate", self.shard_rate)
        self._refuse_contradictions()

    def _refuse_contradictions(self) -> None:
        if self.ordered and self.shard_concurrency not in (None, 1):
            raise PolicyError(
                f"ordered=True means one claim per shard at a time, so it contradicts "
                f"shard_concurrency={self.shard_concurrency}: drop one of them"
            )
        if self.order is not None and not self.ordered:
            raise PolicyError(
                f"order={self.order!r} names a common order, which needs ordered=True"
            )
        if self.on_error != "block" and not self.ordered:
            raise PolicyError(
                f"on_error={self.on_error!r} says what happens to an ordered shard whose head "
                f"fails, so it needs ordered=True"
            )
        if self.on_error == "park" and self.retry.count is None:
            raise PolicyError(
                "on_error='park' parks a shard when its retries are used up, but the retries "
                "are unlimited: give a count"
            )
        if self.batch and self.expires is not None and self.batch.within >= self.expires:
            raise PolicyError(
                f"messages expire after {self.expires:g} s, before their batch is due "
                f"(within={self.batch.within:g} s): lower within= or raise expires="
            )

    @property
    def codecs(self) -> tuple[Codec, ...] | None:
        """The task's own codecs; None: it has those of its yard."""
        return None if self.codec is None else checked_codecs(self.codec)

    @property
    def claims_per_shard(self) -> int | None:
        """How many claims a shard may have open at once; None: any number."""
        return 1 if self.ordered else self.shard_concurrency


def policy(options: dict[str, Any]) -> Policy:
    """Build a policy from the options of `Yard.task`, with their short forms.

    Arguments:
        options: names and values as given; `batch` may be a size or True, `retry` a count,
            False or None (unlimited), `unique` a key or True.

    Returns:
        The checked policy.

    Raises:
        PolicyError: an option is unknown, wrong, or contradicts another.
    """
    known = {item.name for item in fields(Policy)}
    unknown = sorted(set(options) - known)
    if unknown:
        raise PolicyError(
            f"unknown option{'s' if len(unknown) > 1 else ''} {', '.join(unknown)}; "
            f"a task takes {', '.join(sorted(known))}"
        )
    given = dict(options)
    batch = given.get("batch")
    if batch is True:
        given["batch"] = Batch()
    elif batch is False:
        given["batch"] = None
    elif isinstance(batch, int):
        given["batch"] = Batch(size=batch)
    elif batch is not None and not isinstance(batch, Batch):
        raise PolicyError(f"batch must be a Batch, a size or True, not {batch!r}")
    if "retry" in given:
        given["retry"] = _retry(given["retry"])
    if "unique" in given:
        given["unique"] = _unique(given["unique"])
    if given.get("on_error") == "skip":
        if "retry" in given and given["retry"].count != 0:
            raise PolicyError(
                "on_error='skip' goes on past a failed head at once, so it contradicts retry=: "
                "drop one of them"
            )
        given["retry"] = Retry(0)
    return Policy(**given)


def _unique(value: Any) -> Unique | None:
    if value is None or value is False or isinstance(value, Unique):
        return value or None
    return Unique() if value is True else Unique(value)


def _retry(value: object) -> Retry:
    if isinstance(value, Retry):
        return value
    if value is None:
        return Retry(None)
    if value is False:
        return Retry(0)
    if isinstance(value, int) and value is not True:
        return Retry(value)
    if callable(value):
        return Retry(None, backoff=value)
    raise PolicyError(
        f"retry must be a Retry, a count, None (unlimited), False or a function, not {value!r}"
    )
