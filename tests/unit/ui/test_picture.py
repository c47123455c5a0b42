"""What a look at a group comes to on the page."""

from __future__ import annotations

import pytest

from replicator import RecordId, ops
from replicator.format.ids import ZERO_ID
from replicator.log.interface import LogSize
from replicator.ui.picture import Picture, Seen, picture_of, record_shown, terms_shown, with_redis_away
from tests.support.paper import Paper, at


@pytest.fixture
def paper() -> Paper:
    return Paper()


def picture(paper: Paper, before: Paper | None = None) -> Picture:
    seen = Seen(look=paper.log.look(), size=LogSize(None, None), look_ms=0.5, terms=[], records=[])
    return picture_of("g", seen, None, taken_at=5, told_by="test", may_act=True)


def test_the_headline_says_who_may_write(paper: Paper) -> None:
    paper.take_term("a")
    paper.beat("a", role="primary", term=1, position=at(1, 1), log_id="log-1")
    paper.beat("b", position=at(1, 1), term=1, log_id="log-1", in_sync=True)
    assert picture(paper).headline == {"level": "ok", "text": "a may write."}


def test_with_another_problem_it_says_that_as_well(paper: Paper) -> None:
    paper.take_term("a")
    paper.beat("a", role="primary", term=1, position=at(1, 1), log_id="log-1")
    paper.beat("b", position=at(1, 1), term=1, log_id="log-1", problem="the disk is full")
    paper.beat("c", position=at(1, 1), term=1, log_id="log-1")
    assert picture(paper).headline == {"level": "warning", "text": "a may write. 1 warning below."}
    # and what is wrong is told in the words of `status`
    assert picture(paper).findings == [{"check": "node b", "level": "warning", "message": "the disk is full"}]


def test_when_the_holder_is_silent_nobody_may(paper: Paper) -> None:
    paper.take_term("a")
    paper.beat("a", role="primary", term=1, position=at(1, 1))
    paper.now_ms += 60_000
    found = picture(paper).headline
    assert found["level"] == "problem"
    assert found["text"] == "Nobody may write: a holds term 1, and has not reported for 60 s."


def test_a_group_that_redis_does_not_know(paper: Paper) -> None:
    assert picture(paper).headline == {"level": "problem", "text": "This Redis knows no group g."}
    assert picture(paper).checks == []


def test_the_rate_comes_of_two_looks_by_the_clock_of_redis(paper: Paper) -> None:
    paper.take_term("a")
    before = paper.log.look()
    assert before.head is not None
    head = before.head._replace(position=at(1, before.head.position.id.n + 30))
    after = before._replace(now_ms=before.now_ms + 2000, head=head)
    seen = Seen(look=after, size=LogSize(None, None), look_ms=0.5, terms=[], records=[])

    def rate(earlier: object) -> float | None:
        return picture_of("g", seen, earlier, taken_at=5, told_by="test", may_act=False).record_rate  # type: ignore[arg-type]

    assert rate(before) == 15.0
    assert rate(None) is None
    assert rate(before._replace(run="another")) is None
    assert rate(after) is None, "no time has passed"


def test_while_redis_is_away_the_last_picture_grows_old(paper: Paper) -> None:
    paper.take_term("a")
    paper.beat("a", role="primary", term=1, position=at(1, 1))
    before = picture(paper)
    now = with_redis_away(before, "Redis at x is not available", taken_at=9000, away_ms=4000)
    assert now.headline == {"level": "problem", "text": f"Redis is not reached. Before that: {before.headline['text']}"}
    assert (now.redis_problem, now.redis_away_ms, now.taken_at) == ("Redis at x is not available", 4000, 9000)
    assert now.status["nodes"][0]["age_ms"] == before.status["nodes"][0]["age_ms"] + 4000
    # and what helps now is told, instead of what would have helped before
    assert [(each["check"], each["level"]) for each in now.findings] == [("Redis", "problem")]
    assert "Bring it back, with its data and not empty" in now.findings[0]["message"]
    assert before.status["nodes"][0]["age_ms"] < 4000, "the one before is as it was"
    # but not where it answers, and refuses
    now = with_redis_away(before, "Redis at x refuses: NOPERM.", taken_at=9000, away_ms=4000, is_reached=True)
    assert now.headline["text"].startswith("Redis answers, and this page cannot look at the group. Before that: ")
    assert now.findings[0]["message"] == "Redis at x refuses: NOPERM."


def test_each_term_says_how_it_ended_which_the_next_one_tells(paper: Paper) -> None:
    paper.take_term("a")
    paper.beat("b", position=at(1, 1), term=1, log_id="log-1")
    paper.now_ms += 7000
    ops.demote(paper.log, by="ops", reason="maintenance")
    paper.take_term("b", floor=2, by="b", reason="why")
    first, nobody, third = terms_shown(ops.history(paper.log), 60)
    assert (first["what"], first["holder"], first["ended"]) == ("found", "a", "stepped down")
    assert (nobody["what"], nobody["holder"], nobody["reason"]) == ("demote", None, "maintenance")
    assert nobody["ended"] is None, "nobody held it"
    assert (third["what"], third["holder"], third["by"], third["ended"]) == ("takeover", "b", "b", None)
    assert [each["term"] for each in terms_shown(ops.history(paper.log), 2)] == [2, 3]


def test_a_term_that_goes_on_without_a_change_says_so(paper: Paper) -> None:
    paper.take_term("a")
    paper.take_term("b", floor=1, by="ann", reason="poison", skip=RecordId(1, 1))
    first, second = paper.log.read(ZERO_ID).records
    assert record_shown(first)["what"] == "opens term 1: , by test"
    assert record_shown(second)["what"] == "opens term 2 without 1-1: poison, by ann"
