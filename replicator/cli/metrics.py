"""`replicator metrics`: prints what Prometheus and Grafana are set up with. A node serves the metrics themselves."""

from __future__ import annotations

import click

from replicator.metrics import files
from replicator.metrics.catalogue import METRICS

from .context import table

__all__ = ["metrics"]


@click.group()
def metrics() -> None:
    """Print the rules for Prometheus, the dashboard for Grafana, or the list of all metrics (each node: /metrics)."""


@metrics.command()
def rules() -> None:
    """Alerting rules, a file for `rule_files` of Prometheus."""
    click.echo(files.rules(), nl=False)


@metrics.command()
def dashboard() -> None:
    """A dashboard, to be imported into Grafana."""
    click.echo(files.dashboard(), nl=False)


@metrics.command(name="list")
def list_() -> None:
    """All metrics, and what they mean."""
    click.echo(table(("name", "kind", "label", "help"), [each._asdict() for each in METRICS.values()]))
