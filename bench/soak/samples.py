"""What can be seen of processes, directories and a Redis from outside, as numbers by name.

Memory of a process is what it has for itself, clean and dirty (USS): pages of libraries that others map as well are
nobody's leak. Needs Linux: nothing else tells it of another process.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from replicator.log.scripts import KEYS

__all__ = [
    "MIB",
    "OF_DIRECTORY",
    "OF_PROCESS",
    "OF_REDIS",
    "can_look",
    "of_directory",
    "of_process",
    "of_redis",
    "private_bytes",
]

#: What there is to be seen of each.
OF_PROCESS = ("memory MiB", "descriptors", "threads")
OF_DIRECTORY = ("files", "MiB")
OF_REDIS = (
    *("keys", "alarms", "connections", "scripts"),
    *("logs MiB", "requests and acks MiB", "besides the keys MiB"),
)

MIB = 1024 * 1024

#: Keys of a group are `replicator:{GROUP}:WHAT`.
OURS = b"replicator:{"

#: The key of a host, which outlives one that was killed by a day (`log/multiplex.py`).
ALARM = b":alarm"


def can_look() -> bool:
    return Path("/proc/self/smaps_rollup").exists()


def of_process(pid: int) -> dict[str, float]:
    """Of a process that may have ended: nothing then."""
    try:
        return {
            "memory MiB": private_bytes(pid) / MIB,
            "descriptors": len(os.listdir(f"/proc/{pid}/fd")),
            "threads": len(os.listdir(f"/proc/{pid}/task")),
        }
    except OSError:
        return {}


def private_bytes(pid: int) -> int:
    """What the process alone has in memory. Raises `OSError`: it ended."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Clean:", "Private_Dirty:")))


def of_directory(path: Path) -> dict[str, float]:
    """All files below it; one that goes away meanwhile does not count."""
    files = size = 0
    for directory, _, names in os.walk(path):
        for name in names:
            try:
                size += os.stat(os.path.join(directory, name)).st_size
                files += 1
            except FileNotFoundError:
                continue
    return {"files": files, "MiB": size / MIB}


def of_redis(client: Any) -> dict[str, float]:
    """Of a redis-py client. What the logs weigh, what the other streams have, and what the server has besides."""
    info: Mapping[str, Any] = client.info("everything")
    keys = [key for key in client.scan_iter(count=1000) if key.startswith(OURS)]
    pipe = client.pipeline(transaction=False)
    for key in keys:
        pipe.memory_usage(key, samples=0)
    weights, others = dict.fromkeys(KEYS, 0), 0
    for key, size in zip(keys, pipe.execute(), strict=True):
        what = key.rpartition(b":")[2].decode()
        if what in weights:
            weights[what] += size or 0
        else:
            others += size or 0
    alarms = sum(key.endswith(ALARM) for key in keys)
    return {
        "keys": client.dbsize() - alarms,
        "alarms": alarms,
        "connections": info["connected_clients"],
        "scripts": info["number_of_cached_scripts"],
        "logs MiB": weights["log"] / MIB,
        "requests and acks MiB": (weights["requests"] + weights["acks"]) / MIB,
        # Buffers of connections go with what is read: a node that is told of many changes at once has a large one.
        "besides the keys MiB": (info["used_memory_dataset"] - sum(weights.values()) - others) / MIB,
    }
