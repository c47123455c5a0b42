"""Answers of nodes, as a client reads them: the table of the server, the other way round."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from replicator import ChangeRejected, ReplicatorError, errors
from replicator.client.answers import base_of, error_of, raise_for_error, read_answer
from replicator.format.ids import RecordId
from replicator.web.answers import ANSWERS
from replicator.web.error_codes import ERROR_CODES

STAMPS = {"Replicator-Position": "5-1042", "Replicator-Role": "standby", "Replicator-Term": "5"}


def response(status: int, body: Any = None, **headers: str) -> httpx.Response:
    return httpx.Response(status, json=body, headers={**STAMPS, **headers})


@pytest.mark.parametrize(("kind", "told"), [*ERROR_CODES.items()], ids=lambda it: getattr(it, "__name__", ""))
def test_each_error_that_a_node_answers_is_that_error_again(kind: type[Exception], told: tuple[int, str]) -> None:
    status, code = told
    error = error_of(read_answer(response(status, {"error": code, "field": None, "message": "why {braces}"})))
    assert type(error) is kind
    assert str(error) == "why {braces}"
    assert error.fields == {"error": code, "field": None, "message": "why {braces}"}


def test_no_code_stands_for_two_errors() -> None:
    codes = [code for _, code in ANSWERS.values()]
    assert len(codes) == len(set(codes))


def test_promised_attributes_are_there() -> None:
    members = {"error": "position_lost", "message": "m", "position": "5-1042"}
    error: Any = error_of(read_answer(response(409, members)))
    assert isinstance(error, errors.PositionLost)
    assert (error.position, error.term_end) == ("5-1042", None)


def test_the_stamps_are_read() -> None:
    answer = read_answer(
        response(503, {"error": "busy", "message": "m"}, **{"Retry-After": "2", "Location": "http://b/x"})
    )
    assert (answer.status, answer.code, answer.role, answer.position) == (503, "busy", "standby", RecordId(5, 1042))
    assert (answer.retry_after_s, answer.location, answer.kind) == (2.0, "http://b/x", None)


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(503, text="gone"),
        httpx.Response(503, json=["error"]),
        httpx.Response(503, json={"error": 7}),
        httpx.Response(503, content=b"{", headers={"Content-Type": "application/json"}),
        httpx.Response(
            503, content=b'{"error": "busy"}' + b" " * 100_000, headers={"Content-Type": "application/json"}
        ),
        httpx.Response(200, json={"error": "busy"}),
        httpx.Response(503, headers={"Replicator-Position": "soon", "Retry-After": "Mon, 30 Nov 2026 09:00:00 GMT"}),
    ],
)
def test_what_is_no_error_of_a_node_has_no_code(answer: httpx.Response) -> None:
    read = read_answer(answer)
    assert (read.code, read.kind, read.position, read.retry_after_s) == ("", None, None, 0.0)
    assert error_of(read) is None


def test_an_answer_about_the_request_can_be_raised() -> None:
    with pytest.raises(ChangeRejected, match="it is there already") as raised:
        raise_for_error(response(422, {"error": "rejected", "field": "id", "message": "it is there already"}))
    assert raised.value.field == "id"
    raise_for_error(response(404, {"error": "unknown_id", "message": "there is none"}))
    raise_for_error(response(200, {"error": "rejected"}))


def test_the_message_of_an_answer_without_one_says_what_came() -> None:
    error = error_of(read_answer(response(503, {"error": "log_lost"})))
    assert isinstance(error, ReplicatorError)
    assert str(error) == "the node answers 503, log_lost"


@pytest.mark.parametrize(
    ("location", "base"),
    [
        ("http://b:7002/v1/nodes?x=1", "http://b:7002"),
        ("https://b/app/v1/nodes", "https://b/app"),
        ("http://[::1]:7002/v1/nodes", "http://[::1]:7002"),
        ("http://b:7002/elsewhere", "http://b:7002"),
        ("/v1/nodes", ""),
        ("ftp://b/v1/nodes", ""),
        ("http://[::1/v1/nodes", ""),
        ("", ""),
    ],
)
def test_where_a_redirect_leads(location: str, base: str) -> None:
    assert base_of(location, "/v1/nodes?x=1") == base
