"""The load on the registry: writers over HTTP that follow whoever leads, and readers of every node.

The writers register the same nodes again and again, and take some of them out, so that the state stays as it is.
"""

from __future__ import annotations

import http.client
import itertools
import threading
from base64 import b64encode
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import orjson

__all__ = ["Load"]

WRITERS = 2

#: Nodes of each writer.
NODES = 100

#: How long a writer rests between two requests.
REST_S = 0.02

#: One of so many registrations is followed by a deregistration, a heartbeat, or a page read from each node.
DEREGISTER_EVERY, BEAT_EVERY, READ_EVERY = 10, 3, 5

#: An answer that takes longer is given up: a node that was killed a moment ago gives none.
PATIENCE_S = 10.0


class Load:
    """A context. `urls`: of the nodes."""

    def __init__(self, urls: Sequence[str]) -> None:
        self.answered = self.failed = 0
        self._places = [urlsplit(url).netloc for url in urls]
        self._ending = threading.Event()
        self._writers = [threading.Thread(target=self._write_on, args=[number]) for number in range(WRITERS)]

    def __enter__(self) -> Load:
        for writer in self._writers:
            writer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        for writer in self._writers:
            writer.join()

    def _write_on(self, writer: int) -> None:
        callers = [_Caller(place) for place in self._places]
        leader = callers[0]
        for number in itertools.count():
            try:
                leader = self._write(leader, callers, writer, number)
                self.answered += 1
            except (OSError, http.client.HTTPException, _Refused):
                leader.close()
                leader = callers[number % len(callers)]
                self.failed += 1
            if self._ending.wait(REST_S):
                break
        for caller in callers:
            caller.close()

    def _write(self, leader: _Caller, callers: Sequence[_Caller], writer: int, number: int) -> _Caller:
        key = b64encode(f"soak-{writer}-{number % NODES}".encode()).decode()
        node = {"public_key": key, "owner": f"soak-{number}", "tags": ["soak"]}
        status, answer, location = leader.ask("POST", "/v1/nodes", node)
        if status == 307:
            place = urlsplit(location).netloc
            return next((caller for caller in callers if caller.place == place), leader)
        if status not in (200, 201):
            raise _Refused(status)
        if number % BEAT_EVERY == 0:
            leader.ask("POST", f"/v1/nodes/{answer['id']}/heartbeat", {})
        if number % DEREGISTER_EVERY == 0:
            leader.ask("DELETE", f"/v1/nodes/{answer['id']}")
        if number % READ_EVERY == 0:
            for caller in callers:
                caller.ask("GET", "/v1/nodes?limit=20")
        return leader


class _Refused(Exception):
    """Nobody leads, or it is not known what became of the write."""


class _Caller:
    """A connection to one node, made anew when it broke."""

    def __init__(self, place: str) -> None:
        self.place = place
        self._connection = http.client.HTTPConnection(place, timeout=PATIENCE_S)

    def ask(self, method: str, path: str, fields: Any = None) -> tuple[int, Any, str]:
        """The status, the body, and where it says that the primary is."""
        try:
            body = None if fields is None else orjson.dumps(fields)
            self._connection.request(method, path, body, {"Content-Type": "application/json"})
            response = self._connection.getresponse()
            data = response.read()
        except BaseException:
            self.close()
            raise
        return response.status, orjson.loads(data) if data else None, response.headers.get("Location", "")

    def close(self) -> None:
        self._connection.close()
