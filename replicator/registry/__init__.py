"""The reference application, and its HTTP API."""
