"""The example of jobs, as its reader runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_example_of_jobs_runs_with_one_command(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "examples/rq/run.py", "--dir", str(tmp_path / "rq")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    logs = "".join(path.read_text() for path in sorted((tmp_path / "rq/log").glob("worker*.log")))
    assert done.returncode == 0, f"{done.stdout}{done.stderr}{logs}"
    counted, results, registered, leads = done.stdout.splitlines()
    assert counted.startswith("10 jobs, one of them killed after it had written")
    assert results == f"results: {[*range(1, 11)]}"
    assert registered == f"registered: {[f'owner-{number}' for number in range(10)]}"
    assert leads in ("now b leads", "now c leads")
    assert "Work-horse terminated unexpectedly" in logs
