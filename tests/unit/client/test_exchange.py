"""What a client does next, given what came of what it did: played without a clock, a socket or a server."""

from __future__ import annotations

import ast
import inspect
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from replicator import (
    CheckFailed,
    Fenced,
    LogUnavailable,
    NotAcknowledged,
    NotPrimary,
    OutcomeUnknown,
    PositionLost,
    ReplicatorError,
    Stalled,
)
from replicator.client import answers, exchange, known, setup
from replicator.client.answers import Answer
from replicator.client.exchange import Call, Done, Exchange, Fail, Find, Pause, Send
from replicator.client.known import Known, Nodes
from replicator.format.ids import RecordId
from replicator.runtime.backoff import Backoff
from replicator.web import options

A, B, C = "http://a", "http://b", "http://c"
GROUP = Nodes(A, (B, C))
LISTED = Nodes(None, (A, B, C), has_roles=False)

WRITE = Call(method="POST", path="/v1/nodes", is_read=False, key="k1")
UNKEYED = Call(method="POST", path="/v1/nodes", is_read=False)
READ = Call(method="GET", path="/v1/nodes", is_read=True)

GONE = ("ConnectError", False)
NO_ANSWER = ("ReadTimeout", True)


def answer(status: int = 200, code: str = "", *, role: str = "primary", at: str = "5-10", **more: Any) -> Answer:
    members = {"error": code, "message": f"because of {code}"} if code else {}
    position = RecordId.parse(at) if at else None
    return Answer(status=status, code=code, message=members.get("message", ""), role=role, position=position,
                  members=members, **more)  # fmt: skip


def redirect(to: str) -> Answer:
    return answer(307, "not_primary", role="standby", location=f"{to}/v1/nodes?x=1")


@dataclass
class After:
    """An answer that takes its time."""

    seconds: float
    answer: Answer


@dataclass
class Play:
    """What a group answers, and what a client does. Each look takes no time, and neither does an attempt, unless its
    answer is an `After`; a pause does."""

    known: Known = field(default_factory=Known)
    #: What the looks for the nodes find, in turn; the last one again and again.
    looks: list[Nodes | Exception] = field(default_factory=lambda: [GROUP])
    now: float = 1000.0

    def __post_init__(self) -> None:
        self.replies: dict[str, list[Any]] = defaultdict(list)
        self.told: list[str] = []
        self.sent: list[Send] = []

    def on(self, url: str, *replies: Any) -> Play:
        """In turn; the last one again and again."""
        self.replies[url] += replies
        return self

    def run(self, call: Call, *, for_s: float = 10.0) -> Answer | Exception:
        """What the caller gets."""
        backoff = Backoff(0.1, 1.0, chance=lambda: 0.0)
        exchange = Exchange(call, self.known, until=self.now + for_s, attempt_s=3.0, backoff=backoff)
        last = answer()
        for step in self._steps(exchange):
            if isinstance(step, Done):
                return last
            if isinstance(step, Fail):
                return step.error
            if isinstance(step, Pause):
                self.told.append(f"pause {step.seconds:g}")
                self.now += step.seconds
            elif isinstance(step, Find):
                self._look(exchange)
            else:
                last = self._send(exchange, step) or last
        raise AssertionError

    def _steps(self, exchange: Exchange) -> Iterator[Any]:
        for _ in range(200):
            yield exchange.next(self.now)
        raise AssertionError(f"no end: {self.told}")

    def _look(self, exchange: Exchange) -> None:
        found = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
        self.told.append("find")
        if isinstance(found, Exception):
            exchange.not_found(found, self.now)
        else:
            exchange.found(found, self.now)

    def _send(self, exchange: Exchange, send: Send) -> Answer | None:
        self.told.append(send.url.removeprefix("http://"))
        self.sent.append(send)
        waiting = self.replies[send.url] or [answer()]
        reply = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        if isinstance(reply, After):
            self.now += min(reply.seconds, send.timeout_s)
            reply = reply.answer if reply.seconds <= send.timeout_s else NO_ANSWER
        if isinstance(reply, Answer):
            exchange.answered(reply)
            return reply
        problem, sent = reply
        exchange.broke(problem, sent=sent)
        return None


