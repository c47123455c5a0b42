"""A scheduler whose jobs run on the primary only: Flask, threads. `python -m examples.scheduler` runs three processes.

Whichever process leads runs what is due, and then notes in the state that it did. So no run is left out because a
process died. One that died between the two has run a job that is due still: the next primary runs it again.
"""

from __future__ import annotations

import time
from typing import Any

from flask import Flask, request

from examples.scheduler.state import Jobs
from replicator import Leadership, Node, ReplicatorError
from replicator.web.idempotency import idempotency_key
from replicator.web.wsgi import Replicated, answer

node = Node.from_env(Jobs(), group="scheduler", auto_promote=True)
app = Flask(__name__)
app.wsgi_app = Replicated(app.wsgi_app, node=node)  # type: ignore[method-assign, assignment]
app.register_error_handler(ReplicatorError, answer)


@node.every(0.2)
def run_what_is_due(leadership: Leadership) -> None:
    with node.reading() as state:
        due = state.due(time.time())
    for name in due:
        leadership.check()  # this process may have been paused: then another one leads by now
        print(f"{node.name} runs {name} (term {leadership.term})", flush=True)
        leadership.submit(Jobs.ran(name, time.time()))


@app.get("/jobs")
def list_jobs() -> dict[str, Any]:
    with node.reading() as state:
        return dict(state.jobs)


@app.put("/jobs/<name>")
def add_job(name: str) -> dict[str, Any]:
    every_s = request.args.get("every_s", 0.0, type=float)
    job = node.submit(Jobs.add(name, every_s, time.time()), key=idempotency_key(request.headers))
    return {name: job}
