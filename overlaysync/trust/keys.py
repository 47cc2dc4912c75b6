"""Node keys: Ed25519, made at first run. A node is its key; names and labels are only labels.

The node id is the digest of the public key, written in groups of base32 so that two people can compare it.
"""

from __future__ import annotations

import base64
import errno
import os
from contextlib import suppress
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from overlaysync.errors import NoSpaceError, NotAllowedError, OverlaysyncError
from overlaysync.model.digest import derive
from overlaysync.trust.secret_files import make_secret, read_secret

PUBLIC_KEY_SIZE = 32
SIGNATURE_SIZE = 64
NODE_CONTEXT = "overlaysync v1 node id"

_ERRORS = {errno.ENOSPC: NoSpaceError, errno.EDQUOT: NoSpaceError, errno.EIO: OverlaysyncError}
"""What it is when the key cannot be made or read; anything else is a matter of permissions."""

_GROUP = 4
_GROUPS = 8


def node_id(public_key: bytes) -> str:
    """Return the id of the node with this key: 32 base32 characters (160 bits) in groups of four."""
    text = base64.b32encode(derive(NODE_CONTEXT, public_key)[:20]).decode("ascii").lower()
    return "-".join(text[at : at + _GROUP] for at in range(0, _GROUP * _GROUPS, _GROUP))


def short_node_id(public_key: bytes) -> str:
    """Return the first six characters of the node id, as in ``user@host-abc234``."""
    return node_id(public_key).replace("-", "")[:6]


class NodeKey:
    """A private key that can sign.

    Attributes:
        private: the key itself, for the node's certificate.
        public: its public half, 32 bytes.
    """

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self.private = private
        self.public = private.public_key().public_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte signature of ``message``."""
        return self.private.sign(message)


def verify(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """Whether ``signature`` over ``message`` is by ``public_key``; wrong lengths are just wrong."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def load_or_make(path: Path) -> NodeKey:
    """Return the key in ``path`` (32 raw bytes, 0600), made when there is none.

    Two processes that start together end up with one key: the file appears whole, by link, or not at all.

    Raises:
        NotAllowedError: others may read the key, or the file is not a key, or cannot be read or made.
    """
    try:
        if not os.path.lexists(path):
            with suppress(FileExistsError):
                make_secret(path, Ed25519PrivateKey.generate().private_bytes_raw())
        return load_key(path)
    except OSError as error:
        raise cannot_use(path, error) from error


def load_key(path: Path) -> NodeKey:
    """Return the key in ``path``.

    Raises:
        NotAllowedError: others may read the key, or the file is not a key.
        OSError: it cannot be read.
    """
    data = read_secret(path, "node key", PUBLIC_KEY_SIZE + 1)
    if len(data) != PUBLIC_KEY_SIZE:
        raise NotAllowedError(
            f"{path} is not a node key",
            hint="move it away; a new key is then made, and others will see a new node",
        )
    return NodeKey(Ed25519PrivateKey.from_private_bytes(data))


def cannot_use(path: Path, error: OSError) -> OverlaysyncError:
    """Return the error for a key that cannot be made, read or replaced."""
    kind = _ERRORS.get(error.errno or 0, NotAllowedError)
    return kind(f"Cannot use the node key {path}", why=error.strerror or str(error))
