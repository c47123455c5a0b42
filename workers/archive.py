"""The archiver of a group as a process: `python -m replicator.workers.archive`. The same as `replicator archive`.

Settings come from options and from REPLICATOR_... in the environment: REPLICATOR_ARCHIVE says where to. SIGTERM stops
it in order: what it read is published.
"""

from __future__ import annotations

import sys

from replicator.cli import main

if __name__ == "__main__":
    main(["archive", *sys.argv[1:]], prog_name="replicator.workers.archive")
