"""Settings with which rq-dashboard shows the jobs of a group: `rq-dashboard -c replicator.workers.dashboard`.

REPLICATOR_REDIS and REPLICATOR_REDIS_PASSWORD_FILE say where they are, unless `--redis-url` does.

RQ takes pickle where nobody names a serializer. rq-dashboard 0.9 has `--json`, and does not name it everywhere: its
list of workers fails while a job of ours runs, and its page of a job unpickles what is beside the job. Whoever can
write to Redis could have it run anything. So in its process JSON takes the place of pickle.
"""

from __future__ import annotations

import functools
import os
from typing import Any

import rq.serializers
import rq_dashboard.web

from replicator.log.redis_log import client_for
from replicator.log.urls import url_in

rq.serializers.PickleSerializer = rq.serializers.JSONSerializer  # type: ignore[assignment]
rq_dashboard.web.config.serializer = rq.serializers.JSONSerializer

if _url := url_in(os.environ):
    #: Where it looks, by rq-dashboard's own name for that.
    RQ_DASHBOARD_REDIS_URL = _url

    _connect = rq_dashboard.web.from_url
    _client = functools.cache(client_for)

    def _from_url(url: str, **options: Any) -> Any:
        """Our URL has forms and options that rq-dashboard does not know: a password in a file, several sentinels."""
        return (None, _client(url)) if url == _url else _connect(url, **options)

    rq_dashboard.web.from_url = _from_url
