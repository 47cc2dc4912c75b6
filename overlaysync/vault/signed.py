"""Signed documents: canonical JSON, signed by the node that made it, and sealed as a whole.

A state and the record of a drill are stored so. Leaves out heads, which are neither JSON nor sealed. Exact
bytes: docs/vault-format.md, "States".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeAlias, TypeVar

import msgspec

from overlaysync.errors import DecodeError
from overlaysync.model.names import printable
from overlaysync.vault.objects import LIMITS, Kind
from overlaysync.vault.pack import HEAD, begin_object, seal_of
from overlaysync.vault.spaces import Space

_KEY_SIZE, _SIGNATURE_SIZE = 32, 64


class Signer(Protocol):
    """A node's key."""

    @property
    def public(self) -> bytes:
        """The public half, 32 bytes."""
        ...

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte signature of ``message``."""
        ...


Verify: TypeAlias = Callable[[bytes, bytes, bytes], bool]
"""Whether (public key, signature, message) fit each other."""


class _OfTeam(Protocol):
    @property
    def team(self) -> str:
        """The team whose it is; "" for the public."""
        ...


_Document = TypeVar("_Document", bound=_OfTeam)


class SignedForm(Generic[_Document]):
    """How the documents of one type are stored.

    Args:
        document: their type.
        kind: the kind of object that they are.
        magic: what these objects begin with.
        context: what the signature covers beside the document, so that it is good for this type only.
        check: raises DecodeError for a document with a field out of bounds.
        what: what errors call such a document, "a state".
    """

    def __init__(
        self,
        document: type[_Document],
        kind: Kind,
        magic: bytes,
        context: bytes,
        check: Callable[[_Document], None],
        what: str,
    ) -> None:
        self._limit = LIMITS[kind]
        self._magic = magic
        self._context = context
        self._check = check
        self._what = what
        self._encode = msgspec.json.Encoder().encode
        self._decoder = msgspec.json.Decoder(document)

    def encode(self, document: _Document, signer: Signer, space: Space) -> bytes:
        """Return the object of a document.

        Raises:
            ValueError: it is not for this space.
            DecodeError: a field is out of bounds.
        """
        if document.team != space.name:
            raise ValueError(f"{self._what} is sealed for the team that it names")
        self._check(document)
        payload = self._encode(document)
        signed = signer.public + signer.sign(self._context + payload) + payload
        salt = space.new_salt()
        data = begin_object(self._magic, space, salt) + space.seal(self._magic, salt).close(0, signed)
        if len(data) > self._limit:
            why = f"it has {len(data)} bytes, and {self._limit} are the most"
            raise DecodeError(f"{self._what} is too large", why=why)
        return data

    def decode(self, data: bytes, space: Space, verify: Verify) -> tuple[bytes, _Document]:
        """Return the public key of the node that signed the document in an object, and the document.

        The signature is verified before anything is parsed.

        Raises:
            DecodeError: it is not for this space, damaged, not signed by who it says, or says what cannot be.
        """
        if len(data) > self._limit:
            raise DecodeError(f"{self._what} is too long")
        signed = seal_of(data, self._magic, space).open(0, data[HEAD.size :])
        node, signature = signed[:_KEY_SIZE], signed[_KEY_SIZE : _KEY_SIZE + _SIGNATURE_SIZE]
        payload = signed[_KEY_SIZE + _SIGNATURE_SIZE :]
        if len(signature) < _SIGNATURE_SIZE:
            raise DecodeError(f"{self._what} is cut off")
        if not verify(node, signature, self._context + payload):
            raise DecodeError(f"the signature of {self._what} is wrong")
        try:
            document = self._decoder.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise DecodeError(f"not {self._what}", why=printable(str(error))) from None
        if self._encode(document) != payload:
            raise DecodeError(f"{self._what} is not in canonical form")
        if document.team != space.name:
            raise DecodeError(f"{self._what} names another team")
        self._check(document)
        return node, document
