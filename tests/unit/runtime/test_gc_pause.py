"""What the collector does not look at. That it is held while much is built: `tests/unit/replica/test_restore.py`."""

from __future__ import annotations

import gc
import sys

from replicator.runtime.gc_pause import leave_alone
from tests.support.forking import in_child


def test_what_is_there_at_the_start_is_looked_at_no_more() -> None:
    def left_alone() -> bool:
        gc.unfreeze()  # what the tests themselves have put away
        before = len(gc.get_objects())
        leave_alone()
        assert gc.get_freeze_count() > 0.9 * before
        assert len(gc.get_objects()) < 0.1 * before
        assert not any(each is vars(sys) for each in gc.get_objects())
        return True

    assert in_child(left_alone)
