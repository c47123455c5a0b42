"""Starting a thread, which the system may refuse: a limit on processes, or no memory for another stack.

That ends nobody here. The caller does without a thread, or tries again later, and says so.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from ..errors import NoThread

__all__ = ["started"]


def started(work: Callable[..., Any], *arguments: Any, name: str) -> threading.Thread:
    """A daemon thread that does `work`, running. Raises `NoThread`; then there is none."""
    thread = threading.Thread(target=work, args=arguments, name=name, daemon=True)
    try:
        thread.start()
    except (RuntimeError, MemoryError) as error:
        raise NoThread(what=name, problem=str(error) or type(error).__name__) from None
    return thread
