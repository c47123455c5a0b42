"""The state of the scheduler: which jobs there are, and when each is due."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from replicator import ChangeRejected, Commands, change

YEAR_S = 366 * 86_400.0


@dataclass(frozen=True)
class Job:
    every_s: float
    due_at: float  # Unix time, in seconds
    runs: int = 0


@dataclass
class Jobs(Commands):
    jobs: dict[str, Job] = field(default_factory=dict)

    @change
    def add(self, name: str, every_s: float, now: float) -> Job:  # every node has the same now: that of who submits
        if not 0 < every_s <= YEAR_S:  # a sum of two numbers without a bound need not be a number that JSON has
            raise ChangeRejected("every_s is above 0, and at most a year", field="every_s")
        job = self.jobs[name] = Job(every_s, due_at=now)
        return job

    @change
    def ran(self, name: str, now: float) -> None:
        job = self.jobs.get(name)
        if job is None:
            raise ChangeRejected("there is no job {name}", field="name", name=name)
        self.jobs[name] = replace(job, due_at=now + job.every_s, runs=job.runs + 1)

    def due(self, now: float) -> list[str]:
        return [name for name, job in self.jobs.items() if job.due_at <= now]
