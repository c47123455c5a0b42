"""A scheduler whose jobs run on the primary only: Flask, on threads. `python -m examples.scheduler` runs it.

A job is due again and again; whichever process leads runs it, and notes in the state that it did. So no run is lost or
done twice because a process died, but for one whose effect could not be noted any more: that one is done again.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import Any

from flask import Flask, request

from replicator import ChangeRejected, Commands, Leadership, Node, change
from replicator.web.wsgi import Replicated


@dataclass(frozen=True)
class Job:
    every_s: float
    due_at: float  # unix time, in seconds
    runs: int = 0


@dataclass
class Jobs(Commands):
    jobs: dict[str, Job] = field(default_factory=dict)

    @change
    def add(self, name: str, every_s: float, due_at: float) -> Job:
        if every_s <= 0:
            raise ChangeRejected("every_s is above 0", field="every_s")
        job = self.jobs[name] = Job(every_s, due_at)
        return job

    @change
    def ran(self, name: str, due_at: float) -> None:
        job = self.jobs.get(name)
        if job is not None:
            self.jobs[name] = Job(job.every_s, due_at, job.runs + 1)


node = Node(
    Jobs(),
    group="scheduler",
    name=os.environ["NAME"],
    redis=os.environ["REPLICATOR_REDIS"],
    data_dir=os.environ["DATA_DIR"],
    http=os.environ["URL"],
    auto_promote=True,
)
app = Flask(__name__)
app.wsgi_app = Replicated(app.wsgi_app, node=node)  # type: ignore[method-assign]


@node.every(0.2)
def run_what_is_due(leadership: Leadership) -> None:
    now = time.time()
    with node.reading() as state:
        due = [(name, job) for name, job in state.jobs.items() if job.due_at <= now]
    for name, job in due:
        leadership.check()  # this process may have been paused: then somebody else leads
        print(f"{node.name} runs {name} (term {leadership.term})", flush=True)
        leadership.submit(Jobs.ran(name, now + job.every_s))


@app.get("/jobs")
def list_jobs() -> dict[str, Any]:
    with node.reading() as state:
        return {name: {"every_s": job.every_s, "runs": job.runs} for name, job in state.jobs.items()}


@app.put("/jobs/<name>")
def add_job(name: str) -> dict[str, Any]:
    body = request.get_json()
    job = node.submit(Jobs.add(name, body["every_s"], time.time()))
    return {"every_s": job.every_s, "runs": job.runs}
