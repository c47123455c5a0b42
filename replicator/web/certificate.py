"""The certificate of a server, read again when its files change: whoever renews it need not restart a node.

Connections that are there go on with what they began with. Files that do not fit each other, as between the writing of
the one and of the other, leave the certificate as it was, and are tried again.
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..runtime.event_log import EventLogger
from ..runtime.log_once import Lasting, LogOnce
from .guard.token_file import check_private

__all__ = ["Certificate"]

log = EventLogger(__name__)

_AS_IT_WAS = Lasting("http.certificate_kept", "http.certificate_read", "the certificate can be used again")


class Certificate:
    """`cert`: the certificate and those between it and the CA, in PEM; `key`: its private key. Raises `ConfigError`."""

    def __init__(self, cert: Path, key: Path) -> None:
        self._cert, self._key = cert, key
        self._log_once = LogOnce(log)
        self._seen = self._look_of_files()
        self._current = self._loaded()
        #: What connections begin with. Each gets the current one as soon as it says anything.
        self.context = self._loaded()
        self.context.sni_callback = self._take_current

    def look(self) -> None:
        """Read it again, if it has changed."""
        try:
            seen = self._look_of_files()
            if seen == self._seen:
                return
            self._current = self._loaded()
        except ConfigError as error:
            self._log_once.tell("certificate", _AS_IT_WAS, f"the certificate stays as it was: {error}")
        else:
            self._seen = seen
            self._log_once.over("certificate")
            log.info("http.certificate_changed", "the certificate in %s was read again", self._cert)

    def _take_current(self, connection: ssl.SSLSocket | ssl.SSLObject, _: Any, __: ssl.SSLContext) -> None:
        connection.context = self._current

    def _look_of_files(self) -> list[tuple[int, ...]]:
        try:
            found = [os.stat(path) for path in (self._cert, self._key)]
        except OSError as error:
            raise ConfigError(setting="http-cert", problem=f"{error.filename}: {error.strerror}") from None
        check_private("http-key", self._key, found[1])
        return [(each.st_ino, each.st_size, each.st_mtime_ns, each.st_ctime_ns) for each in found]

    def _loaded(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            # Without a password: nobody is there to be asked for one.
            context.load_cert_chain(self._cert, self._key, password=lambda: b"")
        except (OSError, ValueError) as error:
            problem = f"{self._cert} and {self._key} are no certificate and key, in PEM, without a password ({error})"
            raise ConfigError(setting="http-cert", problem=problem) from None
        context.set_alpn_protocols(["http/1.1"])
        return context
