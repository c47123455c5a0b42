"""What jobs carry, and the keys of what they write, without a queue. Real workers: tests/integration/test_rq.py."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

import replicator.rq
from replicator import ConfigError, Fenced, LogLost, NotPrimary
from replicator.rq import Term, TermOver, job_key, submit_from_job, term_meta


def log_of(term: int, holder: str | None = "b", *, same_run: bool = True) -> Any:
    head = SimpleNamespace(node=holder) if holder else None
    return SimpleNamespace(group="g", look=lambda: SimpleNamespace(term=term, head=head, same_run=same_run))


def job(id: str = "job-1", repeats_left: int | None = None) -> Any:
    return SimpleNamespace(id=id, repeats_left=repeats_left)


@pytest.fixture
def current(monkeypatch: pytest.MonkeyPatch) -> Any:
    def put(job: Any) -> None:
        monkeypatch.setattr(replicator.rq.rq, "get_current_job", lambda: job)

    return put


class TestATerm:
    def test_it_holds_while_it_is_the_newest(self) -> None:
        term = Term(log_of(5), 5)
        term.check()
        assert (term.group, term.number) == ("g", 5)

    def test_it_is_over_once_another_one_was_taken(self) -> None:
        with pytest.raises(TermOver, match="term 5 is over, b holds term 7") as raised:
            Term(log_of(7), 5).check()
        assert isinstance(raised.value, Fenced)
        assert (raised.value.term, raised.value.current_term, raised.value.primary) == (5, 7, "b")

    def test_a_log_that_never_had_it_is_another_log(self) -> None:
        with pytest.raises(LogLost, match="the job is of term 5, and group g has come to 3 only"):
            Term(log_of(3), 5).check()


class TestWhatAJobCarries:
    def test_the_term_of_a_node_that_leads(self) -> None:
        node = SimpleNamespace(name="a", group="g", term=5, leads=True)
        assert term_meta(node) == {"replicator": {"group": "g", "term": 5}}

    def test_a_node_that_does_not_lead_has_none_to_give(self) -> None:
        with pytest.raises(NotPrimary, match="enqueue it there"):
            term_meta(SimpleNamespace(name="a", group="g", term=5, leads=False))

    def test_nor_has_one_whose_term_changes_meanwhile(self) -> None:
        class Turning:
            name, group, leads = "a", "g", True
            terms = iter([5, 6])

            @property
            def term(self) -> int:
                return next(self.terms)

        with pytest.raises(NotPrimary):
            term_meta(Turning())

    def test_that_of_a_log_in_which_somebody_leads(self) -> None:
        assert term_meta(log_of(5)) == {"replicator": {"group": "g", "term": 5}}
        for log in (log_of(0, None), log_of(5, same_run=False)):
            with pytest.raises(NotPrimary, match="nobody leads it"):
                term_meta(log)


class TestKeys:
    @pytest.mark.parametrize(
        ("job", "part", "key"),
        [
            (job(), "", "job-1"),
            (job(), "second", "job-1/second"),
            (job(repeats_left=2), "", "job-1/2 to come"),
            (job(repeats_left=0), "x", "job-1/0 to come/x"),
        ],
    )
    def test_a_key_has_the_job_the_run_of_a_series_and_the_part(
        self, current: Any, job: Any, part: str, key: str
    ) -> None:
        current(job)
        assert job_key(part) == key

    def test_a_part_is_a_line_of_text(self, current: Any) -> None:
        current(job())
        with pytest.raises(ConfigError, match="part"):
            job_key("a\nb")

    def test_a_change_is_submitted_with_the_key_of_its_job(self, current: Any) -> None:
        current(job())
        told: dict[str, Any] = {}

        def submit(change: Any, **options: Any) -> str:
            told.update(change=change, **options)
            return "result"

        assert submit_from_job(SimpleNamespace(submit=submit), {"op": "x"}, part="p", timeout_s=3) == "result"
        assert told == {"change": {"op": "x"}, "key": "job-1/p", "timeout_s": 3}
