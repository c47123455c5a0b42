from __future__ import annotations

import time
from pathlib import Path

from replicator.workers.drill_node import counted, slowed

from replicator.protocol.group import Code, Reply


def test_a_save_is_slow_as_long_as_the_file_says_so(tmp_path: Path) -> None:
    control = tmp_path / "slow-a"
    save = slowed(lambda step: step, control)

    def took_s() -> float:
        began = time.monotonic()
        assert save("step") == "step"
        return time.monotonic() - began

    control.write_text("1")
    assert took_s() >= 1
    for content in ("", "not yet a numb"):
        control.write_text(content)
        assert took_s() < 1
    control.unlink()
    assert took_s() < 1


def test_a_record_that_comes_too_late_leaves_a_line(tmp_path: Path) -> None:
    answers = [Reply(code) for code in (Code.OK, Code.FENCED, Code.DUPLICATE, Code.NEW_RUN, Code.BEHIND)]
    write = counted(lambda reply: reply, tmp_path / "refused-a")

    assert [write(answer) for answer in answers] == answers

    assert (tmp_path / "refused-a").read_text() == "fenced\nnewrun\n"
