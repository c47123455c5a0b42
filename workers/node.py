"""A node of the registry as a process: `python -m replicator.workers.node --name a`. The same as `replicator node`.

Settings come from options and from REPLICATOR_... in the environment. SIGTERM stops it cleanly, with exit code 0.
"""

from __future__ import annotations

import sys

from replicator.cli import main

if __name__ == "__main__":
    main(["node", *sys.argv[1:]], prog_name="replicator.workers.node")
