"""Spaces: whom a part of a vault is for, and how its bytes are sealed.

What belongs to a team lies in the team's space, and every byte of it is sealed with keys that follow from the
team's key: who has no such key sees objects, their sizes and the space's tag. The public space is stored
plain. Exact bytes: docs/vault-format.md, "Spaces" and "Sealing".
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from overlaysync.errors import DecodeError
from overlaysync.model.digest import derive

TAG_SIZE = 16
SALT_SIZE = 32
SEAL_SIZE = 16
"""Bytes that sealing adds."""
VOUCHER_SIZE = 32

_KEY_CONTEXT = "overlaysync v1 vault key"
_TAG_CONTEXT = "overlaysync v1 vault tag"
_OBJECT_CONTEXT = "overlaysync v1 vault object key"
_VOUCHER_CONTEXT = "overlaysync v1 vault voucher"
_NO_SALT = bytes(SALT_SIZE)
_NONCE_SIZE = 12


@dataclass(frozen=True, slots=True)
class Space:
    """A part of a vault.

    Attributes:
        name: the team's; "" for the public space.
        tag: what the space is called in every vault, 32 hexadecimal digits.
        key: the secret that its seals follow from; None where nothing is sealed.
    """

    name: str
    tag: str
    key: bytes | None = field(repr=False)

    @classmethod
    def of_team(cls, name: str, key: bytes) -> Space:
        """Return the space of the team of that name and key."""
        secret = derive(_KEY_CONTEXT, key + name.encode())
        return cls(name, derive(_TAG_CONTEXT, secret)[:TAG_SIZE].hex(), secret)

    @property
    def is_public(self) -> bool:
        return self.key is None

    def new_salt(self) -> bytes:
        """Return what makes the keys of a new object its own: random, or zeros where nothing is sealed."""
        return _NO_SALT if self.key is None else os.urandom(SALT_SIZE)

    def seal(self, magic: bytes, salt: bytes) -> Seal:
        """Return the seal of the object of this kind with this salt."""
        if self.key is None:
            return Seal(None)
        return Seal(AESGCM(derive(_OBJECT_CONTEXT, self.key + magic + salt)))

    def vouch(self, signed: bytes) -> bytes:
        """Return the 32 bytes that show to members that a member made ``signed``; zeros for the public."""
        if self.key is None:
            return bytes(VOUCHER_SIZE)
        return blake3(signed, key=derive(_VOUCHER_CONTEXT, self.key)).digest()


PUBLIC = Space("", bytes(TAG_SIZE).hex(), None)
"""The space of what everybody may have."""


class Seal:
    """Closes and opens the records of one object; each number is used once."""

    def __init__(self, cipher: AESGCM | None) -> None:
        self._cipher = cipher

    @property
    def overhead(self) -> int:
        """Bytes that closing adds."""
        return SEAL_SIZE if self._cipher else 0

    def close(self, number: int, plain: bytes) -> bytes:
        """Return ``plain`` sealed as the record of that number."""
        return plain if self._cipher is None else self._cipher.encrypt(_nonce(number), plain, None)

    def open(self, number: int, stored: bytes) -> bytes:
        """Return what was sealed.

        Raises:
            DecodeError: it was not sealed as that record, by who has the key.
        """
        if self._cipher is None:
            return stored
        try:
            return self._cipher.decrypt(_nonce(number), stored, None)
        except (InvalidTag, ValueError):
            raise DecodeError("an object of the vault is not what was sealed") from None


def _nonce(number: int) -> bytes:
    return number.to_bytes(_NONCE_SIZE, "little")
