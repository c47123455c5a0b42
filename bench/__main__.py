"""`python -m bench`: starts a Redis of its own, runs the benchmarks, prints tables, and writes them down if asked.

Everything it makes is in a temporary directory and in one Redis, and is gone when it ends. In a Redis of yours
(`--redis`) the keys begin with `bench-` or `replicator:{bench-`, and are deleted at the end.
"""

from __future__ import annotations

import datetime
import shlex
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import fill

import click

from bench import (
    against_peers,
    append,
    applied,
    archive,
    attacked,
    directory,
    failover,
    group_commit,
    groups,
    http,
    idle,
    keys,
    lease_release,
    metrics,
    middleware,
    one_percent,
    patch,
    plots,
    probes,
    proxy,
    sealed,
    snapshot,
    soak,
    sqlite,
    standbys,
    state_size,
)
from bench.goals import GOALS, goals_table
from bench.harness import Benchmark, Report, Setting, load_line, machine_line, plain_client, quiet
from bench.results import Result, document, keep, kept
from replicator.sandbox.redis_server import RedisServer

#: In the order in which they run and are written down.
BENCHMARKS: dict[str, Benchmark] = {
    "append": append,
    "group-commit": group_commit,
    "applied": applied,
    "keys": keys,
    "sealed": sealed,
    "metrics": metrics,
    "archive": archive,
    "peers": against_peers,
    "state-size": state_size,
    "standbys": standbys,
    "one-percent": one_percent,
    "snapshot": snapshot,
    "patch": patch,
    "sqlite": sqlite,
    "directory": directory,
    "failover": failover,
    "idle": idle,
    "groups": groups,
    "http": http,
    "middleware": middleware,
    "probes": probes,
    "attacked": attacked,
    "proxy": proxy,
    "lease-release": lease_release,
    "soak": soak,
}


@click.command()
@click.argument("names", nargs=-1, metavar=f"[{'|'.join(BENCHMARKS)}]...", type=click.Choice(list(BENCHMARKS)))
@click.option("--quick", is_flag=True, help="Small sizes and few rounds: whether it works, not how fast it is.")
@click.option("--minutes", type=float, help="Of the soak, instead of its short form.")
@click.option("--redis", "url", help="A Redis to use, instead of one that is started for this run.")
@click.option(
    "--aof",
    type=click.Choice(["no", "everysec", "always"]),
    default="everysec",
    show_default=True,
    help="appendfsync of the Redis that is started.",
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A Markdown file to write. What was measured goes into a directory beside it, FILE without its suffix; "
    "sections of benchmarks that do not run now stay as they are.",
)
@click.option("--redraw", is_flag=True, help="Measure nothing: write --out and its plots anew from what is kept.")
def main(
    names: tuple[str, ...],
    quick: bool,
    minutes: float | None,
    url: str | None,
    aof: str,
    out: Path | None,
    redraw: bool,
) -> None:
    """Measure what replicator costs, against the same by hand and against others. Without a name: all of it."""
    quiet()
    if out is not None and not plots.can_draw():
        click.echo("matplotlib is not installed (pip install '.[bench]'): no plots are drawn", err=True)
    if redraw:
        if out is None:
            raise click.UsageError("--redraw needs --out")
        for result in kept(out.with_suffix(""), BENCHMARKS):
            _write(result, out)
        return
    results: list[Result] = []
    failed: list[str] = []
    with (
        tempfile.TemporaryDirectory(prefix="replicator-bench-") as directory,
        _redis(url, Path(directory), aof) as used,
    ):
        setting = Setting(url=used, directory=Path(directory))
        machine = machine_line(used)
        click.echo(machine)
        for name in names or BENCHMARKS:
            try:
                results.append(_run(name, setting, machine, quick=quick, minutes=minutes))
            except Exception:
                # The others are not to be lost: a whole run takes long.
                failed.append(name)
                traceback.print_exc()
                continue
            if out is not None:
                _write(results[-1], out)
    figures = {result.name: result.report.figures for result in results}
    measured = [goal for goal in GOALS if goal.of in figures]
    click.echo(f"\n{goals_table(measured, figures).as_text()}")
    if failed:
        sys.exit(f"\nnot measured, see above: {', '.join(failed)}")
    if wrong := [line for result in results for line in result.report.wrong]:
        sys.exit("\n".join(["", "this must not be:", *wrong]))


def _write(result: Result, out: Path) -> None:
    """Keep a result, and write the document anew from all that are kept."""
    directory = out.with_suffix("")
    keep(result, directory)
    out.write_text(document(kept(directory, BENCHMARKS), plots_below=directory, images=directory.name))


@contextmanager
def _redis(url: str | None, directory: Path, aof: str) -> Iterator[str]:
    if url is not None:
        yield url
        _delete_ours(url)
        return
    # No rewrite of the AOF: it would fall into some case of some round.
    config: dict[str, str | int | Sequence[str]] = {"appendfsync": aof, "auto-aof-rewrite-percentage": 0}
    with RedisServer(directory / "redis", config=config) as server:
        yield server.url


def _delete_ours(url: str) -> None:
    with plain_client(url) as client:
        for pattern in ("bench-*", "replicator:{bench-*"):
            for key in client.scan_iter(match=pattern, count=1000):
                client.unlink(key)


def _run(name: str, setting: Setting, machine: str, *, quick: bool, minutes: float | None) -> Result:
    benchmark = BENCHMARKS[name]
    sizes = benchmark.QUICK if quick else benchmark.FULL
    if minutes is not None and isinstance(sizes, soak.Sizes):
        sizes = soak.of_minutes(sizes, minutes)
    before, began = load_line(), time.monotonic()
    report = benchmark.measure(setting, sizes)
    took_s = time.monotonic() - began
    _show(report)
    load = f"Load average {before} before, {load_line()} after; it took {took_s:,.0f} s"
    click.echo(f"\n  {load}")
    return Result(
        name=name,
        report=report,
        command=shlex.join(["python", "-m", "bench", *sys.argv[1:]]),
        date=f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}",
        machine=machine,
        load=load,
    )


def _show(report: Report) -> None:
    click.echo(f"\n{report.title}\n")
    click.echo("\n\n".join(table.as_text() for table in report.tables))
    for note in report.notes:
        click.echo(f"\n{fill(note, 118, initial_indent='  ', subsequent_indent='  ')}")


if __name__ == "__main__":
    main()
