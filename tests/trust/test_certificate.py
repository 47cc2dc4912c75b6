"""Certificates: a node's own one shows its key and its process; whatever else comes is refused in one way."""

from __future__ import annotations

import random
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from overlaysync.errors import DecodeError
from overlaysync.trust.certificate import MAX_CERTIFICATE_SIZE, Shown, make_certificate, read_certificate
from overlaysync.trust.keys import NodeKey, load_or_make
from tests.net.certificates import MACHINE, own_certificate, signed_again, with_version


@pytest.fixture
def key(tmp_path: Path) -> NodeKey:
    return load_or_make(tmp_path / "key")


@pytest.fixture
def other(tmp_path: Path) -> NodeKey:
    return load_or_make(tmp_path / "other")


@pytest.fixture
def der(key: NodeKey) -> bytes:
    return own_certificate(key)


def test_a_certificate_shows_node_process_and_machine_and_says_little_else(key: NodeKey) -> None:
    pem, shown = make_certificate(key, MACHINE)
    certificate = x509.load_pem_x509_certificate(pem)
    assert read_certificate(certificate.public_bytes(Encoding.DER)) == shown
    lane = certificate.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    assert shown == Shown(key.public, lane, MACHINE)
    assert key.private.private_bytes_raw() not in pem
    extension = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert extension.critical and not extension.value.ca
    assert len(list(certificate.extensions)) == 1
    assert (certificate.not_valid_before_utc.year, certificate.not_valid_after_utc.year) == (1970, 9999)


def test_the_key_of_a_process_is_made_anew_each_time(key: NodeKey) -> None:
    lanes = {make_certificate(key, MACHINE)[1].lane for _ in range(3)}
    assert len(lanes) == 3 and key.public not in lanes


@pytest.mark.red_without("N14", "a certificate need not be signed by the node key")
def test_who_has_not_the_node_key_cannot_claim_it(key: NodeKey, other: NodeKey, der: bytes) -> None:
    assert read_certificate(signed_again(der, key)).node == key.public
    with pytest.raises(DecodeError):
        read_certificate(signed_again(der, other))
    with pytest.raises(DecodeError):
        read_certificate(der.replace(MACHINE.hex().encode(), (b"n" * 16).hex().encode()))
    renamed = der.replace(key.public.hex().encode(), other.public.hex().encode())
    with pytest.raises(DecodeError):
        read_certificate(renamed)


@pytest.mark.parametrize("version", [1, 4, 5, 255])
def test_a_certificate_of_another_version(der: bytes, key: NodeKey, version: int) -> None:
    with pytest.raises(DecodeError):
        read_certificate(with_version(der, version, key))


def test_a_damaged_certificate_raises_nothing_else(der: bytes) -> None:
    rng = random.Random(1)
    for _ in range(2000):
        damaged = bytearray(der)
        for _ in range(rng.randint(1, 3)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        with suppress(DecodeError):
            read_certificate(bytes(damaged[: rng.choice((len(der), rng.randrange(len(der))))]))


@pytest.mark.parametrize("certificate", [b"", b"\x30", bytes(MAX_CERTIFICATE_SIZE + 1)])
def test_what_is_no_certificate(certificate: bytes) -> None:
    with pytest.raises(DecodeError):
        read_certificate(certificate)


def test_a_certificate_of_another_kind() -> None:
    private = generate_private_key(SECP256R1())
    for name in (x509.Name([]), x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "bob.lab")])):
        made = (
            x509.CertificateBuilder(name, name, private.public_key(), 1)
            .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
            .not_valid_after(datetime(2040, 1, 1, tzinfo=UTC))
            .sign(private, SHA256())
        )
        with pytest.raises(DecodeError):
            read_certificate(made.public_bytes(Encoding.DER))


@pytest.mark.parametrize("base", [Exception, BaseException])
def test_whatever_the_library_raises(
    der: bytes, monkeypatch: pytest.MonkeyPatch, base: type[BaseException]
) -> None:
    class PanicException(base):  # type: ignore[misc,valid-type]
        pass

    def panic(data: bytes) -> x509.Certificate:
        raise PanicException("a new way to be wrong")

    monkeypatch.setattr(x509, "load_der_x509_certificate", panic)
    with pytest.raises(DecodeError):
        read_certificate(der)
