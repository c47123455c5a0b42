"""Every error that replicator raises on purpose, in one tree.

    ReplicatorError
    ├── ConfigError              a setting is wrong; nothing was started
    │   └── InvalidHeader        … or a header of a request
    ├── UnknownGroup             no node ever reported to a group of that name
    ├── NotPrimary               this node does not accept writes now
    │   ├── LeaseLost            it is the primary, but could not renew its lease in time
    │   ├── LeadershipLost       the leadership of some work is over, or may be
    │   └── NotRunning           it was not started, or was stopped
    ├── WrongProcess             a forked child uses what belongs to its parent
    ├── WouldDeadlock            a call that would wait for its own caller
    ├── ReadSuspended            a task awaited something while it read the state; the read was ended
    ├── Fenced                   the term of the writer is over; nothing was written
    ├── ChangeRejected           the application rejected a change (an outcome, not a failure)
    │   ├── InvalidChange        … which is none that it knows, or has arguments that do not fit
    │   ├── KeyReused            … because its key is that of another change
    │   └── ApplyFailed          … because apply() raised something else, and the node was told to take that for a no
    ├── ResultNotKept            a repeated change was committed the first time; what it gave then is not known any more
    ├── CheckFailed              check() of the application failed; nothing was written
    ├── NotSubmitted             a change that was called like a method, and would change one copy alone
    ├── ChangeTooLarge           a change does not fit into a record
    ├── NotJSON                  a change, or a piece of a snapshot, cannot be encoded as JSON
    ├── LogUnavailable           Redis does not answer, or refuses; a write of this very class wrote nothing
    │   └── OutcomeUnknown       … in the middle of a write: it may or may not be in the log. Catch it first
    ├── LogLost                  the log that this node knew is gone
    ├── NotAllowed               a node wants a token, or another one than it got
    ├── Outdated                 the state has changed since the position that the writer had seen
    ├── NotAcknowledged          in the log, but not acknowledged by enough others in time
    ├── CorruptRecord            the log holds something that is not a record
    │   └── SnapshotRefused      … or a snapshot that cannot be used
    ├── CheckpointError          the data directory cannot be used
    │   └── DirectoryInUse       … because another node, or another process of this program, is using it
    ├── PromotionRefused         another node is the better one, or nodes are missing that may have more
    ├── SkipRefused              the group is not to go on without that change, or not with that node
    ├── StillRuns                the lease of a node that runs is not given back for it
    │   └── ProgramStillRuns     … or that of one whose program (`--run`) has not ended
    ├── ReinitRefused            that node is not to be rebuilt: it is the primary, or does not report
    ├── PositionLost             that position was lost in a failover
    ├── StateError               a state that is kept in a file cannot be read or written
    │   ├── StateChanged         … because another program changed it meanwhile
    │   └── StateInUse           … because another program has a transaction open
    ├── ProgramError             the program beside a node cannot be run, or its state cannot be published
    │   └── WorkFailed           … or work that only the leader does raised, or does not end
    ├── SnapshotFailed           snapshot() failed; the node goes on without that snapshot
    ├── NoThread                 the system starts no more threads for this process
    ├── VersionRefused           the group cannot be raised to that version now
    └── Stalled                  apply() or restore() failed; the node keeps its place
        └── UpgradeNeeded        … the group is at a version that the node does not read

The docstring of each class is its message: what happened, and what to do. Its fields are attributes, for programs; so
is what it comes to over HTTP (`status`, `code`) and on the command line (`exit_code`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any


class ReplicatorError(Exception):
    """Something went wrong in replicator."""

    #: What it is over HTTP: a status, and a code for programs (docs/http.md lists them). An error of your own that is a
    #: `ChangeRejected` may say both: `status, code = 404, "no_such_flag"`.
    status: int = 500
    code: str = "failed"

    #: Exit code of the command line when this error ends it (docs/cli.md lists them).
    exit_code = 1

    def __init__(self, message: str = "", **fields: Any) -> None:
        template = message or (type(self).__doc__ or "").strip()
        text = template.format(**fields) if fields else template
        super().__init__(re.sub(r"\s*\n\s*", " ", text))  # one line: it goes into logs, heartbeats and tables
        self.fields = fields


def name_of(error: Exception) -> str:
    """The name of its class, for programs: `LogUnavailable` -> `log_unavailable`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(error).__name__).lower()


