"""Companions of a fetched image: got from the peers or the archive with its version, and put beside it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable

from blake3 import blake3

from overlaysync.errors import NotFoundError, OverlaysyncError
from overlaysync.model.companions import CAPS, CompanionFile, companion_path
from overlaysync.node.fetch_types import Fetched
from overlaysync.node.observer import Observer
from overlaysync.node.reach import Reach
from overlaysync.node.stored_images import StoredImages
from overlaysync.ops.companion_files import put_companion
from overlaysync.trust.envelope import Manifest, open_envelope
from overlaysync.vault.limits import is_inner_path


async def bring_companions(
    reach: Reach, archived: StoredImages, observer: Observer, fetched: Fetched
) -> None:
    """Put those companions of an image beside it that are not there yet, from peers or else from an archive.

    A different file in the place of a companion stays, unless it belonged to the version that was replaced.

    Raises:
        NotFoundError: no peer or archive within reach has a companion.
        OverlaysyncError: a companion cannot be written.
    """
    manifest, image = fetched.manifest, fetched.known.path
    if fetched.here.id != manifest.id:
        return  # a later version is here, with its own
    replaced = _digests_of(fetched)
    for companion in manifest.header.companions:
        path = companion_path(companion.role, companion.ending, image)
        present = await asyncio.to_thread(_digest_at, path)
        if present == companion.digest:
            continue
        if present is not None and present not in replaced:
            observer.note(f"  {path} differs from the one published with the image, and is left as it is")
            continue
        directory = os.path.dirname(image)
        name = os.path.relpath(path, directory)
        if not is_inner_path(name):
            observer.note(f"  {path} is not a valid name for a companion, so it is not fetched")
            continue
        data = await _get(reach, manifest, companion)
        if data is None:
            data = await asyncio.to_thread(archived.companion, manifest, companion)
        if data is None:
            raise NotFoundError(
                f"{image} is here, but its companion {os.path.basename(path)} is missing",
                why="no machine or archive within reach has it",
                hint="repeat the command when its publisher is within reach",
            )
        role, replaces = companion.role, present is not None
        await asyncio.to_thread(put_companion, directory, name, data, role, replaces=replaces)
        observer.note(f"  {path}: its {_WORDS[companion.role]}")


_WORDS = {
    "uefi": "UEFI variables",
    "tpm": "TPM state",
    "seed": "cloud-init seed",
    "definition": "definition",
}


async def _get(reach: Reach, manifest: Manifest, companion: CompanionFile) -> bytes | None:
    header = manifest.header
    sources = reach.directory.sources(header.content_id, header.team)
    for endpoint, listed in sources.values():
        if listed.id != manifest.id:
            continue
        try:
            return await reach.client.companion(endpoint, manifest.id, companion)
        except OverlaysyncError:
            continue
    return None


def _digests_of(fetched: Fetched) -> set[str]:
    """Return the digests of the companions of the versions that the file held before."""
    standing = fetched.verdict.standing
    held: Iterable[bytes] = (row.envelope for row in standing.held) if standing else ()
    return {one.digest for envelope in held for one in open_envelope(envelope).header.companions}


def _digest_at(path: str) -> str | None:
    """Return the digest of what is at a path; None for nothing, "" for what is no small file."""
    try:
        with open(path, "rb") as file:
            data = file.read(max(CAPS.values()) + 1)
    except FileNotFoundError:
        return None
    except OSError:
        return ""
    return blake3(data).hexdigest() if len(data) <= max(CAPS.values()) else ""
