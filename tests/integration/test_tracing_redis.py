"""A traced change, over every Redis at hand: scripts, checkpoints and tools take a record that carries a context."""

from __future__ import annotations

from pathlib import Path

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from replicator import Node, ops, tracing
from replicator.log.redis_log import RedisLog
from replicator.ops.certify import certify
from replicator.sandbox.redis_server import RedisServer
from tests.support.kv import KV, LEASE_S, PATIENCE_S, eventually, push, pushed


def test_a_traced_change_reaches_standbys_disks_and_tools(redis_server: RedisServer, tmp_path: Path) -> None:
    provider, spans = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    tracing.enable(provider)
    try:
        a, b = (
            Node(KV(), group="g", name=name, redis=redis_server.url, data_dir=tmp_path / name, lease_s=LEASE_S)
            for name in ("a", "b")
        )
        with a, b:
            a.promote(timeout_s=PATIENCE_S)
            b.wait(position=str(a.position.id), timeout_s=PATIENCE_S)
            a.submit(push("x"), ack="applied:1", timeout_s=PATIENCE_S)
            # One that acknowledges what it applied may end its span a moment later.
            expected = ["replicator.append", "replicator.apply", "replicator.apply", "replicator.submit"]
            eventually(lambda: len(spans.get_finished_spans()) >= len(expected), "the spans")
            assert sorted(span.name for span in spans.get_finished_spans()) == expected
            log = RedisLog(redis_server.url, "g")
            eventually(lambda: ops.status(log).well)
            found = certify(log, [tmp_path / "a", tmp_path / "b"], make_state=KV)
            assert {node.node for node in found.nodes} == {"a", "b"}
            log.close()
        again = Node(KV(), group="g", name="b", redis=redis_server.url, data_dir=tmp_path / "b")
        with again:
            assert pushed(again) == ["x"]
    finally:
        tracing.disable()
