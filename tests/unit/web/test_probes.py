"""What load balancers and operators ask: the same answers over ASGI, over WSGI, and beside the registry's API."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from replicator.errors import ConfigError
from replicator.node.health import Unready
from replicator.web.envelope import health_app
from replicator.web.failures import Failure
from replicator.web.probes import METHODS, PROBES, primary, read_only, standby
from tests.support.registry_api import Lag, TestClient, client_of
from tests.support.sites import SITES, AsgiSite, FakeNode, Sites, WsgiSite, sites_of
from tests.support.sites import standby as a_standby

Ask = Callable[..., httpx.Response]

#: Each way in which a node has HTTP.
SERVERS = ["asgi", "wsgi", "registry", "beside a program"]


@pytest.fixture(params=SERVERS)
def served(request: pytest.FixtureRequest) -> Iterator[Callable[[Any], Ask]]:
    """Gives a function that asks a node."""
    if request.param in ("asgi", "wsgi"):
        sites = Sites(SITES[SERVERS.index(request.param)])
        yield lambda node: sites.of(node).ask
        sites.close()
        return
    make = client_of if request.param == "registry" else lambda node: TestClient(health_app(node))
    yield lambda node: make(node).request


def is_problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    body: dict[str, Any] = answer.json()
    assert (body["status"], body["error"]) == (status, code)
    assert body["detail"]
    return body


def code_of(found: dict[str, Any] | Failure) -> str:
    return found.code if isinstance(found, Failure) else "ok"


# --- on every server --------------------------------------------------------------------------------------------------


def test_a_primary_is_one_and_is_no_standby(served: Callable[[Any], Ask]) -> None:
    ask = served(FakeNode())
    assert ask("GET", "/primary").json()["role"] == "primary"
    assert ask("GET", "/read-only").status_code == 200
    is_problem(ask("GET", "/standby"), 503, "not_standby")
    assert ask("GET", "/standby").headers["retry-after"]


def test_a_standby_is_one_and_is_no_primary(served: Callable[[Any], Ask]) -> None:
    ask = served(a_standby(stale_s=0.25, lag=Lag(3, 40)))
    assert ask("GET", "/standby").json() == {
        "node": "a", "role": "standby", "term": 5, "position": "5-1042", "lag_records": 3, "stale_ms": 250,
        "lease_ms": None,
    }  # fmt: skip
    assert ask("GET", "/read-only").status_code == 200
    is_problem(ask("GET", "/primary"), 503, "not_primary")


@pytest.mark.parametrize("path", [f"/{name}" for name in PROBES])
def test_every_probe_has_the_same_status_for_every_method_that_probes_use(
    served: Callable[[Any], Ask], path: str
) -> None:
    for node in (FakeNode(), a_standby()):
        get, head, options = (served(node)(method, path) for method in METHODS)
        assert get.status_code == head.status_code == options.status_code
        assert get.content
        assert head.content == options.content == b""
        assert head.headers["content-length"] == get.headers["content-length"]
        assert (options.headers["content-length"], options.headers["allow"]) == ("0", "GET, HEAD, OPTIONS")


@pytest.mark.parametrize("path", [f"/{name}" for name in PROBES])
def test_no_probe_takes_a_write(served: Callable[[Any], Ask], path: str) -> None:
    answer = served(FakeNode())("POST", path)
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD, OPTIONS")
    assert answer.json()["error"] == "wrong_method"


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("lag=-1", "lag"), ("lag=", "lag"), ("lag=many", "lag"), ("lag=1.5", "lag"), ("lag=1&lag=2", "lag"),
        ("lag_s=", "lag_s"), ("lag_s=-1", "lag_s"), ("lag_s=nan", "lag_s"), ("lag_s=inf", "lag_s"),
        ("lag_s=1e3", "lag_s"), ("lag_s=5s", "lag_s"), ("lags=5", "lags"), ("lag%ff=5", "lag\xff"),
        ("lag=%D9%A1", "lag"),
    ],
)  # fmt: skip
def test_a_limit_that_cannot_be_meant_is_refused(served: Callable[[Any], Ask], query: str, field: str) -> None:
    # whatever the node is: a slip in a configuration is to be seen at once, and not after a failover
    for node in (FakeNode(), a_standby()):
        for path in ("/standby", "/read-only"):
            body = is_problem(served(node)("GET", f"{path}?{query}"), 400, "invalid_query")
            assert body["field"][:3] == field[:3]


def test_the_others_are_told_of_the_group_and_its_history(served: Callable[[Any], Ask]) -> None:
    ask = served(FakeNode())
    assert ask("GET", "/live").json() == {"alive": True}
    group = ask("GET", "/cluster").json()
    assert (group["group"], group["seen_by"], [each["node"] for each in group["nodes"]]) == ("g", "a", ["a"])
    told = ask("GET", "/history").json()
    assert (told["group"], told["seen_by"], told["complete"], told["complete_since_at"]) == (
        "g",
        "a",
        True,
        1_700_000_000_000,
    )
    (entry,) = told["entries"]
    assert (entry["what"], entry["term"], entry["node"], entry["by"]) == ("found", 5, "a", "ann")


def test_health_has_the_heartbeat_and_the_versions(served: Callable[[Any], Ask]) -> None:
    health = served(FakeNode(heartbeat_age_ms=120, stale_s=None))("GET", "/health").json()
    assert (health["heartbeat_age_ms"], health["stale_ms"]) == (120, None)
    versions = [health[name] for name in ("app", "version", "reads_min", "reads_max", "group_version")]
    assert versions == ["kv", 2, 1, 2, 1]
    assert health["library_version"]


def test_a_process_that_answers_lives_whatever_its_node_is(served: Callable[[Any], Ask]) -> None:
    node = a_standby(unready=Unready("not_running", "this node was not started"), in_sync=False, stale_s=None)
    ask = served(node)
    assert ask("GET", "/live").status_code == 200
    for path in ("/primary", "/standby", "/read-only"):
        is_problem(ask("GET", path), 503, "not_running")


# --- where they are ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SITES)
def test_they_are_below_the_prefix_of_health_and_nowhere_else(kind: type[AsgiSite | WsgiSite]) -> None:
    for sites in sites_of(kind):
        site = sites.of(FakeNode(), health="/internal/")
        assert site.ask("GET", "/internal/primary").json()["role"] == "primary"
        assert site.ask("GET", "/primary").text == "here"
        assert sites.of(FakeNode(), health=None).ask("GET", "/primary").text == "here"


@pytest.mark.parametrize("kind", SITES)
def test_an_application_with_paths_of_that_name_keeps_them(kind: type[AsgiSite | WsgiSite]) -> None:
    for sites in sites_of(kind):
        site = sites.of(FakeNode(), probes=("health", "ready", "primary"))
        assert site.ask("GET", "/history").text == "here"
        assert site.ask("GET", "/primary").json()["role"] == "primary"


@pytest.mark.parametrize("probes", ["health", ("healthz",)])
def test_a_probe_that_there_is_not_is_refused(probes: Any) -> None:
    with pytest.raises(ConfigError, match="give some of primary, standby, read-only"):
        AsgiSite(FakeNode(), lambda *_: (200, b""), probes=probes)


# --- the rules --------------------------------------------------------------------------------------------------------


def test_a_primary_without_a_lease_is_neither_the_primary_nor_to_be_read() -> None:
    unready = Unready("lease_lost", "no lease")
    node = FakeNode(leads=False, lease_ms=None, unready=unready)
    assert [code_of(each(node)) for each in (primary, read_only)] == ["lease_lost"] * 2
    assert code_of(standby(node)) == "not_standby"


def test_a_primary_leads_by_its_own_clock_also_while_redis_is_away() -> None:
    node = FakeNode(unready=Unready("log_unavailable", "Redis does not answer"))
    assert code_of(primary(node)) == "ok"
    node.leads = False
    assert code_of(primary(node)) == "log_unavailable"


def test_a_node_that_stops_is_given_no_more_writes_although_it_has_its_lease_yet() -> None:
    assert code_of(primary(FakeNode(unready=Unready("stopping", "this node stops")))) == "stopping"


@pytest.mark.parametrize(
    "code", ["failed", "stopping", "stalled", "diverged", "out_of_sync", "unhealthy", "not_running"]
)
def test_a_standby_that_is_unfit_is_not_to_be_read(code: str) -> None:
    node = a_standby(unready=Unready(code, "why"))
    assert code_of(standby(node)) == code_of(read_only(node)) == code


def test_a_standby_out_of_sync_is_not_to_be_read() -> None:
    assert code_of(standby(a_standby(in_sync=False))) == "out_of_sync"


@pytest.mark.parametrize("code", ["log_unavailable", "behind", "lag_unknown", "problem"])
def test_a_standby_that_only_lags_is_to_be_read_by_who_sets_no_limit(code: str) -> None:
    node = a_standby(unready=Unready(code, "why"), stale_s=60.0, lag=Lag(None, None))
    assert code_of(standby(node)) == "ok"
    assert code_of(standby(node, b"lag_s=5")) == "behind"
    assert code_of(standby(node, b"lag=5")) == "lag_unknown"


@pytest.mark.parametrize(
    ("records", "stale_s", "query", "code"),
    [
        (10, 0.0, b"lag=10", "ok"), (11, 0.0, b"lag=10", "behind"), (None, 0.0, b"lag=10", "lag_unknown"),
        (0, 5.0, b"lag_s=5", "ok"), (0, 5.001, b"lag_s=5", "behind"), (0, None, b"lag_s=5", "lag_unknown"),
        (10, 2.5, b"lag=10&lag_s=2.5", "ok"), (10, 2.6, b"lag=10&lag_s=2.5", "behind"),
        (11, 2.5, b"lag=10&lag_s=2.5", "behind"), (0, 0.0, b"lag=0&lag_s=0", "ok"),
    ],
)  # fmt: skip
def test_a_limit_is_kept_to_the_record_and_the_millisecond(
    records: int | None, stale_s: float | None, query: bytes, code: str
) -> None:
    node = a_standby(lag=Lag(records, 0), stale_s=stale_s)
    assert code_of(standby(node, query)) == code_of(read_only(node, query)) == code
