"""Certificates: a node's own one holds its key; whatever else comes is refused in one way."""

from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from overlaysync.errors import DecodeError
from overlaysync.trust.certificate import MAX_CERTIFICATE_SIZE, key_of, make_certificate
from overlaysync.trust.keys import NodeKey, load_or_make
from tests.net.certificates import with_version


@pytest.fixture
def key(tmp_path: Path) -> NodeKey:
    return load_or_make(tmp_path / "key")


@pytest.fixture
def der(key: NodeKey) -> bytes:
    return x509.load_pem_x509_certificate(make_certificate(key)).public_bytes(Encoding.DER)


def test_a_node_s_certificate_holds_its_key(key: NodeKey, der: bytes) -> None:
    assert key_of(der) == key.public


@pytest.mark.parametrize("version", [1, 4, 5, 255])
def test_a_certificate_of_another_version(der: bytes, version: int) -> None:
    with pytest.raises(DecodeError):
        key_of(with_version(der, version))


def test_a_damaged_certificate_raises_nothing_else(der: bytes) -> None:
    rng = random.Random(1)
    for _ in range(2000):
        damaged = bytearray(der)
        for _ in range(rng.randint(1, 3)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        with suppress(DecodeError):
            key_of(bytes(damaged[: rng.choice((len(der), rng.randrange(len(der))))]))


@pytest.mark.parametrize("certificate", [b"", b"\x30", bytes(MAX_CERTIFICATE_SIZE + 1)])
def test_what_is_no_certificate(certificate: bytes) -> None:
    with pytest.raises(DecodeError):
        key_of(certificate)


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
        key_of(der)
