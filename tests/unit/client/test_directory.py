"""Which nodes a client finds, in what the group's log shows."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from replicator import LogUnavailable, UnknownGroup
from replicator.client.directory import RedisDirectory, StaticDirectory, nodes_of
from replicator.client.known import Nodes
from replicator.format.ids import ORIGIN, ZERO_ID
from replicator.protocol.group import GroupView, Head
from replicator.protocol.heartbeat import Heartbeat

HEAD = Head("log-1", "run-1", 5, "a", "a1", ORIGIN)


def beat(name: str, **more: Any) -> Heartbeat:
    return Heartbeat(name, f"{name}1", **{"http": f"http://{name}:1", **more})


def view(*heartbeats: Heartbeat, head: Head | None = HEAD, run: str = "run-1") -> GroupView:
    beats = {heartbeat.node: heartbeat for heartbeat in heartbeats}
    return GroupView(run=run, term=5, head=head, last_id=ZERO_ID, lease_ms=None, heartbeats=beats)


def test_the_holder_of_the_term_and_the_others() -> None:
    assert nodes_of(view(beat("a"), beat("c"), beat("b"))) == Nodes("http://a:1", ("http://b:1", "http://c:1"))


@pytest.mark.parametrize(
    "unfit",
    [
        beat("b", http=""),
        beat("b", age_ms=60_000),
        beat("b", left=True),
        beat("b", in_sync=False),
        beat("b", stalled="apply failed"),
        beat("b", diverged="3-4"),
        beat("b", given_up="asked by ann"),
    ],
)
def test_a_standby_that_cannot_show_the_state_is_not_read(unfit: Heartbeat) -> None:
    assert nodes_of(view(beat("a"), unfit)) == Nodes("http://a:1", ())


@pytest.mark.parametrize(
    "group",
    [
        view(beat("a", age_ms=60_000), beat("b")),
        view(beat("a", left=True), beat("b")),
        view(beat("a", http=""), beat("b")),
        view(beat("b")),
        view(beat("b"), head=None),
    ],
)
def test_who_does_not_live_or_cannot_be_reached_does_not_lead(group: GroupView) -> None:
    assert nodes_of(group) == Nodes(None, ("http://b:1",))


def test_in_another_life_the_holder_is_a_standby_like_any_other() -> None:
    again = beat("a")._replace(boot="a2")
    assert nodes_of(view(again, beat("b"))).primary is None
    assert nodes_of(view(beat("a"), beat("b"), run="run-2")).primary is None


def test_a_base_path_stays_and_a_slash_at_the_end_goes() -> None:
    found = nodes_of(view(beat("a", http="https://a/app/"), beat("b", http="http://b:1/")))
    assert found == Nodes("https://a/app", ("http://b:1",))


def test_a_list_is_what_it_is() -> None:
    found = StaticDirectory(["http://a:1/", "http://b:1", "http://a:1"]).look(0.0)
    assert found == Nodes(None, ("http://a:1", "http://b:1"), has_roles=False)


class TestRedis:
    @pytest.fixture
    def directory(self) -> Any:
        directory = RedisDirectory("unix:///nobody/is/here", "g")
        yield directory
        directory.close()

    def looks(self, directory: RedisDirectory, found: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        def look(log: Any) -> GroupView:
            if isinstance(found, Exception):
                raise found
            return found

        monkeypatch.setattr(type(directory._log), "look", look)

    def test_a_log_that_cannot_be_written_still_says_where_the_nodes_are(
        self, directory: RedisDirectory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        marred = view(beat("a"), beat("b"))._replace(marred="something else wrote there")
        self.looks(directory, LogUnavailable.marred(marred, url="redis://h"), monkeypatch)
        assert directory.look(1e12) == Nodes("http://a:1", ("http://b:1",))

    def test_a_group_that_nobody_ever_reported_to_is_told_once_with_the_others(
        self, directory: RedisDirectory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[str] = []
        self.looks(directory, view(head=None), monkeypatch)
        monkeypatch.setattr(type(directory._log), "groups", lambda log: asked.append("") or ["h"])
        for _ in range(2):
            with pytest.raises(UnknownGroup, match="the groups there are: h"):
                directory.look(1e12)
        assert len(asked) == 1, "searching may take a second"

    def test_a_redis_that_is_away_is_unavailable(self, directory: RedisDirectory) -> None:
        with pytest.raises(LogUnavailable):
            directory.look(1e12)


def test_a_client_needs_no_web_framework_and_says_what_it_does_need() -> None:
    program = (
        "import sys\n"
        "import replicator.client\n"
        "assert not {'starlette', 'uvicorn', 'rq'} & set(sys.modules)\n"
        "for name in [name for name in sys.modules if name.startswith('replicator.client')]:\n"
        "    del sys.modules[name]\n"
        "sys.modules['httpx'] = None\n"
        "try:\n"
        "    import replicator.client\n"
        "except ImportError as error:\n"
        "    assert \"pip install 'replicator[client]'\" in str(error), error\n"
        "else:\n"
        "    raise SystemExit('it was imported')\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
