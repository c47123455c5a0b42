"""`/metrics`: what a node knows and counts, for Prometheus (`replicator.metrics`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import ConfigError
from ..metrics.exposition import exposed
from .failures import Answer, Failure
from .served_node import ServedNode

__all__ = ["metrics_answer"]


def metrics_answer(node: ServedNode[Any], method: str, render: Callable[[Failure], Answer]) -> Answer:
    """What a scrape is answered. It waits for nobody."""
    if method not in ("GET", "HEAD"):
        answer = render(Failure(status=405, code="wrong_method", message="not with this method"))
        return answer._replace(headers=[*answer.headers, ("Allow", "GET, HEAD")])
    try:
        media_type, body = exposed(node)
    except ConfigError as missing:
        return render(Failure(status=501, code="extra_missing", message=str(missing)))
    return Answer(200, [("Content-Type", media_type), ("Content-Length", str(len(body)))], body)
