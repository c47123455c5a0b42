"""A token, and the nodes that get to see it.

Where the nodes are is mostly told by Redis, and whoever can write there can name a node of his own. So a token goes to
URLs that somebody named here, and, if there is a CA for the nodes alone, to whoever has a certificate of it. A CA that
everybody knows says nothing: everybody can have a name that it vouches for.

`Recipients.has` is the one place that decides, also for what else is a secret (`is_secret`). A node that proves by
other means that it is the one that it says it is would be let in there.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

from ...errors import ConfigError
from ...runtime import checks
from .token_file import checked_token, read_token

__all__ = ["Nodes", "Recipients", "TokenBearer", "bearer_of", "is_secret", "trusting", "withheld_from"]

_PORTS = {"http": 80, "https": 443}

#: Headers whose name says that whoever sees them can do what their sender may. `Idempotency-Key` is none.
_SECRET = re.compile(r"auth|cookie|token|secret|password|passwd|credential|session|api-?key", re.IGNORECASE)


def is_secret(header: str) -> bool:
    """Whether a header of this name is for those nodes alone that get a token."""
    return _SECRET.search(header) is not None


class Nodes:
    """Nodes that somebody named, by their URLs: it is the scheme, the host and the port that count."""

    def __init__(self, urls: Iterable[str]) -> None:
        self._origins = frozenset(map(_origin, urls))

    def has(self, url: str) -> bool:
        return _origin(url) in self._origins


class Recipients:
    """Who gets to see a secret. `named`: URLs. `has_ca`: so does every https URL, for its CA is the nodes' own."""

    def __init__(self, named: Iterable[str] = (), *, has_ca: bool = False) -> None:
        self._named = Nodes(named)
        self._has_ca = has_ca

    def has(self, url: str) -> bool:
        return self._named.has(url) or (self._has_ca and urlsplit(url).scheme == "https")


class TokenBearer:
    """`named`, `has_ca`: see `Recipients`."""

    def __init__(self, token: str, named: Iterable[str] = (), *, has_ca: bool = False) -> None:
        """Raises `ConfigError`."""
        self._header = f"Bearer {checked_token('token', token)}"
        self._recipients = Recipients(named, has_ca=has_ca)

    def is_for(self, url: str) -> bool:
        """Whether the node at this URL gets to see it."""
        return self._recipients.has(url)

    @property
    def header(self) -> str:
        """What `Authorization` is, for whom it is for."""
        return self._header


def bearer_of(
    token: str | None, token_file: str | os.PathLike[str] | None, named: Iterable[str], *, has_ca: bool
) -> TokenBearer | None:
    """The bearer of a token, given itself or in a file. Raises `ConfigError`."""
    if token is not None and token_file is not None:
        raise ConfigError(setting="token_file", problem="give a token or a file with one, not both")
    if token_file is not None:
        token = read_token("token_file", Path(token_file))
    named = [checks.url("token_to", url) for url in named]
    return None if token is None else TokenBearer(token, named, has_ca=has_ca)


def withheld_from(url: str, *, how: str, what: str = "token") -> ConfigError:
    """Why a token, or another secret, is not sent. `how`: what names a node."""
    shown = "{0.scheme}://{0.netloc}".format(urlsplit(url))
    problem = f"is not sent to {shown}, which only Redis named, or a redirect: {how}"
    return ConfigError(setting=what, problem=problem)


def trusting(ca_file: str | os.PathLike[str]) -> ssl.SSLContext:
    """What a client trusts whose nodes have certificates of this CA (PEM), and no other one. Raises `ConfigError`."""
    try:
        return ssl.create_default_context(cafile=os.fspath(ca_file))
    except (OSError, ValueError) as error:
        raise ConfigError(setting="ca_file", problem=f"{ca_file} has no certificates in PEM ({error})") from None


def _origin(url: str) -> tuple[str, str, int]:
    try:
        parts = urlsplit(url)
        return parts.scheme, (parts.hostname or "").removesuffix("."), parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError:
        return "", "", 0
