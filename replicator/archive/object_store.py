"""An archive in an object store (S3 and its like), by fsspec.

There is no rename there, and none is needed: an object appears whole, with one PUT. Two things take its place.

- **The index is derived.** A segment's name is its number in its timeline, so the next name is known. A list that lags
  (some stores give one that lacks the newest objects) is only a beginning: each number after the last that it has is
  asked for by name, until one is not there.
- **A PUT is conditional** (`If-None-Match: *`): of two archivers that make the same number one fails, and ends. Whoever
  repeats a PUT whose answer was lost finds its own bytes there, and goes on. At the start an archiver also looks
  whether another one is at work: whether `archiver.json` moves. That is a courtesy, and the PUT is the fence.

The address and the credentials are those of the store's own settings (for S3: AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and
so on, or the files in ~/.aws).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import orjson

from ..errors import ConfigError
from .errors import ArchiveInUse, ArchiveUnavailable
from .places import SEGMENT, STATUS, Taken

__all__ = ["ObjectStore"]

T = TypeVar("T")

#: An archiver that did not say anything for so many of its periods is none.
_SILENT_PERIODS = 3
_PERIOD_S_MAX = 60.0
_LOOK_EVERY_S = 0.2


class ObjectStore:
    """An fsspec URL: `s3://bucket/prefix`, `gs://…`, `memory://…`."""

    def __init__(self, url: str) -> None:
        self.name = url.rstrip("/")
        protocol, _, path = self.name.partition("://")
        self._path = path.strip("/")
        self._fs = _filesystem(protocol)

    def names(self) -> list[str]:
        def found() -> list[str]:
            self._fs.invalidate_cache()
            try:
                return list(self._fs.find(self._path))
            except FileNotFoundError:
                return []

        paths = self._answered(found)
        names = ("/".join(path.split("/")[-2:]) for path in paths)
        return sorted({name for name in names if SEGMENT.fullmatch(name)})

    def exists(self, name: str) -> bool:
        def there() -> bool:
            try:
                self._fs.invalidate_cache()
                return bool(self._fs.info(self._of(name)))
            except FileNotFoundError:
                return False

        return self._answered(there)

    def read(self, name: str, start: int = 0, end: int | None = None) -> bytes:
        def content() -> bytes:
            try:
                if start == 0 and end is None:
                    return bytes(self._fs.cat_file(self._of(name)))
                size = int(self._fs.info(self._of(name))["size"])
                begin = max(0, size + start) if start < 0 else start
                return bytes(
                    self._fs.cat_file(self._of(name), start=begin, end=size if end is None else min(end, size))
                )
            except FileNotFoundError:
                return b""

        return self._answered(content)

    def publish(self, name: str, data: bytes) -> None:
        def put() -> bool:
            try:
                self._fs.pipe_file(self._of(name), data, mode="create")
            except FileExistsError:
                return False
            except Exception as error:
                if _is_refused(error):
                    return False
                raise
            return True

        # The answer to an earlier attempt may have been lost: then these very bytes are there.
        if not self._answered(put) and self.read(name) != data:
            raise Taken

    def remove(self, name: str) -> None:
        self._answered(lambda: self._fs.rm_file(self._of(name)))

    def write_status(self, data: bytes) -> None:
        self._answered(lambda: self._fs.pipe_file(self._of(STATUS), data))

    @contextmanager
    def held(self) -> Iterator[None]:
        before = self.read(STATUS)
        deadline = time.monotonic() + _SILENT_PERIODS * _period_s(before)
        while _works(before) and time.monotonic() < deadline:
            time.sleep(_LOOK_EVERY_S)
            if (now := self.read(STATUS)) != before and _works(now):
                raise ArchiveInUse(place=self.name, who=f"{_told(now).get('host', 'another machine')}")
        yield

    def _of(self, name: str) -> str:
        return f"{self._path}/{name}"

    def _answered(self, ask: Callable[[], T]) -> T:
        try:
            return ask()
        except Exception as error:
            # Every store has errors of its own.
            problem = f"{type(error).__name__}: {error}"
            raise ArchiveUnavailable(place=self.name, problem=problem) from error


def _filesystem(protocol: str) -> Any:
    try:
        import fsspec
    except ImportError:
        problem = "an archive in an object store needs `pip install 'replicator[archive]'`, for S3 'replicator[s3]'"
        raise ConfigError(setting="archive", problem=problem) from None
    try:
        # Lists that are kept would be those of before this process, or another one, wrote.
        return fsspec.filesystem(protocol, use_listings_cache=False, skip_instance_cache=protocol != "memory")
    except (ImportError, ValueError) as error:
        hint = "pip install 'replicator[s3]'" if protocol in ("s3", "s3a") else "the package of fsspec that brings it"
        raise ConfigError(setting="archive", problem=f"{protocol}:// is not at hand ({error}): {hint}") from None


def _is_refused(error: BaseException) -> bool:
    """Whether a conditional PUT was refused: as botocore says it, or as s3fs translates it."""
    text = f"{error} {error.__cause__ or ''}"
    return any(word in text for word in ("PreconditionFailed", "ConditionalRequestConflict", "pre-condition", "412"))


def _told(status: bytes) -> dict[str, Any]:
    try:
        told = orjson.loads(status)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def _works(status: bytes) -> bool:
    return bool(_told(status)) and not _told(status).get("ended")


def _period_s(status: bytes) -> float:
    every_ms = _told(status).get("every_ms")
    return min(_PERIOD_S_MAX, every_ms / 1000) if isinstance(every_ms, int) else 1.0
