"""The certificate of a node: self-signed, with the node key in it. What counts is that key and nothing else.

No name, date or issuer in a certificate is believed, so this one says as little as it can: a common name of
its own, not an authority (else who trusts it would trust what it signs), valid whatever a lab's clocks say.
"""

from __future__ import annotations

from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from overlaysync.errors import DecodeError
from overlaysync.trust.keys import NodeKey, node_id

MAX_CERTIFICATE_SIZE = 4096
_FIRST = datetime(1970, 1, 1, tzinfo=UTC)
_LAST = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


def make_certificate(key: NodeKey) -> bytes:
    """Private key and certificate in PEM, as a TLS library loads them from one file."""
    private = key.private
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, node_id(key.public))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_FIRST)
        .not_valid_after(_LAST)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(private, None)
    )
    secret = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return secret + certificate.public_bytes(Encoding.PEM)


def key_of(certificate: bytes) -> bytes:
    """The node key in a certificate (DER); that the other side has its private half, TLS has shown.

    Raises:
        DecodeError: there is none.
    """
    if len(certificate) <= MAX_CERTIFICATE_SIZE:
        try:
            key = x509.load_der_x509_certificate(certificate).public_key()
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:  # the library has exceptions of many kinds, and panics that are no Exception
            key = None
        if isinstance(key, Ed25519PublicKey):
            return key.public_bytes_raw()
    raise DecodeError("a certificate without a node key")
