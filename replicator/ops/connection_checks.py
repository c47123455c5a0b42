"""What protects the way to Redis, for `doctor`: whoever can read or write there has the group in his hands."""

from __future__ import annotations

from collections.abc import Iterator

from ..log.tls import Transport
from .diagnosis import Check, ok, warning

__all__ = ["checks_of_connection"]


def checks_of_connection(transport: Transport) -> Iterator[Check]:
    """How Redis is reached, how one logs in there, and who may read the files of passwords."""
    hosts = ", ".join(transport.remote)
    if transport.is_socket:
        yield ok("connection", "it goes over a socket of this machine")
    elif transport.tls and not transport.checks:
        what = "TLS does not verify the server: whoever is on the way can pass for Redis"
        yield warning("connection", what, "leave ssl_cert_reqs and ssl_check_hostname out, and name ssl_ca_certs")
    elif transport.tls:
        yield ok("connection", "it goes over TLS, and the server's certificate is verified")
    elif hosts:
        what = (
            f"it goes over plain TCP to {hosts}: whoever is on the way can read passwords and the log, and change them"
        )
        yield warning("connection", what, "use TLS (rediss://)")
    else:
        yield ok("connection", "it goes over plain TCP, within this machine")
    if not transport.logs_in and not transport.is_socket:
        what = "Redis takes whoever reaches it, without a password"
        yield warning("password", what, "give each kind of process a user: `replicator acl`")
    for path in transport.exposed:
        yield warning("password", f"others than its owner may read {path!a}", "`chmod 600` it")
