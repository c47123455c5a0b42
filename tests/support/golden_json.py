"""Golden documents: the JSON of each command as it was when somebody last read it, without what is of one run only.

`REWRITE=1 pytest tests/integration/test_json_names.py -k golden` (without `-n`) writes them anew; read the difference.
A name that came, went or changed its place is a difference, and so is a code, or a list in the place of a text.
Numbers, ids, moments, paths and what is in words are not: they are of one run, and docs/json.md holds their types.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

__all__ = ["GOLDEN", "as_golden", "kept_or_rewritten"]

GOLDEN = Path(__file__).parents[1] / "integration" / "golden_json"

#: What goes by how busy the machine is, which server was found, who runs the test, or in which order things happened.
OF_THE_RUN = frozenset(
    {
        "alive", "answers", "by", "check", "code", "codes", "facts", "follows", "fork_id", "http", "in_sync", "lag_ms",
        "lag_records", "last_error", "last_error_at", "lease_ms", "level", "log_bytes", "log_id", "problem", "problems",
        "promotable", "ready", "reasons", "run_by", "source", "warnings",
    }
)  # fmt: skip

#: Of what there are many, each with a page of its own that a test holds: metrics and settings.
OF_MANY = frozenset({"label", "name", "section", "setting", "value"})

#: In words, which no program is to compare.
WORDS = frozenset({"detail", "help", "instance", "meaning", "message", "reason", "step", "summary", "title", "what"})

#: What is kept of texts: a code, or a name that the test gave.
SHORT = re.compile(r"[A-Za-z][a-z_ -]{0,39}")


def as_golden(document: Any, name: str = "") -> Any:
    """The document, with what is of one run in the form of its type. Of equal things in a list one is left."""
    if name in OF_THE_RUN | OF_MANY:
        return "~"
    if isinstance(document, dict):
        return {key: as_golden(value, key) for key, value in sorted(document.items())}
    if isinstance(document, list):
        found = [as_golden(each, name) for each in document]
        return sorted((each for index, each in enumerate(found) if each not in found[:index]), key=json.dumps)
    if isinstance(document, bool) or document is None:
        return document
    if isinstance(document, int | float):
        return 0
    return document if SHORT.fullmatch(document) and name not in WORDS else "..."


def kept_or_rewritten(name: str, documents: Any) -> tuple[Any, Any]:
    """What there is now, and what is kept, which is the same after `REWRITE=1`."""
    now, path = (
        as_golden(documents),
        GOLDEN / f"{re.sub('[^a-z]+', '-', name.lower().replace('/', 'http ')).strip('-')}.json",
    )
    if os.environ.get("REWRITE"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(now, indent=2, ensure_ascii=False) + "\n")
    return now, json.loads(path.read_text())
