"""The files that are printed are there."""

from __future__ import annotations

import json

import yaml

from replicator.metrics import files


def test_they_are_what_they_say() -> None:
    assert yaml.safe_load(files.rules())["groups"]
    assert json.loads(files.dashboard())["title"] == "replicator"
