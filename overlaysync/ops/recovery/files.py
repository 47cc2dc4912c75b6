"""Companions as they are saved: the small files of a VM, taken out of a vault."""

from __future__ import annotations

from functools import partial

from overlaysync.errors import NotFoundError, VerificationError
from overlaysync.model.digest import as_digests, hash_units
from overlaysync.vault.contents import Contents
from overlaysync.vault.state import COMPANION_PART, Companion


def companion_data(contents: Contents, companion: Companion) -> bytes:
    """Return a saved companion.

    Raises:
        NotFoundError: the vault does not have it.
        VerificationError: what it has is damaged.
    """
    parts = []
    for key in map(bytes.fromhex, companion.parts):
        part = contents.item(key, partial(_has_digest, key))
        if part is None:
            raise NotFoundError(
                f"The vault does not have all of '{companion.file}'", hint="overlaysync vault check"
            )
        parts.append(part)
    data = b"".join(parts)
    digests = as_digests(hash_units(memoryview(data), COMPANION_PART))
    if len(data) != companion.size or [row.tobytes().hex() for row in digests] != list(companion.parts):
        raise VerificationError(f"'{companion.file}' in the vault is damaged", hint="overlaysync vault check")
    return data


def _has_digest(digest: bytes, data: bytes) -> bool:
    return hash_units(memoryview(data), COMPANION_PART) == digest
