"""A service of three nodes and an RQ worker whose jobs write to it, under supervisord: python examples/rq/run.py

It enqueues ten jobs. The first one is killed after it has written; while the others run, so is the primary. At the end
everybody has a host, and nobody has two. --dir says where the data and the logs are.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jobs
import rq
from rq.serializers import JSONSerializer

from replicator import ops
from replicator.client import Client
from replicator.log.redis_log import RedisLog, client_for
from replicator.runtime.signals import Interruption
from replicator.sandbox.stack import DevStack

HERE = Path(__file__).resolve().parent
OWNERS = [f"owner-{number}" for number in range(10)]
PATIENCE_S = 120.0


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--dir", type=Path, help="an empty directory, to keep the data and the logs")
    with tempfile.TemporaryDirectory(prefix="example-") as temporary:
        stack = DevStack(
            options.parse_args().dir or temporary,
            port=0,
            group="registry",
            conf=HERE / "supervisord.conf",
            environment={"EXAMPLE_DIR": str(HERE)},
        )
        with Interruption() as interruption:
            stack.run_until(interruption, play)


def play(stack: DevStack) -> None:
    log = RedisLog(stack.redis_url, stack.group)
    try:
        wait(lambda: "a" in log.look().heartbeats)
        if ops.status(log).term == 0:
            ops.promote(log, "a", by="the example", reason="the first primary", timeout_s=PATIENCE_S)
        results = run_jobs(stack)
        print(f"{len(results)} jobs, one of them killed after it had written; the primary was killed as well")
        print(f"results: {sorted(result['id'] for result in results)}")
        with Client(stack.redis_url, stack.group, timeout_s=PATIENCE_S) as client:
            nodes = client.get("/v1/nodes", fresh=True).json()["nodes"]
        print(f"registered: {sorted(node['owner'] for node in nodes)}")
        print(f"now {ops.status(log).holder} leads")
    finally:
        log.close()


def run_jobs(stack: DevStack) -> list[Any]:
    with client_for(stack.redis_url) as redis:
        queue = rq.Queue("example", connection=redis, serializer=JSONSerializer)
        first, *others = OWNERS
        enqueued = [queue.enqueue(jobs.register_and_die, first, retry=rq.Retry(max=3))]
        enqueued += [queue.enqueue(jobs.register, owner, retry=rq.Retry(max=3)) for owner in others]
        wait(lambda: enqueued[2].get_status(refresh=True) == "finished")
        stack.kill_program("node-a")
        wait(lambda: all(job.get_status(refresh=True) in ("finished", "failed") for job in enqueued))
        return [job.return_value(refresh=True) for job in enqueued]


def wait(holds: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError("the example hangs: its logs say why")
        time.sleep(0.05)


if __name__ == "__main__":
    main()
