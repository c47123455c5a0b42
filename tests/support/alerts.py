"""Which alerts of replicator/metrics/rules.yml fire, where nodes were scraped twice: all was well, and then it was not.

What was scraped is made into time series: ten minutes of what was well, and then an hour and a half of the incident.
promtool says which alerts fire eight minutes into it, and once it has lasted for more than an hour.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from pathlib import Path

import yaml

import replicator.metrics
from replicator.metrics import files

from .needs import needs

__all__ = ["Scrape", "firing"]

#: Samples, by how Prometheus writes them: a name with its labels.
Scrape = dict[str, float]

INTERVAL_S = 15
WELL_SAMPLES = 40
AT = ("18m", "85m")

#: Often enough for rules that wait for minutes; each time costs as much as all rules do.
EVALUATED_EACH = "1m"

#: These go on growing while nothing comes that they wait for.
_GROWING = re.compile(r"replicator_(look_age|behind)_seconds")

#: By so much, or it is what a busy machine makes of a heartbeat.
_GROWS_FROM_S = 2.5


def firing(well: Scrape, incident: Scrape, directory: Path) -> set[str]:
    """The names of the alerts that fire in that incident. `directory`: for promtool's files."""
    needs(shutil.which("promtool") is not None, "promtool (prometheus)")
    named = set(re.findall(r"\breplicator_[a-z_]+", files.rules()))
    names = [name for name in {**well, **incident} if name.partition("{")[0] in named]
    series = [{"series": name, "values": _values(name, well.get(name), incident.get(name))} for name in names]
    asked = [
        {"expr": 'count by (alertname) (ALERTS{alertstate="firing"})', "eval_time": at, "exp_samples": []} for at in AT
    ]
    case = {"interval": f"{INTERVAL_S}s", "input_series": series, "promql_expr_test": asked}
    rules = Path(replicator.metrics.__file__).with_name("rules.yml")
    path = directory / "incident.yml"
    path.write_text(
        yaml.safe_dump({"rule_files": [str(rules)], "evaluation_interval": EVALUATED_EACH, "tests": [case]})
    )
    done = subprocess.run(["promtool", "test", "rules", str(path)], capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert "SUCCESS" in said or "got:" in said, said
    return set(re.findall(r'alertname="(\w+)"', said))


def _values(name: str, well: float | None, incident: float | None) -> str:
    before, during = (None if value is None else _at(name, value) for value in (well, incident))
    growth = "+0"
    if _GROWING.match(name) and during is not None and during > (before or 0) + _GROWS_FROM_S:
        growth = f"+{INTERVAL_S}"
    first = f"_x{WELL_SAMPLES}" if before is None else f"{json.dumps(before)}+0x{WELL_SAMPLES - 1}"
    return f"{first} {'_x400' if during is None else f'{json.dumps(during)}{growth}x400'}"


def _at(name: str, value: float) -> float:
    """The same value; a time is one of promtool's, in which the incident begins after what was well."""
    if "_timestamp_seconds" not in name:
        return value
    return value - time.time() + WELL_SAMPLES * INTERVAL_S
