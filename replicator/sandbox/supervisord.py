"""supervisord, spoken to over its control socket."""

from __future__ import annotations

import http.client
import socket
import xmlrpc.client
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError, ReplicatorError

__all__ = ["ASK_TIMEOUT_S", "Control", "NoAnswer"]

#: startProcess and stopProcess answer when it has happened, so they may take as long as a program's stopwaitsecs.
CALL_TIMEOUT_S = 60.0

#: For calls that supervisord answers at once; if it does not, it hangs.
ASK_TIMEOUT_S = 2.0


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class _UnixTransport(xmlrpc.client.Transport):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__()
        self._path = path
        self._timeout_s = timeout_s

    def make_connection(self, host: object) -> http.client.HTTPConnection:
        # Kept in the base class' own slot, so that `close` finds it.
        self._connection = "localhost", _UnixConnection(self._path, self._timeout_s)
        return self._connection[1]


@dataclass(frozen=True)
class Control:
    """supervisord, by its control socket."""

    path: Path

    def call(self, method: str, *arguments: str | bool, timeout_s: float = CALL_TIMEOUT_S) -> Any:
        transport = _UnixTransport(self.path, timeout_s)
        try:
            with xmlrpc.client.ServerProxy("http://localhost", transport=transport) as proxy:
                return getattr(proxy.supervisor, method)(*arguments)
        except xmlrpc.client.Fault as fault:
            raise ReplicatorError(
                f"supervisord refused {method}({', '.join(map(str, arguments))}): {fault.faultString}"
            ) from fault
        except (OSError, http.client.HTTPException, xmlrpc.client.ProtocolError) as error:
            raise NoAnswer(f"supervisord does not answer at {self.path}: {error}") from error

    def answers(self) -> bool:
        """Tell whether supervisord is there and, by the way, make it look at what has ended. A refusal is an answer."""
        try:
            self.call("getState", timeout_s=ASK_TIMEOUT_S)
        except NoAnswer:
            return False
        except ReplicatorError:
            return True
        return True

    def programs(self) -> dict[str, dict[str, Any]]:
        return {info["name"]: info for info in self.call("getAllProcessInfo")}

    def full_name(self, program: str) -> str:
        """Give the name that supervisord wants: with the group."""
        programs = self.programs()
        if program not in programs:
            raise ConfigError(
                setting=program, problem=f"is not a program of this stack; there are {', '.join(programs)}"
            )
        return f"{programs[program]['group']}:{program}"


class NoAnswer(ReplicatorError):
    """supervisord does not answer"""