def got(end: Answer | Exception) -> Any:
    return end.status if isinstance(end, Answer) else type(end)


UNLED = Nodes(None, (B, C))


@pytest.mark.parametrize(
    ("call", "looks", "replies", "told", "end"),
    [
        # A write goes to the primary, a read to a standby.
        (WRITE, [GROUP], {A: [answer(201)]}, "find a", 201),
        (READ, [GROUP], {}, "find c", 200),
        # Answers about the request are the caller's, whatever they say.
        (WRITE, [GROUP], {A: [answer(404, "unknown_id")]}, "find a", 404),
        (WRITE, [GROUP], {A: [answer(422, "rejected")]}, "find a", 422),
        (WRITE, [GROUP], {A: [answer(412, "outdated")]}, "find a", 412),
        (WRITE, [GROUP], {A: [answer(400, "invalid_header")]}, "find a", 400),
        (WRITE, [GROUP], {A: [answer(500, "internal")]}, "find a", 500),
        (WRITE, [GROUP], {A: [answer(503, "of_the_application")]}, "find a", 503),
        (WRITE, [GROUP], {A: [answer(307, location=f"{A}/v1/nodes/")]}, "find a", 307),
        # A standby sends it on; what the log says is looked up as well when nobody answers.
        (WRITE, [GROUP], {A: [redirect(B)]}, "find a b", 200),
        (UNKEYED, [GROUP], {A: [redirect(B)]}, "find a b", 200),
        (WRITE, [GROUP, Nodes(B, (C,))], {A: [GONE]}, "find a find b", 200),
        (WRITE, [GROUP, UNLED, Nodes(B, (C,))], {A: [GONE]}, "find a find|pause 0.1|find b", 200),
        # A lease that was lost comes back.
        (WRITE, [GROUP], {A: [answer(503, "lease_lost"), answer()]}, "find a find|pause 0.1|find a", 200),
        (UNKEYED, [GROUP], {A: [answer(503, "lease_lost"), answer()]}, "find a find|pause 0.1|find a", 200),
        (UNKEYED, [GROUP], {A: [answer(503, "log_unavailable"), answer()]}, "find a find|pause 0.1|find a", 200),
        (UNKEYED, [GROUP, Nodes(B, ())], {A: [answer(409, "fenced")]}, "find a find b", 200),
        (UNKEYED, [GROUP, Nodes(B, ())], {A: [GONE]}, "find a find b", 200),
        # No place: as long as the node says.
        (WRITE, [GROUP], {A: [answer(503, "busy", retry_after_s=2.0), answer()]}, "find a|pause 2|find a", 200),
        # A write that may have landed is repeated only with a key.
        (WRITE, [GROUP, Nodes(B, ())], {A: [NO_ANSWER]}, "find a find b", 200),
        (WRITE, [GROUP, Nodes(B, ())], {A: [answer(504, "outcome_unknown")]}, "find a find b", 200),
        (WRITE, [GROUP, Nodes(B, ())], {A: [answer(502, role="")]}, "find a find b", 200),
        (UNKEYED, [GROUP], {A: [NO_ANSWER]}, "find a", OutcomeUnknown),
        (UNKEYED, [GROUP], {A: [answer(504, "outcome_unknown")]}, "find a", OutcomeUnknown),
        *((UNKEYED, [GROUP], {A: [answer(status, role="")]}, "find a", OutcomeUnknown) for status in (502, 503, 504)),
        # … and so may one of which the node says that something failed.
        (WRITE, [GROUP], {A: [answer(500, "failed"), answer()]}, "find a find|pause 0.1|find a", 200),
        (UNKEYED, [GROUP], {A: [answer(500, "failed")]}, "find a", OutcomeUnknown),
        # A standby that could not forward it sent nothing: another one is asked, or the same one later.
        (UNKEYED, [LISTED], {A: [answer(503, "primary_unreachable", role="standby")]}, "find a find b", 200),
        (UNKEYED, [Nodes(None, (A,), has_roles=False)],
         {A: [answer(503, "primary_unreachable", role="standby", retry_after_s=1.0), answer(201)]},
         "find a|pause 1|find a", 201),
        (READ, [GROUP], {C: [answer(503, "primary_unreachable", role="standby")]}, "find c find b", 200),
        # What is certain ends it.
        (WRITE, [GROUP], {A: [answer(504, "not_acknowledged")]}, "find a", NotAcknowledged),
        (WRITE, [GROUP], {A: [answer(500, "stalled")]}, "find a", Stalled),
        (WRITE, [GROUP], {A: [answer(500, "check_failed")]}, "find a", CheckFailed),
        (READ, [Nodes(A, ())], {A: [answer(500, "failed")]}, "find a", ReplicatorError),
        (WRITE, [GROUP], {A: [NO_ANSWER, answer(504, "not_acknowledged")]}, "find a find|pause 0.1|find a",
         NotAcknowledged),
        # … but what is certain of one attempt says nothing of the one before it.
        (WRITE, [GROUP], {A: [NO_ANSWER, answer(500, "stalled")]}, "find a find|pause 0.1|find a", OutcomeUnknown),
        # Reads try the others, each once, before they wait.
        (READ, [GROUP], {C: [NO_ANSWER]}, "find c find b", 200),
        (READ, [GROUP], {C: [GONE], B: [GONE]}, "find c find b find a", 200),
        (READ, [GROUP], {C: [answer(504, "wait_timeout")], B: [answer(503, "not_running")]}, "find c find b find a",
         200),
        (READ, [GROUP], {C: [answer(503, "busy")]}, "find c find b", 200),
        (READ, [GROUP], {C: [answer(500, "failed")]}, "find c find b", 200),
        (READ, [GROUP], {C: [answer(404, "unknown_id")]}, "find c", 404),
        (READ, [GROUP], {C: [GONE, answer()], B: [GONE], A: [GONE]}, "find c find b find a find|pause 0.1|find c", 200),
        (READ, [GROUP], {C: [answer(500, "failed")], B: [GONE], A: [answer(500, "stalled")]}, "find c find b find a",
         Stalled),
        # Redis is away: what is known goes on to be asked.
        (WRITE, [GROUP, LogUnavailable(url="r", problem="p"), Nodes(B, ())], {A: [GONE]},
         "find a find|pause 0.1|find b", 200),
        # A list: who leads, they say.
        (WRITE, [LISTED], {A: [redirect(B)]}, "find a b", 200),
        (WRITE, [LISTED], {A: [answer(503, "not_primary", role="standby")]}, "find a find b", 200),
        (WRITE, [LISTED], {A: [GONE], B: [GONE]}, "find a find b find c", 200),
    ],
)  # fmt: skip
def test_what_it_does_next(call: Call, looks: list[Any], replies: dict[str, list[Any]], told: str, end: Any) -> None:
    play = Play(looks=looks)
    for url, its in replies.items():
        play.on(url, *its)
    assert got(play.run(call)) == end
    expected = [each for part in told.split("|") for each in ([part] if part.startswith("pause") else part.split())]
    assert play.told == expected