class ConfigError(ReplicatorError):
    """{setting}: {problem}"""

    exit_code = 2


class InvalidHeader(ConfigError):
    """{setting} {problem}"""

    status, code = 400, "invalid_header"

    def __init__(self, header: str, problem: str) -> None:
        super().__init__(setting=header, problem=problem)
        #: The name of the header.
        self.field = header


class UnknownGroup(ReplicatorError):
    """no node of group {group!r} has ever reported to {url}; {others}"""

    exit_code = 3

    def __init__(self, group: str, url: str, groups: Sequence[str] | None) -> None:
        if groups is None:
            others = "this user may not ask which groups there are"
        elif groups:
            others = f"the groups there are: {', '.join(groups)}"
        else:
            others = "there is no other group either: is it the right Redis, and the right database?"
        super().__init__(group=group, url=url, others=others)
        #: The groups that were found; None: the Redis user may not ask.
        self.groups = groups


class NotPrimary(ReplicatorError):
    """{node} is not the primary and takes no writes; {hint}"""

    status, code = 503, "not_primary"
    exit_code = 3

    def __init__(
        self, message: str = "", *, node: str = "this node", primary: str | None = None, hint: str = ""
    ) -> None:
        hint = f"send them to {primary}" if primary else hint or "no primary is known now: try again in a moment"
        super().__init__(message or (NotPrimary.__doc__ or ""), node=node, hint=hint)
        #: The name of the node that holds the current term, as far as this node knows.
        self.primary = primary


class LeaseLost(NotPrimary):
    """{node} could not renew its lease in time: Redis, the network or this machine is slow. Nothing was written;
    try again in a moment."""

    status, code = 503, "lease_lost"

    def __init__(self, *, node: str = "this node") -> None:
        super().__init__((LeaseLost.__doc__ or "").strip(), node=node)


class LeadershipLost(NotPrimary):
    """{node} does not lead in term {term} any more, or may not: what only the leader does has to end here. Nothing was
    written."""

    def __init__(self, *, node: str, term: int) -> None:
        super().__init__((LeadershipLost.__doc__ or "").strip().replace("{term}", str(term)), node=node)
        #: The term of the leadership that is over.
        self.term = term


class NotRunning(NotPrimary):
    """The node was not started, or was stopped: nothing can be asked of it."""

    status, code = 503, "not_running"

    def __init__(self, node: str, *, stopped: bool = False) -> None:
        hint = "was stopped: make another one" if stopped else "was not started: call start(), or use it in a `with`"
        super().__init__("{node} " + hint, node=node)


class WrongProcess(ReplicatorError):
    """{what} belongs to process {owner}, and this is process {here}: make one after the fork (gunicorn:
    without --preload; uwsgi: lazy-apps)"""

    status, code = 500, "wrong_process"


class WouldDeadlock(ReplicatorError):
    """{call} inside `{inside}` of {node} would wait for itself: {advice}"""


class ReadSuspended(ReplicatorError):
    """areading() of {node} was held across the await at {where}: the read was ended there, and what the block saw after
    it may be of later moments. Copy what you need inside of the block, and await after it."""


class Fenced(ReplicatorError):
    """term {term} is over, {primary} holds term {current_term}; nothing was written"""

    status, code = 409, "fenced"
    exit_code = 5

    def __init__(self, term: int, current_term: int, primary: str | None) -> None:
        super().__init__(term=term, current_term=current_term, primary=primary or "nobody")
        self.term = term
        self.current_term = current_term
        self.primary = primary


