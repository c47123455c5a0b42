"""Before the real one on the path of the processes that tests start: redis-py imports the SDK of OpenTelemetry, for
metrics of its own, where it finds it, and that is a fifth of what it costs a process to start."""

raise ImportError("no process that a test starts needs it")
