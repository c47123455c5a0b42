"""Settings with which rq-dashboard unpickles nothing: `rq-dashboard -c replicator.workers.dashboard`.

It shows the jobs of a group without them, too. But whatever it finds in Redis it unpickles, so whoever can write there
can have it run anything. With them its process reads what a worker of ours reads (`replicator/jobs/plain_pickle.py`),
and nothing of queues whose jobs have other values.

REPLICATOR_REDIS and REPLICATOR_REDIS_PASSWORD_FILE say where they are, unless `--redis-url` does.
"""

from __future__ import annotations

import functools
import os
from typing import Any

import rq.serializers
import rq_dashboard.web

from replicator.jobs.plain_pickle import PlainPickle
from replicator.log.redis_log import client_for
from replicator.log.urls import url_in

rq.serializers.PickleSerializer = PlainPickle  # type: ignore[assignment]
rq_dashboard.web.config.serializer = PlainPickle

if _url := url_in(os.environ):
    #: Where it looks, by rq-dashboard's own name for that.
    RQ_DASHBOARD_REDIS_URL = _url

    _connect = rq_dashboard.web.from_url
    _client = functools.cache(client_for)

    def _from_url(url: str, **options: Any) -> Any:
        """Our URL has forms and options that rq-dashboard does not know: a password in a file, several sentinels."""
        return (None, _client(url)) if url == _url else _connect(url, **options)

    rq_dashboard.web.from_url = _from_url
