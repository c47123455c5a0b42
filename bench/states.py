"""States for benchmarks that ask what the log costs: they do as little as a state can do."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bench.harness import now_ns

__all__ = ["Arrivals", "Nothing"]


class Nothing:
    """Takes every change and keeps none of it."""

    def snapshot(self) -> Iterable[Any]:
        return [{}]

    def restore(self, pieces: Iterable[Any]) -> None:
        for _ in pieces:
            pass

    def apply(self, change: Any) -> None:
        pass


class Arrivals(Nothing):
    """Notes when it applied which change: `{"ping": number}`. Reading a clock is what a real state must not do."""

    def __init__(self) -> None:
        self.at_ns: dict[int, int] = {}

    def apply(self, change: Any) -> None:
        self.at_ns[change["ping"]] = now_ns()
