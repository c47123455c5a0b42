"""`python -m bench`: starts a Redis of its own, runs the benchmarks, prints tables, and writes them down if asked.

Everything it makes is in a temporary directory and in one Redis, and is gone when it ends. In a Redis of yours
(`--redis`) the keys begin with `bench-` or `replicator:{bench-`, and are deleted at the end.
"""

from __future__ import annotations

import datetime
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import fill

import click

from bench import append, applied, failover, group_commit, patch, snapshot
from bench.harness import Benchmark, Report, Setting, load_line, machine_line, plain_client, quiet
from replicator.redis_server import RedisServer

#: In the order in which they run and are written down.
BENCHMARKS: dict[str, Benchmark] = {
    "append": append,
    "group-commit": group_commit,
    "applied": applied,
    "snapshot": snapshot,
    "patch": patch,
    "failover": failover,
}

PREAMBLE = """\
# Benchmarks

What a commit costs, how far behind a standby is, how long a whole state takes, or what changed in one, and how long
nobody can write when the primary is gone. Each benchmark measures the package and a baseline that does the same work by
hand (failover: others that fail over), in the same run, in turns: round after round, each round beginning with another
case. A figure is a median over the rounds. A ratio is that of the medians, with the lowest and the highest ratio of a
single round in brackets; where that range reaches over 1, there is no difference to speak of. Compare ratios, not
figures: the machine drifts, and figures of two runs, or of two tables, have little to do with each other. All processes
run on one machine. Where the load average below is above its number of cores, they have waited for one another and for
whoever else was there, which hits hardest what takes several processes to do. Between machines a network is added to
both sides, which moves the ratios towards 1.

This file is written by the command below.
"""


@click.command()
@click.argument("names", nargs=-1, metavar=f"[{'|'.join(BENCHMARKS)}]...", type=click.Choice(list(BENCHMARKS)))
@click.option("--quick", is_flag=True, help="Small sizes and few rounds: whether it works, not how fast it is.")
@click.option("--redis", "url", help="A Redis to use, instead of one that is started for this run.")
@click.option(
    "--aof",
    type=click.Choice(["no", "everysec", "always"]),
    default="everysec",
    show_default=True,
    help="appendfsync of the Redis that is started.",
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="A Markdown file to write.")
def main(names: tuple[str, ...], quick: bool, url: str | None, aof: str, out: Path | None) -> None:
    """Measure what replicator costs, against the same by hand. Without a name: all of it, some minutes."""
    load_before = load_line()
    quiet()
    with (
        tempfile.TemporaryDirectory(prefix="replicator-bench-") as directory,
        _redis(url, Path(directory), aof) as used,
    ):
        setting = Setting(url=used, directory=Path(directory))
        machine = machine_line(used)
        click.echo(machine)
        reports = [_run(name, setting, quick=quick) for name in names or BENCHMARKS]
    load = f"load average {load_before} before, {load_line()} after"
    click.echo(f"\n{load}")
    if out is not None:
        out.write_text(as_markdown(reports, machine=machine, load=load))


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


def _run(name: str, setting: Setting, *, quick: bool) -> Report:
    benchmark = BENCHMARKS[name]
    report = benchmark.measure(setting, benchmark.QUICK if quick else benchmark.FULL)
    click.echo(f"\n{report.title}\n")
    click.echo("\n\n".join(table.as_text() for table in report.tables))
    for note in report.notes:
        click.echo(f"\n{fill(note, 118, initial_indent='  ', subsequent_indent='  ')}")
    return report


def as_markdown(reports: list[Report], *, machine: str, load: str) -> str:
    """The reports as a document, with the command that made it."""
    command = shlex.join(["python", "-m", "bench", *sys.argv[1:]])
    facts = [
        f"- Command: `{command}`",
        f"- Date: {datetime.datetime.now(datetime.UTC):%Y-%m-%d}",
        f"- Machine: {machine}",
        f"- {load.capitalize()}",
    ]
    sections = ["\n\n".join([f"## {report.title}", report.prose.strip(), *_body(report)]) for report in reports]
    return "\n\n".join([PREAMBLE.strip(), "\n".join(facts), *sections]) + "\n"


def _body(report: Report) -> list[str]:
    return [*(table.as_markdown() for table in report.tables), *(fill(note, 120) for note in report.notes)]


if __name__ == "__main__":
    main()
