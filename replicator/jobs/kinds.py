"""Which jobs there are, and which arguments each one takes. What a queue says beyond that is refused.

An argument is a number, a word, or a line of text: never a path, a URL, the name of a module, or a bound of what may be
removed. Those are settings of the worker (`work.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import ConfigError
from ..format.ids import TERM_MAX
from ..node.options import LEASE_S_MIN
from ..runtime import checks

__all__ = ["KINDS", "Kind", "checked", "function_of", "kind_of"]

#: Gives the value to use, or raises `ConfigError`.
Check = Callable[[str, object], Any]

#: What a job is called in the queue: this, and its name. RQ wants the name of a function; nothing is imported by it.
PREFIX = "replicator.workers.jobs."

#: Year 9999. What is later has no date in Python.
UNIX_MS_MAX = 253_402_300_799_000

#: Of a reason: it stands in the history, and in the queue.
_REASON_CHARACTERS_MAX = 200

#: Each fault once, and then some again.
_FAULTS_MAX = 32

#: A fault that lasts longer is none that one wants to watch.
_SECONDS_PER_FAULT_MAX = 600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """A kind of job. `timeout_s`: the longest that one may take. `breaks_off`: it ends in order at SIGTERM, and nothing
    is lost if it does; the others are finished first.
    """

    name: str
    timeout_s: int
    arguments: Mapping[str, Check] = field(default_factory=dict)
    required: frozenset[str] = frozenset()
    breaks_off: bool = False


def _faults(setting: str, value: object) -> list[str]:
    from ..sandbox.drill import FAULTS

    if not isinstance(value, list) or not 0 < len(value) <= _FAULTS_MAX:
        raise ConfigError(setting=setting, problem=f"is not a list of 1 to {_FAULTS_MAX} faults")
    return [checks.choice(setting, each, tuple(FAULTS)) for each in value]


def _term(setting: str, value: object) -> int:
    return checks.whole(setting, value, least=1, most=TERM_MAX)


def _moment(setting: str, value: object) -> int:
    return checks.whole(setting, value, least=0, most=UNIX_MS_MAX)


def _reason(setting: str, value: object) -> str:
    text = checks.line(setting, value)
    if len(text) > _REASON_CHARACTERS_MAX:
        problem = f"it has {len(text)} characters, more than {_REASON_CHARACTERS_MAX}"
        raise ConfigError(setting=setting, problem=problem)
    return text


def _lease(setting: str, value: object) -> float:
    return checks.seconds(setting, value, least=LEASE_S_MIN)


def _lasting(setting: str, value: object) -> float:
    return checks.seconds(setting, value, most=_SECONDS_PER_FAULT_MAX)


#: By their names. Times: a job on 80 MB of state takes seconds; a certificate and a backup read all of a large log.
KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(name="verify", timeout_s=600),
        Kind(name="certify", timeout_s=3600),
        Kind(name="backup", timeout_s=3600),
        Kind(
            name="drill",
            timeout_s=3600,
            arguments={"faults": _faults, "lease_s": _lease, "seconds_per_fault": _lasting},
            breaks_off=True,
        ),
        Kind(name="snapshot", timeout_s=600),
        Kind(
            name="switchover",
            timeout_s=300,
            arguments={"to": checks.name, "term": _term, "at": _moment, "reason": _reason},
            required=frozenset({"to", "term"}),
        ),
    )
}


def function_of(name: str) -> str:
    """What a job is called in the queue."""
    return PREFIX + name


def kind_of(function: object) -> Kind | None:
    """The kind of job that is called so in the queue; None: there is none."""
    if not isinstance(function, str) or not function.startswith(PREFIX):
        return None
    return KINDS.get(function.removeprefix(PREFIX))


def checked(kind: Kind, arguments: object) -> dict[str, Any]:
    """The arguments to use. Raises `ConfigError` for one that is missing, unknown, or not as it should be."""
    if not isinstance(arguments, dict):
        raise ConfigError(setting=kind.name, problem="its arguments have no names")
    for name in arguments:
        if name not in kind.arguments:
            raise ConfigError(setting=kind.name, problem=f"it has no argument {name!r:.100}")
    if missing := sorted(kind.required - arguments.keys()):
        raise ConfigError(setting=kind.name, problem=f"it needs {', '.join(missing)}")
    return {name: kind.arguments[name](name, value) for name, value in arguments.items()}
