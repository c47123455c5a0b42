"""A node: it writes, reads, keeps its lease, takes over. `host.py`: many of them in one process."""
