"""Certificates that no node makes."""

from __future__ import annotations

import os
import ssl

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from overlaysync.trust.certificate import make_certificate
from overlaysync.trust.keys import NodeKey

_VERSION = bytes.fromhex("a003020102")  # [0] EXPLICIT INTEGER 2: version 3


def with_version(der: bytes, version: int) -> bytes:
    """The certificate with another version; its signature then is wrong, which no peer looks at."""
    assert der.count(_VERSION) == 1
    return der.replace(_VERSION, _VERSION[:-1] + bytes([version - 1]))


def strange_context(key: NodeKey, version: int) -> ssl.SSLContext:
    """What a TLS server with this node key, and such a certificate, answers with."""
    pem = make_certificate(key)
    secret, _, _ = pem.partition(b"-----BEGIN CERTIFICATE")
    der = x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    descriptor = os.memfd_create("certificate")
    try:
        os.write(descriptor, secret + ssl.DER_cert_to_PEM_cert(with_version(der, version)).encode())
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
    return context
