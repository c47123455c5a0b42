"""A group on this machine: the dev stack, the drill, a Redis, a line that fails."""
