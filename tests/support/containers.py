"""Containers without an engine: what a compose file, a unit or a manifest says is run here, in namespaces of Linux.

Each container has a host name and an address of its own on a bridge, a root directory that is the machine's (an
overlay: what is written goes to memory), its own processes under an init, and, as it is asked for: volumes, a read-only
root, no capabilities, no new privileges. What an image would bring (Python with replicator, a Redis, Prometheus) is the
machine's; so is the kernel. Nothing of the machine is changed, and nothing listens in its network: the bridge is in a
namespace which the thread that opens a `Machine` enters.

Not here: images and their users (everything is root, without its capabilities if they are dropped), limits of memory
and processors, name servers (names are in /etc/hosts), and the policies that start a container again.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from tests.support.kv import eventually

__all__ = ["Container", "Machine", "Mount", "can_contain"]

REPOSITORY = Path(__file__).parents[2]

BIN = Path(sys.executable).parent

NETWORK = "10.78.0"

CLONE_NEWNET = 0x40000000

#: Patience for what takes milliseconds on an idle machine.
PATIENCE_S = 180.0

#: Process 1: it passes SIGTERM on, takes in orphans, and ends with its child.
INIT = """
"$@" <&0 & child=$!
trap 'kill -TERM $child 2>/dev/null' TERM INT
while :; do wait $child; code=$?; kill -0 $child 2>/dev/null || exit $code; done
"""


@dataclass(frozen=True, kw_only=True)
class Mount:
    source: Path
    target: str
    read_only: bool = False


@dataclass(kw_only=True)
class Container:
    """`host`: its name in the network. `tmpfs`: directories that are empty at each start."""

    host: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    mounts: Sequence[Mount] = ()
    tmpfs: Sequence[str] = ()
    read_only: bool = False
    capabilities: bool = True
    new_privileges: bool = True


class Running:
    """A container that was started."""

    def __init__(self, container: Container, process: subprocess.Popen[bytes], log: Path) -> None:
        self.container, self.process, self.log = container, process, log

    @property
    def pid(self) -> int:
        """Of its process 1, as the machine counts."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return int(eventually(lambda: children.read_text().split(), "process 1", patience_s=PATIENCE_S)[0])

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def is_up(self) -> bool:
        return self.process.poll() is None

    def exec(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run it in the container, with its environment."""
        inside = ["nsenter", "--all", "--root", "--wd", "--target", str(self.pid)]
        return subprocess.run(
            [*inside, *command], env=_environment(self.container), capture_output=True, text=True, check=False
        )

    def kill(self) -> None:
        """As a whole, at once."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self.process.wait(PATIENCE_S)

    def stop(self) -> int:
        """SIGTERM to process 1; its exit code."""
        os.kill(self.pid, signal.SIGTERM)
        return self.process.wait(PATIENCE_S)


class Machine:
    """The bridge, and the containers on it. `hosts`: their host names, and by which further names each is known."""

    def __init__(self, directory: Path, hosts: Mapping[str, Sequence[str]]) -> None:
        self.directory, self._hosts = directory, hosts
        self._addresses = {name: f"{NETWORK}.{number}" for number, name in enumerate(hosts, 1)}
        self._prefix = f"box{os.getpid()}-"
        self._home: int | None = None
        self.running: dict[str, Running] = {}
        (directory / "hosts").write_text(
            "127.0.0.1 localhost\n"
            + "".join(f"{address} {' '.join((name, *hosts[name]))}\n" for name, address in self._addresses.items())
        )

    def address(self, host: str) -> str:
        return self._addresses[host]

    def names(self) -> dict[str, str]:
        """The address of every name."""
        return {name: self._addresses[host] for host, others in self._hosts.items() for name in (host, *others)}

    @property
    def watcher(self) -> str:
        """The address of the thread that opened it."""
        return f"{NETWORK}.254"

    def start(self, container: Container) -> Running:
        """Start it, also again: what is in its volumes is still there."""
        log = self.directory / f"{container.host}.log"
        inner = ["nsenter", f"--net=/run/netns/{self._netns(container.host)}"]
        inner += ["unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "bash", "-c"]
        with log.open("ab") as out:
            process = subprocess.Popen(
                [*inner, self._script(container), container.host, *container.command],
                env=_environment(container), stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            )  # fmt: skip
        self.running[container.host] = Running(container, process, log)
        return self.running[container.host]

    def open(self) -> None:
        """Make the network. The calling thread, and what it starts, are on the bridge until `close`."""
        self._home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        _call("unshare", CLONE_NEWNET)
        _run("ip link set lo up")
        _run("ip link add bridge0 type bridge")
        _run(f"ip addr add {self.watcher}/24 dev bridge0")
        _run("ip link set bridge0 up")
        for number, (name, address) in enumerate(self._addresses.items()):
            netns = self._netns(name)
            _run(f"ip netns add {netns}")
            _run(f"ip link add host{number} type veth peer name eth0 netns {netns}")
            _run(f"ip link set host{number} master bridge0 up")
            for command in ("link set lo up", f"addr add {address}/24 dev eth0", "link set eth0 up"):
                _run(f"ip -n {netns} {command}")

    def close(self) -> None:
        """End all that runs. The calling thread is where it was before."""
        for running in self.running.values():
            if running.is_up:
                running.process.kill()  # and with it, all that it started (--kill-child)
                running.process.wait(PATIENCE_S)
        for name in self._addresses:
            subprocess.run(["ip", "netns", "del", self._netns(name)], check=False, capture_output=True)
        if self._home is not None:
            _call("setns", self._home, CLONE_NEWNET)
            os.close(self._home)

    def _netns(self, host: str) -> str:
        return f"{self._prefix}{list(self._addresses).index(host)}"

    def _script(self, container: Container) -> str:
        """Run by bash as process 1 of new namespaces: makes the root directory, and becomes the init in it."""
        layer = self.directory / "layer"
        layer.mkdir(exist_ok=True)
        root = layer / "root"
        lines = [
            "set -e",
            "mount --make-rprivate /",
            'hostname "$0"',
            f"mount -t tmpfs -o mode=755 layer {layer}",
            f"mkdir {layer}/upper {layer}/work {root}",
            f"mount -t overlay overlay -o lowerdir=/,upperdir={layer}/upper,workdir={layer}/work {root}",
            f"mount -t proc proc {root}/proc",
            f"mount --rbind /dev {root}/dev",
            f"cp {self.directory}/hosts {root}/etc/hosts",
        ]
        for target in container.tmpfs:
            lines += [f"mkdir -p {root}{target}", f"mount -t tmpfs -o mode=1777 tmpfs {root}{target}"]
        # What an image would bring; a tmpfs may hide it.
        for there in (REPOSITORY, Path(sys.base_prefix)):
            lines += [f"mkdir -p {root}{there}", f"mount --bind {there} {root}{there}"]
            lines += [f"mount -o remount,bind,ro {root}{there}"]
        for mount in container.mounts:
            target = f"{root}{mount.target}"
            near = Path(
                target
            ).parent  # of this machine it may be closed to the user of the container, as /etc/redis is
            make = (
                f"mkdir -p {target}"
                if mount.source.is_dir()
                else f"mkdir -p {near} && chmod a+rx {near} && touch {target}"
            )
            lines += [make, f"mount --bind {mount.source} {target}"]
            if mount.read_only:
                lines += [f"mount -o remount,bind,ro {target}"]
        if container.read_only:
            lines += [f"mount -o remount,bind,ro {root}"]
        limits = [] if container.new_privileges else ["--no-new-privs"]
        limits += [] if container.capabilities else ["--bounding-set=-all", "--inh-caps=-all"]
        become = ["chroot", str(root), "setpriv", *limits, "sh", "-c", INIT, "init"]
        lines += [f'exec {shlex.join(become)} "$@"']
        return "\n".join(lines)


@cache
def can_contain() -> bool:
    """Whether there is what it takes: root, iproute2, and an overlay that can be mounted."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("ip", "nsenter", "unshare", "setpriv"))):
        return False
    tried = "mount -t tmpfs t /mnt && mkdir /mnt/u /mnt/w /mnt/r"
    tried += " && mount -t overlay o -o lowerdir=/,upperdir=/mnt/u,workdir=/mnt/w /mnt/r"
    return subprocess.run(["unshare", "-m", "sh", "-c", tried], check=False, capture_output=True).returncode == 0


def _environment(container: Container) -> dict[str, str]:
    # What an image would set. PATH begins with what comes in a wheel.
    image = {"PATH": f"/usr/local/bin:{BIN}:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": "/nowhere", "PYTHONUNBUFFERED": "1"}
    return {**image, **container.environment}


def _call(function: str, *arguments: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, function)(*arguments) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{function}: {os.strerror(error)}")


def _run(command: str) -> None:
    subprocess.run(command.split(), check=True, capture_output=True)
