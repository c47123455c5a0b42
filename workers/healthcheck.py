"""Health check of the container of a node: `python -m replicator.workers.healthcheck live`, or `ready`.

Exit code 0: it is healthy. REPLICATOR_HTTP says where it serves, REPLICATOR_DATA_DIR where its lock is.

`live`: it answers, whatever it says. `ready`: it can do its role's work now, which it cannot while Redis is away. What
restarts an unhealthy container has to ask for `live`: a restart does not bring Redis back.

A container engine starts a process again that has ended, but not one that hangs. So a node that has answered once, and
then nothing for `SILENT_S`, is killed here, and the restart policy of its container does the rest. Before its first
answer it may take as long as it likes: it may have a large state to load.
"""

from __future__ import annotations

import os
import signal
import ssl
import sys
import tempfile
import time
import urllib.error
from pathlib import Path

from replicator.runtime.direct_http import ask

#: Six leases: whatever can be waited for has been waited for, and another node leads.
SILENT_S = 30.0

#: Within the time that the engine gives a check.
ANSWER_S = 3.0

#: It asks the node beside it, whose certificate is for those who ask from elsewhere.
UNCHECKED = ssl._create_unverified_context()

#: The process that answered last, and when (`time.monotonic`, which all processes of a machine share).
ANSWERED = Path(tempfile.gettempdir()) / "replicator-answered"


def main(probe: str) -> int:
    address, data_dir = os.environ.get("REPLICATOR_HTTP", ""), os.environ.get("REPLICATOR_DATA_DIR", "")
    if probe not in ("live", "ready") or not address or not data_dir:
        print(
            "it takes `live` or `ready`, and the REPLICATOR_HTTP and REPLICATOR_DATA_DIR of the node", file=sys.stderr
        )
        return 2
    process = running(Path(data_dir))
    try:
        with ask(url_of(address, probe), timeout_s=ANSWER_S, context=UNCHECKED, follow=False) as answer:
            said = answer.read(1000)
    except urllib.error.HTTPError as error:
        ANSWERED.write_text(f"{process} {time.monotonic()}")
        print(error.read(1000).decode("utf-8", "replace"))
        return 1
    except OSError as error:
        print(f"no answer: {error}")
        end_if_silent(process)
        return 1
    ANSWERED.write_text(f"{process} {time.monotonic()}")
    print(said.decode("utf-8", "replace"))
    return 0


def url_of(address: str, probe: str) -> str:
    """The probe of the node in this very container."""
    scheme = "https" if os.environ.get("REPLICATOR_HTTP_CERT") else "http"
    return f"{scheme}://{address}/{probe}"


def end_if_silent(process: str) -> None:
    last, _, at = ANSWERED.read_text().rpartition(" ") if ANSWERED.exists() else ("", "", "0")
    silent_s = time.monotonic() - float(at)
    if process and process == last and silent_s > SILENT_S:
        print(f"it has been silent for {silent_s:.0f} s: killed")
        os.kill(int(process.partition(" ")[0]), signal.SIGKILL)


def running(data_dir: Path) -> str:
    """The node's process: its id, and when it began (the id may be another one's later); empty: there is none."""
    try:
        pid = int((data_dir / "lock").read_text().split()[1])
        return f"{pid} {Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[19]}"
    except (OSError, ValueError, IndexError):
        return ""


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2] or [""]))
