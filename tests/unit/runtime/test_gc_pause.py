"""What the collector does not look at. That it is held while much is built: `tests/unit/replica/test_restore.py`."""

from __future__ import annotations

import gc
import sys

from replicator.runtime.gc_pause import leave_alone


def test_what_is_there_at_the_start_is_looked_at_no_more() -> None:
    before = len(gc.get_objects())
    try:
        leave_alone()
        assert gc.get_freeze_count() > 0.9 * before
        assert len(gc.get_objects()) < 0.1 * before
        assert not any(each is vars(sys) for each in gc.get_objects())
    finally:
        gc.unfreeze()