class TestKeys:
    def test_every_attempt_of_a_write_has_the_same_key(self) -> None:
        play = Play(looks=[GROUP, Nodes(B, ())]).on(A, NO_ANSWER)
        play.run(WRITE)
        assert [send.headers["idempotency-key"] for send in play.sent] == ['"k1"', '"k1"']

    def test_a_key_is_written_as_a_string_of_structured_fields(self) -> None:
        play = Play()
        play.run(Call(method="POST", path="/", is_read=False, key='a"b\\c'))
        assert play.sent[0].headers["idempotency-key"] == r'"a\"b\\c"'

    def test_neither_a_read_nor_a_write_without_one_sends_a_key(self) -> None:
        play = Play()
        play.run(READ)
        play.run(UNKEYED)
        assert not any("idempotency-key" in send.headers for send in play.sent)


class TestUntilItIsTooLate:
    def test_a_write_that_was_never_received_says_what_was_in_the_way(self) -> None:
        play = Play().on(A, GONE)
        end = play.run(WRITE, for_s=1.0)
        assert type(end) is NotPrimary
        assert "nothing was written" in str(end)
        assert play.now <= 1001.0

    def test_the_message_of_the_node_is_the_callers(self) -> None:
        end = Play().on(A, answer(503, "lease_lost")).run(WRITE, for_s=1.0)
        assert (type(end).__name__, str(end)) == ("LeaseLost", "because of lease_lost")

    def test_one_that_may_have_landed_stays_unknown_whatever_came_later(self) -> None:
        end = Play().on(A, NO_ANSWER, answer(503, "lease_lost")).run(WRITE, for_s=1.0)
        assert type(end) is OutcomeUnknown
        assert end.fields["key"] == "k1"
        assert "ReadTimeout" in str(end)
        assert "'k1'" in str(end)

    @pytest.mark.parametrize("reply", [answer(500, "failed"), answer(502, role=""), answer(504, "", role="", at="")])
    def test_so_does_one_that_failed_again_and_again(self, reply: Answer) -> None:
        end = Play().on(A, reply).run(WRITE)
        assert type(end) is OutcomeUnknown
        assert end.fields["key"] == "k1"

    def test_one_that_could_not_be_forwarded_was_not_written(self) -> None:
        play = Play(looks=[Nodes(None, (A,), has_roles=False)])
        play.on(A, answer(503, "primary_unreachable", role="standby", retry_after_s=1.0))
        write, read = play.run(UNKEYED), play.run(READ)
        assert (type(write), str(write)) == (NotPrimary, "because of primary_unreachable")
        assert (type(read), str(read)) == (TimeoutError, "because of primary_unreachable")

    def test_so_does_one_whose_term_was_refused_then(self) -> None:
        call = Call(method="POST", path="/", is_read=False, key="k1", headers={"replicator-term": "5"})
        play = Play(looks=[GROUP, Nodes(B, ())]).on(A, NO_ANSWER).on(B, answer(409, "stale_term"))
        assert type(play.run(call)) is OutcomeUnknown

    def test_a_read_is_a_timeout(self) -> None:
        end = Play(looks=[Nodes(None, (B,))]).on(B, NO_ANSWER).run(READ, for_s=1.0)
        assert type(end) is TimeoutError
        assert "http://b" in str(end)

    def test_where_nobody_knows_the_nodes_the_reason_is_told(self) -> None:
        play = Play(looks=[LogUnavailable(url="redis://r", problem="it is away")])
        assert type(play.run(READ, for_s=1.0)) is LogUnavailable
        assert play.sent == []

    def test_where_there_is_nobody_to_ask_that_is_told(self) -> None:
        write, read = (Play(looks=[Nodes(None, ())]).run(call, for_s=1.0) for call in (WRITE, READ))
        assert (type(write), type(read)) == (NotPrimary, TimeoutError)
        assert str(write).startswith("nobody leads the group, or its primary serves no HTTP; nothing was written")
        assert "no node of the group" in str(read)

    def test_pauses_become_longer_and_none_of_them_ends_after_the_deadline(self) -> None:
        play = Play().on(A, answer(503, "lease_lost"))
        play.run(WRITE, for_s=2.0)
        assert [told for told in play.told if told.startswith("pause")] == [
            "pause 0.1", "pause 0.2", "pause 0.4", "pause 0.8",
        ]  # fmt: skip
        assert play.now < 1002.0

    def test_nodes_that_send_it_to_each_other_are_not_hammered(self) -> None:
        play = Play().on(A, redirect(B)).on(B, redirect(A))
        assert type(play.run(WRITE, for_s=1.0)) is NotPrimary
        pauses = sum(told.startswith("pause") for told in play.told)
        assert pauses >= 2
        assert len(play.sent) <= 5 * (pauses + 1)


