"""A node beside another program: publishes what the program does to its file, and tells it which role the node has.

    sidecar = Sidecar(node, state, on_primary="systemctl start app", on_standby="systemctl stop app")
    with node, sidecar: ...

The *publisher* looks every so often whether the file was written, while the node is the primary, and publishes then.
A second loop runs a command when the role becomes another one: with the first role that the node has, and with each
term in which it leads. Commands are run one at a time, without a shell, with REPLICATOR_ROLE, _TERM, _NODE and _GROUP
in their environment. One for a primary is cut short when the node does not lead any more, with all that it started
(`role_commands.py`); one for a standby is left to end, and only then another one follows. What fails ends nothing, and
`status` has it until one goes well.

The command for a primary runs once the node takes writes, and has all that was published in its file. That for a
standby runs as soon as the node knows that it does not lead any more, when it could not renew its lease (another one
may lead by then), and when it ends as the primary: the program is to stop writing then. What it wrote last is published
if the node ends. In a switchover the command runs *before* the other one leads, and what the program wrote last is
published (`node/handover.py`); if nobody leads soon after that, the program is told to go on, by a node that runs it
itself in the next term. If another one was promoted otherwise, the file becomes what was published, and what was not is
kept aside.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple

from ..errors import ConfigError, LogUnavailable, NotPrimary, ProgramError, ReplicatorError
from ..node.node import Node
from ..runtime import checks
from ..runtime.backoff import Backoff
from ..runtime.event_log import EventLogger, in_this_context
from ..runtime.log_once import BUG, Lasting, LogOnce
from ..runtime.process import Owner
from ..runtime.threads import started
from ..state.sqlite_pages import SQLitePages
from .beside import StateBeside
from .first_file import FirstFile
from .requests_under_way import RequestsUnderWay
from .role_commands import Commands, command
from .run import RunProgram

__all__ = ["Publication", "Sidecar"]

logger = EventLogger(__name__)

_WAITS = Lasting("publish.waits", "publish.goes_on", "published again", logging.INFO)

#: How soon a new role is told.
LOOK_EVERY_S = 0.1

#: To look whether a file was written costs next to nothing, but not nothing.
PUBLISH_EVERY_S_MIN = 0.001

#: After a failure that nobody expected, what is done so often is done more and more rarely, up to this.
LOOK_EVERY_S_MAX = 10.0

#: A command that takes longer is killed: the next one waits for it.
COMMAND_TIMEOUT_S = 60.0

#: How long the end of the node waits for a publication that is under way.
STOP_WITHIN_S = 15.0

#: How long the program stays stopped for a switchover that does not come. The tool promotes within that, or not at all.
HANDED_OVER_FOR_S = 30.0


#: How long an attempt may take to lead on in another term, after a switchover that did not come.
LEAD_ANEW_WITHIN_S = 5.0


class Publication(NamedTuple):
    """`position`: one that has all that was written before it was asked for. `problem`: why there is none, in words."""

    position: str
    problem: str


class _HandingOver(NamedTuple):
    """A switchover that was asked for, by whose id, and until when it is waited for."""

    asked: str
    until: float


class Sidecar:
    """Start it after the node, and stop it before (`with node, beside`). `state` is the node's; None: no file.

    `run`: the program, where the node runs it itself, instead of the two commands. Raises `ConfigError`.
    """

    def __init__(
        self,
        node: Node,
        state: StateBeside | None = None,
        *,
        on_primary: str = "",
        on_standby: str = "",
        run: RunProgram | None = None,
        publish_every_s: float = 1.0,
    ) -> None:
        if run is not None and (on_primary or on_standby):
            problem = "runs the program itself: --on-primary and --on-standby are for one that something else runs"
            raise ConfigError(setting="run", problem=problem)
        checks.seconds("publish-every-s", publish_every_s, least=PUBLISH_EVERY_S_MIN)
        self._owner = Owner("what watches beside a node")
        self._node = node
        self._state = state
        lines = {"primary": command("on-primary", on_primary), "standby": command("on-standby", on_standby)}
        self._run = run
        self._commands = run or Commands(lines, report=lambda problem: node.report("command", problem))
        self._hands_over = state is not None or run is not None or bool(lines["standby"])
        self._handing_over: _HandingOver | None = None
        self._answered = ""
        #: Whether it said that it cannot lead on after a switchover that did not come.
        self._is_stuck = False
        self._publish_every_s = publish_every_s
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        #: What was told last: a role, and the term if it is that of a primary.
        self._told: tuple[str, int] | None = None
        #: The publisher, who tells roles, and a proxy: what a state remembers of its looks is for one at a time.
        self._publishing = threading.Lock()
        #: What the file looked like when it was published last, and in which term.
        self._published: tuple[object, int] | None = None
        self._log_once = LogOnce(logger)
        self._first_file = FirstFile()
        #: What a proxy has passed to the program: that is answered before the program is told to stop.
        self.requests = RequestsUnderWay()

    @property
    def has_primary(self) -> bool:
        """Whether the program was told that it is one, and not to stop since."""
        return self._told is not None and self._told[0] == "primary"

    def __enter__(self) -> Sidecar:
        self._owner.check()
        self._node.handover.is_offered = self._hands_over
        loops = {
            "role-commands": (self._tell, LOOK_EVERY_S),
            "publisher": (self._publish_in_time, self._publish_every_s),
        }
        for name, (once, every_s) in loops.items():
            if name == "publisher" and self._state is None:
                continue
            self._threads.append(started(in_this_context(self._loop), once, every_s, name=name))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if not self._owner.is_here:  # the program is the parent's business
            return
        self._node.handover.is_offered = False
        self._stopping.set()
        self._join()
        if self._commands.running == "primary":
            self._commands.cut_short()
        self._commands.finish()
        while self._node.leads and not self.requests.are_answered():
            self._commands.look()  # a program that is run goes on no longer than its keeper hears of the lease
            time.sleep(LOOK_EVERY_S)
        if self.has_primary:
            self._told = ("standby", 0)
            self._begin("standby")
            self._commands.finish()
            self._publish()  # what the program wrote last: it has stopped now, if that is what the command does

    def _join(self) -> None:
        tells, *others = self._threads
        tells.join(STOP_WITHIN_S)
        until = time.monotonic() + STOP_WITHIN_S
        while any(thread.is_alive() for thread in others) and time.monotonic() < until:
            if not tells.is_alive():
                self._commands.look()
            others[0].join(LOOK_EVERY_S)

    def _loop(self, once: Callable[[], object], every_s: float) -> None:
        name = threading.current_thread().name
        backoff = Backoff(every_s, max(every_s, LOOK_EVERY_S_MAX))
        pause_s = every_s
        while not self._stopping.wait(pause_s):
            try:
                once()
            except Exception as error:
                self._log_once.tell(name, BUG, f"a bug in replicator: {error!r}", exc_info=True)
                pause_s = backoff.failed()
            else:
                self._log_once.over(name)
                backoff.succeeded()
                pause_s = every_s

    # --- telling the program ---

    def _tell(self) -> None:
        commands = self._commands
        commands.look()
        leads, has_ended = self._leads, self._has_ended_its_work
        self._look_at_handover(leads=leads or has_ended)
        if self._is_stuck and not has_ended:  # it leads on, or another one does
            self._is_stuck = False
            self._node.report("handover", None)
        now = ("primary", self._node.term) if leads and self._handing_over is None else ("standby", 0)
        if now != self._told:
            if commands.running == "primary" and now[0] == "standby":
                commands.cut_short()
            if not commands.running and not (leads and now[0] == "standby" and not self.requests.are_answered()):
                self._told = now
                self._begin(now[0])
        elif self._handing_over is not None and not commands.running:
            self._hand_over(self._handing_over)
        elif self._handing_over is None and has_ended:
            self._lead_anew()

    def _begin(self, role: str) -> None:
        node = self._node
        self.requests.wait_is_over()
        about = {"ROLE": role, "TERM": str(node.term), "NODE": node.name, "GROUP": node.group}
        self._commands.begin(role, about=about, limit_s=COMMAND_TIMEOUT_S)

    @property
    def program_term(self) -> int:
        """The term in which the program was told to lead, and may go on; 0: it was not, or is about to stop."""
        told = self._told
        if told is None or told[0] != "primary" or self._handing_over is not None or self._stopping.is_set():
            return 0
        return told[1] if self._leads and told[1] == self._node.term else 0

    @property
    def _leads(self) -> bool:
        """Whether the node leads, and the program may go by that."""
        if not self._node.leads or self._has_ended_its_work:
            return False
        return self._run is None or self._run.may_run

    @property
    def _has_ended_its_work(self) -> bool:
        """Whether it leads in a term of which it has said that nothing goes on in it any more."""
        return self._node.leads and self._node.handover.work_over == self._node.term

    # --- a switchover that is planned ---

    def _look_at_handover(self, *, leads: bool) -> None:
        """Whether one was asked for, or is over: another node leads, or nobody came."""
        handover, current = self._node.handover, self._handing_over
        if leads and handover.asked not in ("", self._answered):
            self._answered = handover.asked
            self._handing_over = _HandingOver(handover.asked, time.monotonic() + COMMAND_TIMEOUT_S + HANDED_OVER_FOR_S)
        elif current is not None and (not leads or time.monotonic() > current.until):
            self._handing_over = None
            handover.answered("")

    def _hand_over(self, current: _HandingOver) -> None:
        """The program was told to stop: publish what it wrote last, and say so, or why it cannot be done."""
        handover = self._node.handover
        if handover.answer == current.asked:
            return
        problem = self._commands.failed or self._publish()
        if problem:
            self._handing_over = None  # it goes on
            handover.answered(f"{current.asked}: {problem}")
        else:
            self._handing_over = current._replace(until=time.monotonic() + HANDED_OVER_FOR_S)
            if self._run is not None:
                handover.work_over = self._run.ended_term or handover.work_over
            handover.answered(current.asked)

    def _lead_anew(self) -> None:
        """Nobody came, and in this term the program is not started again: others believe that. So take the next one.

        Not from somebody who came in this very moment.
        """
        term = self._node.handover.work_over
        try:
            self._node.promote(reason="the switchover did not come", expect=term, timeout_s=LEAD_ANEW_WITHIN_S)
        except (ReplicatorError, TimeoutError) as error:
            what = "its program was ended for a switchover that did not come, and it cannot lead on:"
            self._is_stuck = True
            self._node.report("handover", ProgramError(what=what, problem=str(error)))

    # --- what the program did ---

    def publish_now(self) -> Publication:
        """Publish what the program has written by now, on the calling thread."""
        problem = self._publish()
        return Publication("" if problem else str(self._node.position.id), problem)

    def _publish_in_time(self) -> str:
        """Unless the program is to have its state for itself for a while."""
        rests = isinstance(self._state, SQLitePages) and self._state.rests
        return "" if rests else self._publish()

    def _publish(self) -> str:
        """Publish what was written since the last time. What is in the way, in words; empty: all of it is published."""
        with self._publishing:
            return self._publish_alone()

    def _publish_alone(self) -> str:
        node, state = self._node, self._state
        if state is None:
            return ""
        if not node.leads:
            node.report("publisher", None)
            return "it does not lead"
        try:
            seen = state.seen(), node.term
            if seen == self._published:
                return ""
            done = node.publish()
        except (NotPrimary, LogUnavailable) as error:
            # The node says so, too, and it is tried again.
            self._log_once.tell("publish", _WAITS, f"not published: {error}", kind="redis")
            return str(error)
        except ReplicatorError as error:
            if self._first_file.is_awaited(state):
                return str(error)
            node.report("publisher", ProgramError(what="not published:", problem=str(error)))
            return str(error)
        # Looked at before it was read: what was written meanwhile shows the next time.
        self._published = seen
        node.report("publisher", None)
        self._log_once.over("publish")
        if done.what != "nothing":
            logger.info("publish.done", "published %s as a %s of %d bytes", done.id, done.what, done.bytes)
        return ""
