"""A certificate that nobody trusts."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path


def write_certificate(directory: Path, name: str) -> ssl.SSLContext:
    """A server's context with a certificate of its own making."""
    key, certificate = directory / "key.pem", directory / "certificate.pem"
    kind = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    names = ("-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}")
    command = ["openssl", "req", "-x509", *kind, *names, "-keyout", key, "-out", certificate]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context
