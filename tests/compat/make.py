"""Has an earlier commit write a log, checkpoints, a fork, an archive and a backup, and keeps them as a fixture.

    python -m tests.compat.make COMMIT [NAME]       # NAME: of the fixture; without one, the commit's

The nodes and the commands are the commit's own; what is here only drives them, and copies. tests/compat/fixtures has
the result, some kB packed. It is made once, at a release, and never again: it is what was written then.

Two nodes, a and b. a leads and writes; a snapshot is sent, the archiver and a backup take what is there. Then Redis
goes back to what it had at that moment, after a wrote on: what a has more is a fork once b leads.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import redis

from replicator.sandbox.redis_server import RedisServer
from tests.compat.group import ROOT, STATE, Group, code_of, dump, load, python_with
from tests.compat.program import GROUP
from tests.support.kv import PATIENCE_S, eventually

FIXTURES = Path(__file__).parent / "fixtures"


def knows_keys(code: Path) -> bool:
    return (code / "replicator/format/keyed.py").exists()


def knows(code: Path, command: str) -> bool:
    return (code / f"replicator/cli/{command}.py").exists()


def write(group: Group, code: Path, directory: Path) -> dict[str, Any]:
    """Play it. What was there when the archive and the backup were made, and at the end, is in the result."""
    surface = surface_of(code)
    (directory / "surface.json").write_text(json.dumps(surface))
    for name in "ab":
        group.start(name, code)
    group.promote("a", code=code)
    for n in range(1, 6):
        group.add("a", "sum", n)
    if knows_keys(code):
        group.add("a", "keyed", 7, key="order-1")
    group.command("snapshot", code=code)
    group.add("a", "after the snapshot", 1)
    group.equal()
    if knows(code, "backup"):
        group.command("backup", directory / "backup", "--state", STATE, code=code)
    if knows(code, "archive"):
        archive(group, code, directory / "archive")
    (directory / "status.json").write_text(group.command("status", "--output", "json", code=code))
    then = dict(group.added)

    before = dump(group.url)
    group.stop("b")
    group.nodes["a"].tell(add=["lost", 1])
    group.nodes["a"].tell(add=["sum", 100])
    group.stop("a")
    redis.Redis.from_url(group.url).flushall()
    load(group.url, before)
    group.start("b", code)
    group.promote(
        "b", "--force", *(["--yes"] if "--yes" in surface["commands"]["replicator promote"] else []), code=code
    )
    group.add("b", "another way", 1)
    group.start("a", code)
    group.equal()
    group.stop("a", "b")
    (directory / "log.json").write_text(json.dumps(dump(group.url)))
    return {"archived": then, "expected": group.added}


def surface_of(code: Path | None) -> dict[str, dict[str, list[str]]]:
    """What programs can name of this code; without one, of today's."""
    python, environment = python_with(code)
    command = [*python, "-m", "tests.compat.surface"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    told: dict[str, dict[str, list[str]]] = json.loads(done.stdout)
    return told


def archive(group: Group, code: Path, place: Path) -> None:
    python, environment = python_with(code)
    words = ["-c", "from replicator.cli import main; main()", "--redis", group.url, "--group", GROUP, "archive"]
    process = subprocess.Popen(
        [*python, *words, "--to", str(place), "--segment-every-s", "0.2", "--state", STATE], env=environment
    )
    try:
        status = place / "archiver.json"
        eventually(
            lambda: status.exists() and not json.loads(status.read_text()).get("lag_records", 1),
            "that all is archived",
            patience_s=PATIENCE_S,
        )
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def make(commit: str, name: str) -> Path:
    commit = _git("rev-parse", "--short=12", f"{commit}^{{commit}}")
    fixture = FIXTURES / f"{name or commit}.tar.gz"
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        code = code_of(commit, directory)
        kept = directory / "kept"
        kept.mkdir()
        (directory / "redis").mkdir()
        with RedisServer(directory / "redis") as server:
            group = Group(server, kept)
            try:
                told = write(group, code, kept)
            finally:
                group.stop()
        about = {"commit": commit, "date": _git("show", "-s", "--format=%cs", commit), "group": GROUP, **told}
        (kept / "about.json").write_text(json.dumps(about, indent=1))
        for each in [*kept.rglob("lock"), *kept.rglob("*.sqlite-shm")]:
            each.unlink()
        FIXTURES.mkdir(exist_ok=True)
        with tarfile.open(fixture, "w:gz") as packed:
            packed.add(kept, arcname="")
        shutil.rmtree(kept)
    return fixture


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    made = make(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "")
    print(f"{made.relative_to(ROOT)}: {made.stat().st_size} bytes")
