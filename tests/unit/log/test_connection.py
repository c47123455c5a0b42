"""URLs and what they must not show, and a link over connections of paper."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import pytest
import redis
from hypothesis import example, given, settings
from hypothesis import strategies as st

from replicator.errors import ConfigError, LogUnavailable, OutcomeUnknown
from replicator.log import finders, master_discovery
from replicator.log.connection import Address, Asking, Link, follow, shown
from replicator.log.finders import Opened, client_for, finder_for
from replicator.log.redis_errors import advice
from replicator.log.urls import place_of
from replicator.log.wire import Limit
from tests.support.kv import PATIENCE_S, eventually, in_thread

KEY = b"replicator:{g}:log"
A, B = Address("a", 1), Address("b", 2)


def place(url: str) -> Any:
    return place_of(url)


def options(url: str) -> dict[str, Any]:
    """What a connection to the Redis of this URL is made with."""
    found: Any = finder_for(url, key=KEY, name="n", timeout_s=3)
    return dict(found._options)


# --- URLs ------------------------------------------------------------------------------------------------------------


def test_the_url_of_one_server_is_redis_pys_own() -> None:
    assert options("redis://ann:pw@h:7/3").items() >= {
        "host": "h", "port": 7, "db": 3, "username": "ann", "password": "pw"
    }.items()  # fmt: skip
    assert options("unix:///tmp/x.sock")["path"] == "/tmp/x.sock"
    assert options("rediss://h")["connection_class"] is redis.SSLConnection


def test_sentinels_are_named_with_the_service_and_the_database() -> None:
    found = place("redis+sentinel://ann:p%2Fw@h1,h2:7,[::1]:8/my%20main/3?sentinel_password=s")
    assert found.kind == "sentinel"
    assert found.hosts == (Address("h1", 26379), Address("h2", 7), Address("::1", 8))
    assert found.service == "my main"
    assert found.options.items() >= {"db": 3, "username": "ann", "password": "p/w"}.items()
    assert found.asking == {"username": None, "password": "s"}


def test_the_password_of_redis_is_not_told_to_the_sentinels() -> None:
    finder: Any = finder_for("redis+sentinel://ann:pw@h/main/3?client_name=x", key=KEY, name="n", timeout_s=3)
    assert finder._asking.items() >= {"username": None, "password": None, "db": 0, "socket_timeout": 1.0}.items()
    assert finder._options.items() >= {"username": "ann", "password": "pw", "db": 3, "socket_timeout": 3}.items()


def test_a_cluster_is_named_by_some_of_its_nodes() -> None:
    found = place("rediss+cluster://:pw@h1,h2:7,h1:6379?ssl_check_hostname=no")
    assert found.kind == "cluster"
    assert found.hosts == (Address("h1", 6379), Address("h2", 7))
    assert found.options["password"] == "pw"
    assert found.options["ssl_check_hostname"] is False


def test_the_slot_is_that_of_the_groups_tag() -> None:
    finder: Any = finder_for("redis+cluster://h", key=KEY, name="n", timeout_s=3)
    assert finder._slot == redis.crc.key_slot(b"g")


@pytest.mark.parametrize("kind", ["sentinel", "cluster"])
def test_tls_is_asked_for_by_rediss(kind: str) -> None:
    assert options(f"rediss+{kind}://h/{'main' if kind == 'sentinel' else ''}")["connection_class"] is (
        redis.SSLConnection
    )


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://h", "one is redis://"),
        ("", "one is redis://"),
        ("redis://h:seven", "one is redis://"),
        ("redis://h?socket_timeout=soon", "socket_timeout"),
        ("redis://h?colour=blue", "colour"),
        ("redis+sentinel://h1:26379", "service"),
        ("redis+sentinel://h1:26379/", "service"),
        ("redis+sentinel://h1/main/zero", "the database is a number"),
        ("redis+sentinel://h1/main/0/1", "the database is a number"),
        ("redis+sentinel:///main", "neither of sentinels nor of a cluster"),
        ("redis+sentinel://h1,,h2/main", "HOST:PORT"),
        ("redis+sentinel://h1:port/main", "HOST:PORT"),
        ("redis+sentinel://h1:65536/main", "HOST:PORT"),
        ("redis+sentinel://a@b@h1/main", "neither of sentinels nor of a cluster"),
        ("redis+sentinel://h1/main?colour=blue", "colour"),
        ("redis+cluster://h1/1", "a cluster has only database 0"),
        ("redis+cluster://h1?db=1", "a cluster has only database 0"),
        ("redis+cluster://h1/main", "the database is a number"),
        ("redis+clutser://h1", "neither of sentinels nor of a cluster"),
        ("redis+cluster://", "neither of sentinels nor of a cluster"),
    ],
)
def test_a_wrong_url_is_refused_with_the_form(url: str, why: str) -> None:
    with pytest.raises(ConfigError, match="is not a Redis URL") as caught:
        finder_for(url, key=KEY, name="n", timeout_s=3)
    assert why in str(caught.value)
    assert "redis+cluster://[USER:PASSWORD@]HOST:PORT" in str(caught.value)


@pytest.mark.parametrize("url", ["redis://h?{}", "redis+sentinel://h/main?{}", "redis+cluster://h?{}"])
def test_a_url_cannot_have_commands_repeated_or_answers_changed(url: str) -> None:
    found = options(url.format("protocol=3&decode_responses=True&retry_on_timeout=True"))
    assert (found["protocol"], found["decode_responses"], found["retry"].get_retries()) == (2, False, 0)


# --- passwords -------------------------------------------------------------------------------------------------------

MARK = "S3cr"
FORMS = (
    "redis://:{}@h:1/0",
    "rediss://ann:{}@h",
    "unix://ann:{}@/tmp/x.sock?db=1",
    "redis://h?password={}",
    "redis://h?db=1&pass%77ord={}&x=y",
    "redis://ann:{0}@h?password={0}",
    "redis+sentinel://ann:{}@h1:1,h2:2/main/0",
    "redis+sentinel://h1:1,h2:2/main/0?sentinel_password={}&db=0",
    "rediss+sentinel://:{0}@h1/main?ssl_password={0}&sentinel_password={0}",
    "redis+cluster://ann:{}@h1:7000,h2",
    "redis+cluster://h1:7000,h2?password={}",
    "redis+nonsense://ann:{}@h1",
    "ann:{}@h",
)


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=40)
@given(st.text(max_size=8))
def test_a_password_is_never_shown(form: str, rest: str) -> None:
    url = form.format(quote(f"{MARK}{rest}{MARK}", safe=""))
    assert MARK not in shown(url)
    assert_hidden_in_errors(url)


@pytest.mark.parametrize("form", [form for form in FORMS if "@" in form])
@settings(max_examples=40)
@given(st.text("ab:/@?#&=%[]\n", max_size=8))
@example("?password=@")
@example("/x")
@example("@=/:?")
def test_a_password_that_is_not_encoded_is_not_shown_either(form: str, rest: str) -> None:
    # Behind the `?` nobody can tell where a password with an `&` ends.
    secret = f"{MARK}{rest.replace('&', '') if 'password=' in form else rest}{MARK}"
    url = form.format(secret)
    assert MARK not in shown(url)
    assert_hidden_in_errors(url)


def assert_hidden_in_errors(url: str) -> None:
    with noted(ConfigError) as errors:
        finder_for(url, key=KEY, name="n", timeout_s=1)
    with noted(ConfigError) as more:
        client_for(url)
    assert all(MARK not in text for text in (*errors, *more))


@contextmanager
def noted(kind: type[Exception]) -> Iterator[list[str]]:
    """Suppress errors of a kind, and give their texts."""
    texts: list[str] = []
    try:
        yield texts
    except kind as error:
        texts.append(str(error))


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("redis://h:1/0", "redis://h:1/0"),
        ("redis://ann@h:1/0?db=2", "redis://ann@h:1/0?db=2"),
        ("redis://ann:pw@h:1/0", "redis://ann:***@h:1/0"),
        ("unix:///tmp/x.sock?password=pw&db=2", "unix:///tmp/x.sock?password=***&db=2"),
        ("redis+sentinel://:pw@h1:1,h2:2/main/0", "redis+sentinel://:***@h1:1,h2:2/main/0"),
        ("redis+sentinel://h1/main?sentinel_password=pw", "redis+sentinel://h1/main?sentinel_password=***"),
        ("redis+cluster://h1:1,h2:2", "redis+cluster://h1:1,h2:2"),
    ],
)
def test_all_but_the_password_is_shown(url: str, text: str) -> None:
    assert shown(url) == text


# --- a client for others ---------------------------------------------------------------------------------------------


def test_a_client_asks_the_sentinels() -> None:
    client = client_for("redis+sentinel://ann:pw@h1:1,h2:2/main/3?sentinel_password=s")
    pool: Any = client.connection_pool
    assert isinstance(pool, redis.sentinel.SentinelConnectionPool)
    assert (pool.service_name, pool.is_master) == ("main", True)
    assert pool.connection_kwargs.items() >= {"db": 3, "username": "ann", "password": "pw"}.items()
    asking = [each.connection_pool.connection_kwargs for each in pool.sentinel_manager.sentinels]
    assert [(each["host"], each["port"], each["password"], each["db"]) for each in asking] == [
        ("h1", 1, "s", 0), ("h2", 2, "s", 0)
    ]  # fmt: skip


def test_a_client_of_sentinels_may_use_tls() -> None:
    pool: Any = client_for("rediss+sentinel://h1/main").connection_pool
    assert pool.connection_class is redis.sentinel.SentinelManagedSSLConnection
    assert pool.sentinel_manager.sentinels[0].connection_pool.connection_class is redis.SSLConnection


def test_there_is_no_client_for_a_cluster() -> None:
    with pytest.raises(ConfigError, match="RQ does not run on a cluster: give the jobs a Redis of their own"):
        client_for("redis+cluster://h1")


# --- answers that mean: elsewhere ------------------------------------------------------------------------------------

ELSEWHERE = [
    redis.exceptions.MovedError("12 127.0.0.1:7001"),
    redis.exceptions.AskError("12 127.0.0.1:7001"),
    redis.exceptions.TryAgainError("Multiple keys request during rehashing of slot"),
    redis.exceptions.ClusterDownError("Hash slot not served"),
    redis.exceptions.ReadOnlyError("You can't write against a read only replica."),
    redis.exceptions.ResponseError("MOVED 12 127.0.0.1:7001"),
    redis.exceptions.ResponseError("Error running script (call to f_0): @user_script:1: -READONLY You can't write"),
]


@pytest.mark.parametrize("error", ELSEWHERE, ids=lambda error: f"{type(error).__name__}-{str(error)[:12]}")
def test_a_server_that_is_not_the_right_one_is_left(error: Exception) -> None:
    finder = PaperFinder(answers=[error, b"OK"])
    link = Link(finder, "url")
    with pytest.raises(redis.exceptions.ResponseError):
        link.call("PING")
    assert finder.made[0].closed
    assert link.call("PING") == b"OK"
    assert len(finder.made) == 2


def test_a_server_that_refuses_for_another_reason_is_kept() -> None:
    finder = PaperFinder(answers=[redis.exceptions.ResponseError("WRONGTYPE ASK nobody"), b"OK"])
    link = Link(finder, "url")
    with pytest.raises(redis.exceptions.ResponseError):
        link.call("PING")
    assert link.call("PING") == b"OK"
    assert len(finder.made) == 1


def test_what_redis_py_takes_out_of_an_answer_is_put_back() -> None:
    text = advice(redis.exceptions.MovedError("12 127.0.0.1:7001"))
    assert text.startswith("MOVED 12 127.0.0.1:7001 (")
    assert "a redis+cluster:// URL finds it" in text


# --- a link ----------------------------------------------------------------------------------------------------------


class PaperWire:
    """Gives the answers that it was made with, and notes what was sent."""

    def __init__(self, answers: list[Any]) -> None:
        self.answers = answers
        self.is_open = True
        self.sent: list[tuple[Any, ...]] = []
        self.closed = False

    def ask(self, *command: Any, limit: Limit | None = None) -> Any:
        return self.receive(self.send(*command, limit=limit))

    def send(self, *command: Any, limit: Limit | None = None) -> Limit:
        assert not self.closed
        assert self.is_open, "it owes an answer"
        self.is_open = False
        self.sent.append(command)
        return limit or Limit(PATIENCE_S)

    def receive(self, limit: Limit) -> Any:
        answer = self.answers.pop(0)
        answer = answer() if callable(answer) else answer
        self.is_open = True
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        self.closed = True

    def shut_down(self) -> None:
        pass


class PaperFinder:
    """Leads to connections of paper, which share their answers."""

    def __init__(self, answers: list[Any] | None = None) -> None:
        self.answers = answers or []
        self.made: list[PaperWire] = []
        self.run = "run-1"
        self.address: Address | None = A
        self.told: Address | None = A
        self.asked = 0

    def open(self, timeout_s: float) -> Opened:
        self.made.append(PaperWire(self.answers))
        return Opened(self.made[-1], self.run, self.address)

    def master(self, wait_s: float) -> Address | None:
        self.asked += 1
        return self.told


class Nop:
    text = b"return 1"
    sha = b"0" * 40


def test_a_script_takes_the_run_of_its_own_connection() -> None:
    finder = PaperFinder([b"1", b"2"])
    link = Link(finder, "url")
    link.script(Nop(), [b"k"], b"x", in_run=True)
    finder.run = "run-2"
    link.leave_other_run("run-1")
    link.script(Nop(), [b"k"], b"x", in_run=True)
    assert finder.made[0].sent == [(b"EVALSHA", Nop.sha, 1, b"k", "run-1", b"x")] * 2


def asking(link: Link, *args: Any, in_run: bool = False) -> Asking:
    return Asking(link, Nop(), [b"k"], args, in_run=in_run, limit=Limit(PATIENCE_S))


def test_a_script_is_on_its_way_before_its_answer_is_asked_for() -> None:
    finder = PaperFinder([b"1", b"2"])
    link = Link(finder, "url")
    with asking(link, b"x", in_run=True) as first:
        assert finder.made[0].sent == [(b"EVALSHA", Nop.sha, 1, b"k", "run-1", b"x")]
        assert finder.answers == [b"1", b"2"]
        assert first.receive() == b"1"
    assert link.call("PING") == b"2"
    assert len(finder.made) == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, SystemExit])
def test_a_connection_that_is_left_before_its_answer_was_read_is_given_up(error: type[BaseException]) -> None:
    finder = PaperFinder([b"2"])
    link = Link(finder, "url")
    with pytest.raises(error), asking(link):
        raise error
    assert [wire.closed for wire in finder.made] == [True]
    # then the answer that comes too late is not taken for that of the next command
    assert link.call("PING") == b"2"
    assert [wire.closed for wire in finder.made] == [True, False]


def test_a_second_interrupt_while_it_is_given_up_leaves_the_link_free(monkeypatch: pytest.MonkeyPatch) -> None:
    link = Link(PaperFinder([b"2"]), "url")
    drop = link._drop

    def interrupted() -> None:
        drop()
        raise KeyboardInterrupt

    monkeypatch.setattr(link, "_drop", interrupted)
    with pytest.raises(KeyboardInterrupt), asking(link):
        raise KeyboardInterrupt
    monkeypatch.setattr(link, "_drop", drop)
    assert link.call("PING") == b"2"


@pytest.mark.parametrize("ask", [lambda link: link.call("GET", "k"), lambda link: link.script(Nop(), [b"k"])])
def test_a_second_interrupt_before_it_is_given_up_mixes_nothing_up(
    monkeypatch: pytest.MonkeyPatch, ask: Callable[[Link], Any]
) -> None:
    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    finder = PaperFinder([interrupted, b"2"])
    link = Link(finder, "url")
    with monkeypatch.context() as patched:
        patched.setattr(link, "_failed", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ask(link)
    assert link.call("PING") == b"2"
    assert [wire.closed for wire in finder.made] == [True, False]


def test_an_interrupt_while_the_answer_is_waited_for_gives_the_connection_up() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    finder = PaperFinder([interrupted, b"2"])
    link = Link(finder, "url")
    with pytest.raises(KeyboardInterrupt), asking(link) as first:
        first.receive()
    assert link.call("PING") == b"2"
    assert [wire.closed for wire in finder.made] == [True, False]


def test_an_error_while_it_is_sent_leaves_the_connection_free_for_the_next() -> None:
    class Torn(PaperWire):
        def send(self, *command: Any, limit: Limit | None = None) -> Limit:
            if not self.closed:
                raise BrokenPipeError("torn")
            return super().send(*command, limit=limit)

    finder = PaperFinder([b"2"])
    finder.made.append(Torn([]))
    link = Link(finder, "url")
    link._opened = Opened(finder.made[0], "run-1", A)
    with pytest.raises(OutcomeUnknown, match="torn"), asking(link):
        raise AssertionError("it was not sent")
    assert link.call("PING") == b"2"
    assert [wire.closed for wire in finder.made] == [True, False]


@pytest.mark.parametrize("error", ELSEWHERE, ids=lambda error: f"{type(error).__name__}-{str(error)[:12]}")
def test_an_answer_that_the_master_is_elsewhere_gives_the_connection_up_in_two_steps_as_in_one(
    error: Exception,
) -> None:
    finder = PaperFinder([error, b"2"])
    link = Link(finder, "url")
    with pytest.raises(redis.exceptions.ResponseError), asking(link) as first:
        first.receive()
    assert link.call("PING") == b"2"
    assert [wire.closed for wire in finder.made] == [True, False]


def test_a_refusal_is_an_answer_and_the_connection_is_kept_in_two_steps_as_in_one() -> None:
    finder = PaperFinder([redis.exceptions.ResponseError("WRONGTYPE ASK nobody"), b"2"])
    link = Link(finder, "url")
    with pytest.raises(redis.exceptions.ResponseError), asking(link) as first:
        first.receive()
    assert link.call("PING") == b"2"
    assert [wire.closed for wire in finder.made] == [False]


def test_a_script_that_redis_does_not_know_is_sent_as_a_text() -> None:
    finder = PaperFinder([redis.exceptions.NoScriptError("No matching script"), b"1"])
    link = Link(finder, "url")
    with asking(link, b"x", in_run=True) as first:
        assert first.receive() == b"1"
    assert finder.made[0].sent == [
        (b"EVALSHA", Nop.sha, 1, b"k", "run-1", b"x"),
        (b"EVAL", Nop.text, 1, b"k", "run-1", b"x"),
    ]


def test_others_wait_until_the_answer_was_read() -> None:
    finder = PaperFinder([b"1", b"2"])
    link = Link(finder, "url")
    with asking(link) as first:
        other = in_thread(lambda: link.call("PING"))
        eventually(lambda: len(link._lock._waiting) == 1)
        assert len(finder.made[0].sent) == 1
        assert first.receive() == b"1"
    assert other() == b"2"


def test_a_connection_of_another_run_is_made_anew_for_the_next_call() -> None:
    finder = PaperFinder([b"1", b"2"])
    link = Link(finder, "url")
    link.call("PING")
    finder.run = "run-2"
    link.leave_other_run("run-2")
    link.script(Nop(), [], in_run=True)
    assert [connection.closed for connection in finder.made] == [True, False]
    assert finder.made[1].sent == [(b"EVALSHA", Nop.sha, 0, "run-2")]


def test_links_leave_a_master_that_is_none_any_more() -> None:
    finder = PaperFinder([b"1", b"2"])
    idle, link = Link(finder, "url"), Link(finder, "url")
    link.call("PING")
    follow(finder, [idle, link])
    assert not finder.made[0].closed
    finder.told = B
    follow(finder, [idle, link])
    assert finder.made[0].closed
    finder.address = B
    link.call("PING")
    follow(finder, [idle, link])
    assert [connection.closed for connection in finder.made] == [True, False]


def test_who_has_no_connection_asks_nobody() -> None:
    finder = PaperFinder()
    follow(finder, [Link(finder, "url")])
    assert finder.asked == 0


def test_sentinels_that_do_not_answer_change_nothing() -> None:
    finder = PaperFinder([b"1"])
    link = Link(finder, "url")
    link.call("PING")
    finder.told = None
    follow(finder, [link])
    assert not finder.made[0].closed


def test_a_link_that_is_left_in_the_middle_of_a_call_does_not_wait_for_it() -> None:
    begun, go = threading.Event(), threading.Event()

    def late() -> bytes:
        begun.set()
        assert go.wait(PATIENCE_S)
        raise ConnectionResetError("shut down")

    finder = PaperFinder([late, b"2"])
    link = Link(finder, "url")
    errors: list[Exception] = []

    def call() -> None:
        try:
            link.call("PING")
        except LogUnavailable as error:
            errors.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    assert begun.wait(PATIENCE_S)
    link.leave_other_address(B)
    go.set()
    thread.join(PATIENCE_S)
    assert [type(error) for error in errors] == [OutcomeUnknown]
    assert link.call("PING") == b"2"
    assert len(finder.made) == 2


def test_a_link_that_finds_nobody_says_so_and_nothing_was_sent() -> None:
    class Nobody(PaperFinder):
        def open(self, timeout_s: float) -> Opened:
            raise redis.exceptions.ConnectionError("nobody is there")

    with pytest.raises(LogUnavailable, match="Redis at url is not available: nobody is there") as caught:
        Link(Nobody(), "url").call("PING")
    assert type(caught.value) is LogUnavailable


def test_a_closed_link_is_not_opened_again() -> None:
    finder = PaperFinder([b"1"])
    link = Link(finder, "url")
    link.call("PING")
    link.close()
    assert finder.made[0].closed
    with pytest.raises(LogUnavailable, match="the connection is closed"):
        link.call("PING")
    assert len(finder.made) == 1


# --- limits ----------------------------------------------------------------------------------------------------------


class SlowFinder(PaperFinder):
    """The way is long: `go` ends it."""

    def __init__(self, answers: list[Any] | None = None) -> None:
        super().__init__(answers)
        self.go = threading.Event()
        self.attempts: list[float] = []

    def open(self, timeout_s: float) -> Opened:
        self.attempts.append(timeout_s)
        assert self.go.wait(PATIENCE_S)
        return super().open(timeout_s)


def test_who_cannot_wait_for_a_connection_leaves_and_the_next_one_finds_it_made() -> None:
    finder = SlowFinder([b"1"])
    link = Link(finder, "url")
    with pytest.raises(LogUnavailable, match="no connection to it yet") as caught:
        link.call("PING", limit=Limit(5, time.monotonic() + 0.05))
    assert type(caught.value) is LogUnavailable, "nothing was sent"
    with pytest.raises(LogUnavailable):
        link.call("PING", limit=Limit(0.05))
    finder.go.set()
    assert link.call("PING") == b"1"
    assert finder.attempts == [5], "there was one attempt all the while"


def test_callers_do_not_queue_up_for_longer_than_each_of_them_may() -> None:
    finder = SlowFinder()
    link = Link(finder, "url")
    began = time.monotonic()

    def call() -> float:
        with pytest.raises(LogUnavailable):
            link.call("PING", limit=Limit(60, began + 1.0))
        return time.monotonic()

    ends = [end() for end in [in_thread(call) for _ in range(20)]]
    assert max(ends) - began < 20 * 1.0, "each waits for itself, and not for all of them in turn"
    finder.go.set()
    link.close()


def test_a_link_that_is_closed_on_its_way_keeps_nobody_and_leaves_nothing_open() -> None:
    finder = SlowFinder()
    link = Link(finder, "url")

    def call() -> bool:
        with pytest.raises(LogUnavailable, match="the connection is closed"):
            link.call("PING", limit=Limit(PATIENCE_S))
        return True

    calling = in_thread(call)
    eventually(lambda: bool(finder.attempts))
    link.close()
    assert calling()
    finder.go.set()
    eventually(lambda: [wire.closed for wire in finder.made] == [True])


# --- asking the sentinels --------------------------------------------------------------------------------------------


class Sentinels:
    """What each sentinel says of the master, and in which epoch. `hang`: those that say nothing until `go`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, said: dict[str, Any], *, hang: Sequence[str] = ()) -> None:
        self.said = said
        self.hang = set(hang)
        self.go = threading.Event()
        self.asked: Counter[str] = Counter()
        monkeypatch.setattr(finders, "_asked", self._asked)
        monkeypatch.setattr(finders, "ASK_AGAIN_AFTER_S", 0.0)
        monkeypatch.setattr(finders, "SOURCE_WAIT_S", PATIENCE_S)
        monkeypatch.setattr(master_discovery, "GOOD_FOR_S", 3600.0)
        self.finder: Any = finder_for(f"redis+sentinel://{','.join(said)}/main", key=KEY, name="n", timeout_s=3)

    def _asked(self, options: dict[str, Any], names: Any, *commands: tuple[str, ...]) -> list[Any]:
        assert commands == (("SENTINEL", "MASTER", "main"), ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main"))
        host = options["host"]
        self.asked[host] += 1
        if host in self.hang:
            assert self.go.wait(PATIENCE_S)
        said = self.said[host]
        if isinstance(said, Exception):
            raise said
        epoch, name = said
        master = epoch if isinstance(epoch, Exception) else [b"flags", b"master", b"config-epoch", b"%d" % epoch]
        return [master, None if name is None else [name.encode(), b"1"]]


A1, B1 = Address("a", 1), Address("b", 1)


def test_the_newest_epoch_counts_and_not_who_answers_first_or_how_many_say_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sentinels = Sentinels(monkeypatch, {"s1": (4, "a"), "s2": (4, "a"), "s3": (5, "b")})
    assert sentinels.finder.master(PATIENCE_S) == B1
    assert sentinels.asked == {"s1": 1, "s2": 1, "s3": 1}


def test_what_was_known_of_a_newer_epoch_is_not_forgotten_for_the_word_of_a_minority(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sentinels = Sentinels(monkeypatch, {"s1": (4, "a"), "s2": (5, "b"), "s3": (5, "b")})
    assert sentinels.finder.master(PATIENCE_S) == B1
    sentinels.said.update(s2=OSError("cut off"), s3=OSError("cut off"))
    assert sentinels.finder.master(PATIENCE_S) == B1
    # But most of them know better: they were set up anew.
    sentinels.said.update(s1=(0, "a"), s2=(0, "a"))
    assert sentinels.finder.master(PATIENCE_S) == A1


@pytest.mark.parametrize("answer", [(0, None), redis.exceptions.TimeoutError("late"), OSError("gone")])
def test_one_sentinel_that_knows_is_enough(monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    sentinels = Sentinels(monkeypatch, {"s1": answer, "s2": (1, "a")})
    assert sentinels.finder.master(PATIENCE_S) == A1
    sentinels.said["s2"] = answer
    assert sentinels.finder.master(PATIENCE_S) is None


def test_without_the_right_to_ask_for_the_epoch_they_have_to_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    no = redis.exceptions.NoPermissionError("this user has no permissions to run the 'sentinel|master' command")
    sentinels = Sentinels(monkeypatch, {"s1": (no, "a"), "s2": (no, "b")})
    assert sentinels.finder.master(PATIENCE_S) is None
    sentinels.said["s1"] = (no, "b")
    assert sentinels.finder.master(PATIENCE_S) == B1


def test_a_sentinel_that_hangs_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sentinels = Sentinels(monkeypatch, {"s1": (2, "b"), "s2": (1, "a")}, hang=["s1"])
    assert sentinels.finder.master(2.0) == A1
    began = time.monotonic()
    for _ in range(50):
        assert sentinels.finder.master(2.0) == A1
    assert time.monotonic() - began < 50 * 2.0, "it is not waited for again and again"
    assert sentinels.asked["s1"] == 1, "nor is it asked while it has not answered"
    sentinels.hang.clear()
    sentinels.go.set()
    eventually(lambda: sentinels.finder.master(2.0) == B1)


def test_sentinels_that_all_hang_lead_nowhere_and_take_no_longer_than_they_may(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sentinels = Sentinels(monkeypatch, {"s1": (1, "a"), "s2": (1, "a")}, hang=["s1", "s2"])
    began = time.monotonic()
    with pytest.raises(redis.exceptions.ConnectionError, match="no master was found; s1:26379: it does not answer; s2"):
        sentinels.finder.open(0.3)
    assert time.monotonic() - began < PATIENCE_S / 2
    sentinels.go.set()
