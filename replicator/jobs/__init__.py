"""Jobs of a group: asked for through an RQ queue, and done by a worker (`workers/jobs.py`), or by who asks.

- `kinds.py`: which jobs there are, and which arguments each one takes. All else that a queue says is refused.
- `work.py`: what each one does; the same code in a worker and in the command that finds no worker.
- `own_job.py`: a job as it is read from the queue, which is data that anybody may have written there.
- `queue.py`: asks for jobs, follows, lists and cancels them.
- `in_worker.py`: a job within RQ's worker; `due.py`: those whose time has come; `schedule.py`: those that are
  asked for again and again, by RQ's cron.
- `backups.py`: a directory of backups, and which of them may go.

RQ is imported by the modules that need it, and not by the others.
"""
