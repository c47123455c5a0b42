"""What Python and the system do to a process: threads, forks, signals, back-off, questions that hang, log lines."""
