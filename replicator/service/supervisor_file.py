"""A file for supervisord with one program for each node of a service: what `replicator supervisord` writes.

What is set in it, and why, is in docs/deploy.md. supervisord reads its files in a way of its own: `%` expands, ` ;`
begins a comment, and what is in quotes cannot have a quote in it. What cannot be written so is refused.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError

__all__ = ["NodeProgram", "supervisor_file"]

#: A node that stops finishes the write under way, saves, and gives its lease back. Twice what that takes at the most.
STOP_WAIT_S = 30

#: A setting that is wrong ends a process within that time, on a machine that is busy importing.
START_S = 5

#: Of no use within quotes, in a value that ends with its line.
_ODD = re.compile(r'["\\\x00-\x1f\x7f]')


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeProgram:
    """The process of one node. `environment`: its settings, by the names of their variables."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]


def supervisor_file(programs: Sequence[NodeProgram], *, group: str, directory: Path, alone: bool) -> str:
    """The text of the file. `directory`: where the programs run, and their logs are. `alone`: it is all that
    supervisord reads, and not one of the files that it includes. Raises `ConfigError`.
    """
    lines = [f"; The nodes of group {group} on this host: made by `replicator supervisord`, and yours to change."]
    if not any("REPLICATOR_REDIS" in program.environment for program in programs):
        lines.append("; REPLICATOR_REDIS has a password in it: it is to be in the environment of supervisord.")
    if alone:
        lines += ["", *_of_supervisord(directory)]
    # Ended and started together: `supervisorctl restart GROUP:*`.
    lines += ["", f"[group:{group}]", f"programs={','.join(program.name for program in programs)}"]
    for program in programs:
        lines += ["", *_of(program, directory)]
    return "\n".join(lines) + "\n"


def _of_supervisord(directory: Path) -> Iterator[str]:
    here = _directory(directory)
    yield "[supervisord]"
    yield f"pidfile={here}/supervisord.pid"
    yield f"logfile={here}/supervisord.log"
    yield f"childlogdir={here}"
    yield ""
    yield "[unix_http_server]"
    yield f"file={here}/supervisor.sock"
    yield "chmod=0700"
    yield ""
    yield "[rpcinterface:supervisor]"
    yield "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface"
    yield ""
    yield "[supervisorctl]"
    yield f"serverurl=unix://{here}/supervisor.sock"


def _of(program: NodeProgram, directory: Path) -> Iterator[str]:
    here = _directory(directory)
    yield f"[program:{program.name}]"
    yield f"command={_command(program.command)}"
    settings = (f'{name}="{_text(name, value)}"' for name, value in program.environment.items())
    yield f"environment={','.join(settings)}"
    yield f"directory={here}"
    yield "autorestart=true"
    yield f"startsecs={START_S}"
    yield "startretries=5"
    yield "stopsignal=TERM"
    yield f"stopwaitsecs={STOP_WAIT_S}"
    yield "killasgroup=true"
    yield "redirect_stderr=true"
    yield f"stdout_logfile={here}/{program.name}.log"
    yield "stdout_logfile_maxbytes=10MB"
    yield "stdout_logfile_backups=5"


def _command(words: Sequence[str]) -> str:
    line = shlex.join(words)
    if "\n" in line or re.search(r"\s;", line):
        raise ConfigError(setting="command", problem=f"{line!a:.80} cannot stand in a file of supervisord")
    return line.replace("%", "%%")


def _directory(directory: Path) -> str:
    # supervisord expands the name of a log twice, so no number of % would be right.
    if "%" in str(directory):
        raise ConfigError(
            setting="directory", problem=f"{str(directory)!a:.80} has a % in it: supervisord expands that"
        )
    return _text("directory", str(directory))


def _text(setting: str, value: str) -> str:
    if _ODD.search(value) or re.search(r"\s;", value):
        raise ConfigError(setting=setting, problem=f"{value!a:.80} cannot stand in a file of supervisord")
    return value.replace("%", "%%")
