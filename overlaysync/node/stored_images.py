"""Images that are stored and not shared, as a fetch sees them. Those in archives are in :mod:`.archived`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from overlaysync.errors import NotFoundError
from overlaysync.model.companions import CompanionFile
from overlaysync.model.pages import PageList
from overlaysync.model.reference import Reference
from overlaysync.ops.assemble import Assembly
from overlaysync.ops.hashing import Progress
from overlaysync.ops.matching import Listing
from overlaysync.trust.envelope import Manifest


class StoredImages:
    """Images that are stored: none, unless a subclass has some. Called from threads, one at a time.

    Attributes:
        listings: those that were found so far.
    """

    def __init__(self) -> None:
        self.listings: list[Listing] = []

    def __contains__(self, manifest: Manifest) -> bool:
        return False

    def news(self) -> list[str]:
        """Return a sentence on each store that could not be used, unless that was said before."""
        return []

    def look(self, reference: Reference) -> None:
        """Find what a reference may mean, and what that stands on; see :attr:`listings`."""

    def places_of(self, manifest: Manifest) -> tuple[str, ...]:
        """Return the labels of the stores that list an image."""
        return next((one.labels for one in self.listings if one.manifest.id == manifest.id), ())

    def pages(self, manifest: Manifest) -> PageList:
        """Return the page list of an image, with all its pages kept in the catalog.

        Raises:
            NotFoundError, VerificationError, OverlaysyncError: no store gives it, or it is not what its
                manifest says.
        """
        raise NotFoundError(f"No archive has '{manifest.header.name}'", hint="overlaysync archive ls")

    def take(
        self,
        manifest: Manifest,
        assembly: Assembly,
        progress: Progress,
    ) -> dict[str, tuple[int, int]]:
        """Take what is stored of an image being made.

        Returns:
            By label of the store (bytes on the wire, bytes of data) that were taken.

        Raises:
            OverlaysyncError: no store gives what is needed to find the data.
        """
        return {}

    def companion(self, manifest: Manifest, companion: CompanionFile) -> bytes | None:
        """Return a companion of an image; None where it is not stored."""
        return None


def with_stored(listings: Iterable[Listing], stored: Iterable[Listing]) -> list[Listing]:
    """Return what peers list and what is stored; what both have comes from peers."""
    found = {listing.manifest.id: listing for listing in listings}
    for one in stored:
        known = found.get(one.manifest.id)
        if known is None or not known.peers:
            found[one.manifest.id] = replace(one, in_use=known.in_use if known else ())
    return list(found.values())
