"""The states of the examples, tried as docs/testing-your-service.md says; and what the documents quote of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import strategies as st

from examples import installing
from examples.flags.state import Flag, FlagState
from examples.scheduler.state import Jobs
from replicator import ChangeRejected
from replicator.errors import ReplicatorError
from replicator.testing import Cluster, check_state, strategies

ROOT = Path(__file__).parents[2]

#: A link to the file that ends a paragraph, and blocks of it.
QUOTED = re.compile(r"\]\(\.\./(examples/[\w/.]+\.py)\):\n\n((?:```python\n.*?^```\n\n?)+)", re.MULTILINE | re.DOTALL)

QUOTES = [
    (page.name, path, block)
    for page in sorted((ROOT / "docs").glob("*.md"))
    for path, blocks in QUOTED.findall(page.read_text())
    for block in re.findall(r"```python\n(.*?)^```", blocks, re.MULTILINE | re.DOTALL)
]


@pytest.mark.parametrize("state", [FlagState, Jobs])
def test_it_can_be_replicated(state: type[FlagState] | type[Jobs]) -> None:
    check_state(state, strategies.commands(state, name=st.sampled_from(["a", "b"])), examples=30)


def test_a_flag_survives_a_failover() -> None:
    with Cluster(3, FlagState) as cluster:
        assert cluster.submit(FlagState.set_flag("dark-mode", on=True)) == Flag(True)
        cluster.kill("a")
        primary = cluster.settle()
        with primary.reading() as state:
            assert state.flags == {"dark-mode": Flag(True)}


def test_a_flag_that_is_not_there_cannot_be_removed() -> None:
    with Cluster(1, FlagState) as cluster, pytest.raises(ChangeRejected, match="there is no flag beta"):
        cluster.submit(FlagState.remove_flag("beta"))


def test_a_run_that_was_noted_is_not_due_again_on_the_next_primary() -> None:
    with Cluster(3, Jobs) as cluster:
        # given
        cluster.submit(Jobs.add("hello", every_s=10.0, now=1000.0))
        cluster.submit(Jobs.add("bye", every_s=10.0, now=1000.0))
        cluster.submit(Jobs.ran("hello", now=1000.0))
        # when
        cluster.kill("a")
        primary = cluster.settle()
        # then
        with primary.reading() as state:
            assert state.due(1000.0) == ["bye"]
            assert state.due(1010.0) == ["hello", "bye"]


@pytest.mark.parametrize(("page", "path", "block"), QUOTES, ids=[f"{page}-{n}" for n, (page, *_) in enumerate(QUOTES)])
def test_what_a_page_quotes_is_in_the_file_that_it_names(page: str, path: str, block: str) -> None:
    assert block in (ROOT / path).read_text()


def test_pages_quote_each_example_that_shows_something_of_its_own() -> None:
    assert {path for _, path, _ in QUOTES} >= {"examples/flags/app.py", "examples/scheduler/app.py"}


@pytest.mark.parametrize("name", ["flags", "links", "scheduler"])
def test_a_service_is_less_than_a_hundred_lines(name: str) -> None:
    files = [path for path in (ROOT / "examples" / name).glob("*.py") if not path.name.startswith("__")]
    assert sum(len(path.read_text().splitlines()) for path in files) < 100


def test_a_program_is_installed_once_and_again_only_after_it_was_cut_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installing, "PROGRAMS", tmp_path / "programs")
    found: list[list[str]] = []

    def cut_short(directory: Path) -> None:
        (directory / "half").touch()
        raise ReplicatorError("cut short")

    def install(directory: Path) -> None:
        found.append([path.name for path in directory.iterdir()])

    with pytest.raises(ReplicatorError, match="cut short"):
        installing.installed("it", "1", cut_short)
    where = {installing.installed("it", "1", install) for _ in range(2)}
    assert where == {tmp_path / "programs" / "it-1"}
    assert found == [[]], "once, into an empty directory"


def test_without_npm_it_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installing, "PROGRAMS", tmp_path / "programs")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ReplicatorError, match=r"json-server needs Node\.js and npm, which are not here"):
        installing.from_npm("json-server", "0.17.4")
    assert not (tmp_path / "programs").exists()


def test_what_an_installer_says_at_its_end_is_shown() -> None:
    with pytest.raises(ReplicatorError, match="sh ended with exit code 3: no such package"):
        installing.run(["sh", "-c", "echo no such package >&2; exit 3"])
