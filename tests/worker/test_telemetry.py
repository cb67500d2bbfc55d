"""Traces from producers to handlers, and metrics, as their own libraries see them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry
from tests.worker.support import Another, Clock

from taskyard import Batch, Retry, Yard, current_context, discard, fail, retry
from taskyard.errors import BrokerUnavailable, EnqueueError
from taskyard.telemetry.opentelemetry import OpenTelemetryMiddleware
from taskyard.telemetry.prometheus import BrokerCollector, PrometheusMiddleware

# Traces


class Spans:
    """What was traced."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = self.provider.get_tracer("test")

    def called(self, name: str) -> list[ReadableSpan]:
        return [span for span in self._exporter.get_finished_spans() if span.name == name]

    def only(self, name: str) -> ReadableSpan:
        [span] = self.called(name)
        return span


@pytest.fixture
def spans(yard: Yard) -> Iterator[Spans]:
    made = Spans()
    yard.use_middleware(OpenTelemetryMiddleware(made.provider))
    yield made
    made.provider.shutdown()


def links(span: ReadableSpan) -> list[int]:
    return [link.context.span_id for link in span.links]


def attributes(span: ReadableSpan) -> Mapping[str, Any]:
    return span.attributes or {}


def identity(span: ReadableSpan) -> int:
    return span.get_span_context().span_id


@pytest.mark.parametrize("is_async", [False, True])
def test_a_trace_goes_from_the_producer_through_the_handler(
    yard: Yard, spans: Spans, is_async: bool
) -> None:
    def note(number: int) -> None:
        with spans.tracer.start_as_current_span("inside"):
            pass

    async def anote(number: int) -> None:
        await asyncio.sleep(0)
        with spans.tracer.start_as_current_span("inside"):
            pass

    task = yard.task(name="note", queue="notes", shard="number")(anote if is_async else note)
    with spans.tracer.start_as_current_span("request"):
        result = task.enqueue(7)
    yard.run_worker(burst=True)
    request, sent, run, inside = map(spans.only, ("request", "enqueue note", "run note", "inside"))
    assert {span.get_span_context().trace_id for span in (request, sent, run, inside)} == {
        request.get_span_context().trace_id
    }
    assert [span.parent and span.parent.span_id for span in (sent, run, inside)] == [
        identity(request),
        identity(sent),
        identity(run),
    ]
    assert links(run) == [identity(sent)]
    assert (sent.kind, run.kind) == (trace.SpanKind.PRODUCER, trace.SpanKind.CONSUMER)
    assert attributes(sent) == {
        "messaging.system": "taskyard",
        "messaging.operation.name": "enqueue",
        "messaging.operation.type": "send",
        "messaging.destination.name": "notes",
        "messaging.message.id": result.id,
        "taskyard.task": "note",
    }
    assert attributes(run) == {
        "messaging.system": "taskyard",
        "messaging.operation.name": "run",
        "messaging.operation.type": "process",
        "messaging.destination.name": "notes",
        "messaging.message.id": result.id,
        "taskyard.task": "note",
        "taskyard.attempt": 1,
        "taskyard.delivery": 1,
        "taskyard.shard": "7",
    }
    assert run.status.status_code is trace.StatusCode.UNSET


@pytest.mark.parametrize("is_async", [False, True])
def test_a_batch_links_to_all_its_producers(yard: Yard, spans: Spans, is_async: bool) -> None:
    def note(numbers: list[int]) -> None: ...

    async def anote(numbers: list[int]) -> None: ...

    task: Any = yard.task(name="note", batch=Batch(10, within=60))(anote if is_async else note)
    task.enqueue_many(range(8))
    with spans.tracer.start_as_current_span("request"):
        task.enqueue(8)
        task.enqueue(9)
    yard.run_worker(burst=True)
    run, sent = spans.only("run note"), spans.called("enqueue note")
    assert run.parent is None
    assert run.get_span_context().trace_id not in {s.get_span_context().trace_id for s in sent}
    assert links(run) == [identity(span) for span in sent]
    assert attributes(run)["messaging.batch.message_count"] == 10
    assert "messaging.message.id" not in attributes(run)
    assert attributes(sent[0])["messaging.batch.message_count"] == 8


