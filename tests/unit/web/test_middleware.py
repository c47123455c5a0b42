"""What the middleware does with requests and answers, over ASGI and over WSGI alike."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from replicator import Node
from replicator.errors import (
    ChangeRejected,
    ConfigError,
    Fenced,
    InvalidHeader,
    LeaseLost,
    LogUnavailable,
    NotAcknowledged,
    NotPrimary,
    NotRunning,
    OutcomeUnknown,
    ReplicatorError,
    Stalled,
)
from replicator.metrics import NodeMetrics
from replicator.node.health import Unready
from replicator.runtime.request_writes import NOTED
from replicator.ui.page import Page
from replicator.web import asgi, wsgi
from replicator.web.cookie import Cookie
from replicator.web.failures import ANSWERS, plain
from tests.support.forking import in_child
from tests.support.kv import KV, PATIENCE_S, Group
from tests.support.sites import SITES, FakeNode, Site, Sites, WsgiSite, raising, sites_of, standby

COOKIE = "replicator-position"

WRITES = ["POST", "PUT", "PATCH", "DELETE"]
READS = ["GET", "HEAD", "OPTIONS"]


@pytest.fixture(params=SITES, ids=["asgi", "wsgi"])
def sites(request: pytest.FixtureRequest) -> Iterator[Sites]:
    yield from sites_of(request.param)


def problem_of(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Check that these are problem details, and give them."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert (body["status"], body["error"], body["type"]) == (status, code, f"urn:replicator:error:{code}")
    assert body["title"]
    assert body["detail"]
    assert "retry-after" in answer.headers if status == 503 else "retry-after" not in answer.headers
    return body


def cookie_of(answer: httpx.Response) -> str | None:
    """The position in the cookie that is set; empty: it is cleared; None: it stays what it is."""
    found = [each for each in answer.headers.get_list("set-cookie") if each.startswith(f"{COOKIE}=")]
    assert len(found) <= 1
    return found[0].partition("=")[2].partition(";")[0] if found else None


def carrying(position: str) -> dict[str, Any]:
    return {"headers": {"Cookie": f"theme=dark; {COOKIE}={position}; x=y"}}


# --- Stamps -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [*WRITES, *READS])
def test_every_answer_says_where_the_node_is(sites: Sites, method: str) -> None:
    answer = sites.of(FakeNode()).ask(method, "/things")
    facts = [answer.headers[f"replicator-{name}"] for name in ("position", "role", "term")]
    assert facts == ["5-1042", "primary", "5"]
    assert answer.headers["content-type"] == "text/plain"


def test_a_stamp_is_of_the_end_of_the_work_and_not_of_its_beginning(sites: Sites) -> None:
    node = FakeNode()

    def writes(*_: Any) -> tuple[int, bytes]:
        node.moves_to(5, 1043)
        return 201, b""

    answer = sites.of(node, writes).ask("POST", "/things")
    assert (answer.headers["replicator-position"], cookie_of(answer)) == ("5-1043", "5-1043")


def test_an_error_of_the_application_itself_is_not_ours(sites: Sites) -> None:
    with pytest.raises(ZeroDivisionError):
        sites.of(FakeNode(), raising(ZeroDivisionError())).ask("GET", "/")


# --- The cookie -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", READS)
def test_a_read_sets_no_cookie(sites: Sites, method: str) -> None:
    assert cookie_of(sites.of(FakeNode()).ask(method, "/")) is None


@pytest.mark.parametrize("method", WRITES)
def test_a_write_sets_the_cookie(sites: Sites, method: str) -> None:
    answer = sites.of(FakeNode()).ask(method, "/")
    assert answer.headers["set-cookie"] == f"{COOKIE}=5-1042; Max-Age=3600; Path=/; HttpOnly; SameSite=Lax"


def test_a_write_that_was_not_acknowledged_sets_the_cookie_too_because_it_is_in_the_log(sites: Sites) -> None:
    error = NotAcknowledged(id="5-1042", problem="nobody has it")
    answer = sites.of(FakeNode(), raising(error)).ask("POST", "/")
    problem_of(answer, 504, "not_acknowledged")
    assert cookie_of(answer) == "5-1042"


def test_what_is_a_write_may_be_said_otherwise(sites: Sites) -> None:
    site = sites.of(standby(), is_write=lambda method, path: path.startswith("/do/"))
    assert site.ask("GET", "/do/it").status_code == 307
    assert site.ask("POST", "/search").status_code == 200


def test_after_all_answers_a_cookie_keeps_what_was_read_from_going_back(sites: Sites) -> None:
    site = sites.of(FakeNode(), cookie=Cookie(after="all"))
    assert cookie_of(site.ask("GET", "/")) == "5-1042"
    assert cookie_of(site.ask("GET", "/", **carrying("5-1000"))) == "5-1042"
    # and there is no need to set what it has
    assert cookie_of(site.ask("GET", "/", **carrying("5-1042"))) is None


def test_a_node_that_lags_does_not_take_the_cookie_back(sites: Sites) -> None:
    site = sites.of(standby(), writes="local", wait_timeout_s=0.01)
    assert cookie_of(site.ask("POST", "/search", **carrying("5-2000"))) is None


def test_without_a_cookie_none_is_set_and_none_is_waited_for(sites: Sites) -> None:
    node = standby()
    site = sites.of(node, cookie=None, writes="local")
    assert cookie_of(site.ask("POST", "/")) is None
    assert site.ask("GET", "/", **carrying("5-2000")).status_code == 200
    assert node.waited == []


def test_a_read_waits_for_the_position_in_the_cookie(sites: Sites) -> None:
    # given a standby that gets there meanwhile
    node = standby()
    node.meanwhile = lambda: node.moves_to(5, 1043)
    # when
    answer = sites.of(node).ask("GET", "/", **carrying("5-1043"))
    # then
    assert (answer.status_code, answer.headers["replicator-position"]) == (200, "5-1043")
    assert node.waited == [("5-1043", 10.0)]


def test_a_position_that_is_there_is_not_waited_for(sites: Sites) -> None:
    node = standby()
    assert sites.of(node).ask("GET", "/", **carrying("5-1042")).status_code == 200
    assert node.waited == []


def test_a_write_does_not_wait_for_the_cookie(sites: Sites) -> None:
    node = FakeNode()
    assert sites.of(node).ask("POST", "/", **carrying("5-2000")).status_code == 200
    assert node.waited == []


def test_a_lost_position_in_the_cookie_is_cleared_and_locks_nobody_out(sites: Sites) -> None:
    answer = sites.of(standby(lost="4-7")).ask("GET", "/", **carrying("4-7"))
    assert (answer.status_code, answer.text) == (200, "here")
    assert (answer.headers["replicator-lost"], cookie_of(answer)) == ("4-7", "")


def test_a_primary_that_does_not_have_it_knows_that_it_is_lost(sites: Sites) -> None:
    node = FakeNode()
    answer = sites.of(node).ask("GET", "/", **carrying("9-1"))
    assert (answer.status_code, answer.headers["replicator-lost"], cookie_of(answer)) == (200, "9-1", "")
    assert node.waited == [("9-1", 1.0)]


def test_a_read_that_would_come_too_early_goes_to_the_primary(sites: Sites) -> None:
    answer = sites.of(standby()).ask("GET", "/page?x=1", **carrying("5-2000"))
    assert "5-2000" in problem_of(answer, 307, "not_primary")["detail"]
    assert answer.headers["location"] == "http://b:7002/page?x=1"


@pytest.mark.parametrize("options", [{"writes": "local"}, {}])
def test_a_read_that_no_primary_can_take_over_is_answered_and_says_that_it_is_behind(
    sites: Sites, options: dict[str, Any]
) -> None:
    node = standby("http://b:7002" if options else None)
    answer = sites.of(node, **options).ask("GET", "/", **carrying("5-2000"))
    assert (answer.status_code, answer.headers["replicator-behind"], cookie_of(answer)) == (200, "5-2000", None)


@pytest.mark.parametrize("value", ["", "x", "5", "5-", "-5", "9" * 40 + "-1", "5-1042-1", "<script>"])
def test_a_cookie_that_is_none_of_ours_is_as_good_as_none(sites: Sites, value: str) -> None:
    node = standby()
    assert sites.of(node).ask("GET", "/", **carrying(value)).status_code == 200
    assert node.waited == []


# --- Replicator-Wait --------------------------------------------------------------------------------------------------


def test_a_request_waits_for_the_position_that_it_names(sites: Sites) -> None:
    node = standby()
    node.meanwhile = lambda: node.moves_to(5, 1043)
    answer = sites.of(node).ask("GET", "/", headers={"Replicator-Wait": "5-1043"})
    assert (answer.status_code, answer.headers["replicator-position"]) == (200, "5-1043")


def test_a_position_that_was_asked_for_is_there_or_it_is_an_error(sites: Sites) -> None:
    site = sites.of(standby(lost="4-7"))
    too_late = site.ask("GET", "/", headers={"Replicator-Wait": "5-2000"})
    assert problem_of(too_late, 504, "wait_timeout")["field"] == "Replicator-Wait"
    problem_of(site.ask("GET", "/", headers={"Replicator-Wait": "4-7"}), 409, "position_lost")
    assert problem_of(site.ask("GET", "/", headers={"Replicator-Wait": "soon"}), 400, "invalid_header")["field"]
    assert sites.served == []


# --- Writes that come to a standby ------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", WRITES)
def test_a_standby_sends_a_write_to_the_primary(sites: Sites, method: str) -> None:
    answer = sites.of(standby("http://b:7002/")).ask(method, "/a%20b/c?x=%20y&z", content=b"not read")
    body = problem_of(answer, 307, "not_primary")
    assert answer.headers["location"] == body["location"] == "http://b:7002/a%20b/c?x=%20y&z"
    assert answer.headers["replicator-role"] == "standby"
    assert cookie_of(answer) is None or method in WRITES
    assert sites.served == []


@pytest.mark.parametrize("method", READS)
def test_a_standby_serves_reads(sites: Sites, method: str) -> None:
    assert sites.of(standby()).ask(method, "/").status_code == 200


def test_a_write_waits_for_a_primary_while_there_is_none(sites: Sites) -> None:
    class Promoted(FakeNode):
        asked = 0

        @property
        def primary_http(self) -> str | None:  # type: ignore[override]
            self.asked += 1
            return "http://c:7003" if self.asked > 3 else None

        @primary_http.setter
        def primary_http(self, value: str | None) -> None: ...

    node = Promoted(role="standby", leads=False)
    answer = sites.of(node, primary_within_s=60).ask("POST", "/x")
    assert answer.headers["location"] == "http://c:7003/x"


def test_a_write_for_which_no_primary_comes_is_to_come_back(sites: Sites) -> None:
    answer = sites.of(standby(None), primary_within_s=0.1).ask("POST", "/")
    assert "no primary is known" in problem_of(answer, 503, "not_primary")["detail"]
    assert sites.served == []


def test_a_node_that_was_not_started_says_so_at_once(sites: Sites) -> None:
    node = standby(None, unready=Unready("not_running", "this node was not started"))
    answer = sites.of(node, primary_within_s=60).ask("POST", "/")
    assert "call start()" in problem_of(answer, 503, "not_running")["detail"]


def test_a_primary_without_a_lease_is_waited_for_and_then_says_so_itself(sites: Sites) -> None:
    node = FakeNode(leads=False)
    answer = sites.of(node, raising(LeaseLost(node="a")), primary_within_s=0.1).ask("POST", "/")
    problem_of(answer, 503, "lease_lost")


def test_a_request_that_was_sent_on_is_not_sent_on_once_more(sites: Sites) -> None:
    answer = sites.of(standby(), primary_within_s=60).ask("POST", "/", headers={"Replicator-Forwarded": "c"})
    assert "took it for the primary" in problem_of(answer, 503, "not_primary")["detail"]


def test_the_application_may_decide_itself(sites: Sites) -> None:
    site = sites.of(standby(), writes="local")
    assert site.ask("POST", "/").status_code == 200


# --- Errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (ChangeRejected("no such flag", field="name"), 422, "rejected"),
        (LogUnavailable(url="redis://h", problem="away"), 503, "log_unavailable"),
        (OutcomeUnknown(url="redis://h", problem="away"), 504, "outcome_unknown"),
        (Fenced(5, 6, "b"), 409, "fenced"),
        (NotRunning("a"), 503, "not_running"),
        (NotPrimary(node="a"), 503, "not_primary"),
        (Stalled(id="5-1", problem="x"), 500, "stalled"),
        (ReplicatorError("something"), 500, "failed"),
        (ConfigError(setting="ack", problem="wrong"), 500, "failed"),
    ],
)
def test_errors_of_this_package_become_problem_details(sites: Sites, error: Exception, status: int, code: str) -> None:
    answer = sites.of(FakeNode(), raising(error)).ask("POST", "/")
    body = problem_of(answer, status, code)
    assert body["detail"] == str(error)
    assert body.get("field") == getattr(error, "field", None)
    assert answer.headers["replicator-term"] == "5"


@pytest.mark.parametrize("error", [NotPrimary(node="a"), Fenced(5, 6, "b")])
def test_a_primary_that_is_deposed_in_the_middle_of_a_write_redirects(sites: Sites, error: Exception) -> None:
    node = FakeNode()

    def deposed(*_: Any) -> tuple[int, bytes]:
        node.role, node.leads, node.primary_http = "standby", False, "http://b:7002"
        raise error

    answer = sites.of(node, deposed).ask("POST", "/x?y")
    problem_of(answer, 307, "not_primary")
    assert answer.headers["location"] == "http://b:7002/x?y"


@pytest.mark.parametrize("writes", ["redirect", "forward", "local"])
@pytest.mark.parametrize("error", [NotPrimary(node="a"), LeaseLost(node="a"), LogUnavailable(url="r", problem="away")])
def test_a_request_that_has_written_is_not_to_be_made_again(sites: Sites, writes: str, error: Exception) -> None:
    # given a handler with two changes; the term ends between them
    node = FakeNode()

    def transfers(*_: Any) -> tuple[int, bytes]:
        with NOTED:
            node.moves_to(5, 1043)
        node.role, node.leads, node.primary_http = "standby", False, "http://b:7002"
        with NOTED:
            raise error

    # then
    answer = sites.of(node, transfers, writes=writes).ask("POST", "/transfer")
    assert "had written something before" in problem_of(answer, 504, "outcome_unknown")["detail"]
    assert "location" not in answer.headers


def test_an_error_of_the_application_is_not_changed_by_what_it_has_written(sites: Sites) -> None:
    class PaymentsAreDown(Exception):
        pass

    def handler(*_: Any) -> tuple[int, bytes]:
        with NOTED:
            pass
        raise PaymentsAreDown("try later")

    answers = {**ANSWERS, PaymentsAreDown: (503, "payments_are_down")}
    problem_of(sites.of(FakeNode(), handler, answers=answers).ask("POST", "/"), 503, "payments_are_down")


def test_a_term_that_ends_between_two_changes_of_a_request(sites: Sites, tmp_path: Any) -> None:
    group = Group(tmp_path)
    a, b = group.primary("a"), group.node("b")
    b.announce("http://b:7002")

    def transfers(*_: Any) -> tuple[int, bytes]:
        a.submit({"set": ["from", 1]})
        b.promote(timeout_s=PATIENCE_S)
        a.wait(role="standby", timeout_s=PATIENCE_S)
        a.submit({"set": ["to", 1]})
        return 200, b""

    problem_of(sites.of(a, transfers).ask("POST", "/transfer"), 504, "outcome_unknown")
    # and one that writes nothing before is redirected
    site = sites.of(a, lambda *_: a.submit({"set": ["x", 1]}), primary_within_s=PATIENCE_S)
    assert site.ask("POST", "/").status_code == 307
    for node in group.nodes:
        node.stop()


@pytest.mark.parametrize("kind", SITES)
def test_a_target_that_cannot_be_sent_on_is_not_when_the_application_loses_the_primary(kind: type[Site]) -> None:
    seen: list[Any] = []

    def app(environ: Any, start_response: Any) -> Any:
        raise NotPrimary(node="a")

    async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
        raise NotPrimary(node="a")

    async def send(message: Any) -> None:
        seen.append(message.get("status"))

    async def receive() -> Any:
        return {"type": "http.request"}

    if kind is WsgiSite:
        environ = {"REQUEST_METHOD": "POST", "PATH_INFO": "@evil/", "wsgi.input": None}
        site = wsgi.Replicated(app, node=standby(), start=False, writes="local")
        list(site(environ, lambda status, *_: seen.append(int(status[:3]))))  # type: ignore[arg-type, return-value]
    else:
        scope = {"type": "http", "method": "POST", "path": "@evil/", "query_string": b"", "headers": []}
        asyncio.run(asgi.Replicated(asgi_app, node=standby(), start=False, writes="local")(scope, receive, send))
    assert seen[0] == 503


def test_an_application_adds_errors_of_its_own_and_says_how_they_are_written(sites: Sites) -> None:
    class NoSuchFlag(Exception):
        pass

    answers = {**ANSWERS, NoSuchFlag: (404, "no_such_flag")}
    answer = sites.of(FakeNode(), raising(NoSuchFlag("x")), answers=answers, errors=plain).ask("GET", "/")
    assert (answer.status_code, answer.json()) == (404, {"error": "no_such_flag", "field": None, "message": "x"})


class NoSuchCoupon(ChangeRejected):
    status, code = 404, "no_such_coupon"


class SoldOut(NoSuchCoupon):
    status = 409


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (NoSuchCoupon("there is none"), 404, "no_such_coupon"),
        (SoldOut("none left"), 409, "no_such_coupon"),
        (InvalidHeader("Idempotency-Key", "is missing"), 400, "invalid_header"),
        (ChangeRejected("no"), 422, "rejected"),
    ],
)
def test_an_error_that_says_itself_what_it_is_is_answered_so(
    sites: Sites, error: ReplicatorError, status: int, code: str
) -> None:
    problem_of(sites.of(FakeNode(), raising(error)).ask("POST", "/"), status, code)


def test_what_an_application_says_of_an_error_counts_for_it(sites: Sites) -> None:
    answers = {**ANSWERS, SoldOut: (410, "gone")}
    problem_of(sites.of(FakeNode(), raising(SoldOut("none left")), answers=answers).ask("POST", "/"), 410, "gone")


def test_an_answer_to_head_has_no_body(sites: Sites) -> None:
    answer = sites.of(FakeNode(), raising(LeaseLost())).ask("HEAD", "/")
    assert (answer.status_code, answer.content) == (503, b"")


# --- Health -----------------------------------------------------------------------------------------------------------


def test_health_and_readiness_are_served(sites: Sites) -> None:
    node = FakeNode()
    site = sites.of(node)
    assert site.ask("GET", "/health").json()["position"] == "5-1042"
    assert site.ask("GET", "/ready").json() == {"ready": True, "role": "primary"}
    node.unready = Unready("behind", "400 records behind")
    assert problem_of(site.ask("GET", "/ready"), 503, "behind")["detail"] == "400 records behind"
    assert site.ask("GET", "/health").json()["ready"] is False
    assert problem_of(site.ask("POST", "/ready"), 405, "wrong_method")
    assert sites.served == []


def test_health_may_be_elsewhere_or_nowhere(sites: Sites) -> None:
    elsewhere = sites.of(FakeNode(), health="/internal/")
    assert elsewhere.ask("GET", "/internal/ready").json()["ready"] is True
    assert elsewhere.ask("GET", "/ready").text == "here"
    nowhere = sites.of(FakeNode(), health=None)
    assert [nowhere.ask("GET", path).text for path in ("/ready", "/health")] == ["here", "here"]


def test_metrics_are_served_beside_health(sites: Sites) -> None:
    node = FakeNode(found=[NodeMetrics("g", "a", {"replicator_term": 5})])
    answer = sites.of(node).ask("GET", "/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert 'replicator_term{group="g",node="a"} 5.0' in answer.text.splitlines()
    assert problem_of(sites.of(node).ask("POST", "/metrics"), 405, "wrong_method")
    assert sites.of(node).ask("HEAD", "/metrics").content == b""
    assert sites.of(node, health="/internal").ask("GET", "/internal/metrics").text == answer.text
    assert sites.served == []


def test_metrics_may_be_left_to_the_application(sites: Sites) -> None:
    own = sites.of(FakeNode(), metrics=False)
    assert own.ask("GET", "/metrics").text == "here"
    assert own.ask("GET", "/health").json()["position"] == "5-1042"
    assert sites.of(FakeNode(), health=None).ask("GET", "/metrics").text == "here"


def test_without_the_extra_the_answer_names_it(sites: Sites, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client.core", None)
    told = problem_of(sites.of(FakeNode()).ask("GET", "/metrics"), 501, "extra_missing")
    assert "pip install 'replicator[metrics]'" in told["detail"]


# --- Settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"writes": "elsewhere"},
        {"writes": None},
        {"is_write": "POST"},
        {"cookie": "position"},
        {"health": "internal"},
        {"metrics": "/metrics"},
        {"wait_timeout_s": "10"},
        {"primary_within_s": -1},
        {"forward_timeout_s": float("inf")},
        {"errors": None},
    ],
)
def test_a_setting_that_cannot_be_is_refused(sites: Sites, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        sites.of(FakeNode(), **options)


# --- A node of its own ------------------------------------------------------------------------------------------------


def of_a_real_node(sites: Sites, node: Node) -> Site:
    def handler(method: str, path: str, body: bytes) -> tuple[int, bytes]:
        if method == "PUT":
            node.submit({"set": [path, body.decode()]})
        with node.reading() as state:
            return 200, str(state.data.get(path)).encode()

    return sites.of(node, handler)


def test_a_browser_reads_its_own_write_on_a_standby_that_lags(sites: Sites, tmp_path: Any) -> None:
    # given
    group = Group(tmp_path)
    deaf = group.faulty_log()
    primary, behind = group.primary("a"), group.node("b", log=deaf)
    behind.wait(n=primary.position.id.n, timeout_s=PATIENCE_S)
    deaf.deaf = True
    cookies = of_a_real_node(sites, primary).ask("PUT", "/k", content=b"new").cookies
    site = of_a_real_node(sites, behind)
    # when
    with behind.reading() as state:
        assert isinstance(state, KV)
        assert state.data == {}
    behind_s_wait = behind.wait

    def hears_when_it_waits(**arguments: Any) -> None:
        deaf.deaf = arguments["timeout_s"] == 0
        behind_s_wait(**arguments)

    behind.wait = hears_when_it_waits  # type: ignore[method-assign]
    answer = site.ask("GET", "/k", headers={"Cookie": f"{COOKIE}={cookies[COOKIE]}"})
    # then
    assert answer.text == "new"
    for node in group.nodes:
        node.stop()


def test_a_worker_that_has_the_node_of_its_master_is_told_what_to_do(sites: Sites, tmp_path: Any) -> None:
    group = Group(tmp_path)
    site = of_a_real_node(sites, group.primary("a"))

    # and one whose pages do not need the node
    (tokens := tmp_path / "tokens").touch(mode=0o600)
    tokens.write_text(f"read {'r' * 32}\n")
    needless = sites.of(group.nodes[0], page=Page(group.nodes[0], tokens=tokens))

    def asked(*what: str, at: Site = site, **more: Any) -> Callable[[], list[Any]]:
        def ask() -> list[Any]:
            answer = at.ask(*what, **more)
            return [answer.status_code, answer.json()["error"], answer.json()["detail"]]

        return ask

    for ask in (
        asked("GET", "/k"),
        asked("PUT", "/k"),
        asked("GET", "/ready"),
        asked("GET", "/metrics"),
        asked("GET", "/k", **carrying("1-1")),
        asked("GET", "/", at=needless),
        asked("GET", "/ui", at=needless),
        asked("GET", "/ui/events", at=needless),
    ):
        status, code, detail = in_child(ask)
        assert (status, code) == (500, "wrong_process")
        assert "without --preload" in detail
    group.nodes[0].stop()
