"""TLS: what a URL asks for, the files of its certificates, and what an error of a handshake means.

Neither side of a connection tells the other one that it speaks TLS, or does not; `hint` guesses that from how a
connection failed. What is wrong with a certificate is said by OpenSSL, and `hint` says what to do about it.
"""

from __future__ import annotations

import ipaddress
import re
import ssl
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from .password_file import is_exposed
from .urls import Place

__all__ = ["Transport", "check_certificates", "hint", "transport_of"]


class Transport(NamedTuple):
    """What protects the connections to a Redis. `remote`: the hosts that are not this machine.

    `checks`: the server's certificate is verified, and that it is of that host. `logs_in`: with a password, or with a
    certificate. `exposed`: the files of secrets that others than their owner may read.
    """

    remote: tuple[str, ...] = ()
    is_socket: bool = False
    tls: bool = False
    checks: bool = True
    logs_in: bool = True
    exposed: tuple[str, ...] = ()


def transport_of(place: Place) -> Transport:
    options = place.options
    hosts = [address.host for address in place.hosts] or [options.get("host", "")]
    return Transport(
        remote=tuple(host for host in hosts if host and not _is_loopback(host)),
        is_socket="path" in options,
        tls=place.tls,
        checks=options.get("ssl_cert_reqs", "required") == "required" and options.get("ssl_check_hostname", True),
        logs_in=place.has_password or "ssl_certfile" in options,
        exposed=tuple(path for path in place.secret_files if is_exposed(path)),
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_certificates(options: Mapping[str, Any]) -> None:
    """Load the certificates that these options name, as a connection will. Raises `ValueError`, which names them."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if (path := options.get("ssl_ca_certs")) is not None:
        _load("ssl_ca_certs", path, lambda: context.load_verify_locations(cafile=path))
    certificate, key = options.get("ssl_certfile"), options.get("ssl_keyfile")
    if certificate is None and key is not None:
        raise ValueError(f"ssl_keyfile: {key!a} is the key of a certificate, and there is no ssl_certfile")
    if certificate is not None:
        # Without a password OpenSSL would ask at the terminal for that of an encrypted key.
        password = options.get("ssl_password") or ""
        names = f"{certificate!a}" if key is None else f"{certificate!a} and {key!a}"
        locked = _is_encrypted(key or certificate)
        _load("ssl_certfile", names, lambda: context.load_cert_chain(certificate, key, lambda: password), locked=locked)


def _is_encrypted(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return b"ENCRYPTED" in file.read()
    except OSError:
        return False


def _load(option: str, path: str, load: Callable[[], None], *, locked: bool = False) -> None:
    try:
        load()
    except ssl.SSLError as error:
        raise ValueError(f"{option}: {path}: {_of_file(str(error), locked=locked)}") from None
    except OSError as error:
        raise ValueError(f"{option}: {path}: {error.strerror or error}") from None


def _of_file(text: str, *, locked: bool) -> str:
    if locked:
        return "the key is encrypted, and ssl_password_file is missing or has another password"
    if "MISMATCH" in text:
        return "the key is not that of the certificate"
    return "it has not what it should, in PEM: a certificate, and for ssl_certfile its key"


#: How it looks if the other side does not understand: it closes the connection, or answers in its own protocol.
_HUNG_UP = re.compile("closed by server|reset by peer|Broken pipe|Protocol error|EOF occurred|UNEXPECTED_EOF")

_NOT_TLS = re.compile("WRONG_VERSION_NUMBER|UNKNOWN_PROTOCOL|record layer|Timeout", re.IGNORECASE)

_WANTS_ONE = "if it wants a certificate, the URL has ?ssl_certfile=FILE&ssl_keyfile=FILE"

_NOT_TAKEN = "or it may not take the certificate of this side, ?ssl_certfile=: the log of Redis says why"

#: What is wrong with the server's certificate, by the words of OpenSSL.
_UNVERIFIED = (
    ("has expired", "its certificate has to be renewed, unless the clock of this machine is wrong"),
    ("not yet valid", "the clock of this machine or of the one that made its certificate is wrong"),
    ("ostname mismatch", "its certificate is of another host: the URL has to name the host as the certificate does"),
    ("IP address mismatch", "its certificate does not have that address: the URL, or the Sentinels, have to name it"),
    ("", "?ssl_ca_certs=FILE in the URL names who signed its certificate, which has to name the host of the URL"),
)

#: What the server found wrong with the certificate of this side.
_ALERTS = (
    ("UNKNOWN_CA", "it does not know who signed the certificate of this side, ?ssl_certfile="),
    ("CERTIFICATE_EXPIRED", "the certificate of this side, ?ssl_certfile=, has expired"),
    ("PROTOCOL_VERSION", "it speaks another version of TLS"),
    ("", _WANTS_ONE),
)


def hint(text: str, *, tls: bool, has_certificate: bool = False) -> str:
    """What to do about a connection that failed with this `text`, if TLS may be why; or an empty text.

    `has_certificate`: this side showed one.
    """
    if not tls:
        return "if this port speaks TLS, the URL begins with rediss instead of redis" if _HUNG_UP.search(text) else ""
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return next(said for words, said in _UNVERIFIED if words in text)
    if "ALERT" in text:
        return next(said for words, said in _ALERTS if words in text)
    otherwise = "if this port does not speak TLS, the URL begins with redis instead of rediss"
    if _NOT_TLS.search(text):
        return otherwise
    wants = _NOT_TAKEN if has_certificate else _WANTS_ONE
    return f"{otherwise}; {wants}" if _HUNG_UP.search(text) else ""
