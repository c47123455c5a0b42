"""The log of a group, kept as files outside of Redis and of all nodes; and any earlier state, made of it again.

`archiver.py` follows the log and writes segments (`segment.py`) to a place (`places.py`, `object_store.py`). What is
there is a `Catalog` of timelines (`catalog.py`), which `target.py` looks a record or a time up in, and `folding.py`
makes a state of. docs/archive.md is about all of it.
"""
