"""What each kind of job does: the same in a worker, and in a command that finds no worker.

What a job may touch of this machine (where backups go, and how many of them stay; where the data of nodes is; the class
of the state) is a setting of the process that does it, and never an argument of the job.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import ops
from ..errors import ConfigError
from ..format.unpacked_size import SNAPSHOT_BYTES_MAX
from ..log.redis_log import RedisLog
from ..log.urls import url_in
from ..ops.certify import CannotRebuild
from ..ops.certify_group import certify_group
from ..protocol.planned_switchover import not_as_planned
from ..runtime import checks
from ..state.named_class import REGISTRY, state_class
from ..storage.keyring import KeyFile, Keys, sealing_of
from .errors import BrokenOff, NotDone, NotPassed
from .kinds import KINDS, checked

__all__ = ["BACKUPS", "BACKUPS_KEEP", "BACKUPS_KEEP_DAYS", "JobSettings", "run"]

#: Settings, by their names in the environment. The others are those of commands.
BACKUPS, BACKUPS_KEEP, BACKUPS_KEEP_DAYS = (
    "REPLICATOR_BACKUPS",
    "REPLICATOR_BACKUPS_KEEP",
    "REPLICATOR_BACKUPS_KEEP_DAYS",
)

DAY_S = 86_400.0


@dataclass(frozen=True, kw_only=True, slots=True)
class JobSettings:
    """What belongs to the process that does a job.

    `backups`: the directory of backups; None: there is none, so it makes none. `keep`, `keep_days`: those of them that
    stay; with both, whichever keeps more; with neither, all. `state`: the class of the state, MODULE:CLASS; empty: that
    of the registry. `data_dirs`: of nodes on this machine. `key_file`: the keys of the group, if it has some.
    """

    redis: str
    group: str
    backups: Path | None = None
    keep: int | None = None
    keep_days: float | None = None
    state: str = ""
    data_dirs: tuple[Path, ...] = ()
    snapshot_bytes_max: int = SNAPSHOT_BYTES_MAX
    log_level: str = "INFO"
    key_file: Path | None = None

    @property
    def keys(self) -> Keys | None:
        return None if self.key_file is None else KeyFile(self.key_file)

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> JobSettings:
        """Those of a worker. Raises `ConfigError` for one that is missing, or not what it may be."""
        for name in ("REPLICATOR_REDIS", "REPLICATOR_GROUP"):
            if not environment.get(name):
                raise ConfigError(setting=name, problem="is not set")
        backups, keep_days = environment.get(BACKUPS), _number(environment, BACKUPS_KEEP_DAYS)
        keep = _number(environment, BACKUPS_KEEP)
        size_max = _number(environment, "REPLICATOR_SNAPSHOT_BYTES_MAX")
        return cls(
            redis=url_in(environment),
            group=environment["REPLICATOR_GROUP"],
            backups=Path(backups) if backups else None,
            keep=None if keep is None else checks.whole(BACKUPS_KEEP, int(keep), least=1, most=100_000),
            keep_days=keep_days,
            state=environment.get("REPLICATOR_CERTIFY_STATE", ""),
            data_dirs=_data_dirs(environment.get("REPLICATOR_DATA_DIR", "")),
            snapshot_bytes_max=SNAPSHOT_BYTES_MAX if size_max is None else int(size_max),
            log_level=environment.get("REPLICATOR_LOG_LEVEL", "INFO").upper(),
            key_file=Path(keys) if (keys := environment.get("REPLICATOR_KEY_FILE")) else None,
        )


def _number(environment: Mapping[str, str], name: str) -> float | None:
    text = environment.get(name, "")
    try:
        number = float(text) if text else None
    except ValueError:
        number = 0.0
    if number is not None and not 0 < number < float("inf"):
        raise ConfigError(setting=name, problem=f"{text!r} is not a number above 0")
    return number


def _data_dirs(named: str) -> tuple[Path, ...]:
    """Those in the directories that are named, or just below, that have a checkpoint. (An image names one that a worker
    has nothing in.)
    """
    places = [Path(each) for each in named.split(os.pathsep) if each]
    found = [each for place in places for each in (place, *sorted(place.glob("*/")))]
    return tuple(each for each in found if (each / "checkpoint.sqlite").exists())


def run(
    name: str,
    arguments: Mapping[str, Any],
    settings: JobSettings,
    *,
    by: str,
    key: str,
    progress: ops.Progress = lambda _: None,
) -> dict[str, Any]:
    """Do a job of this kind, and give its result, as JSON.

    `by`: who asked, for the history. `key`: 16 hex digits, the same whenever this one request is carried out. Raises
    `NotPassed`, `NotDone`, and what the operation raises.
    """
    return _WORK[name](_Work(checked(KINDS[name], dict(arguments)), settings, by, key, progress))


@dataclass(frozen=True, slots=True)
class _Work:
    arguments: Mapping[str, Any]
    settings: JobSettings
    by: str
    key: str
    say: ops.Progress

    @contextlib.contextmanager
    def log(self) -> Iterator[RedisLog]:
        settings = self.settings
        log = RedisLog(settings.redis, settings.group, sealing=sealing_of(settings.key_file, settings.group))
        try:
            yield log
        finally:
            log.close()


def _snapshot(work: _Work) -> dict[str, Any]:
    with work.log() as log:
        return {"as_of": ops.snapshot(log, by=work.by, progress=work.say)}


def _verify(work: _Work) -> dict[str, Any]:
    with work.log() as log:
        report = ops.verify(log, by=work.by, progress=work.say)
    if not report.equal:
        raise NotPassed(verdict=report.verdict, result=report.to_dict())
    return report.to_dict()


def _certify(work: _Work) -> dict[str, Any]:
    settings = work.settings
    with work.log() as log, _not_told(settings.key_file):
        found = certify_group(
            log,
            settings.data_dirs,
            make_state=state_class(settings.state or REGISTRY),
            assumed=not settings.state,
            by=work.by,
            progress=work.say,
            snapshot_bytes_max=settings.snapshot_bytes_max,
            keys=settings.keys,
        )
    if found.violation is not None:
        raise NotPassed(verdict=str(found.violation), result=found.to_dict())
    return found.to_dict()


@contextlib.contextmanager
def _not_told(key_file: Path | None) -> Iterator[None]:
    """Of a group with a key, tell of what the state's own code raised no more than its class: it goes into Redis."""
    try:
        yield
    except CannotRebuild as error:
        if key_file is None:
            raise
        raise CannotRebuild(node=error.fields["node"], problem=type(error.__cause__).__name__) from None


