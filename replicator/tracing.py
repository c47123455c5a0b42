"""Spans of OpenTelemetry, of a change on its way: submit -> append -> apply, on the primary and on every standby.

    from replicator import tracing

    tracing.enable()            # once in each process, beside the set-up of OpenTelemetry itself

- `replicator.submit`: a call, with whatever its caller's span is as its parent.
- `replicator.append`: a record, from before it is sent until it is applied on the primary. Its parent is the first of
  the calls whose changes it has; the others are links.
- `replicator.apply`: a node has applied it. Its parent is the append, wherever that was.

What is not traced, or not sampled, has none of these, and its record is the one that it would be otherwise. A record
that is has the context of its append in its header (`trace`, as W3C's traceparent): readers ignore what they do not
know, so nodes with tracing, without it, and of before it, read the same log.

It takes `pip install 'replicator[otel]'` (the API), and an SDK that the application sets up. Without `enable` nothing
of it is imported.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from .errors import ConfigError

__all__ = ["Append", "Tracing", "disable", "enable"]

MISSING = "opentelemetry-api is not installed: pip install 'replicator[otel]'"

#: None: nothing is traced. Read by whoever submits, commits or applies.
active: Tracing | None = None


def enable(tracer_provider: Any = None) -> None:
    """Trace what this process submits, appends and applies from now on.

    `tracer_provider`: instead of OpenTelemetry's global one. Raises `ConfigError` if its API is not installed.
    """
    global active
    try:
        from opentelemetry import trace
    except ImportError:
        raise ConfigError(setting="tracing", problem=MISSING) from None
    active = Tracing(trace, trace.get_tracer("replicator", tracer_provider=tracer_provider))


def disable() -> None:
    """Trace nothing from now on."""
    global active
    active = None


class Append:
    """The span of a record that is on its way. `header`: what the record carries of it."""

    def __init__(self, trace: Any, span: Any) -> None:
        context = span.get_span_context()
        self.header = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
        self._trace = trace
        self._span = span

    @contextmanager
    def of(self, position: object) -> Iterator[None]:
        """The record has this position, and is sent and applied inside."""
        self._span.set_attribute("replicator.position", str(position))
        with self._trace.use_span(self._span, end_on_exit=True):
            yield


class Tracing:
    """`trace`: the module of OpenTelemetry. `tracer`: of this package."""

    def __init__(self, trace: Any, tracer: Any) -> None:
        self._trace = trace
        self._tracer = tracer

    @contextmanager
    def submitting(self, group: str, node: str, noted: AbstractContextManager[object]) -> Iterator[None]:
        """A call of `submit` or one like it, in which `noted` is entered, too."""
        attributes = {"replicator.group": group, "replicator.node": node}
        with self._tracer.start_as_current_span("replicator.submit", attributes=attributes), noted:
            yield

    def carried(self) -> tuple[Any, ...]:
        """The context of the current span, if that is sampled; else nothing."""
        context = self._trace.get_current_span().get_span_context()
        return (context,) if context.is_valid and context.trace_flags.sampled else ()

    def append(self, callers: Sequence[Any], *, group: str, node: str, changes: int) -> Append:
        """Begin the span of a record with changes of these callers (`carried`)."""
        attributes = {"replicator.group": group, "replicator.node": node, "replicator.changes": changes}
        first, *others = callers
        span = self._tracer.start_span(
            "replicator.append",
            context=self._under(first),
            kind=self._trace.SpanKind.PRODUCER,
            attributes=attributes,
            links=[self._trace.Link(each) for each in others],
        )
        return Append(self._trace, span)

    def applied(self, header: str, *, group: str, node: str, position: object, began_ns: int) -> None:
        """A node has applied a record that carries this; it began to then (unix ns)."""
        _, trace_id, span_id, flags = header.split("-")
        context = self._trace.SpanContext(
            int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=self._trace.TraceFlags(int(flags, 16))
        )
        attributes = {"replicator.group": group, "replicator.node": node, "replicator.position": str(position)}
        span = self._tracer.start_span(
            "replicator.apply",
            context=self._under(context),
            kind=self._trace.SpanKind.CONSUMER,
            attributes=attributes,
            start_time=began_ns,
        )
        span.end(end_time=max(began_ns, time.time_ns()))

    def _under(self, context: Any) -> Any:
        return self._trace.set_span_in_context(self._trace.NonRecordingSpan(context))
