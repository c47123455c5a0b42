"""Certificates for tests: an authority, and what it signs, in files as a server and a client read them."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = datetime.timedelta(days=1)


class Authority:
    """Signs certificates. `path`: its own, which says who is to be believed."""

    def __init__(self, directory: Path, name: str = "authority") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = _builder(self._name, self._name, self._key, valid_for_days=2)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self.path = directory / f"{name}.pem"
        self.path.write_bytes(_pem(builder.sign(self._key, hashes.SHA256())))
        self.ca = self.path

    def certificate(self, name: str, cert: Path, key: Path) -> None:
        """One for `localhost` and 127.0.0.1, in two files. The key is its owner's alone."""
        both = self.issue(name).read_bytes()
        of_key = (self._directory / f"{name}.key").read_bytes()
        cert.write_bytes(both.removeprefix(of_key))
        key.write_bytes(of_key)
        key.chmod(0o600)

    def issue(
        self, name: str, *, hosts: tuple[str, ...] = ("localhost", "127.0.0.1"), days: int = 2, password: str = ""
    ) -> Path:
        """A file with a certificate for these hosts and its key, `name`.pem; its key alone is in `name`.key.

        `days`: how long it is valid from now on; below 0: it has expired. `password`: of the key.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = _builder(subject, self._name, key, valid_for_days=days)
        builder = builder.add_extension(x509.SubjectAlternativeName([_host(each) for each in hosts]), critical=False)
        certificate = _pem(builder.sign(self._key, hashes.SHA256()))
        locked = serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
        of_key = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked)
        path = self._directory / f"{name}.pem"
        path.write_bytes(of_key + certificate)
        (self._directory / f"{name}.key").write_bytes(of_key)
        return path


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, *, valid_for_days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 10 * DAY)
        .not_valid_after(now + valid_for_days * DAY)
    )


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
