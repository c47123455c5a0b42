"""What a panel of Grafana's of type `stat` says in words, of what a real Prometheus answers: a stand-in for the eye.

It knows what our dashboard uses: the legend as a name, the value as it is or by its mappings, and what stands there if
there is no value. Colours and places are Grafana's own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tests.support.prometheus import Prometheus

__all__ = ["in_words", "with_variables"]

#: What Grafana puts in.
VARIABLES = {"$__rate_interval": "1m", "$group": ".*", "$node": ".*"}


def with_variables(query: str) -> str:
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    assert "$" not in query
    return query


def in_words(panel: Mapping[str, Any], prometheus: Prometheus) -> list[str]:
    """One text for each value that it shows, in order."""
    assert panel["type"] == "stat"
    defaults = panel["fieldConfig"]["defaults"]
    told = [
        _text(panel["options"]["textMode"], _name(target["legendFormat"], found["metric"]), found["value"][1], defaults)
        for target in panel["targets"]
        for found in prometheus.ask("query", query=with_variables(target["expr"]))["result"]
    ]
    return sorted(told) or [defaults["noValue"]]


def _text(mode: str, name: str, value: str, defaults: Mapping[str, Any]) -> str:
    shown = _mapped(float(value), defaults["mappings"])
    return {"name": name, "value": shown, "value_and_name": f"{name}: {shown}"}[mode]


def _name(legend: str, labels: Mapping[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels[found[1]], legend)


def _mapped(value: float, mappings: list[dict[str, Any]]) -> str:
    for each in mappings:
        options = each["options"]
        if each["type"] == "value" and f"{value:g}" in options:
            return str(options[f"{value:g}"]["text"])
        if each["type"] == "range" and options["from"] <= value <= options["to"]:
            return str(options["result"]["text"])
    return f"{value:g}"
