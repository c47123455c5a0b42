"""`replicator archive`: follow the log of a group, and keep it as files."""

from __future__ import annotations

import threading
from contextlib import nullcontext

import click

from replicator.archive.archiver import Archiver
from replicator.archive.archiver import Settings as ArchiverSettings
from replicator.archive.metrics import serving
from replicator.archive.opening import place_of
from replicator.format.records import CLOSED
from replicator.runtime.signals import on_end

from .context import Seconds, Settings

__all__ = ["archive"]

DAY_S = 86_400.0


@click.command()
@click.option(
    "--to",
    required=True,
    envvar="REPLICATOR_ARCHIVE",
    help="A directory, or a URL that fsspec knows (s3://bucket/prefix; needs replicator[s3]).",
)
@click.option(
    "--segment-every-s",
    type=Seconds(0.1),
    default=5.0,
    show_default=True,
    help="A segment is published when its first record is so old: so much may be lost with Redis and all nodes.",
)
@click.option(
    "--segment-bytes",
    type=click.IntRange(min=1),
    default=8 * 1024 * 1024,
    show_default=True,
    help="A segment is published when it has so many bytes, unpacked. So much is held in memory.",
)
@click.option(
    "--snapshot-every-s",
    type=Seconds(),
    default=DAY_S,
    show_default=True,
    help="Ask the primary for a snapshot when the newest one is as old as that, and there were changes. 0: never.",
)
@click.option("--keep-days", type=float, default=None, help="Remove what only states older than that need.")
@click.option(
    "--keep-snapshots",
    type=click.IntRange(min=1),
    default=None,
    help="Remove what is older than the newest so many snapshots; with --keep-days whichever keeps more.",
)
@click.option("--metrics", default="", envvar="REPLICATOR_ARCHIVE_METRICS", help="HOST:PORT to serve /metrics at.")
@click.option("--state", default="", help="The class of the state, MODULE:CLASS, noted for whoever restores.")
@click.option(
    "--check-contents/--check-links",
    default=True,
    show_default=True,
    help="Read every segment at the start, or only what they say of themselves.",
)
@click.pass_obj
def archive(
    settings: Settings,
    to: str,
    segment_every_s: float,
    segment_bytes: int,
    snapshot_every_s: float,
    keep_days: float | None,
    keep_snapshots: int | None,
    metrics: str,
    state: str,
    check_contents: bool,
) -> None:
    """Follow the log, and write it to a place outside of Redis and all nodes, until told to end (SIGTERM, Ctrl-C)."""
    stopping = threading.Event()
    on_end(lambda *_: stopping.set())
    wanted = ArchiverSettings(
        segment_bytes=segment_bytes,
        segment_every_s=segment_every_s,
        snapshot_every_s=snapshot_every_s,
        keep_s=None if keep_days is None else keep_days * DAY_S,
        keep_snapshots=keep_snapshots,
        state=state,
        check_contents=check_contents,
    )
    place = place_of(to, make=True)
    # It looks into no record: an archive of sealed ones needs no key.
    with settings.log(otherwise=CLOSED) as log:
        archiver = Archiver(log, place, wanted)
        with serving(archiver.status, metrics) if metrics else nullcontext():
            archiver.run(stopping)
