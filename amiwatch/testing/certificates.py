"""Certificates to throw away, for tests over TLS."""

from __future__ import annotations

import ssl
import subprocess
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate that signed itself: whoever takes ``file`` as CA file trusts it."""

    file: Path
    key: Path

    def server_context(self) -> ssl.SSLContext:
        """Return what a server needs to show this certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.file, self.key)
        return context


def make_certificate(folder: Path, *names: str) -> Certificate:
    """
    Make a certificate for host names and addresses, valid for a day, with the ``openssl`` program.

    ``folder`` must be writable; a second call for the same one replaces the first. Raises FileNotFoundError where there
    is no ``openssl``, CalledProcessError if it fails.
    """
    certificate = Certificate(folder / "certificate.pem", folder / "key.pem")
    alternatives = ",".join(f"IP:{name}" if _is_address(name) else f"DNS:{name}" for name in names)
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "1", "-subj", "/CN=amiwatch test", "-addext", f"subjectAltName={alternatives}"]
    command += ["-keyout", str(certificate.key), "-out", str(certificate.file)]
    subprocess.run(command, check=True, capture_output=True, timeout=30)  # noqa: S603 - a list, no shell
    return certificate


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
