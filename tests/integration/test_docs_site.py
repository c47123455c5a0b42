"""The documentation as a site: every page is in it, and every link and anchor leads somewhere."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

import replicator
import replicator.errors

ROOT = Path(__file__).parents[2]

#: What is in each page of the reference, at the least.
REFERENCE = {
    "node": "node.node.Node node.node.Node.on_role node.node.Node.asubmit node.options.NodeOptions",
    "states": "state.State state.KeptState state.SharedState state.CheckedState state.CheckingState state.TypedResults "
    "state.mapping.DictState state.mapping.put state.mapping.put_many state.mapping.delete state.commands.Commands "
    "state.commands.change state.expiry.expiry state.expiry.Expiry.job",
    "keys": "format.keyed.Key",
    "roles": "node.leadership.Leadership node.leadership.Leadership.check node.role_callbacks.RoleEvent",
    "events": "node.events.NodeEvent",
    "web": "web.asgi.Replicated web.wsgi.Replicated web.options.Options web.cookie.Cookie",
    "client": "client.client.Client client.async_client.AsyncClient client.answers.raise_for_error",
    "rq": "rq.in_term rq.submit_from_job rq.enqueue_in_term rq.Term rq.TermOver",
    "testing": "testing.cluster.Cluster testing.state_check.check_state testing.strategies.commands "
    "testing.pytest_plugin.replicator_cluster testing.memory_log.MemoryLog",
    "host": "node.host.Host",
    "errors": "errors.Fenced errors.KeyReused errors.OutcomeUnknown",
}

#: Types of what calls take and give, whose fields the pages of the guide name.
NOT_CLASSES_TO_CALL = {"Change", "Position", "Published", "RecordId", "ReplicatedState"}

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
    assert (tmp_path / "examples/flags/app.py").read_text() == (ROOT / "examples/flags/app.py").read_text()
    # the README is the first page, and the reference has what the docstrings say
    assert "What happens to a write when the primary hangs" in (tmp_path / "index.html").read_text()
    for page, names in REFERENCE.items():
        text = (tmp_path / "reference" / page / "index.html").read_text()
        assert [name for name in names.split() if f'id="replicator.{name}"' not in text] == [], page


def test_the_reference_has_everything_that_is_exported() -> None:
    names = {name.rpartition(".")[2] for names in REFERENCE.values() for name in names.split()}
    errors = {name for name, value in vars(replicator.errors).items() if inspect.isclass(value)}
    assert set(replicator.__all__) - errors - names == NOT_CLASSES_TO_CALL


def test_links_that_lead_nowhere_are_found(tmp_path: Path) -> None:
    # given the configuration of the site, and two pages
    source = tmp_path / "source"
    (source / "docs").mkdir(parents=True)
    settings = (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[0]
    (source / "mkdocs.yml").write_text(
        settings.replace("hooks: [docs/site_hooks.py]\n", "") + "\nnav: [index.md, b.md]\n"
    )
    (source / "docs/b.md").write_text("# b\n\n## A heading\n")
    index = "# a\n\n[a](b.md) [b](b.md#a-heading)\n"
    (source / "docs/index.md").write_text(index)
    # when all links lead somewhere, it is built
    done = build(source, tmp_path / "site")
    assert done.returncode == 0, done.stderr
    # and when some lead nowhere, they are named
    wrong = "[c](nowhere.md) [d](b.md#no-such-heading) [e](../NOTHING.md) [f](../examples/none.py)"
    (source / "docs/index.md").write_text(f"{index}{wrong}\n")
    done = build(source, tmp_path / "site")
    assert done.returncode != 0
    for problem in ("nowhere.md", "no-such-heading", "NOTHING.md", "none.py"):
        assert problem in done.stderr
