"""The process that reads a database (`capture.py`), and how its parent asks it.

The parent writes a line of JSON to its stdin, the child answers with a line of JSON, and, where it says so, with as
many bytes after that. It ends when its stdin does, so with its parent, whatever becomes of that.

    {"look": digest, "shadow": path, "inode": i, "page_size": s, "count": n}
        -> {"what": "nothing" | "all" | "change", "why": text, "held_s": s, "wal": bool, "missed": n, "bytes": n}
    {"draw": path}  -> {"what": "drawn", "held_s": s}
    to either       -> {"what": "in use" | "refused" | "bug", "why": text}
"""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from ..errors import StateError, StateInUse
from ..format.pages import as_text
from ..runtime.event_log import EventLogger
from .capture import AUDIT_EVERY_S, Base, Capture
from .files import NoDatabase

__all__ = ["Reader", "main", "run"]

logger = EventLogger(__name__)

#: How long a child may take to end, once its stdin has.
END_WITHIN_S = 5.0


#: Nothing of the directory in which this process happens to be is imported; this very package is.
_PACKAGES = Path(__file__).parents[2]
_CHILD = f"import sys; sys.path.append(sys.argv[1]); from {__name__} import run; run(sys.argv[2], float(sys.argv[3]))"


class Reader:
    """The parent's side, for one database. Thread-safe. The child is started with the first question."""

    def __init__(self, path: Path, *, audit_every_s: float = AUDIT_EVERY_S) -> None:
        self._path = path
        self._audit_every_s = audit_every_s
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        #: How long the last look had to read all of it for, or nobody could commit while it was drawn; 0: neither.
        self.held_s = 0.0
        self.was_wal = False

    def look(self, shadow: Path, base: Base) -> bytes | str | None:
        """What differs from the shadow, a `PageChange`; None: nothing; in words: why all of it has to be drawn.

        Raises `StateError`.
        """
        question = {
            "look": as_text(base.digest),
            "shadow": str(shadow),
            "inode": base.inode,
            "page_size": base.page_size,
            "count": base.page_count,
        }
        answer, data = self._ask(question)
        self.held_s, self.was_wal = float(answer["held_s"]), bool(answer["wal"])
        if missed := answer["missed"]:
            what = "%s had %d changed pages that its log did not tell; they are published now. This is a bug"
            logger.error("pages.missed", what, self._path, missed)
        if answer["what"] == "all":
            return str(answer["why"])
        return data if answer["what"] == "change" else None

    def draw(self, draft: Path) -> None:
        """Have all of it in a new file. Raises `StateError`."""
        answer, _ = self._ask({"draw": str(draft)})
        self.held_s = float(answer["held_s"])

    def close(self) -> None:
        with self._lock:
            child, self._child = self._child, None
            if child is not None:
                _end(child)

    def _ask(self, question: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        with self._lock:
            try:
                answer, data = self._asked(question)
            except (OSError, ValueError) as error:
                if self._child is not None:
                    _end(self._child)
                    self._child = None
                problem = f"the process that reads it ended ({error}); another one is started"
                raise StateError(path=self._path, problem=problem) from error
        if answer["what"] == "in use":
            raise StateInUse(path=self._path)
        if answer["what"] in ("refused", "bug"):
            raise StateError(path=self._path, problem=answer["why"])
        return answer, data

    def _asked(self, question: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        child = self._child = self._child or self._started()
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(orjson.dumps(question) + b"\n")
        child.stdin.flush()
        answer: dict[str, Any] = orjson.loads(child.stdout.readline())
        return answer, child.stdout.read(answer["bytes"]) if "bytes" in answer else b""

    def _started(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-P", "-c", _CHILD, str(_PACKAGES), str(self._path.absolute())]
        command.append(str(self._audit_every_s))
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        weakref.finalize(self, _end, child)
        return child


def _end(child: subprocess.Popen[bytes]) -> None:
    assert child.stdin is not None
    assert child.stdout is not None
    for pipe in (child.stdin, child.stdout):
        try:
            pipe.close()
        except OSError:  # it had ended, and something was left to be written
            continue
    try:
        child.wait(END_WITHIN_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


# --- the child --------------------------------------------------------------------------------------------------------


def main(capture: Capture, questions: BinaryIO, answers: BinaryIO) -> None:
    """Answer until there is nothing more to be answered."""
    for line in questions:
        answer, data = _answered(capture, orjson.loads(line))
        answers.write(orjson.dumps(answer) + b"\n" + data)
        answers.flush()


def _answered(capture: Capture, question: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    try:
        if "draw" in question:
            return {"what": "drawn", "held_s": capture.draw(Path(question["draw"]))}, b""
        return _looked(capture, question)
    except NoDatabase as error:
        return {"what": "refused", "why": str(error)}, b""
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        in_use = code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
        return {"what": "in use" if in_use else "refused", "why": str(error)}, b""
    except OSError as error:
        return {"what": "refused", "why": error.strerror or str(error)}, b""
    except Exception as error:
        return {"what": "bug", "why": f"a bug in replicator: {error!r}"}, b""


def _looked(capture: Capture, question: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    base = Base(
        question["shadow"], question["inode"], question["page_size"], question["count"], int(question["look"], 16)
    )
    found = capture.look(base)
    data = found.change.to_bytes() if found.change is not None else b""
    what = "change" if data else "all" if found.all_of_it else "nothing"
    told = {"what": what, "why": found.all_of_it, "held_s": found.held_s, "wal": found.in_wal, "missed": found.missed}
    return told | {"bytes": len(data)}, data


def run(path: str, audit_every_s: float) -> None:
    """The child, from its start to its end. Its parent ends it, in order: a Ctrl-C goes to both."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    main(Capture(Path(path), audit_every_s=audit_every_s), sys.stdin.buffer, sys.stdout.buffer)
