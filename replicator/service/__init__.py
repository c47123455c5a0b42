"""A node as a process: with the registry, or beside another program."""
