"""What the page may do to a group, for an operator: promote, switchover, pause and resume.

Each is the function that the command line calls. A promotion comes with the term that its preview was of, so nobody
takes the lead on grounds of a group that has changed since.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from .. import ops
from ..errors import ConfigError
from ..log.interface import Log

__all__ = ["Actions"]

#: A promotion may have to wait until the node has read the log.
TIMEOUT_S = 30.0


class Actions:
    """`log`: opens the log, for one action. `by`: who is at the keyboard, for the history."""

    def __init__(self, log: Callable[[], Log], *, by: str) -> None:
        self._open = log
        self._by = by
        self._known: Mapping[str, Callable[[Log, Mapping[str, Any]], dict[str, Any]]] = {
            "promote": self._promote,
            "switchover": self._switchover,
            "pause": self._pause,
            "resume": self._resume,
        }

    def preview(self, node: str) -> dict[str, Any]:
        """What a promotion of `node` would lose now, and the term that this is true of."""
        log = self._open()
        try:
            term = ops.looked(log).term
            return {**ops.preview(log, node).to_dict(), "term": term}
        finally:
            log.close()

    def do(self, what: str, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Raises what the function raises, `ConfigError` for what cannot be asked, and `TimeoutError`."""
        act = self._known.get(what)
        if act is None:
            raise ConfigError(setting="action", problem=f"there is {', '.join(self._known)}")
        log = self._open()
        try:
            return act(log, asked)
        finally:
            log.close()

    def _promote(self, log: Log, asked: Mapping[str, Any]) -> dict[str, Any]:
        force, expect = asked.get("force", False), asked.get("expect")
        if type(expect) is not int:
            raise ConfigError(setting="expect", problem="give the term that the preview was of")
        done = ops.promote(
            log, _text(asked, "node"), by=self._by, reason=_reason(asked, "asked on the page"), expect=expect,
            force=force, timeout_s=TIMEOUT_S,
        )  # fmt: skip
        return {"done": f"{done.primary} leads in term {done.term}", **asdict(done)}

    def _switchover(self, log: Log, asked: Mapping[str, Any]) -> dict[str, Any]:
        reason = _reason(asked, "switchover on the page")
        done = ops.switchover(log, _text(asked, "node"), by=self._by, reason=reason, timeout_s=TIMEOUT_S)
        return {
            "done": f"{done.primary} leads in term {done.term}; nobody led for {done.gap_ms:.0f} ms",
            **asdict(done),
        }

    def _pause(self, log: Log, asked: Mapping[str, Any]) -> dict[str, Any]:
        ops.pause(log, by=self._by, reason=_reason(asked, ""))
        return {"done": "automatic failover is paused: no node takes over by itself"}

    def _resume(self, log: Log, _: Mapping[str, Any]) -> dict[str, Any]:
        ops.resume(log)
        return {"done": "automatic failover is on again"}


def _text(asked: Mapping[str, Any], name: str) -> str:
    value = asked.get(name)
    if not isinstance(value, str):
        raise ConfigError(setting=name, problem="is missing")
    return value


def _reason(asked: Mapping[str, Any], default: str) -> str:
    given = _text(asked, "reason") if "reason" in asked else ""
    return given or default
