"""The JSON documents of the commands for images."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, UnsetType

from overlaysync.cli.documents_of_states import StateRow
from overlaysync.cli.documents_parts import Document, Error, Image, Listing, Refusal, UsedAt


class Wire(Document, frozen=True, kw_only=True):
    """Bytes on the wire."""

    data: int
    manifest: int


class FetchedImage(Image, frozen=True, kw_only=True):
    """An image that is here now."""

    already_here: bool
    data_size: int
    wire: Wire
    local: int
    resumed: int
    sources: dict[str, int]
    lost: str | None


class SyncedImage(FetchedImage, frozen=True, kw_only=True):
    """One that was brought to its newest version."""

    state: str


class PlannedImage(Listing, frozen=True, kw_only=True):
    """One that would be fetched."""

    path: str
    base: str | None
    already_here: bool
    would_lose: str | None


class AdoptedImage(Image, frozen=True, kw_only=True):
    """An overlay on its master."""

    adopted: str | None
    verified: bool
    proof: str | None
    notes: list[str]


class PromotedImage(Image, frozen=True, kw_only=True):
    """A new master, and the overlay that it was made of, if that is gone."""

    discarded: str | None


class Holder(Document, frozen=True, kw_only=True):
    """A machine that has, or had, something."""

    node: str
    now: bool
    seen_at: str | None


class Below(Document, frozen=True, kw_only=True):
    """An image in a lineage."""

    path: str
    disk: str


class ShownImage(Image, frozen=True, kw_only=True):
    """Everything about an image."""

    in_use: bool
    used_by: str
    file_size: int
    cluster_size: int
    lineage: list[Below]
    stands_on_it: list[str]
    copies: list[str]
    published_as: list[str]
    notes: list[str]


class ShownListing(Listing, frozen=True, kw_only=True):
    """Everything about what others list."""

    holders: list[Holder]
    copies: list[str]


class ListedOnly(Document, frozen=True, kw_only=True):
    """An image that is listed without its data."""

    name: str
    team: str
    version: int
    manifest: str
    path: str


class CapturedImage(Document, frozen=True, kw_only=True):
    """An image that was captured while a VM wrote to it: when, how its disk is, and the bytes of the copy."""

    path: str
    at: str
    consistency: str
    size: int


class ShareDocument(Document, frozen=True, kw_only=True):
    """Of share, when serving begins."""

    shared: list[Image]
    in_use: list[ListedOnly]
    captured: list[CapturedImage]
    node: str
    port: int
    interfaces: str
    page: str | None


class FetchDocument(Document, frozen=True, kw_only=True):
    """Of fetch."""

    fetched: list[FetchedImage] | UnsetType = UNSET
    plan: list[PlannedImage] | UnsetType = UNSET
    failed: list[Refusal] | UnsetType = UNSET


class SyncDocument(Document, frozen=True, kw_only=True):
    """Of sync."""

    synced: list[SyncedImage]
    failed: list[Refusal] | UnsetType = UNSET
    node: str | UnsetType = UNSET
    port: int | UnsetType = UNSET
    interfaces: str | UnsetType = UNSET
    shared: list[str] | UnsetType = UNSET


class Side(Document, frozen=True, kw_only=True):
    """The other side of a fork."""

    version: int
    id: str
    manifest: str
    publisher: str
    by: str
    created: str


class SettleDocument(Document, frozen=True, kw_only=True):
    """Of settle."""

    team: str
    name: str
    path: str
    settled: list[Side]


class LsDocument(Document, frozen=True, kw_only=True):
    """Of ls."""

    images: list[Listing]
    error: Error | UnsetType = UNSET


class PathWhy(Document, frozen=True, kw_only=True):
    """A file, and why it belongs or does not."""

    path: str
    why: str


class ShownCompanion(Document, frozen=True, kw_only=True):
    """A small file of a VM."""

    path: str
    file: str
    role: str
    why: str


class ShownVm(Document, frozen=True, kw_only=True):
    """A VM, as its files tell."""

    name: str
    convention: str
    directory: str
    disks: list[PathWhy]
    companions: list[ShownCompanion]
    left_out: list[PathWhy]
    warnings: list[str]
    start: str


class ShownVmsDocument(Document, frozen=True, kw_only=True):
    """Of show, for a directory or a definition."""

    vms: list[ShownVm]
    masters: list[str]
    left_out: list[PathWhy]


class ShownSeveralDocument(Document, frozen=True, kw_only=True):
    """Of show, for several images."""

    images: list[dict[str, Any]]


class HistoryRow(Document, frozen=True, kw_only=True):
    """A version."""

    name: str
    team: str
    version: int
    id: str
    manifest: str
    created: str
    publisher: str
    by: str
    note: str
    data_size: int
    follows: list[str]
    fork: bool
    held_by: list[str]
    machines: int
    in_use: bool
    in_use_at: list[UsedAt]
    here: list[str]
    holders: list[Holder]


class HistoryDocument(Document, frozen=True, kw_only=True):
    """Of history."""

    history: list[HistoryRow]
    states: list[StateRow]


class TreeVersion(Document, frozen=True, kw_only=True):
    """A version that an entry was published as."""

    name: str
    version: int
    by: str
    created: str


class TreeCopy(Document, frozen=True, kw_only=True):
    """A file with the content of an entry."""

    path: str
    format: str
    changed: bool
    master_changed: bool
    verified_at: str


class TreeRow(Document, frozen=True, kw_only=True):
    """An entry of the family tree."""

    name: str
    kind: str
    virtual_size: int
    data_size: int
    disk: str | None
    layer: str | None
    parent: str | None
    stands_on: str | None
    promoted_to: str | None
    versions: list[TreeVersion]
    copies: list[TreeCopy]


class TreeDocument(Document, frozen=True, kw_only=True):
    """Of tree."""

    tree: list[TreeRow]
    svg: str | UnsetType = UNSET
    png: str | UnsetType = UNSET
    odg: str | UnsetType = UNSET


class Range(Document, frozen=True, kw_only=True):
    """Bytes of an image."""

    offset: int
    length: int


class VerifiedImage(Document, frozen=True, kw_only=True):
    """An image that was compared with what it must be."""

    path: str
    ok: bool
    basis: str
    since: str
    changed_since: bool
    damage: list[Range]
    holds: str | None
    notes: list[str]
    healed: list[Range]
    would_lose: str | None


class VerifyDocument(Document, frozen=True, kw_only=True):
    """Of verify."""

    verified: list[VerifiedImage]
    failed: list[Refusal] | UnsetType = UNSET


class Loss(Document, frozen=True, kw_only=True):
    """What is lost with a file."""

    path: str
    lost: str | None


class DiscardDocument(Document, frozen=True, kw_only=True):
    """Of discard."""

    discarded: list[str]
    lost: list[Loss] | UnsetType = UNSET
    would_lose: list[Loss] | UnsetType = UNSET


IMAGE_DOCUMENTS: dict[str, tuple[type[Any], ...]] = {
    "adopt": (AdoptedImage,),
    "discard": (DiscardDocument,),
    "fetch": (FetchDocument,),
    "history": (HistoryDocument,),
    "id": (Image,),
    "ls": (LsDocument,),
    "new": (Image,),
    "promote": (PromotedImage,),
    "rebase": (Image,),
    "settle": (SettleDocument,),
    "share": (ShareDocument,),
    "show": (ShownImage, ShownListing, ShownSeveralDocument, ShownVmsDocument),
    "sync": (SyncDocument,),
    "tree": (TreeDocument,),
    "verify": (VerifyDocument,),
}