class ChangeRejected(ReplicatorError):
    """The application rejected the change. Raise it in apply() before anything is changed: it must be deterministic."""

    status, code = 422, "rejected"
    exit_code = 3

    def __init__(self, message: str = "", *, field: str | None = None, **fields: Any) -> None:
        super().__init__(message, **fields)
        #: Which field of the change is at fault, for the answer to its sender.
        self.field = field


class InvalidChange(ChangeRejected):
    """The change is none that the state knows, or its arguments do not fit: where it was made, nothing was written."""


class KeyReused(ChangeRejected):
    """the key {key!r} is that of another change, at {id}: nothing was changed; give every change a key of its own"""

    status, code = 422, "key_reused"


class ResultNotKept(ReplicatorError):
    """the change with the key {key!r} was committed at {id}, when it was sent first, and the repeat changed nothing.
    What it gave then is not kept, because it was no plain JSON or more than 4 KiB: read the state"""

    status, code = 409, "result_not_kept"


class ApplyFailed(ChangeRejected):
    """apply() failed at the change, which is a bug in it ({problem}); as on_apply_error="reject" says, that counts as a
    rejection, on every node"""


class CheckFailed(ReplicatorError):
    """check() failed at the change {change}, which is a bug in it ({problem}); nothing was written"""

    status, code = 500, "check_failed"


class NotSubmitted(ReplicatorError):
    """{change}() would change this copy of the state alone: submit {owner}.{change}(...) to a node; in a test without
    one, give it to apply()"""

    exit_code = 2


class ChangeTooLarge(ReplicatorError):
    """the change cannot be a record: {problem}"""

    status, code = 413, "change_too_large"
    exit_code = 2


class NotJSON(ReplicatorError):
    """{what} is not JSON: {problem}"""

    status, code = 422, "not_json"
    exit_code = 2


class LogUnavailable(ReplicatorError):
    """Redis at {url} is not available: {problem}"""

    status, code = 503, "log_unavailable"
    exit_code = 6

    #: Whether Redis answered, and refused.
    refused = False

    @classmethod
    def refuses(cls, url: str, problem: str) -> LogUnavailable:
        """Redis answers, but refuses what it is asked."""
        error = cls("Redis at {url} refuses: {problem}", url=url, problem=problem)
        error.refused = True
        return error

    #: What is known about the group all the same (a `GroupView`), if a key of it holds what no script can have written.
    look: Any = None

    @classmethod
    def marred(cls, look: Any, *, url: str) -> LogUnavailable:
        """The log is there, but cannot be used as it is."""
        hint = "if this is the right database, `replicator recover` mends it"
        error = cls("the log at {url} cannot be used: {problem}; {hint}", url=url, problem=look.marred, hint=hint)
        error.look = look
        return error

    @property
    def is_away(self) -> bool:
        """Whether Redis was not reached, and nothing was asked of it."""
        return not (self.refused or self.look or isinstance(self, OutcomeUnknown))


class OutcomeUnknown(LogUnavailable):
    """Nobody knows what became of a write ({problem}). It may be in the log: read before you repeat it."""

    status, code = 504, "outcome_unknown"
    exit_code = 4


class LogLost(ReplicatorError):
    """{what}. Check that the Redis URL and the group are right and that Redis still has its data
    (its dump, its AOF, maxmemory-policy noeviction). If it is lost, `replicator recover` founds the log anew
    from the most advanced node."""

    status, code = 503, "log_lost"


class NotAllowed(ReplicatorError):
    """{url} wants a token that has the right to {needs}, and did not get one"""

    status, code = 401, "no_token"
    exit_code = 3


class Outdated(ReplicatorError):
    """the state has changed since {expect}, it is at {position} now: nothing was written; look at it again"""

    status, code = 412, "outdated"
    exit_code = 3


class NotAcknowledged(ReplicatorError):
    """the change is in the log at {id}, but was not acknowledged as asked for: {problem}"""

    status, code = 504, "not_acknowledged"
    exit_code = 4


