"""Traces from a producer to a handler (extra `opentelemetry`).

The spans and their attributes are those of OpenTelemetry's semantic conventions for messaging. The
context travels in the headers of a message, as whichever propagator is installed writes it: by
default W3C's `traceparent`, `tracestate` and `baggage`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from taskyard.context import Context, MessageInfo
from taskyard.errors import DiscardMessage, MissingExtra, RetryMessage
from taskyard.middleware import EnqueueCall, Middleware

try:
    from opentelemetry import context as contexts
    from opentelemetry import propagate, trace
except ImportError as error:
    raise MissingExtra("traces need a package: pip install 'taskyard[opentelemetry]'") from error

__all__ = ["OpenTelemetryMiddleware"]

MOST_LINKS = 128
"""OpenTelemetry's own limit per span, unless it is told another."""


class OpenTelemetryMiddleware(Middleware):
    """Makes a span of each call of `enqueue` and of each call of a handler.

    The span of a handler that runs one message is a child of its producer's, and has a link to it;
    that of a batch is the root of a trace of its own, with a link to each producer.

    Arguments:
        tracer_provider: makes the spans; the installed one, if left out.
    """

    def __init__(self, tracer_provider: trace.TracerProvider | None = None) -> None:
        self._tracer = trace.get_tracer("taskyard", tracer_provider=tracer_provider)

    @contextmanager
    def enqueue(self, call: EnqueueCall) -> Iterator[None]:
        """A span of kind PRODUCER, whose context goes with the messages."""
        attributes = _attributes("enqueue", "send", call.queue, call.task)
        if not call.many:
            attributes["messaging.message.id"] = call.message_id
        with self._tracer.start_as_current_span(
            f"enqueue {call.task}",
            kind=trace.SpanKind.PRODUCER,
            attributes=attributes,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            propagate.inject(call.headers)
            try:
                yield
            except BaseException as error:
                _fail(span, error)
                raise
            finally:
                if call.many:
                    span.set_attribute("messaging.batch.message_count", call.messages)

    @contextmanager
    def run(self, context: Context) -> Iterator[None]:
        """A span of kind CONSUMER."""
        messages = context.messages
        producers = {key: _producer(key) for key in map(_key, messages)}
        parent = producers[_key(messages[0])] if len(messages) == 1 else contexts.Context()
        span = self._tracer.start_span(
            f"run {context.task}",
            context=parent,
            kind=trace.SpanKind.CONSUMER,
            attributes=_of_messages(context, messages),
            links=_links(producers.values()),
        )
        # On top of the producer's context, as that may hold more than a span: baggage.
        token = contexts.attach(trace.set_span_in_context(span, parent))
        try:
            yield
        except BaseException as error:
            _note_end(span, error)
            raise
        finally:
            contexts.detach(token)
            span.end()


def _attributes(name: str, kind: str, queue: str, task: str) -> dict[str, str | int]:
    return {
        "messaging.system": "taskyard",
        "messaging.operation.name": name,
        "messaging.operation.type": kind,
        "messaging.destination.name": queue,
        "taskyard.task": task,
    }


def _of_messages(context: Context, messages: Sequence[MessageInfo]) -> dict[str, str | int]:
    attributes = _attributes("run", "process", context.queue, context.task)
    if len(messages) == 1:
        attributes["messaging.message.id"] = messages[0].id
    else:
        attributes["messaging.batch.message_count"] = len(messages)
    # Of a batch, those of the message that was tried most.
    attributes["taskyard.attempt"] = max(message.attempt for message in messages)
    attributes["taskyard.delivery"] = max(message.delivery for message in messages)
    if context.shard:
        attributes["taskyard.shard"] = context.shard
    return attributes


_Key = tuple[tuple[str, str], ...]
"""Headers. Those of an `enqueue_many` are the same with each message, so they are read once."""


def _key(message: MessageInfo) -> _Key:
    return tuple(message.headers.items())


def _producer(headers: _Key) -> contexts.Context:
    # Not from the current context: a span of the worker's own would become the parent.
    return propagate.extract(dict(headers), contexts.Context())


def _links(producers: Iterable[contexts.Context]) -> list[trace.Link]:
    spans = (trace.get_current_span(producer).get_span_context() for producer in producers)
    return [trace.Link(span) for span in spans if span.is_valid][:MOST_LINKS]


def _note_end(span: trace.Span, error: BaseException) -> None:
    if isinstance(error, RetryMessage | DiscardMessage):  # decisions of the handler, no errors
        verdict = "retry" if isinstance(error, RetryMessage) else "discard"
        span.set_attribute("taskyard.verdict", verdict)
    else:
        _fail(span, error)


def _fail(span: trace.Span, error: BaseException) -> None:
    kind = type(error)
    own = kind.__module__ == "builtins"
    span.set_attribute("error.type", f"{'' if own else kind.__module__ + '.'}{kind.__qualname__}")
    span.record_exception(error)
    span.set_status(trace.Status(trace.StatusCode.ERROR, kind.__qualname__))
