"""The files for Prometheus and Grafana, wherever the package is: in a checkout, or installed."""

from __future__ import annotations

from importlib.resources import files

__all__ = ["dashboard", "rules"]


def rules() -> str:
    """Alerting rules for Prometheus (YAML)."""
    return _read("rules.yml")


def dashboard() -> str:
    """A dashboard for Grafana (JSON), to be imported."""
    return _read("dashboard.json")


def _read(name: str) -> str:
    return files("replicator.metrics").joinpath(name).read_text(encoding="utf-8")
