"""Tests of `replicator.metrics`."""
