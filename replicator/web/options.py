"""What the middleware may be told, the same for ASGI and WSGI."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TypedDict

from ..errors import ConfigError
from ..runtime import checks
from .cookie import Cookie
from .failures import ANSWERS, Answers, Renderer, problem
from .page import ServedPage
from .probes import PROBES

__all__ = ["WAIT_TIMEOUT_S", "Keywords", "Options"]

#: Shorter than the patience of common clients and proxies (30 s and up), so that ours is the answer they see.
WAIT_TIMEOUT_S = 10.0

#: A failover takes about a lease, of 5 s.
PRIMARY_WITHIN_S = 5.0

#: Like the proxies that forward elsewhere. Longer than the 10 s that a write may take at the primary.
FORWARD_TIMEOUT_S = 30.0

WRITES = ("redirect", "forward", "local")

#: RFC 9110: safe methods. What they do is read.
READS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})


class Keywords(TypedDict, total=False):
    """The fields of `Options`, as keywords of a call."""

    writes: str
    is_write: Callable[[str, str], bool]
    cookie: Cookie | None
    health: str | None
    probes: Collection[str]
    metrics: bool
    page: ServedPage | None
    wait_timeout_s: float
    primary_within_s: float
    forward_timeout_s: float
    forward_to: Collection[str] | None
    answers: Answers
    errors: Renderer


def _is_write(method: str, path: str) -> bool:
    return method not in READS


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """`writes`: where those go that come to a standby. `"redirect"`: 307 to the primary. `"forward"`: the middleware
    sends them on itself, and needs httpx. `"local"`: the application decides; the `NotPrimary` that it raises is a
    redirect. `is_write(method, path)`: which ones these are, if not all but GET, HEAD, OPTIONS and TRACE. `cookie`:
    None for none. `health`: what is before `/health`, `/ready`, `/primary` and the like; None: they are not served.
    `probes`: which of them are, if not all (`probes.py`): `("health", "ready")` for an application that has a
    `/history` of its own. `metrics`: whether `/metrics` is served beside them (`replicator.metrics`); an
    application that has its own says False, and registers a `NodeCollector`. `page`: the page of the group, at `/ui`
    beside them (`replicator.ui.page.Page`); None: there is none. `wait_timeout_s`: how long a request may wait for a
    position. `primary_within_s`: how long a write waits for a primary while nobody leads.
    `forward_timeout_s`: for the primary to answer what was forwarded. `forward_to`: the URLs of the nodes, and nothing
    is forwarded to any other; None: to wherever the group's heartbeats say that the primary is, but for requests that
    have an `Authorization` header, which go nowhere then (`forward.py`). `answers`: what errors come to, by class.
    `errors`: how that is written down; `failures.plain` for `{"error", "field", "message"}`. Raises `ConfigError`.
    """

    writes: str = "redirect"
    is_write: Callable[[str, str], bool] = _is_write
    cookie: Cookie | None = field(default_factory=Cookie)
    health: str | None = ""
    probes: Collection[str] = tuple(PROBES)
    metrics: bool = True
    page: ServedPage | None = None
    wait_timeout_s: float = WAIT_TIMEOUT_S
    primary_within_s: float = PRIMARY_WITHIN_S
    forward_timeout_s: float = FORWARD_TIMEOUT_S
    forward_to: Collection[str] | None = None
    answers: Answers = field(default_factory=lambda: ANSWERS)
    errors: Renderer = problem

    def __post_init__(self) -> None:
        checks.choice("writes", self.writes, WRITES)
        for setting in ("wait_timeout_s", "primary_within_s", "forward_timeout_s"):
            checks.seconds(setting, getattr(self, setting))
        if self.forward_to is not None:
            if isinstance(self.forward_to, str):
                raise ConfigError(setting="forward_to", problem="give a list of URLs: ['http://HOST:PORT', ...]")
            for url in self.forward_to:
                checks.url("forward_to", url)
        if self.cookie is not None and not isinstance(self.cookie, Cookie):
            raise ConfigError(setting="cookie", problem="give a Cookie(...), or None for none")
        if isinstance(self.probes, str) or not set(self.probes) <= set(PROBES):
            raise ConfigError(setting="probes", problem=f"give some of {', '.join(PROBES)}, as a tuple")
        for setting in ("is_write", "errors"):
            if not callable(getattr(self, setting)):
                raise ConfigError(setting=setting, problem="is not a function")
        checks.flag("metrics", self.metrics)
        if self.page is not None and not hasattr(self.page, "tokens"):
            raise ConfigError(setting="page", problem="give a Page(node, tokens=...) of replicator.ui.page, or None")
        if self.health is not None and self.health and not checks.line("health", self.health).startswith("/"):
            raise ConfigError(setting="health", problem=f"{self.health!a} is not the beginning of a path: /internal")

    @property
    def probe_paths(self) -> Mapping[str, str]:
        """The probes that are served, by their paths."""
        return {} if self.health is None else {f"{self.health.rstrip('/')}/{name}": name for name in self.probes}

    @property
    def page_paths(self) -> Mapping[str, str]:
        """Those of the page, each with the path that it has there."""
        before = (self.health or "").rstrip("/")
        return {} if self.page is None else {before + path: path for path in self.page.paths}

    @property
    def metrics_path(self) -> str | None:
        return None if self.health is None or not self.metrics else f"{self.health.rstrip('/')}/metrics"