class TestWhileNobodyLeads:
    """A node holds a write back for so long, in case that somebody does soon, and answers 503 then."""

    HELD = After(2.5, answer(503, "not_primary", role="standby"))

    @pytest.mark.parametrize("call", [WRITE, UNKEYED], ids=["keyed", "unkeyed"])
    def test_nothing_is_begun_that_would_be_cut_off(self, call: Call) -> None:
        play = Play(looks=[Nodes(None, (A,), has_roles=False)]).on(A, self.HELD)
        end = play.run(call, for_s=9.0)
        assert (type(end), str(end)) == (NotPrimary, "because of not_primary")
        assert [send.url for send in play.sent] == [A] * 3

    def test_it_ends_there_with_what_another_node_says(self) -> None:
        play = Play(looks=[Nodes(None, (A, B), has_roles=False)]).on(A, self.HELD, answer(201))
        play.on(B, answer(503, "not_primary", role="standby"))
        assert got(play.run(WRITE, for_s=9.0)) == 201

    def test_one_that_leads_by_now_is_sent_it_however_long_it_held_one_back(self) -> None:
        play = Play(looks=[GROUP]).on(A, self.HELD, answer(201))
        assert got(play.run(WRITE, for_s=4.0)) == 201

    def test_one_that_was_slow_for_another_reason_is_asked_until_the_end(self) -> None:
        slow = After(2.5, answer(503, "log_unavailable"))
        play = Play(looks=[Nodes(None, (A,), has_roles=False)]).on(A, slow, answer(201))
        assert got(play.run(WRITE, for_s=4.0)) == 201

    def test_one_that_may_have_landed_is_sent_until_the_end(self) -> None:
        play = Play(looks=[Nodes(None, (A,), has_roles=False)]).on(A, NO_ANSWER, self.HELD, answer(201))
        assert got(play.run(WRITE, for_s=4.5)) == 201

    def test_an_attempt_is_longer_than_that(self) -> None:
        assert setup.ATTEMPT_S >= options.PRIMARY_WITHIN_S + 1


