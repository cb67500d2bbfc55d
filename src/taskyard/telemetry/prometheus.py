"""Metrics for Prometheus (extra `prometheus`).

`PrometheusMiddleware` counts what this process does; `BrokerCollector` asks the broker for what
there is, and what was done by everybody. Labels are queues and tasks and what is one of a few,
never shards or ids, so that the number of series stays small.
"""

from __future__ import annotations

import logging
import time
from collections import Counter as Tally
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from taskyard.brokers.base import TOTALS, Counts
from taskyard.context import Context
from taskyard.errors import BrokerError, MissingExtra
from taskyard.message import Reason, State
from taskyard.middleware import Claimed, Middleware, Settled, SettledMessage

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
    from prometheus_client.metrics_core import Metric
    from prometheus_client.registry import Collector
except ImportError as error:
    raise MissingExtra("metrics need a package: pip install 'taskyard[prometheus]'") from error

__all__ = ["BrokerCollector", "HasCounts", "PrometheusMiddleware"]

log = logging.getLogger("taskyard.telemetry")

SECONDS = (0.001, 0.005, 0.025, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
WAITS = (0.005, 0.025, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 1800, 3600, 21600)
SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000)

OUTCOMES = {
    State.DONE: "done",
    State.RETRYING: "retried",
    State.DEAD: "dead",
    State.DISCARDED: "discarded",
    State.CANCELLED: "cancelled",
    State.WAITING: "returned",
}
REASONS = frozenset(map(str, Reason))


class PrometheusMiddleware(Middleware):
    """Counts and times what the workers of this process do.

    All are counters and histograms, so prometheus_client's multiprocess mode can add them up.

    Arguments:
        registry: where the metrics are registered; prometheus_client's own, if left out.
        seconds: the buckets for how long handlers take.
        waits: the buckets for how long messages wait.
    """

    def __init__(
        self,
        registry: CollectorRegistry = REGISTRY,
        *,
        seconds: Sequence[float] = SECONDS,
        waits: Sequence[float] = WAITS,
    ) -> None:
        labels = ("queue", "task")
        self._messages = Counter(
            "taskyard_messages",
            "Messages that ended a delivery here, by what became of them.",
            (*labels, "outcome"),
            registry=registry,
        )
        self._dead = Counter(
            "taskyard_dead_letters",
            "Messages that this process made dead letters, by reason.",
            (*labels, "reason"),
            registry=registry,
        )
        self._seconds = Histogram(
            "taskyard_handler_seconds",
            "How long calls of handlers took; of a batch it is one.",
            labels,
            registry=registry,
            buckets=seconds,
        )
        self._waits = Histogram(
            "taskyard_wait_seconds",
            "How long messages had waited when their first delivery began.",
            labels,
            registry=registry,
            buckets=waits,
        )
        self._batches = Histogram(
            "taskyard_batch_messages",
            "Messages of a batch, as it was claimed.",
            labels,
            registry=registry,
            buckets=SIZES,
        )
        self._flushes = Counter(
            "taskyard_flushes",
            "Batches, by why they were handed out.",
            (*labels, "reason"),
            registry=registry,
        )
        self._redelivered = Counter(
            "taskyard_redelivered",
            "Claimed messages that may have run before.",
            labels,
            registry=registry,
        )

    def claimed(self, claim: Claimed) -> None:
        """Count batches and redeliveries."""
        labels = claim.queue, claim.task
        for batch in claim.batches:
            if batch.flush is not None:
                self._batches.labels(*labels).observe(batch.messages)
                self._flushes.labels(*labels, batch.flush.value).inc()
        if claim.redelivered:
            self._redelivered.labels(*labels).inc(claim.redelivered)

    @contextmanager
    def run(self, context: Context) -> Iterator[None]:
        """Time a call."""
        began = time.perf_counter()
        try:
            yield
        finally:
            taken = time.perf_counter() - began
            self._seconds.labels(context.queue, context.task).observe(taken)

    def settled(self, settled: Settled) -> None:
        """Count outcomes, and observe waits."""
        ended = Tally((message.task, OUTCOMES[message.state]) for message in settled.messages)
        for ending, count in ended.items():
            self._messages.labels(settled.queue, *ending).inc(count)
        for message in settled.messages:
            labels = settled.queue, message.task
            if message.state is State.DEAD:
                self._dead.labels(*labels, _reason(message)).inc()
            if message.waited is not None and message.delivery == 1:
                self._waits.labels(*labels).observe(message.waited)


def _reason(message: SettledMessage) -> str:
    return message.reason if message.reason in REASONS else "other"


class HasCounts(Protocol):
    """What can count: a yard."""

    def counts(self) -> list[Counts]:
        """The numbers of every queue and task."""
        ...


class BrokerCollector(Collector):
    """Asks a broker for its numbers whenever Prometheus asks this process.

    They are those of all workers and producers, so one process is enough to have them from.

    Arguments:
        yard: whom to ask.
        registry: where it is registered; prometheus_client's own, if left out.
    """

    def __init__(self, yard: HasCounts, registry: CollectorRegistry = REGISTRY) -> None:
        self._yard = yard
        registry.register(self)

    def describe(self) -> Iterable[Metric]:
        """Say nothing, so that registering does not ask the broker."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Make the metrics. While the broker fails there is only `taskyard_broker_up`."""
        try:
            counts = self._yard.counts()
        except BrokerError as error:
            log.warning("the broker's numbers cannot be told: %s", error)
            counts = None
        yield GaugeMetricFamily(
            "taskyard_broker_up", "Whether the broker answered.", value=counts is not None
        )
        if counts is not None:
            yield from _now(counts)
            yield from _since_the_beginning(counts)


def _now(counts: Sequence[Counts]) -> Iterator[Metric]:
    labels = ("queue", "task")
    depth = GaugeMetricFamily(
        "taskyard_broker_messages", "Messages, by what they do.", labels=(*labels, "state")
    )
    oldest = GaugeMetricFamily(
        "taskyard_broker_oldest_seconds", "How long the oldest message waits.", labels=labels
    )
    shards = GaugeMetricFamily("taskyard_broker_shards", "Shards with messages.", labels=labels)
    parked = GaugeMetricFamily("taskyard_broker_parked_shards", "Parked shards.", labels=labels)
    memory = GaugeMetricFamily(
        "taskyard_broker_memory_bytes", "What messages take in the server.", labels=labels
    )
    now = time.time()
    for one in counts:
        group = (one.group.queue, one.group.name)
        for state in ("waiting", "delayed", "running", "dead"):
            depth.add_metric((*group, state), getattr(one, state))
        oldest.add_metric(group, max(0.0, now - one.oldest / 1e6) if one.oldest else 0.0)
        shards.add_metric(group, one.lanes)
        parked.add_metric(group, one.parked)
        if one.memory:
            memory.add_metric(group, one.memory)
    return iter((depth, oldest, shards, parked, memory))


def _since_the_beginning(counts: Sequence[Counts]) -> Iterator[Metric]:
    events = CounterMetricFamily(
        "taskyard_broker_events",
        "What happened to messages since the beginning.",
        labels=("queue", "task", "event"),
    )
    flushes = CounterMetricFamily(
        "taskyard_broker_flushes",
        "Batches since the beginning, by why they were handed out.",
        labels=("queue", "task", "reason"),
    )
    for one in counts:
        group = (one.group.queue, one.group.name)
        for name in TOTALS:
            reason = name.removeprefix("flush_")
            family = events if reason == name else flushes
            family.add_metric((*group, reason), one.totals.get(name, 0))
    return iter((events, flushes))
