"""DevStack over a configuration of these tests' own: small programs that start quickly and misbehave on purpose.

What matters most is what is left afterwards. Every process of a stack inherits a variable that only this test's stacks
have, so `left_in` finds whatever a stack forgot, by means other than the stack's own.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from replicator.errors import ConfigError, ReplicatorError
from replicator.sandbox.free_ports import free_port
from replicator.sandbox.stack import DevStack, find_conf

REPOSITORY = Path(__file__).parents[2]

NODE = """
[program:node-{name}]
command="%(ENV_REPLICATOR_PYTHON)s" -m http.server --bind 127.0.0.1 %(ENV_REPLICATOR_HTTP_{upper})s
environment=REPLICATOR_NAME="{name}",REPLICATOR_DATA_DIR="%(ENV_REPLICATOR_DEV_DIR)s/{name}"
autorestart=true
startsecs=0
redirect_stderr=true
stdout_logfile=%(ENV_REPLICATOR_DEV_DIR)s/log/node-{name}.log
"""

#: The head of the real file, nodes that are web servers, and a program with a child that left its process group, as the
#: work horse of an RQ worker does.
CONF = (
    find_conf().read_text().split("; Started first")[0]
    + "\n[group:nodes]\nprograms=node-a,node-b,node-c\n"
    + "".join(NODE.format(name=name, upper=name.upper()) for name in "abc")
    + """
[program:jobs]
command="%(ENV_REPLICATOR_PYTHON)s" -c "import os, time; os.fork() or os.setpgrp(); time.sleep(600)"
killasgroup=true
startsecs=0
"""
)

#: A program that takes no SIGTERM.
STUBBORN = """
[program:stubborn]
command="%(ENV_REPLICATOR_PYTHON)s" -c "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"
stopwaitsecs=1
startsecs=0
"""

#: A program that ends once it was asked to and may. Files in the directory of the stack say how far that is.
PATIENT = """
[program:patient]
command="%(ENV_REPLICATOR_PYTHON)s" -c "{code}" "%(ENV_REPLICATOR_DEV_DIR)s"
stopwaitsecs=120
startsecs=0
""".format(
    code="import pathlib, signal, sys, time; here = pathlib.Path(sys.argv[1]); "
    "signal.signal(15, lambda *_: (here / 'asked').touch()); (here / 'heeds').touch(); "
    "[time.sleep(0.01) for _ in iter(lambda: (here / 'may').exists(), True)]"
)

#: All programs, the child that left its group, supervisord and the guard.
WHOLE_STACK = 7

#: Runs a stack until a signal comes; says when it is ready.
RUNNER = """
import sys
from pathlib import Path
from replicator.sandbox.free_ports import free_port
from replicator.sandbox.stack import DevStack