def test_each_attempt_is_a_span_and_errors_are_on_it(
    yard: Yard, spans: Spans, clock: Clock
) -> None:
    @yard.task(name="note", retry=Retry(1, "constant", delay=60, jitter=0))
    def note() -> None:
        if current_context().attempt == 1:
            raise LookupError("not there")

    note.enqueue()
    yard.run_worker(burst=True)
    clock.forward(61)
    yard.run_worker(burst=True)
    first, second = spans.called("run note")
    sent = identity(spans.only("enqueue note"))
    assert [span.parent and span.parent.span_id for span in (first, second)] == [sent, sent]
    assert first.status.status_code is trace.StatusCode.ERROR
    assert attributes(first)["error.type"] == "LookupError"
    [event] = first.events
    assert event.name == "exception"
    assert (event.attributes or {})["exception.message"] == "not there"
    assert second.status.status_code is trace.StatusCode.UNSET
    assert [attributes(span)["taskyard.attempt"] for span in (first, second)] == [1, 2]


@pytest.mark.parametrize(
    ("decide", "status", "verdict"),
    [
        (discard, trace.StatusCode.UNSET, "discard"),
        (lambda: retry(3600), trace.StatusCode.UNSET, "retry"),
        (lambda: fail("no use"), trace.StatusCode.ERROR, None),
    ],
)
def test_a_handlers_decision_is_no_error_unless_it_fails(
    yard: Yard, spans: Spans, decide: Any, status: trace.StatusCode, verdict: str | None
) -> None:
    @yard.task(name="note")
    def note() -> None:
        decide()

    note.enqueue()
    yard.run_worker(burst=True)
    run = spans.only("run note")
    assert run.status.status_code is status
    assert attributes(run).get("taskyard.verdict") == verdict


def test_an_enqueue_that_fails_is_an_error(yard: Yard, spans: Spans) -> None:
    @yard.task(name="note", result_ttl=60)
    def note() -> None: ...

    note.options(id="one").enqueue()
    with pytest.raises(EnqueueError):
        note.options(id="one").enqueue()
    good, bad = spans.called("enqueue note")
    assert good.status.status_code is trace.StatusCode.UNSET
    assert bad.status.status_code is trace.StatusCode.ERROR
    assert attributes(bad)["error.type"] == "taskyard.errors.DuplicateId"


def test_baggage_comes_along(yard: Yard, spans: Spans) -> None:
    seen: list[Any] = []

    @yard.task(name="note")
    def note() -> None:
        seen.append(baggage.get_baggage("tenant"))

    token = context.attach(baggage.set_baggage("tenant", "a"))
    note.enqueue()
    context.detach(token)
    note.enqueue()
    yard.run_worker(burst=True, concurrency=1)
    assert seen == ["a", None]


def test_a_message_without_a_trace_begins_one(yard: Yard, another: Another, spans: Spans) -> None:
    @yard.task(name="note")
    def note() -> None: ...

    another().remote("note").enqueue()
    yard.run_worker(burst=True)
    run = spans.only("run note")
    assert run.parent is None
    assert links(run) == []


async def test_async_producers_do_not_mix_their_spans(yard: Yard, spans: Spans) -> None:
    @yard.task(name="note")
    async def note(number: int) -> None: ...

    async def request(number: int) -> None:
        with spans.tracer.start_as_current_span("request"):
            await note.aenqueue(number)

    await asyncio.gather(*map(request, range(5)))
    sent = spans.called("enqueue note")
    parents = {span.parent.span_id for span in sent if span.parent is not None}
    assert parents == {identity(span) for span in spans.called("request")}
    assert len(parents) == 5


# Metrics


@pytest.fixture
def registry(yard: Yard) -> CollectorRegistry:
    made = CollectorRegistry()
    yard.use_middleware(PrometheusMiddleware(made))
    BrokerCollector(yard, made)
    return made


def test_what_a_worker_counts(yard: Yard, registry: CollectorRegistry, clock: Clock) -> None:
    @yard.task(name="note", queue="notes", retry=Retry(1, "constant", delay=60, jitter=0))
    def note(number: int) -> None:
        if number == 0:
            raise ValueError
        if number == 1:
            discard()

    def value(name: str, **labels: str) -> float | None:
        labels = {"queue": "notes", "task": "note", **labels}
        return registry.get_sample_value(f"taskyard_{name}", labels)

    note.enqueue_many(range(5))
    yard.run_worker(burst=True)
    assert value("messages_total", outcome="done") == 3
    assert value("messages_total", outcome="discarded") == 1
    assert value("messages_total", outcome="retried") == 1
    assert value("redelivered_total") is None
    assert value("handler_seconds_count") == 5
    assert value("wait_seconds_count") == 5
    clock.forward(61)
    yard.run_worker(burst=True)
    assert value("messages_total", outcome="dead") == 1
    assert value("dead_letters_total", reason="failed") == 1
    assert value("redelivered_total") == 1
    assert value("handler_seconds_count") == 6
    assert value("wait_seconds_count") == 5  # a retry waits for its back-off, not for a worker
    assert value("flushes_total", reason="size") is None


