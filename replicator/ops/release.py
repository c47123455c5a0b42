"""Give back the lease of a node that has ended and could not do that itself, so that nobody has to wait for its end.

A node that stops in order gives its lease back. One that is killed cannot, and the others wait until it has run out.
Whatever saw it end (supervisord, systemd, the process that started it) can do it in its place, by these rules:

1. *Only for what is dead.* The proof is the lock on the data directory, which the system takes from a process with its
   last breath, and which names the boot that had it. Neither an event, nor an exit code, nor a process id is one.
2. *Only the lease of that very boot.* A boot is a random id which is drawn at each start and never comes back. The
   script in Redis compares term, node and boot with those of the lease in the one step in which it deletes it. So a
   successor that leads by then keeps its lease, however late this is, and under whatever name and process id it runs.
3. *Only once the program that it ran has ended* (`replicator node --run`): what keeps that outlives the node, and has a
   lock of its own until nothing of the program is left (`storage/program_lock.py`).

What is given back too late, or twice, or by two, changes nothing. Writes do not depend on it at all: they are fenced by
the term. What does is work that only a leader does elsewhere (`node/former_leases.py`): the next leader cannot know why
the lease is gone, and begins it when the one that it saw last would be over: at once, if it saw none. So see to it that
what the dead node started otherwise is gone as well (`runtime/process_group.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError, DirectoryInUse, ProgramStillRuns, StillRuns
from ..format.ids import Writer
from ..log.interface import Log
from ..protocol.group import lease_of
from ..runtime import checks
from ..storage.directory_lock import ended_boot
from ..storage.program_lock import program_is_over

__all__ = ["Released", "release"]

#: The keeper of a program kills it as soon as its node is gone. What has not ended by then takes as long as a lease.
PROGRAM_ENDS_WITHIN_S = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Released:
    """`boot`: that ran in the directory and has ended; empty: none is known. `node`, `term`: whose lease was given
    back, or ran out in this very moment; None: that boot had no lease.
    """

    data_dir: Path
    boot: str
    node: str | None = None
    term: int | None = None

    def __str__(self) -> str:
        if self.node is not None:
            return f"{self.data_dir}: the lease of {self.node}, which has ended, is given back (term {self.term})"
        if not self.boot:
            return f"{self.data_dir}: no node is known to have run here, so there is nothing to give back"
        return f"{self.data_dir}: the node that ran here has no lease to give back"


def release(log: Log, data_dir: Path, *, by: str) -> Released:
    """Give back the lease of the node that ran in this data directory. `by`: who saw it end, for the history.

    It waits for the end of the program that the node ran. Raises `StillRuns` if a process uses the directory,
    `ProgramStillRuns`, `ConfigError` if no node ever ran there, `LogUnavailable`.
    """
    checks.line("by", by)
    try:
        boot = ended_boot(data_dir)
        program_ended = program_is_over(data_dir, within_s=PROGRAM_ENDS_WITHIN_S)
    except DirectoryInUse as error:
        raise StillRuns(**error.fields) from None
    except OSError as error:
        problem = f"{data_dir} is no data directory of a node ({error.strerror or error})"
        raise ConfigError(setting="data-dir", problem=problem) from None
    if not program_ended:
        raise ProgramStillRuns(path=data_dir)
    released = Released(data_dir=data_dir, boot=boot)
    if not boot:
        return released
    look = log.look()
    lease = lease_of(look.lease, look.head)
    if lease is None:
        return released
    term, node, holder = lease.holder.split(" ")
    if holder != boot:
        return released
    log.give_back(Writer(node, boot), int(term), by=by)
    return Released(data_dir=data_dir, boot=boot, node=node, term=int(term))
