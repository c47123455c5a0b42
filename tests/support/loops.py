"""Event loops whose default executor is the application's, and refuses whatever comes."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

__all__ = ["run"]


class NotOurs(ThreadPoolExecutor):
    """The default executor of an application."""

    def submit(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError(f"the default executor is the application's: {args}")


def run(main: Coroutine[Any, Any, Any]) -> Any:
    """As `asyncio.run`, in such a loop."""

    async def with_executor() -> Any:
        asyncio.get_running_loop().set_default_executor(NotOurs(1))
        return await main

    return asyncio.run(with_executor())
