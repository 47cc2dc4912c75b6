"""What a reference was found to mean: the choice, why it was made, and what becomes of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from overlaysync.errors import NotAllowedError
from overlaysync.model.pin import Pin
from overlaysync.ops.matching import Listing
from overlaysync.ops.trust_messages import first_use, who
from overlaysync.store.manifests import ManifestRow
from overlaysync.trust.book import Book, Trust
from overlaysync.trust.envelope import Manifest


class Reason(Enum):
    """Why a listing is what was meant."""

    TEAM = auto()
    PINNED = auto()
    FIRST_USE = auto()
    SAME_CONTENT = auto()
    PEER = auto()
    ID = auto()
    ID_BEGINNING = auto()


@dataclass(frozen=True, slots=True)
class Choice:
    """What a reference means.

    Attributes:
        listing: the manifest and who has it.
        reason: ``FIRST_USE`` pins its publisher; ``SAME_CONTENT``: several publish the same, none is pinned.
        later: versions seen here before that follow it; empty when it is the newest known.
        step_back: why it is not taken, unless one of ``later`` is what is here already.
        asked: the reference that means this one thing.
    """

    listing: Listing
    reason: Reason
    later: tuple[ManifestRow, ...] = ()
    step_back: NotAllowedError | None = None
    asked: str = ""

    @property
    def manifest(self) -> Manifest:
        return self.listing.manifest


def new_pin(choice: Choice, book: Book, *, since: str) -> Pin | None:
    """Return the pin that is made when ``choice`` is taken, if there is none yet.

    Not of the masters that come along: their ids brought them, and the names are their publishers' words.
    """
    header = choice.manifest.header
    pinnable = choice.reason in (Reason.PINNED, Reason.FIRST_USE) and not header.team
    refused = book.refuses(choice.manifest.publisher)  # it may have been said while the image came
    if not pinnable or refused or (header.team, header.name) in book.pins:
        return None
    return Pin(header.team, header.name, choice.manifest.publisher, since, label=header.by)


def remark(choice: Choice, book: Book, *, dry_run: bool = False) -> str:
    """Return what the user should know of a choice before it is pinned: whose word is taken, and why.

    Or "".
    """
    header, publisher = choice.manifest.header, choice.manifest.publisher
    if header.team:
        return ""
    thing, signer = f"  {header.full_name}:{header.version}", who(publisher, header.by)
    if choice.reason is Reason.PEER:
        return (
            f"{thing} is by {signer}, and the name belongs to another publisher here; it is taken because "
            "you named the peer"
        )
    if book.trust(publisher, header.team, header.name) in (Trust.OWN, Trust.EXPLICIT):
        return ""
    if choice.reason in (Reason.PINNED, Reason.FIRST_USE):
        pinned = book.has_pin(publisher, header.team, header.name)
        return "" if pinned else first_use(choice.manifest, dry_run=dry_run)
    if choice.reason is Reason.SAME_CONTENT:
        return f"{thing} has several publishers, all with this content; the name belongs to none of them yet"
    if not book.has_pin(publisher, header.team, header.name):
        doubt = _imitable(header.id) if choice.reason is Reason.ID_BEGINNING else ""
        return (
            f"{thing} is by {signer}, a publisher that is not trusted here; you named the content by its "
            f"id, and that is checked, whichever publisher signed it{doubt}"
        )
    return ""


def _imitable(id: str) -> str:
    return f". Content whose id begins like it can be made in a few hours. The whole id is {id}"
