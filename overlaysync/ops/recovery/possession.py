"""Proofs that a holder has what it lists: a keyed hash over a whole pack, which takes all of its bytes.

A holder that gets the bytes from another one at that moment cannot be told apart: docs/threat-model.md.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass

from overlaysync.errors import NotFoundError, OverlaysyncError, VerificationError
from overlaysync.vault.head import Head
from overlaysync.vault.objects import Kind, Objects, get_whole, object_name
from overlaysync.vault.spaces import PUBLIC


@dataclass(frozen=True, slots=True)
class Question:
    """What a holder is asked.

    Attributes:
        name: of the pack.
        nonce: 16 random bytes.
        expected: the right answer.
    """

    name: str
    nonce: bytes
    expected: bytes


def try_pack(objects: Objects, head: Head) -> str | None:
    """Take a random pack that a head lists from who says that he has it, for one who does not.

    Returns:
        What is wrong; "" for nothing, None when that could not be found out.
    """
    packs = [(head.tag, hash) for hash in head.packs] + [(PUBLIC.tag, hash) for hash in head.public_packs]
    if not packs:
        return ""
    tag, hash = secrets.choice(packs)
    try:
        get_whole(objects, object_name(tag, Kind.PACK, hash))
    except (NotFoundError, VerificationError) as error:
        return f"does not give what it lists: {error}"
    except OverlaysyncError:
        return None
    return ""


def question(
    objects: Objects, head: Head, proof_of: Callable[[bytes, bytes], bytes], nonce_size: int
) -> Question | None:
    """Return a question about a random pack that a head lists; None when none of them is here whole."""
    packs = [(head.tag, hash) for hash in head.packs] + [(PUBLIC.tag, hash) for hash in head.public_packs]
    secrets.SystemRandom().shuffle(packs)
    for tag, hash in packs:
        name = object_name(tag, Kind.PACK, hash)
        try:
            pack = get_whole(objects, name)
        except OverlaysyncError:
            continue
        nonce = secrets.token_bytes(nonce_size)
        return Question(name, nonce, proof_of(nonce, pack))
    return None
