"""Certificates that no node makes."""

from __future__ import annotations

import os
import ssl

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from overlaysync.trust.certificate import make_certificate
from overlaysync.trust.keys import SIGNATURE_SIZE, NodeKey

MACHINE = b"m" * 16
_VERSION = bytes.fromhex("a003020102")  # [0] EXPLICIT INTEGER 2: version 3


def own_certificate(key: NodeKey) -> bytes:
    """The certificate (DER) that a node with this key shows."""
    pem, _ = make_certificate(key, MACHINE)
    return x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)


def with_version(der: bytes, version: int, key: NodeKey) -> bytes:
    """The certificate with another version, signed again."""
    assert der.count(_VERSION) == 1
    return signed_again(der.replace(_VERSION, _VERSION[:-1] + bytes([version - 1])), key)


def signed_again(der: bytes, key: NodeKey) -> bytes:
    """The certificate with the signature of another key."""
    assert der[4:6] in (b"\x30\x81", b"\x30\x82"), "what is signed is a sequence after four bytes"
    digits = der[5] - 0x80
    end = 6 + digits + int.from_bytes(der[6 : 6 + digits])
    return der[:-SIGNATURE_SIZE] + key.sign(der[4:end])


def strange_context(key: NodeKey, version: int) -> ssl.SSLContext:
    """What a TLS server with this node key, and such a certificate, answers with."""
    pem, _ = make_certificate(key, MACHINE)
    secret, _, _ = pem.partition(b"-----BEGIN CERTIFICATE")
    der = x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)
    return context_of(secret, with_version(der, version, key))


def context_of(secret: bytes, der: bytes) -> ssl.SSLContext:
    """What a TLS server with this private key (PEM) and certificate answers with."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    descriptor = os.memfd_create("certificate")
    try:
        os.write(descriptor, secret + ssl.DER_cert_to_PEM_cert(der).encode())
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
    return context
