"""Every decoder under inputs that nobody meant: only our own errors come out, and memory is bounded."""
