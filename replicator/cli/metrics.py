"""`replicator metrics`: prints what Prometheus and Grafana are set up with. A node serves the metrics themselves."""

from __future__ import annotations

import click

from replicator.metrics import files
from replicator.metrics.catalogue import METRICS

from .context import output_option, show_json, table

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
@output_option
def list_(output: str) -> None:
    """All metrics, and what they mean."""
    found = [each._asdict() for each in METRICS.values()]
    if output == "json":
        show_json(found)
        return
    click.echo(table(("name", "kind", "label", "help"), found))
