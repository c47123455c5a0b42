"""Chaos: real nodes, real servers, faults drawn from a seed, and a checker that knows nothing of how it all works.

    python -m tests.chaos --seed 1 --faults 100

A run has five kinds of parts. *Nodes* (`node.py`) are processes around an append-only list. *Clients* (`client.py`)
are processes that write unique values and read them back, and note every call and every answer. The *nemesis*
(`nemesis.py`) carries out the faults of a schedule (`schedule.py`), which the seed decides before the run begins. The
*watchers* (`watcher.py`) note what nodes say of themselves, and every record of the log. At the end everything is
healed, and what is left is collected (`cluster.py`). The *checker* (`checker.py`) takes these notes and says which
promise was broken, if one was.

The notes of a run that failed are kept, with the logs of the nodes. The seed replays the schedule, not the run: threads
and clocks are not ours to decide.
"""
