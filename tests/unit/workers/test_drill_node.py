from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from replicator.workers import drill_node
from replicator.workers.drill_node import counted, slowed

from replicator.protocol.group import Code, Reply


def test_a_save_is_slow_as_long_as_the_file_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    control = tmp_path / "slow-a"
    waited_s: list[float] = []
    monkeypatch.setattr(drill_node, "time", SimpleNamespace(sleep=waited_s.append))
    save = slowed(lambda step: (step, list(waited_s)), control)

    control.write_text("1.5")
    assert save("step") == ("step", [1.5]), "it waits, and saves then"
    for content in ("", "not yet a numb"):
        control.write_text(content)
        assert save("step") == ("step", [1.5])
    control.unlink()
    assert save("step") == ("step", [1.5])


def test_a_record_that_comes_too_late_leaves_a_line(tmp_path: Path) -> None:
    answers = [Reply(code) for code in (Code.OK, Code.FENCED, Code.DUPLICATE, Code.NEW_RUN, Code.BEHIND)]
    write = counted(lambda reply: reply, tmp_path / "refused-a")

    assert [write(answer) for answer in answers] == answers

    assert (tmp_path / "refused-a").read_text() == "fenced\nnewrun\n"