stack = DevStack(sys.argv[1], conf=Path(sys.argv[2]), port=0)
stack.run(lambda stack: print("ready", stack.supervisord_pid(), flush=True))
print("ended", flush=True)
"""


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    path = tmp_path / "supervisord.conf"
    path.write_text(CONF)
    return path


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    path = (tmp_path / "dev stack").resolve()
    yield path
    for process in left_in(path):
        process.kill()


def left_in(directory: Path) -> list[psutil.Process]:
    """Find the processes that belong to a stack in this directory, and the guard of one."""
    found = []
    for process in psutil.process_iter():
        try:
            marked = process.environ().get("REPLICATOR_DEV_DIR") == str(directory)
            guards = "replicator.sandbox.stack" in process.cmdline() and str(directory) in process.cmdline()
            if (marked or guards) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def eventually(condition: Callable[[], bool], timeout_s: float = 60.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def run_stack(directory: Path, conf: Path) -> tuple[subprocess.Popen[str], int]:
    """Run a stack in a process of its own; give the process and the process id of its supervisord, when it is ready."""
    runner = subprocess.Popen(
        [sys.executable, "-c", RUNNER, str(directory), str(conf)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )
    assert runner.stdout is not None
    word, supervisord = runner.stdout.readline().split()
    assert word == "ready"
    return runner, int(supervisord)


def test_nobody_else_can_read_what_a_stack_has(directory: Path, conf: Path) -> None:
    # given a directory that everybody may look into, and a umask that hides nothing
    directory.mkdir(mode=0o755)
    before = os.umask(0)
    try:
        with DevStack(directory, conf=conf, port=0) as stack:
            stack.wait_ready()
            # then whatever is in it is for its owner alone
            found = [path for path in directory.rglob("*") if path.lstat().st_mode & 0o077]
    finally:
        os.umask(before)
    assert found == []


def test_its_nodes_answer_and_after_the_end_no_process_and_no_socket_is_left(directory: Path, conf: Path) -> None:
    # given a stack with a program that takes no SIGTERM, in a directory with a space in its name
    conf.write_text(CONF + STUBBORN)
    with DevStack(directory, conf=conf, port=0) as stack:
        # when it is ready
        stack.wait_ready()

        # then each node answers at its URL, and each program has a process
        assert set(stack.urls()) == {"a", "b", "c"}
        for url in stack.urls().values():
            assert urllib.request.urlopen(url).status == 200
        assert set(stack.pids()) == {"node-a", "node-b", "node-c", "stubborn", "jobs"}
        assert eventually(lambda: len(left_in(directory)) == WHOLE_STACK + 1)
        assert stack.socket_dir.stat().st_mode & 0o777 == 0o700

    assert left_in(directory) == []
    assert not stack.socket_dir.exists()


def test_a_program_can_be_stopped_started_and_signalled(directory: Path, conf: Path) -> None:
    with DevStack(directory, conf=conf, port=0) as stack:
        stack.wait_ready()
        before = stack.pids()["node-a"]

        stack.stop_program("node-a")
        assert "node-a" not in stack.pids()

        stack.start_program("node-a")
        started = stack.pids()["node-a"]
        assert started != before

        # a killed one is restarted
        stack.signal("node-a", signal.SIGKILL)
        assert eventually(lambda: stack.pids().get("node-a", started) != started)

        with pytest.raises(ConfigError, match="nobody: is not a program of this stack"):
            stack.signal("nobody", signal.SIGTERM)
        stack.stop_program("node-b")
        with pytest.raises(ReplicatorError, match="NOT_RUNNING"):
            stack.stop_program("node-b")


def test_a_stack_can_be_started_again_at_the_same_address(directory: Path, conf: Path) -> None:
    stack = DevStack(directory, conf=conf, port=0)
    for _ in range(2):
        with stack:
            stack.wait_ready()
        stack.stop()

    assert DevStack(directory, conf=conf, port=0).redis_url == stack.redis_url
    with pytest.raises(ReplicatorError, match="does not run"):
        stack.pids()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_process_that_runs_it_ends_everything(
    directory: Path, conf: Path, number: signal.Signals
) -> None:
    # given a stack whose end takes as long as it is told to
    conf.write_text(CONF + PATIENT)
    runner, _ = run_stack(directory, conf)
    assert eventually((directory / "heeds").exists)

    # when an impatient second signal comes while it ends
    runner.send_signal(number)
    assert eventually((directory / "asked").exists)
    runner.send_signal(number)
    (directory / "may").touch()
    output, _ = runner.communicate(timeout=120)

    # then that does not disturb it

    assert output == "ended\n"
    assert runner.returncode == 0
    assert left_in(directory) == []


def test_when_the_process_that_runs_it_is_killed_its_guard_ends_everything(directory: Path, conf: Path) -> None:
    runner, _ = run_stack(directory, conf)

    runner.kill()
    runner.communicate()

    assert eventually(lambda: left_in(directory) == [])
    assert not DevStack(directory, conf=conf, port=0).socket_dir.exists()


def test_when_supervisord_is_killed_everything_ends_and_the_error_says_so(directory: Path, conf: Path) -> None:
    conf.write_text(CONF + STUBBORN)
    runner, supervisord = run_stack(directory, conf)

    os.kill(supervisord, signal.SIGKILL)
    _, errors = runner.communicate(timeout=120)

    assert runner.returncode == 1
    assert "supervisord ended unasked, with exit code -9" in errors
    assert left_in(directory) == []


@pytest.mark.parametrize("supervisord_too", [True, False])
def test_a_start_ends_what_an_earlier_stack_left_when_everybody_who_could_was_killed(
    directory: Path, conf: Path, supervisord_too: bool
) -> None:
    # given a stack whose runner and guard were killed, and its supervisord, too
    runner, supervisord = run_stack(directory, conf)
    guards = [process for process in left_in(directory) if "replicator.sandbox.stack" in process.cmdline()]
    assert len(guards) == 1
    guards[0].kill()
    runner.kill()
    runner.communicate()
    if supervisord_too:
        os.kill(supervisord, signal.SIGKILL)
    orphans = left_in(directory)
    assert len(orphans) >= WHOLE_STACK - 2

    # when a new one is started in its directory
    with DevStack(directory, conf=conf, port=0) as stack:
        stack.wait_ready()

        # then the orphans are gone and the new one is whole
        assert not set(orphans) & set(left_in(directory))
        assert eventually(lambda: len(left_in(directory)) == WHOLE_STACK)

    assert left_in(directory) == []


def test_orphans_of_another_directory_and_strangers_are_left_alone(directory: Path, conf: Path, tmp_path: Path) -> None:
    # given a stranger that has everything of a stack but its token
    environment = {**os.environ, "REPLICATOR_DEV_DIR": str(directory), "REPLICATOR_DEV_STACK": "another"}
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], env=environment)
    try:
        # when stacks come and go, one of them with leftovers to end
        runner, supervisord = run_stack(directory, conf)
        os.kill(supervisord, signal.SIGKILL)
        runner.communicate(timeout=120)
        with DevStack(directory, conf=conf, port=0) as stack:
            stack.wait_ready()

        # then it is still there
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_second_stack_in_the_same_directory_is_refused(directory: Path, conf: Path) -> None:
    with DevStack(directory, conf=conf, port=0) as stack:
        stack.wait_ready()
        pids = stack.pids()

        with pytest.raises(ConfigError, match=f"a stack already runs in .*process {os.getpid()}"):
            DevStack(directory, conf=conf, port=0).start()

        assert stack.pids() == pids


def taken_port_above_a_free_one() -> socket.socket:
    """A server on a port that is not the lowest of a stack's: nobody else may have the one below it, nor is given it
    for a connection."""
    while True:
        taken = socket.create_server(("127.0.0.1", free_port()))
        with socket.socket() as below, contextlib.suppress(OSError):
            below.bind(("127.0.0.1", taken.getsockname()[1] - 1))
            return taken
        taken.close()


def test_a_taken_port_is_named_with_its_node_and_the_option(directory: Path, conf: Path) -> None:
    with taken_port_above_a_free_one() as taken:
        port = taken.getsockname()[1]

        with pytest.raises(ConfigError, match=rf"--port: port {port} for node b cannot be used"):
            DevStack(directory, conf=conf, port=port - 1).start()

    assert left_in(directory) == []


def test_a_configuration_that_supervisord_refuses_is_reported_in_its_words(directory: Path, tmp_path: Path) -> None:
    conf = tmp_path / "broken.conf"
    conf.write_text("[supervisord]\nlogfile=%(ENV_NOT_THERE)s\n")

    with pytest.raises(ConfigError, match="NOT_THERE"):
        DevStack(directory, conf=conf, port=0).start()

    assert left_in(directory) == []


def test_a_program_that_cannot_be_started_is_reported_before_the_time_is_over(directory: Path, tmp_path: Path) -> None:
    conf = tmp_path / "failing.conf"
    failing = (
        "\n[program:node-c]\nstartretries=0\nredirect_stderr=true\n"
        "stdout_logfile=%(ENV_REPLICATOR_DEV_DIR)s/log/node-c.log\n"
        'command="%(ENV_REPLICATOR_PYTHON)s" -c "raise SystemExit(\'no such setting\')"\n'
    )
    conf.write_text(CONF.split("[group:nodes]")[0] + failing)

    with (
        DevStack(directory, conf=conf, port=0) as stack,
        pytest.raises(ReplicatorError, match=r"node-c cannot be started(.|\n)*no such setting"),
    ):
        stack.wait_ready(timeout_s=60)


def test_a_node_that_does_not_answer_in_time_is_named(directory: Path, tmp_path: Path) -> None:
    conf = tmp_path / "empty.conf"
    conf.write_text(CONF.split("[group:nodes]")[0])

    with (
        DevStack(directory, conf=conf, port=0) as stack,
        pytest.raises(ReplicatorError, match="node a did not answer"),
    ):
        stack.wait_ready(timeout_s=0.2)


def test_a_supervisord_that_hangs_is_ended_all_the_same(directory: Path, conf: Path) -> None:
    with DevStack(directory, conf=conf, port=0) as stack:
        stack.wait_ready()
        os.kill(stack.supervisord_pid(), signal.SIGSTOP)

    assert left_in(directory) == []


def test_a_socket_directory_that_somebody_else_can_write_to_is_refused(directory: Path, conf: Path) -> None:
    stack = DevStack(directory, conf=conf, port=0)
    stack.socket_dir.mkdir()
    stack.socket_dir.chmod(0o777)
    try:
        with pytest.raises(ConfigError, match="not a private directory"):
            stack.start()
    finally:
        stack.socket_dir.rmdir()


@pytest.mark.parametrize("name", ['a"b', "50%"])
def test_a_directory_name_that_the_configuration_cannot_hold_is_refused(tmp_path: Path, conf: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="in its name"):
        DevStack(tmp_path / name, conf=conf, port=0).start()
