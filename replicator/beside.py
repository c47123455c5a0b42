"""A node beside another program: publishes what the program does to its file, and tells it which role the node has.

    beside = Beside(node, state, on_primary="systemctl start app", on_standby="systemctl stop app")
    with node, beside: ...

The *publisher* looks every so often whether the file was written, while the node is the primary, and publishes then.
The *teller* runs a command when the role becomes another one: with the first role that the node has, and with each term
in which it leads. Commands are run one after the other, without a shell, with REPLICATOR_ROLE, _TERM, _NODE and _GROUP
in their environment; should the role change while one runs, the next one follows. What fails is logged, and ends
nothing.

The command for a primary runs once the node takes writes, and has all that was published in its file. That for a
standby runs as soon as the node knows that it does not lead any more, when it could not renew its lease (another one
may lead by then), and when it ends as the primary: the program is to stop writing then. What it wrote last is published
if the node ends. If another one was promoted, the file becomes what was published, and what was not is kept aside.
"""

from __future__ import annotations

import logging
import os
import shlex
import subprocess
import threading
from collections.abc import Callable
from types import TracebackType

from .errors import ConfigError, LogUnavailable, NotPrimary, ReplicatorError
from .node import Node
from .state.file import FileState
from .state.sqlite import SQLiteState

__all__ = ["Beside", "command"]

logger = logging.getLogger(__name__)

#: How soon a new role is told.
LOOK_EVERY_S = 0.1

#: A command that takes longer is killed: the next one waits for it.
COMMAND_TIMEOUT_S = 60.0

#: How long the end of the node waits for a publication, or a command, that is under way.
STOP_WITHIN_S = 5.0


def command(setting: str, text: str) -> list[str]:
    """The words of a command line; none if it is empty. Raises `ConfigError`."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ConfigError(setting=setting, problem=f"{text!r} is not a command: {error}") from None


class Beside:
    """Start it after the node, and stop it before (`with node, beside`). `state` is the node's; None: no file."""

    def __init__(
        self,
        node: Node,
        state: FileState | SQLiteState | None = None,
        *,
        on_primary: str = "",
        on_standby: str = "",
        publish_every_s: float = 1.0,
    ) -> None:
        if publish_every_s <= 0:
            raise ConfigError(setting="publish-every-s", problem=f"{publish_every_s} is not above 0")
        self._node = node
        self._state = state
        self._commands = {
            "primary": command("on-primary", on_primary),
            "standby": command("on-standby", on_standby),
        }
        self._publish_every_s = publish_every_s
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        #: What was told last: a role, and the term if it is that of a primary.
        self._told: tuple[str, int] | None = None
        #: What the file looked like when it was published last, and in which term.
        self._published: tuple[object, int] | None = None
        self._problem = ""

    def __enter__(self) -> Beside:
        loops = {"teller": (self._tell, LOOK_EVERY_S), "publisher": (self._publish, self._publish_every_s)}
        for name, (once, every_s) in loops.items():
            if name == "publisher" and self._state is None:
                continue
            thread = threading.Thread(target=self._loop, args=(once, every_s), name=name, daemon=True)
            self._threads.append(thread)
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(STOP_WITHIN_S)
        if self._told is not None and self._told[0] == "primary":
            self._run("standby", self._told[1])
            self._publish()  # what the program wrote last: it has stopped now, if that is what the command does

    def _loop(self, once: Callable[[], None], every_s: float) -> None:
        while not self._stopping.wait(every_s):
            try:
                once()
            except Exception:
                logger.exception("a bug in replicator")

    # --- telling the program ---

    def _tell(self) -> None:
        node = self._node
        now = ("primary", node.term) if node.leads else ("standby", 0)
        if now != self._told:
            self._told = now
            self._run(now[0], node.term)

    def _run(self, role: str, term: int) -> None:
        words = self._commands[role]
        if not words:
            return
        told = {"ROLE": role, "TERM": str(term), "NODE": self._node.name, "GROUP": self._node.group}
        environment = os.environ | {f"REPLICATOR_{name}": value for name, value in told.items()}
        logger.info("%s in term %d: running %s", role, term, shlex.join(words))
        try:
            done = subprocess.run(
                words, env=environment, stdin=subprocess.DEVNULL, timeout=COMMAND_TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            logger.error("%s ran for %g s and was killed", shlex.join(words), COMMAND_TIMEOUT_S)
        except (OSError, ValueError) as error:
            logger.error("%s cannot be run: %s", shlex.join(words), error)
        else:
            if done.returncode:
                logger.error("%s failed with exit code %d", shlex.join(words), done.returncode)

    # --- what the program did ---

    def _publish(self) -> None:
        node, state = self._node, self._state
        if state is None or not node.leads:
            return
        try:
            seen = state.seen(), node.term
            if seen == self._published:
                return
            done = node.publish()
        except (NotPrimary, LogUnavailable) as error:
            # The node says so, too, and it is tried again.
            logger.info("not published: %s", error)
        except ReplicatorError as error:
            if str(error) != self._problem:
                logger.error("not published: %s", error)
            self._problem = str(error)
        else:
            # Looked at before it was read: what was written meanwhile shows the next time.
            self._published, self._problem = seen, ""
            if done.what != "nothing":
                logger.info("published %s as a %s of %d bytes", done.id, done.what, done.bytes)
