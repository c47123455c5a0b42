"""The documentation as a site: every page is in it, and every link and anchor leads somewhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytest.importorskip("mkdocs")


def build(source: Path, site: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=source, env=env, capture_output=True, text=True, check=False)


def test_the_site_has_every_page_and_no_link_in_it_is_broken(tmp_path: Path) -> None:
    done = build(ROOT, tmp_path)
    assert done.returncode == 0, done.stderr
    pages = [page.relative_to(ROOT / "docs") for page in (ROOT / "docs").rglob("*.md") if page.stem != "index"]
    missing = [page for page in pages if not (tmp_path / page.with_suffix("") / "index.html").exists()]
    assert missing == []
    # the README is the first page, and the reference has what the docstrings say
    assert "What happens to a write when the primary hangs" in (tmp_path / "index.html").read_text()
    assert "One node of a group" in (tmp_path / "reference/node/index.html").read_text()


def test_links_that_lead_nowhere_are_found(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in ("docs", "replicator"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (*ROOT.glob("*.md"), ROOT / "mkdocs.yml"):
        shutil.copy(path, source)
    with (source / "docs/reads.md").open("a") as page:
        page.write("\n[a](nowhere.md) [b](design.md#no-such-heading) [c](../NOTHING.md)\n")
    done = build(source, tmp_path / "site")
    assert done.returncode != 0
    for problem in ("nowhere.md", "no-such-heading", "NOTHING.md"):
        assert problem in done.stderr
