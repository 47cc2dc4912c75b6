"""The certificate of a private lane: signed by the node key, for a key that this process alone has.

A copy of the node key is not enough to stand in for a process that runs: its lane's key never leaves its
memory, and proofs are bound to it (:class:`~overlaysync.trust.teams.Binding`). Besides the two keys a
certificate says on which machine the process runs, as a mark that changes with each boot.

No date or extension in a certificate is believed, so this one says as little as it can: it is no authority
(else who trusts it would trust what it signs), and valid whatever a lab's clocks say.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from overlaysync.errors import DecodeError
from overlaysync.trust.keys import PUBLIC_KEY_SIZE, NodeKey, verify

MAX_CERTIFICATE_SIZE = 4096
MACHINE_SIZE = 16
_FIRST = datetime(1970, 1, 1, tzinfo=UTC)
_LAST = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Shown:
    """What a certificate shows.

    Attributes:
        node: the node key, which has signed the rest.
        lane: the public key of one process's lane; that the other side has its private half, TLS has shown.
        machine: the mark of the machine that the process runs on, 16 bytes.
    """

    node: bytes
    lane: bytes
    machine: bytes


def make_certificate(key: NodeKey, machine: bytes) -> tuple[bytes, Shown]:
    """Return a new private key with its certificate in PEM, as a TLS library loads them, and what they show.

    Args:
        key: the node's, which signs.
        machine: the mark of this machine.
    """
    private = Ed25519PrivateKey.generate()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(_name(machine))
        .issuer_name(_name(key.public))
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_FIRST)
        .not_valid_after(_LAST)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key.private, None)
    )
    secret = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    shown = Shown(key.public, private.public_key().public_bytes_raw(), machine)
    return secret + certificate.public_bytes(Encoding.PEM), shown


def read_certificate(certificate: bytes) -> Shown:
    """Return what a certificate (DER) shows, once the node key that it names has been seen to have signed it.

    Raises:
        DecodeError: it is none, or that key has not signed it.
    """
    shown = None
    if len(certificate) <= MAX_CERTIFICATE_SIZE:
        try:
            shown = _read(x509.load_der_x509_certificate(certificate))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:  # the library has exceptions of many kinds, and panics that are no Exception
            shown = None
    if shown is None:
        raise DecodeError("a certificate that no node key has signed")
    return shown


def _read(certificate: x509.Certificate) -> Shown | None:
    lane = certificate.public_key()
    node, machine = _bytes_in(certificate.issuer), _bytes_in(certificate.subject)
    if (
        not isinstance(lane, Ed25519PublicKey)
        or (len(node), len(machine)) != (PUBLIC_KEY_SIZE, MACHINE_SIZE)
        or not verify(node, certificate.signature, certificate.tbs_certificate_bytes)
    ):
        return None
    return Shown(node, lane.public_bytes_raw(), machine)


def _name(data: bytes) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, data.hex())])


def _bytes_in(name: x509.Name) -> bytes:
    """Return the bytes that the only part of a name says.

    Raises:
        ValueError: it says something else.
    """
    (part,) = name
    return bytes.fromhex(str(part.value)) if part.oid == NameOID.COMMON_NAME else b""
