"""Where a request goes, and whether it may be sent once more."""

from __future__ import annotations

import pytest

from replicator.service.proxy.routing import (
    Asked,
    Follow,
    Local,
    Refused,
    Remote,
    Route,
    Standing,
    Wait,
    is_safe,
    may_repeat,
    route,
)

B = "http://b:8080"

LEADS = Standing(program_term=5, is_primary=True, primary="", is_proven=False)
STARTS = Standing(program_term=0, is_primary=True, primary="", is_proven=False)
STANDBY = Standing(program_term=0, is_primary=False, primary=B, is_proven=True)
DOUBTS = Standing(program_term=0, is_primary=False, primary=B, is_proven=False)
ALONE = Standing(program_term=0, is_primary=False, primary="", is_proven=False)

WRITE, READ = Asked(is_safe=False), Asked(is_safe=True)


def code(where: Route) -> str:
    return where.code if isinstance(where, Wait) else type(where).__name__


@pytest.mark.parametrize("reads", ["primary", "local"])
def test_a_write_goes_to_the_program_that_leads_or_waits(reads: str) -> None:
    where = [route(WRITE, standing, reads=reads) for standing in (LEADS, STANDBY, DOUBTS, STARTS, ALONE)]
    assert where[:2] == [Local(5), Remote(B)]
    assert [code(each) for each in where[2:]] == ["primary_unreachable", "not_primary", "not_primary"]


def test_a_read_goes_where_writes_go_unless_programs_answer_on_standbys() -> None:
    for standing in (LEADS, STANDBY, DOUBTS, STARTS, ALONE):
        assert route(READ, standing, reads="primary") == route(WRITE, standing, reads="primary")
    assert route(READ, LEADS, reads="local") == Local(5)
    assert route(READ, STANDBY, reads="local") == route(READ, ALONE, reads="local") == Follow()
    # when this node has not what it needs
    needy = Asked(is_safe=True, needs_primary=True)
    assert route(needy, STANDBY, reads="local") == Remote(B)


def test_what_another_proxy_sent_is_not_sent_on_once_more() -> None:
    for asked in (Asked(is_safe=False, is_forwarded=True), Asked(is_safe=True, is_forwarded=True)):
        for reads in ("primary", "local"):
            assert route(asked, LEADS, reads=reads) == Local(5)
            assert code(route(asked, STARTS, reads=reads)) == "not_primary"
            assert isinstance(route(asked, STANDBY, reads=reads), Refused)
            assert isinstance(route(asked, ALONE, reads=reads), Refused)


def test_what_is_not_safe_is_repeated_only_if_nothing_of_it_can_have_arrived() -> None:
    assert all(map(is_safe, ("GET", "HEAD", "OPTIONS", "TRACE")))
    assert not any(map(is_safe, ("PUT", "DELETE", "POST", "PATCH", "get", "X")))
    cases = {
        (is_safe, was_sent, whole): may_repeat(is_safe=is_safe, was_sent=was_sent, body_is_whole=whole)
        for is_safe in (True, False)
        for was_sent in (True, False)
        for whole in (True, False)
    }
    assert [case for case, may in cases.items() if may] == [
        (True, True, True),
        (True, False, True),
        (False, False, True),
    ]