class TestPatience:
    def test_one_node_is_not_waited_for_until_the_end_where_the_request_may_be_repeated(self) -> None:
        play = Play()
        play.run(WRITE)
        play.run(READ)
        assert [send.timeout_s for send in play.sent] == [3.0, 3.0]

    def test_a_write_that_may_not_be_or_that_waits_for_others_has_all_the_time(self) -> None:
        play = Play()
        play.run(UNKEYED)
        play.run(Call(method="POST", path="/", is_read=False, key="k", headers={"replicator-ack": "applied:1"}))
        assert [send.timeout_s for send in play.sent] == [10.0, 10.0]


class TestTheToken:
    def test_a_read_asks_for_the_newest_position_that_was_seen(self) -> None:
        play = Play().on(A, answer(at="5-12")).on(B, answer(at="5-12")).on(C, answer(at="5-11"))
        play.run(READ)
        play.run(WRITE)
        play.run(READ)
        assert [send.headers.get("replicator-wait") for send in play.sent] == [None, None, "5-12"]

    def test_it_never_goes_back(self) -> None:
        known = Known()
        for position in ("5-12", "6-3", "5-99", "6-2"):
            known.saw(RecordId.parse(position))
        assert known.token == RecordId(6, 3)

    def test_the_position_of_a_refusal_is_not_seen(self) -> None:
        play = Play().on(A, answer(503, "lease_lost", at="5-99"), answer(at="5-10"))
        play.run(WRITE)
        assert play.known.token == RecordId(5, 10)

    def test_one_that_was_lost_is_told_once_and_dropped(self) -> None:
        play = Play().on(C, answer(409, "position_lost")).on(B, answer(at="6-3"))
        play.known.saw(RecordId(5, 12))
        assert type(play.run(READ)) is PositionLost
        assert play.known.token is None
        assert got(play.run(READ)) == 200
        assert play.sent[-1].headers.get("replicator-wait") is None

    def test_a_position_that_was_seen_since_is_not_dropped(self) -> None:
        known = Known()
        known.saw(RecordId(6, 3))
        known.drop(RecordId(5, 12))
        assert known.token == RecordId(6, 3)

    def test_the_callers_own_position_counts_and_is_not_the_clients(self) -> None:
        play = Play().on(C, answer(409, "position_lost"))
        play.known.saw(RecordId(5, 12))
        call = Call(method="GET", path="/", is_read=True, headers={"replicator-wait": "5-77"})
        assert type(play.run(call)) is PositionLost
        assert play.sent[0].headers["replicator-wait"] == "5-77"
        assert play.known.token == RecordId(5, 12)

    def test_fresh_is_asked_for(self) -> None:
        play = Play()
        play.run(Call(method="GET", path="/", is_read=True, fresh=True))
        assert play.sent[0].headers == {"replicator-fresh": "1"}


