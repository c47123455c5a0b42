"""What the Redis user of a log may do there: all that a node needs, or enough to follow, or less; and in which words.

`acl.py` has the rules that give a user these rights; `lua/probe.lua` finds out which ones there are.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Sequence

from ..runtime.backoff import Backoff

__all__ = ["Rights", "is_about_keys", "missing_right", "missing_to_follow"]

#: The commands that only a node that leads needs (`WRITES`, `TRIMS` and a part of `READS` in lua/rights.lua).
_TO_LEAD = frozenset({"set", "del", "incr", "xtrim", "type"})

#: Those that a promotion needs, and nobody who only follows and does jobs.
_TO_PROMOTE = _TO_LEAD - {"xtrim"}

#: How soon a user who may only follow is tried again, at first and at the most: he may have been given more rights, or
#: have lacked them for a moment. Each trial leaves an entry in `ACL LOG`.
AGAIN_S, AGAIN_S_MAX = 1.0, 30.0


class Rights:
    """Those of `user` in `group`, as they were found in the present run of Redis."""

    def __init__(self, user: str, group: str) -> None:
        #: Why the user lets a node follow and not lead; empty: it may lead, or nobody has looked.
        self.follows_only = ""
        self._user = user
        self._group = group
        self._run = b""
        self._known_until = 0.0
        self._again = Backoff(AGAIN_S, AGAIN_S_MAX)

    @property
    def are_known(self) -> bool:
        return time.monotonic() < self._known_until

    def in_run(self, run: bytes) -> None:
        if run != self._run:
            self.doubt()
        self._run = run

    def doubt(self) -> None:
        """Redis refused something, or is another one: what was found need not hold any more."""
        self._known_until = 0.0

    def found(self, forbidden: Sequence[str] | None) -> str:
        """Take in which commands a primary lacks (None: keys). Returns why the user may not lead; empty: it may."""
        if forbidden is None:
            may_not = f"the Redis user {self._user} may not write to the log, the term and the lease"
            self.follows_only = f"{may_not}; {self._printed_by('node')}"
        else:
            self.follows_only = self.lacks(forbidden, "a primary") if forbidden else ""
        if self.follows_only:
            self._known_until = time.monotonic() + self._again.failed()
        else:
            self._known_until = math.inf
            self._again.succeeded()
        return self.follows_only

    def against_promoting(self, forbidden: Sequence[str] | None) -> str:
        """Why the user may not take a term for a node, by which commands he lacks (None: keys); empty: he may."""
        if forbidden is not None and not _TO_PROMOTE.intersection(forbidden):
            return ""
        may_not = f"the Redis user {self._user} may not take a term"
        return f"{may_not}: {self._printed_by('jobs-operator', 'one who may')}, and does jobs"

    def lacks(self, commands: Sequence[str], who: str) -> str:
        """That the user may not use these commands, which `who` has to."""
        rights = " ".join(f"+{name}" for name in commands)
        may_not = f"the Redis user {self._user} may not use {', '.join(commands)}, which {who} has to"
        return f"{may_not}: `ACL SETUSER {self._user} {rights}`; {self._printed_by('node')}"

    def refused(self, missing: str) -> str:
        """What to do about a refusal: `missing` is the rule that is."""
        self.doubt()
        rule = f"The Redis user {self._user} needs rights: `ACL SETUSER {self._user} {missing}`"
        return f"{rule}; {self._printed_by('ROLE')}"

    def _printed_by(self, role: str, what: str = "all that it takes") -> str:
        return f"`replicator --group {self._group} acl {role}` prints {what}"


def missing_to_follow(forbidden: Sequence[str]) -> list[str]:
    """All of these commands, if one of them is needed to follow; none, if a node could follow without."""
    return list(forbidden) if any(name not in _TO_LEAD for name in forbidden) else []


def is_about_keys(error: Exception) -> bool:
    """Whether it is a key, and not a command, that the user may not use."""
    return "keys" in str(error) or "access a key" in str(error)


def missing_right(error: Exception, keys: str) -> str:
    """The ACL rule that would give the user what is missing, as far as Redis says what that is."""
    text = str(error)
    if is_about_keys(error):
        return f"~{keys}"
    command = re.search(r"run the '([\w|]+)' command", text) or re.search(r"may not use (\w+(?:, \w+)*)", text)
    return " ".join(f"+{name}" for name in command[1].split(", ")) if command else f"~{keys} +..."