class CorruptRecord(ReplicatorError):
    """the log has something at {id} that is not a record: {problem}"""

    status, code = 503, "corrupt_record"

    @classmethod
    def stray(cls, id: object) -> CorruptRecord:
        """The newest entry was not written by replicator, so no record of ours can follow it."""
        problem = "something that is not replicator wrote into the stream. `replicator recover` founds the log anew"
        return cls(id=id, problem=problem)

    @classmethod
    def beyond(cls, id: object, before: object) -> CorruptRecord:
        """An entry has the form of a record, but a number that cannot follow."""
        hint = "somebody else wrote it. `replicator recover` founds the log anew"
        return cls(id=id, problem=f"its number cannot follow {before}: {hint}")


class SnapshotRefused(CorruptRecord):
    """the snapshot at {id} is not taken: {problem}"""


class CheckpointError(ReplicatorError):
    """{path}: {problem}"""


class DirectoryInUse(CheckpointError):
    """{path}: {who} is using it; stop it, or give this node a data directory of its own"""


class PromotionRefused(ReplicatorError):
    """{node} should not be promoted: {reason}"""

    exit_code = 3

    def __init__(
        self,
        node: str,
        reason: str,
        *,
        better: str | None = None,
        code: str = "",
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        hint = f"; {better} is the better one" if better else ""
        # Without a node, the reason says all: no node is to be promoted.
        super().__init__("" if node else "{reason}", node=node, reason=reason + hint)
        self.reason = reason
        self.better = better
        #: The reason as a code, and the facts behind it (docs/reasons.md); empty: it is none of those.
        self.code = code
        self.facts = dict(facts or {})


class SkipRefused(ReplicatorError):
    """the group does not go on without {change} on {node}: {reason}; `replicator status` says what is wrong with each
    node"""

    exit_code = 3


class StillRuns(ReplicatorError):
    """{path}: {who} is using it, so its lease is not given back: that is for a node which has ended"""

    exit_code = 3


class ProgramStillRuns(StillRuns):
    """{path}: the node that ran here has ended, but not yet the program that it ran, so its lease is not given back:
    another node would start its own at once. The lease runs out by itself, or try again when the program has ended"""


class ReinitRefused(ReplicatorError):
    """{node} is not rebuilt: {reason}"""

    exit_code = 3


class PositionLost(ReplicatorError):
    """term {term} ended at {term_end}; {position} was lost in the failover to term {next_term}"""

    status, code = 409, "position_lost"
    exit_code = 3

    def __init__(self, position: object, *, term: int, term_end: object, next_term: int) -> None:
        super().__init__(position=position, term=term, term_end=term_end, next_term=next_term)
        self.position = position
        #: The last record before `position` that the present history has.
        self.term_end = term_end


class StateError(ReplicatorError):
    """the state in {path} cannot be used: {problem}"""


class StateChanged(StateError):
    """{path} was changed while it was read, again and again; publish when its program is done with it"""


class StateInUse(StateError):
    """a program has a transaction open in {path}: the state cannot be read or replaced until that ends"""


class ProgramError(ReplicatorError):
    """{what} {problem}"""


class WorkFailed(ProgramError):
    """{work} {problem}"""


class SnapshotFailed(ReplicatorError):
    """the application's snapshot() failed, which is a bug in it ({problem}); the node goes on without that snapshot"""

    status, code = 500, "snapshot_failed"


class NoThread(ReplicatorError):
    """the system starts no thread for {what} ({problem}): raise the limit on this process (ulimit -u, pids.max)"""


class Stalled(ReplicatorError):
    """the application failed at {id}, which is a bug in it ({problem}). The node keeps its place:
    fix the application and restart the node."""

    status, code = 500, "stalled"


class UpgradeNeeded(Stalled):
    """upgrade this node: from {id} on the group is at version {version}, and its code reads {reads}. The node keeps its
    place, and its data directory is good for the code that reads {version}."""


class VersionRefused(ReplicatorError):
    """the group stays at version {current}: {problem}"""

    exit_code = 3