class TestATerm:
    def test_a_write_in_a_term_is_not_sent_into_another_one(self) -> None:
        call = Call(method="POST", path="/", is_read=False, key="k", headers={"replicator-term": "5"})
        play = Play(looks=[GROUP, Nodes(B, ())]).on(A, answer(409, "fenced"))
        assert type(play.run(call)) is Fenced
        assert play.told == ["find", "a"]


class TestTheNodes:
    def test_reads_take_turns_among_the_standbys(self) -> None:
        play = Play()
        for _ in range(4):
            play.run(READ)
        assert [send.url for send in play.sent] == [C, B, C, B]

    def test_without_a_standby_the_primary_is_read(self) -> None:
        play = Play(looks=[Nodes(A, ())])
        assert got(play.run(READ)) == 200
        assert play.told == ["find", "a"]

    def test_they_are_not_looked_up_for_each_request_but_now_and_then(self) -> None:
        play = Play()
        for _ in range(3):
            play.run(WRITE)
        play.now += 11.0
        play.run(WRITE)
        assert play.told == ["find", "a", "a", "a", "find", "a"]

    def test_a_redis_that_is_away_is_not_asked_by_each_request(self) -> None:
        play = Play(looks=[GROUP, LogUnavailable(url="r", problem="p")])
        play.run(WRITE)
        play.now += 11.0
        for _ in range(3):
            assert got(play.run(WRITE)) == 200
        assert play.told == ["find", "a", "find", "a", "a", "a"]

    def test_who_leads_is_remembered_from_a_redirect(self) -> None:
        play = Play(looks=[LISTED]).on(A, redirect(B))
        play.run(WRITE)
        play.run(WRITE)
        assert play.told == ["find", "a", "b", "b"]

    def test_of_a_list_the_standbys_are_read_once_they_are_known(self) -> None:
        play = Play(looks=[LISTED]).on(A, answer()).on(B, answer(role="standby")).on(C, answer(role="standby"))
        for _ in range(6):
            play.run(READ)
        assert A not in [send.url for send in play.sent[-2:]]


@pytest.mark.parametrize("module", [answers, exchange, known], ids=lambda it: it.__name__)
def test_what_decides_has_no_clock_no_chance_and_no_connection(module: Any) -> None:
    nodes = [*ast.walk(ast.parse(inspect.getsource(module)))]
    named = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    assert not (named | {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}) & {
        "asyncio", "httpx", "os", "random", "redis", "secrets", "socket", "time", "uuid",
    }  # fmt: skip


def test_an_error_has_the_attributes_that_its_class_promises() -> None:
    end = (
        Play()
        .on(A, answer(409, "fenced"))
        .run(Call(method="POST", path="/", is_read=False, headers={"replicator-term": "5"}))
    )
    assert isinstance(end, Fenced)
    assert (end.term, end.primary) == (None, None)
    assert isinstance(end, ReplicatorError)
    assert end.fields["error"] == "fenced"