def test_batches_and_their_reasons(yard: Yard, registry: CollectorRegistry) -> None:
    @yard.task(name="note", batch=Batch(4, within=60))
    def note(numbers: list[int]) -> None: ...

    def value(name: str, **labels: str) -> float | None:
        labels = {"queue": "default", "task": "note", **labels}
        return registry.get_sample_value(f"taskyard_{name}", labels)

    note.enqueue_many(range(6))
    yard.run_worker(burst=True)
    assert value("flushes_total", reason="size") == 1
    assert value("flushes_total", reason="drain") == 1
    assert value("batch_messages_count") == 2
    assert value("batch_messages_sum") == 6
    assert value("handler_seconds_count") == 2
    assert value("messages_total", outcome="done") == 6
    assert value("broker_flushes_total", reason="size") == 1


def test_what_the_broker_tells(yard: Yard, registry: CollectorRegistry, clock: Clock) -> None:
    def value(name: str, **labels: str) -> float | None:
        labels = {"queue": "default", "task": "note", **labels}
        return registry.get_sample_value(f"taskyard_broker_{name}", labels)

    assert registry.get_sample_value("taskyard_broker_up") == 1

    @yard.task(name="note", shard="number")
    def note(number: int) -> None:
        if number == 2:
            fail("no use")

    note.enqueue(1)
    note.enqueue(2)
    yard.run_worker(burst=True)
    note.enqueue_many([3, 4])
    note.enqueue(5, delay=3600)
    assert value("messages", state="waiting") == 2
    assert value("messages", state="delayed") == 1
    assert value("messages", state="running") == 0
    assert value("messages", state="dead") == 1
    assert value("shards") == 2
    assert value("parked_shards") == 0
    oldest = value("oldest_seconds")
    assert oldest is not None
    assert oldest >= 0
    assert value("events_total", event="put") == 5
    assert value("events_total", event="done") == 1
    assert value("events_total", event="dead") == 1


def test_a_broker_that_fails_is_down(registry: CollectorRegistry, yard: Yard) -> None:
    class Failing:
        def counts(self) -> Any:
            raise BrokerUnavailable("gone")

    own = CollectorRegistry()
    BrokerCollector(Failing(), own)
    assert own.get_sample_value("taskyard_broker_up") == 0
    assert [metric.name for metric in own.collect()] == ["taskyard_broker_up"]


def test_registering_does_not_ask_the_broker() -> None:
    class Asked:
        def counts(self) -> Any:
            raise AssertionError("it was asked")

    BrokerCollector(Asked(), CollectorRegistry())


def test_labels_are_queues_and_tasks(yard: Yard, registry: CollectorRegistry) -> None:
    @yard.task(name="note", shard="number", batch=2)
    def note(numbers: list[dict[str, int]]) -> None: ...

    note.enqueue_many([{"number": number} for number in range(20)])
    yard.run_worker(burst=True)
    labels = {name for metric in registry.collect() for s in metric.samples for name in s.labels}
    assert labels <= {"queue", "task", "outcome", "reason", "state", "event", "le"}


PROGRAM = """
from taskyard import Yard
from taskyard.telemetry.prometheus import PrometheusMiddleware
yard = Yard("sqlite:///yard.db")
yard.use_middleware(PrometheusMiddleware())
@yard.task(name="note")
def note(number: int) -> None: ...
if __name__ == "__main__":
    note.enqueue_many(range(50))
    yard.run_worker(burst=True, processes=2)
"""
EXPORTER = """
import program
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector
registry = CollectorRegistry()
MultiProcessCollector(registry)
labels = {"queue": "default", "task": "note", "outcome": "done"}
print(registry.get_sample_value("taskyard_messages_total", labels))
"""


def test_worker_processes_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "metrics").mkdir()
    (tmp_path / "program.py").write_text(PROGRAM)
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path / "metrics"))
    subprocess.run([sys.executable, "program.py"], cwd=tmp_path, check=True, timeout=50)
    told = subprocess.run(
        [sys.executable, "-c", EXPORTER],
        cwd=tmp_path,
        check=True,
        timeout=50,
        capture_output=True,
        text=True,
    )
    assert told.stdout.split() == ["50.0"]


@pytest.mark.parametrize(
    ("module", "package"),
    [("opentelemetry", "opentelemetry"), ("prometheus", "prometheus_client")],
)
def test_a_missing_extra_is_named(module: str, package: str) -> None:
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        f"from taskyard.errors import MissingExtra\n"
        f"try: import taskyard.telemetry.{module}\n"
        f"except MissingExtra as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"taskyard[{module}]" in done.stdout