def _backup(work: _Work) -> dict[str, Any]:
    from ..archive.backup import newest_state
    from ..archive.segment import Footer
    from ..archive.state_class import class_of
    from .backups import Backups

    settings = work.settings
    if settings.backups is None:
        problem = "is not set where the job runs: it names the directory that backups go to"
        raise ConfigError(setting=BACKUPS, problem=problem)
    backups = Backups(
        settings.backups, settings.group, snapshot_bytes_max=settings.snapshot_bytes_max, keys=settings.keys
    )
    keep_s = None if settings.keep_days is None else settings.keep_days * DAY_S
    with backups.held(), work.log() as log:
        if (done := backups.of_request(work.key)) is not None:
            work.say(f"{done.path.name} was written for this request before")
        else:
            look = log.look()
            ops.check_is_known(log, look)
            as_of = newest_state(log, by=work.by, progress=work.say, warn=work.say)
            app = look.head.app if look.head is not None else ""
            footer = Footer(group=settings.group, timeline=0, number=0, app=app)
            state = class_of(settings.state, footer, settings.data_dirs)
            done = backups.write(log, as_of=as_of, state=state, key=work.key)
            work.say(f"{done.path.name} is written, and was read back")
        removed, damaged = backups.retain(done, keep=settings.keep, keep_s=keep_s)
    for name in damaged:
        work.say(f"{name} is damaged, or no backup of this group: it is left where it is, and does not count")
    file = {"file": str(done.path), "file_bytes": done.path.stat().st_size}
    return done.facts.to_dict() | file | {"removed_files": removed, "damaged_files": damaged}


def _drill(work: _Work) -> dict[str, Any]:
    from ..sandbox import drill

    report = drill.run(
        work.arguments.get("faults") or list(drill.FAULTS),
        group=work.settings.group,
        lease_s=work.arguments.get("lease_s", 1.0),
        seconds_per_fault=work.arguments.get("seconds_per_fault", 6.0),
        log_level=work.settings.log_level,
        say=work.say,
    )
    if report is None:
        raise BrokenOff()
    if not report.passed:
        raise NotPassed(verdict="the drill was not passed", result=report.to_dict())
    return report.to_dict()


def _switchover(work: _Work) -> dict[str, Any]:
    to, term, at = work.arguments["to"], work.arguments["term"], work.arguments.get("at")
    reason = work.arguments.get("reason") or "switchover"
    with work.log() as log:
        problem = not_as_planned(to, term, log.look(), at=at, now_ms=int(time.time() * 1000))
        # Before the primary is asked to stop what runs beside it.
        if problem := problem or log.against_promoting():
            raise NotDone(problem=problem)
        done = ops.switchover(log, to, by=work.by, reason=reason, expect=term, progress=work.say)
    return asdict(done)


_WORK: Mapping[str, Callable[[_Work], dict[str, Any]]] = {
    "snapshot": _snapshot,
    "verify": _verify,
    "certify": _certify,
    "backup": _backup,
    "drill": _drill,
    "switchover": _switchover,
}
