"""What asks for the jobs of a group at their times: `python -m replicator.workers.cron`. The same as `replicator jobs
cron`.

Settings come from options and from REPLICATOR_... in the environment: REPLICATOR_JOBS_CRON_VERIFY, ..._BACKUP,
..._DRILL and others say when, as five fields of cron, or `off`. Two of these processes ask once.
"""

from __future__ import annotations

import sys

from replicator.cli import main

if __name__ == "__main__":
    main(["jobs", "cron", *sys.argv[1:]], prog_name="replicator.workers.cron")
