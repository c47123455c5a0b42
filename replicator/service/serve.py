"""A node as a service: with a registry in it and its HTTP API, or beside another program, and the signals that end it.

What `replicator node` and `workers/node.py` run. An application of your own has a few lines like these.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigError
from ..log.redis_log import RedisLog
from ..node.environment import address_of, reachable
from ..node.node import Node
from ..node.options import NodeOptions
from ..registry.state import Registry
from ..runtime import checks
from ..runtime.event_log import SPEAKER, EventLogger
from ..runtime.gc_pause import leave_alone
from ..runtime.signals import on_end
from ..storage import disk
from ..storage.keyring import sealing_of
from ..storage.published_pages import BY_PAGES_WITH_A_KEY
from .access import Access
from .beside import attach, state_beside, where_writes_go
from .proxy import Proxy, ProxyOptions
from .run import RunOptions, RunProgram
from .sidecar import Sidecar

if TYPE_CHECKING:
    from ..web.certificate import Certificate

__all__ = ["Program", "serve"]

logger = EventLogger(__name__)

#: How often a node that failed for good is noticed.
LOOK_EVERY_S = 0.2


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """What is beside the node. `file`, `sqlite`, `dir`: what is replicated, instead of a registry; then only health is
    served.

    `sqlite_by`: how the database is replicated, `copy` or `pages`; `sqlite_live`: by pages, whether that of a standby
    is what is published all the time. `exclude`, `with_sqlite`, `on_quiesce`: for a directory (`DirectoryState`,
    `Quiesce`). `file_mode`: of a file that is not there yet. `on_primary`, `on_standby`, `publish_every_s`: for
    `Sidecar`. `run`: a program that the node runs while it leads, and the rest how that is looked after (`RunOptions`).
    `proxy`: for the requests to the program.
    """

    file: Path | None = None
    sqlite: Path | None = None
    sqlite_by: str = "copy"
    sqlite_live: bool = False
    dir: Path | None = None
    exclude: tuple[str, ...] = ()
    with_sqlite: tuple[str, ...] = ()
    on_quiesce: str = ""
    file_mode: int = disk.PRIVATE
    on_primary: str = ""
    on_standby: str = ""
    publish_every_s: float = 1.0
    run: str = ""
    check: str = ""
    check_every_s: float = 5.0
    run_stop_s: float = 10.0
    proxy: ProxyOptions | None = None


def serve(
    *,
    name: str,
    group: str,
    redis: str,
    data_dir: Path,
    http: str,
    advertise: str = "",
    app: str | None = None,
    options: NodeOptions,
    program: Program,
    access: Access | None = None,
) -> str:
    """Run until a signal ends it (`runtime/signals.py`), or somebody asks for it: what was asked, or an empty text.

    `http`: HOST:PORT to listen on, port 0 for any. `access`: who may reach it; beyond loopback it has to be said.

    `advertise`: the URL that the others are told, where it is not that. `app`: as for `Node`. Raises what `Node` does,
    and what ended it.
    """
    stopping = threading.Event()
    # First of all: from here on, whatever is under way is ended in order. Further ones, during the end, change nothing.
    on_end(lambda *_: stopping.set())
    try:
        from ..registry.api import registry_app
        from ..ui.app import ui_routes
        from ..ui.feed import Feed
        from ..web.envelope import health_app
        from ..web.server import WebServer
        from .listening import certificate_of, guarded, listens_safely
    except ImportError as missing:
        problem = f'{missing.name} is not installed: pip install "replicator[web]"'
        raise ConfigError(setting="http", problem=problem) from None
    host, port = address_of(http, setting="http")
    advertised = checks.public_url("advertise", advertise.rstrip("/"))
    access = access or Access()
    listens_safely(host, access)
    certificate = certificate_of(access)
    if program.sqlite_by == "pages" and options.key_file is not None:
        raise ConfigError(setting="sqlite-by", problem=BY_PAGES_WITH_A_KEY)  # the node refuses, too, a little later
    beside = state_beside(program, data_dir, name)
    _check_proxy(program, beside is not None)
    state = beside or Registry()
    run = _run_of(program, options.lease_s)
    node: Node = Node(
        state, group=group, name=name, redis=redis, data_dir=data_dir, app=app, watchdog=run.unfit if run else None,
        **options.keywords,
    )  # fmt: skip
    if run is not None:
        run.attach(node)
    sidecar = Sidecar(
        node,
        beside,
        on_primary=program.on_primary,
        on_standby=program.on_standby,
        run=run,
        publish_every_s=program.publish_every_s,
    )
    attach(beside, program, lambda: sidecar.has_primary)
    proxy = _proxy_of(program, node, sidecar, redis, certificate)
    feed = Feed(
        lambda: RedisLog(redis, group, sealing=sealing_of(options.key_file, group)),
        told_by=f"node {name}",
        metrics=node.own_metrics,
    )
    page = ui_routes(feed)
    served = health_app(node, routes=page) if beside else registry_app(node, routes=page)
    elsewhere = partial(where_writes_go, node) if beside else None
    app_for_all = guarded(served, host=host, advertised=advertised, access=access, elsewhere=elsewhere)
    server = WebServer(app_for_all, host=host, port=port, certificate=certificate)
    SPEAKER.set(node.speaker)  # of whatever else is logged in this process
    server.listen()  # before the node starts: a port that is taken must not cost the group a term
    if proxy is not None:
        proxy.listen()
    asks = node.handover.process
    asks.run_by = run_by(os.environ)
    node.http = advertised or _reachable(server.url, host, server.port, redis, scheme=server.scheme)
    try:
        with node, server, proxy or nullcontext(), sidecar:
            leave_alone()
            logger.info("service.started", "node %s of group %s serves %s", name, group, server.url, url=server.url)
            try:
                while not (stopping.wait(LOOK_EVERY_S) or node.failed is not None or asks.asked):
                    pass
            finally:
                if proxy is not None:
                    proxy.close()
                feed.end()  # or the server would wait for whoever watches, and the node with its lease for the server
    finally:
        feed.close()
        server.stop()
    if node.failed is not None:
        raise node.failed
    return "" if stopping.is_set() else asks.asked


def run_by(environment: Mapping[str, str]) -> str:
    """What runs this process, and would start it again: supervisord and systemd tell their children."""
    if "SUPERVISOR_ENABLED" in environment:
        return f"supervisord ({environment.get('SUPERVISOR_GROUP_NAME')}:{environment.get('SUPERVISOR_PROCESS_NAME')})"
    return "systemd" if "INVOCATION_ID" in environment else "nobody"


def _run_of(program: Program, lease_s: float) -> RunProgram | None:
    if not program.run:
        if program.check:
            raise ConfigError(setting="check", problem="is asked of what --run runs, and there is none")
        return None
    options = RunOptions(
        command=program.run, check=program.check, check_every_s=program.check_every_s, stop_s=program.run_stop_s
    )
    return RunProgram(options, lease_s=lease_s)


def _proxy_of(
    program: Program, node: Node, sidecar: Sidecar, redis: str, certificate: Certificate | None
) -> Proxy | None:
    if program.proxy is None:
        return None
    return Proxy(node, sidecar, program.proxy, redis=redis, certificate=certificate)


def _check_proxy(program: Program, has_state: bool) -> None:
    """Raises `ConfigError` if there is nothing that a proxy could be before."""
    if program.proxy is None:
        return
    if not has_state:
        problem = "is for a program beside the node: give its --file, --sqlite or --dir"
        raise ConfigError(setting="proxy", problem=problem)
    if program.run and program.proxy.reads == "local":
        problem = "what --run runs is on the primary alone, so no standby has a program that could answer"
        raise ConfigError(setting="proxy-reads", problem=problem)


def _reachable(url: str, host: str, port: int, redis: str, *, scheme: str) -> str:
    """What the others are told. All addresses of this machine are none: to another one they mean itself."""
    if not checks.is_anywhere(host):
        return url
    told = reachable(host, port, redis, scheme=scheme)
    logger.warning(
        "service.address",
        "it serves all addresses of this machine, and the others are told %s; --advertise says another",
        told,
    )
    return told
