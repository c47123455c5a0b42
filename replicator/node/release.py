"""Which application a node runs, which version of it, and which versions of the group that one can read.

The group has a version of its own, which a record raises once all nodes read the new one (docs/versions.md). A node of
another application has no part in the group.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

from ..errors import ConfigError
from ..runtime import checks
from ..state import ReplicatedState
from ..state.class_name import name_of

__all__ = ["VERSION_MAX", "Release", "ReleaseKeywords"]

#: A version is counted up by hand.
VERSION_MAX = 1_000_000

#: It stands in every heartbeat, in term records and in tables.
APP_CHARACTERS_MAX = 200


class ReleaseKeywords(TypedDict, total=False):
    """What a node is told of its application, as keywords of a call: see `Release`."""

    app: str | None
    version: int
    reads: range | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Release:
    """`app`: the name of the application, the same on all nodes. `version`: that of its code. `reads`: the versions of
    the group at which this code can apply changes and take snapshots.
    """

    app: str
    version: int = 1
    reads: range = range(1, 2)

    @classmethod
    def of(
        cls, state: ReplicatedState, *, app: str | None = None, version: int = 1, reads: range | None = None
    ) -> Release:
        """What was given, or else: the name of the state's class, version 1, and just that version.

        Raises `ConfigError`.
        """
        checks.whole("version", version, least=1, most=VERSION_MAX)
        return cls(
            app=name_of(state) if app is None else _app(app),
            version=version,
            reads=range(version, version + 1) if reads is None else _reads(reads, version),
        )


def _app(app: object) -> str:
    text = checks.line("app", app)
    if not text.strip() or len(text) > APP_CHARACTERS_MAX:
        raise ConfigError(setting="app", problem=f"the name of an application has 1 to {APP_CHARACTERS_MAX} characters")
    return text


def _reads(reads: object, version: int) -> range:
    if not isinstance(reads, range) or not reads or reads.step != 1:
        problem = f"{reads!r:.80} is no range of versions: for 1 and 2 give range(1, 3)"
        raise ConfigError(setting="reads", problem=problem)
    if reads[0] < 1 or reads[-1] > VERSION_MAX:
        raise ConfigError(setting="reads", problem=f"versions are from 1 to {VERSION_MAX}, and not {reads!r:.80}")
    if version not in reads:
        problem = f"{reads!r} has not {version}, the version of this code, which reads what it writes"
        raise ConfigError(setting="reads", problem=problem)
    return reads
