"""Spans of a change on its way to a standby, as OpenTelemetry's own SDK has them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode

from replicator import ConfigError, Fenced, tracing
from replicator.format.ids import ORIGIN, RecordId, Writer
from replicator.format.records import ChangeRecord, parse, seal_change
from tests.support.kv import Group, eventually, in_step, in_thread, push, pushed

CONTEXT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Group]:
    group = Group(tmp_path)
    yield group
    group.close()


class Spans:
    """Those that have ended."""

    def __init__(self, provider: TracerProvider) -> None:
        self._exporter = InMemorySpanExporter()
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = provider.get_tracer("of the application")

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self._exporter.get_finished_spans() if span.name == f"replicator.{name}"]

    def one(self, name: str) -> ReadableSpan:
        (span,) = self.named(name)
        return span


@pytest.fixture
def spans() -> Iterator[Spans]:
    provider = TracerProvider()
    tracing.enable(provider)
    yield Spans(provider)
    tracing.disable()


def headers(group: Group) -> list[bytes]:
    return [entry.header for entry in group.server.state.entries]


def id_of(span: ReadableSpan) -> int:
    assert span.context is not None
    return span.context.span_id


def test_a_change_is_followed_from_its_caller_to_a_standby(group: Group, spans: Spans) -> None:
    a, b = group.primary("a"), group.node("b")
    in_step(a, b)
    with spans.tracer.start_as_current_span("request") as request:
        a.submit(push("x"))
    eventually(lambda: len(spans.named("apply")) == 2)
    submit, append = spans.one("submit"), spans.one("append")
    applied = {span.attributes["replicator.node"]: span for span in spans.named("apply")}
    assert submit.parent.span_id == request.get_span_context().span_id
    assert append.parent.span_id == id_of(submit)
    assert set(applied) == {"a", "b"}
    for span in (submit, append, *applied.values()):
        assert span.context.trace_id == request.get_span_context().trace_id
        assert span.attributes["replicator.group"] == "g"
    for span in applied.values():
        assert (span.parent.span_id, span.parent.is_remote, span.kind) == (id_of(append), True, SpanKind.CONSUMER)
        assert span.attributes["replicator.position"] == str(a.position.id) == append.attributes["replicator.position"]
        assert append.start_time <= span.start_time <= span.end_time


def test_callers_that_share_a_record_are_linked(group: Group, spans: Spans) -> None:
    a = group.primary("a")

    async def one(number: int) -> None:
        with spans.tracer.start_as_current_span(f"request {number}"):
            await a.asubmit(push(number))

    async def many() -> None:
        await asyncio.gather(*map(one, range(4)))

    asyncio.run(many())
    submits = {id_of(span) for span in spans.named("submit")}
    told = [
        id_ for span in spans.named("append") for id_ in (span.parent.span_id, *(e.context.span_id for e in span.links))
    ]
    assert len(submits) == 4
    assert sorted(told) == sorted(submits), "each is in one record"
    assert sum(span.attributes["replicator.changes"] for span in spans.named("append")) == 4


def test_threads_that_wait_for_one_another_are_linked(group: Group, spans: Spans) -> None:
    a = group.primary("a")
    go = threading.Event()

    def work(number: int) -> None:
        go.wait()
        a.submit(push(number))

    results = [in_thread(lambda number=number: work(number)) for number in range(6)]  # type: ignore[misc]
    go.set()
    for result in results:
        result()
    told = [
        id_ for span in spans.named("append") for id_ in (span.parent.span_id, *(e.context.span_id for e in span.links))
    ]
    assert sorted(told) == sorted(id_of(span) for span in spans.named("submit"))


def test_an_error_is_in_the_spans(group: Group, spans: Spans) -> None:
    a = group.primary("a")
    with pytest.raises(Fenced):
        a.submit(push("x"), term=9)
    assert spans.one("submit").status.status_code is StatusCode.ERROR
    assert spans.named("append") == [], "nothing was sent"


def test_what_is_not_sampled_leaves_the_record_as_it_is(group: Group) -> None:
    tracing.enable(TracerProvider(sampler=ALWAYS_OFF))
    try:
        group.primary("a").submit(push("x"))
    finally:
        tracing.disable()
    assert not [header for header in headers(group) if b"trace" in header]


def test_without_it_there_is_nothing_in_a_record_and_nothing_is_imported(group: Group) -> None:
    group.primary("a").submit(push("x"))
    assert not [header for header in headers(group) if b"trace" in header]
    program = "import sys; from replicator import tracing\nassert 'opentelemetry' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_node_that_traces_nothing_follows_one_that_does(group: Group, spans: Spans) -> None:
    a = group.primary("a")
    a.submit(push("x"))
    tracing.disable()
    b = group.node("b")
    in_step(a, b)
    assert pushed(b) == ["x"]
    assert [span.attributes["replicator.node"] for span in spans.named("apply")] == ["a"]


def test_a_node_that_starts_again_does_not_apply_anew_what_it_had(group: Group, spans: Spans) -> None:
    a = group.primary("a")
    a.submit(push("x"))
    a.stop()
    b = group.node("a")
    assert pushed(b) == ["x"]
    assert len(spans.named("apply")) == 1


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(ConfigError, match=r"pip install 'replicator\[otel\]'"):
        tracing.enable()
    assert tracing.active is None


# --- In the header of a record ----------------------------------------------------------------------------------------


def record(trace: str) -> ChangeRecord:
    return seal_change(
        writer=Writer("a", "boot"),
        term=1,
        after=ORIGIN,
        at=0,
        codec="json",
        digest="d",
        count=1,
        body=b"[1]",
        trace=trace,
    )


def test_a_reader_has_what_the_writer_said() -> None:
    sealed = record(CONTEXT)
    assert parse(str(sealed.id), sealed.header, sealed.body) == sealed
    assert sealed.trace == CONTEXT


@pytest.mark.parametrize("trace", ["", "00-0-0-01", CONTEXT.replace("0af7", "0AF7"), CONTEXT + "-x", "x" * 10_000])
def test_what_is_no_context_is_none_and_the_record_is_read(trace: str) -> None:
    sealed = record(trace)
    read = parse(str(sealed.id), sealed.header, sealed.body)
    assert isinstance(read, ChangeRecord)
    assert (read.trace, read.id, read.chain) == ("", RecordId(1, 1), sealed.chain)


@pytest.mark.parametrize("value", [b"7", b"null", b"[1]", b'{"a":1}'])
def test_a_context_of_another_type_is_none(value: bytes) -> None:
    sealed = record(CONTEXT)
    header = sealed.header.replace(b'"' + CONTEXT.encode() + b'"', value)
    read = parse(str(sealed.id), header, sealed.body)
    assert isinstance(read, ChangeRecord)
    assert read.trace == ""
