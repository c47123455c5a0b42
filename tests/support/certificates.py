"""A CA, and certificates of it, made by openssl."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from .needs import needs

__all__ = ["Authority"]

OPENSSL = shutil.which("openssl")


class Authority:
    """`ca`: what clients are to trust."""

    def __init__(self, directory: Path) -> None:
        needs(OPENSSL is not None, "openssl")
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self.ca = directory / "ca.pem"
        self._key = directory / "ca.key"
        self._run("-subj", "/CN=tests", "-keyout", self._key, "-out", self.ca)

    def certificate(self, name: str, cert: Path, key: Path) -> None:
        """One for `localhost` and 127.0.0.1, whose own name is `name`. The key is its owner's alone."""
        alt = "subjectAltName=DNS:localhost,IP:127.0.0.1"
        signed = ("-CA", self.ca, "-CAkey", self._key)
        self._run("-subj", f"/CN={name}", "-addext", alt, *signed, "-keyout", key, "-out", cert)
        key.chmod(0o600)

    def _run(self, *arguments: str | Path) -> None:
        made = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
        subprocess.run([str(OPENSSL), *made, *map(str, arguments)], check=True, capture_output=True)
