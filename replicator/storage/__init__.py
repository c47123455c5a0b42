"""A node's own disk: the checkpoint, forks, payloads, how a file gets to the disk."""
