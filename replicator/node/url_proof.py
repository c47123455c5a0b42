"""Whether a URL is that of the boot whose heartbeat says so, before anything is sent there that matters.

A heartbeat is what somebody wrote to Redis, and its URL may be that of another server: of one that has the port now,
or of one that is to get what is meant for a node. So the URL is asked first. It gets a nonce (`Replicator-Nonce`), and
nothing else. The node that is there tells in its heartbeat, in Redis, which nonces it heard. The proof is a heartbeat
of that boot, with that URL, and with the nonce.

It proves that the server at the URL is one that may write the heartbeats of this group, and names itself by this URL.
Whoever may do that, and answers there, passes (docs/trust.md): the users of `replicator acl` are for that.
"""

from __future__ import annotations

import http.client
import secrets
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress

from ..errors import LogUnavailable, NoThread, ReplicatorError
from ..log.interface import Log
from ..protocol.group import GroupView
from ..protocol.heartbeat import NONCES_MAX, Heartbeat, is_nonce
from ..runtime.direct_http import ask
from ..runtime.event_log import EventLogger
from ..runtime.log_once import Lasting, LogOnce
from ..runtime.threads import started
from ..web.head import NONCE

__all__ = ["PROOF_WITHIN_S", "Nonces", "PrimaryProof", "Unproven", "prove"]

logger = EventLogger(__name__)

#: How long a node may take to tell what it heard: it does so at once, and at the latest with its next heartbeat.
PROOF_WITHIN_S = 5.0

#: How often Redis is asked meanwhile.
LOOK_EVERY_S = 0.05

#: How often at the most a node reports sooner because of that: whoever reaches its HTTP may send nonces.
WAKE_EVERY_S = 0.1

#: How soon a URL that proved nothing is asked once more.
AGAIN_S = 1.0

_UNPROVEN = Lasting("forward.unproven", "forward.proven", "the primary proved that it is at its URL")


class Unproven(ReplicatorError):
    """{url} is not known to be node {node}: {problem}. Nothing was sent there"""

    exit_code = 6


class Nonces:
    """What a node heard lately, for its heartbeat: the newest ones. `wake`: has the next heartbeat sent soon."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self.newest: tuple[str, ...] = ()
        self._wake = wake
        self._woken_at = float("-inf")

    def hear(self, nonce: str) -> None:
        """Anybody may send anything: what is no nonce is dropped, and of many the newest are kept."""
        if is_nonce(nonce) and nonce not in self.newest:
            self.newest = (*self.newest, nonce)[-NONCES_MAX:]
            if (now := time.monotonic()) - self._woken_at >= WAKE_EVERY_S:
                self._woken_at = now
                self._wake()


def prove(
    look: Callable[[], GroupView],
    node: str,
    boot: str,
    url: str,
    *,
    within_s: float = PROOF_WITHIN_S,
    context: ssl.SSLContext | None = None,
) -> None:
    """Return once the server at `url` has proved that it is this boot of the node. Raises `Unproven`.

    `context`: for TLS; None: what the machine trusts.
    """
    until = time.monotonic() + within_s
    nonce = secrets.token_hex(16)
    _send(url, node, nonce, within_s, context)
    while not _says(look().heartbeats.get(node), boot, url, nonce):
        if time.monotonic() >= until:
            problem = f"it does not say in Redis, within {within_s:g} s, that it was asked"
            raise Unproven(url=url, node=node, problem=problem)
        time.sleep(LOOK_EVERY_S)


def _says(heartbeat: Heartbeat | None, boot: str, url: str, nonce: str) -> bool:
    return (
        heartbeat is not None
        and heartbeat.boot == boot
        and url.rstrip("/") in (heartbeat.http.rstrip("/"), heartbeat.proxy.rstrip("/"))
        and nonce in heartbeat.heard
    )


def _send(url: str, node: str, nonce: str, within_s: float, context: ssl.SSLContext | None) -> None:
    """Whatever the answer is, it proves nothing. What is asked is a probe without a token (`web/guard/rules.py`)."""
    request = urllib.request.Request(f"{url.rstrip('/')}/live", method="HEAD", headers={NONCE: nonce})
    try:
        with ask(request, timeout_s=within_s, context=context, follow=False):
            pass
    except urllib.error.HTTPError as answer:
        answer.close()
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise Unproven(url=url, node=node, problem=f"it cannot be asked ({reason})") from None


class PrimaryProof:
    """Of the primary that a standby sends writes to: proved once for each boot and URL, in a thread."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._lock = threading.Lock()
        self._proven: tuple[str, str, str] | None = None
        self._asking = False
        self._again_at = float("-inf")
        self._log_once = LogOnce(logger)

    def is_proven(self, node: str, boot: str, url: str) -> bool:
        """Whether it is; if not, it is asked. Returns at once."""
        wanted = (node, boot, url)
        with self._lock:
            if self._proven == wanted:
                return True
            if not self._asking and time.monotonic() >= self._again_at:
                with suppress(NoThread):
                    started(self._ask, wanted, name="url-proof")
                    self._asking = True
        return False

    def _ask(self, wanted: tuple[str, str, str]) -> None:
        proven, again_s = self._proven, 0.0
        try:
            prove(self._log.look, *wanted)
            proven = wanted
            self._log_once.over("proof")
        except Unproven as unproven:
            again_s = AGAIN_S
            self._log_once.tell("proof", _UNPROVEN, str(unproven))
        except LogUnavailable:
            again_s = AGAIN_S
        finally:
            with self._lock:
                self._proven, self._asking, self._again_at = proven, False, time.monotonic() + again_s
