"""Which headers go along with a request, and with its answer. Pure.

Those about one connection stay behind (`web/forward.py`). What says where a request came from is the proxy's to say:
what others wrote there is believed only of those who are trusted (`--proxy-trust`), and replaced otherwise, because
programs let people in by it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

from ...web.forward import Header, Onward, onward, returned
from ...web.head import FORWARDED
from .options import Address

__all__ = ["REFUSED", "answered", "is_ambiguous", "passed_on", "trusts"]

#: Of an answer of a proxy: nothing of the request was passed to a program. Its value is a code.
REFUSED = "replicator-refused"

#: What says where a request came from, besides `X-Forwarded-*`.
ORIGINS = frozenset((b"forwarded", b"x-real-ip"))

_FORWARDED = FORWARDED.encode()


def trusts(networks: Sequence[Address], client: str | None) -> bool:
    """Whether what this client says of others is believed."""
    try:
        address = ipaddress.ip_address(client or "")
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return any((mapped or address) in network for network in networks)


def is_ambiguous(headers: Iterable[Header]) -> bool:
    """Whether two servers may disagree about where the request ends, so that one is smuggled behind it."""
    names = [name for name, _ in headers]
    return b"content-length" in names and b"transfer-encoding" in names


def passed_on(
    given: Sequence[Header], *, client: str | None, scheme: str, is_trusted: bool, by: str, to_program: bool
) -> Onward:
    """For the program, or for another proxy. `client`, `scheme`: of the connection. `by`: this node."""
    kept = [header for header in given if is_trusted or not _is_origin(header[0])]
    host = next((value for name, value in given if name == b"host"), None)
    if host is not None and not any(name == b"x-forwarded-host" for name, _ in kept):
        kept.append((b"x-forwarded-host", host))
    onwards = onward(kept, by=by, client=client, scheme=scheme)
    if not to_program:
        return onwards
    return onwards._replace(headers=[header for header in onwards.headers if header[0] != _FORWARDED])


def answered(headers: Iterable[Header], *, by_program: bool) -> list[Header]:
    """Of an answer, for the client. A program has no say in what proxies tell each other."""
    kept = returned(headers)
    return [header for header in kept if header[0] != REFUSED.encode()] if by_program else kept


def _is_origin(name: bytes) -> bool:
    plain = name.replace(b"_", b"-")  # to a program behind WSGI or CGI both are the same header
    return plain.startswith(b"x-forwarded-") or plain in ORIGINS
