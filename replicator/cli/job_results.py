"""Shows what a job found, as the command of the same name does, and fails where that does."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from replicator import ops
from replicator.errors import ReplicatorError
from replicator.jobs.errors import JobFailed

from .context import show_json, show_line, size_text, when

__all__ = ["show_result"]


T = TypeVar("T")


class _NotEqual(ReplicatorError):
    """the states are not shown to be equal"""


class _Violated(ReplicatorError):
    """a rule of the log does not hold"""


class _Failed(ReplicatorError):
    """the drill was not passed"""


def show_result(name: str, result: Any, output: str) -> None:
    """On stdout. Raises what it comes to, where the result is not good; `JobFailed` if it is none."""
    try:
        lines, problem = _SHOWN[name](result)
        if output == "json":
            show_json(result)
        else:
            lines()
    except (TypeError, KeyError, AttributeError, ValueError):
        # It came through a queue.
        raise JobFailed(name=name, problem="what it gave is no result of such a job") from None
    if problem is not None:
        raise problem


# --- one of each kind -------------------------------------------------------------------------------------------------

#: What shows it for people, and what the command fails with; None: it does not.
Shown = tuple[Callable[[], object], Exception | None]


def _verified(result: Mapping[str, Any]) -> Shown:
    report = ops.DigestReport(**{name: result[name] for name in ("position", "digests", "late_nodes", "silent_nodes")})
    lines = [f"{node}  {report.position}  {digest}" for node, digest in report.digests.items()]
    lines += [f"{node}  did not report in time" for node in report.late_nodes]
    lines += [f"{node}  does not report" for node in report.silent_nodes]
    if report.equal:
        return _said(*lines, report.verdict)
    return _said(*lines)[0], _NotEqual(report.verdict)


def _certified(result: Mapping[str, Any]) -> Shown:
    from replicator.ops.certify import Certificate, NodeFacts
    from replicator.ops.log_check import LogFacts

    from .certify import text_of

    lines: list[str] = []
    if result["log"] is not None:
        nodes = [_known(NodeFacts, node) for node in result["nodes"]]
        found = Certificate(log=_known(LogFacts, result["log"]), nodes=nodes, equal_nodes=result["equal_nodes"])
        lines = text_of(found).split("\n")
    if violation := result["violation"]:
        return _said(*lines)[0], _Violated(f"{violation['rule']}: {violation['message']}; {violation['meaning']}")
    if live := result["live"]:
        lines.append(f"live     {', '.join(live['digests'])} have equal states at {live['position']}")
    return _said(*lines, "certified")


def _backed_up(result: Mapping[str, Any]) -> Shown:
    written, size = when(result["written_at"]), size_text(result["file_bytes"])
    lines = [f"{result['file']}: group {result['group']} at {result['position']}, written {written} UTC, {size}"]
    lines += [f"removed {name}" for name in result["removed_files"]]
    lines += [f"damaged, and left where it is: {name}" for name in result["damaged_files"]]
    return _said(*lines)


def _drilled(result: Mapping[str, Any]) -> Shown:
    from replicator.sandbox.drill.report import FaultReport, Report

    from .drill import show

    faults = [_known(FaultReport, fault) for fault in result["faults"]]
    report = _known(Report, {**result, "faults": faults})
    return lambda: show(report), None if report.passed else _Failed()


def _snapshot(result: Mapping[str, Any]) -> Shown:
    return _said(f"the log has a snapshot of the state as of {result['as_of']}")


def _switched(result: Mapping[str, Any]) -> Shown:
    done = _known(ops.Switchover, result)
    previous = done.previous_primary
    follows = f"{previous} follows" if done.follows else f"{previous} has not said yet that it follows"
    gap = f"nobody could write for at most {done.gap_ms:.0f} ms; nothing is lost"
    if done.handed_over:
        gap = f"nothing is lost; a program that {done.primary} runs (--run) starts next"
    return _said(f"{done.primary} leads in term {done.term}, from {done.first_id} on; {follows}", gap)


def _known(kind: type[T], told: Mapping[str, Any]) -> T:
    """What was told, without what a worker of a later version tells besides. Raises `TypeError` if something lacks."""
    return kind(**{name: told[name] for name in inspect.signature(kind).parameters if name in told})


def _said(*lines: str) -> Shown:
    def say() -> None:
        for line in lines:
            show_line(line)

    return say, None


_SHOWN: Mapping[str, Callable[[Mapping[str, Any]], Shown]] = {
    "verify": _verified,
    "certify": _certified,
    "backup": _backed_up,
    "drill": _drilled,
    "snapshot": _snapshot,
    "switchover": _switched,
}
