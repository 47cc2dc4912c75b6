"""Kinship: which team's version an image holds data of, by the digests of its units.

A file that was copied and then written to, a stick's copy, and a master that an overlay was committed into
are like nothing that was published, yet a part of them is a team's. Two contents are compared at the same
place of the guest's disk. What a public version holds there too, or the master that an image stands on,
counts for nothing. Only digests that are kept here are looked at, and no image is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from overlaysync.model.datamap import DataMap
from overlaysync.model.digest import Kind, equal_rows, kinds_of
from overlaysync.model.pages import PageList
from overlaysync.ops.known import Known
from overlaysync.store.catalog import Catalog
from overlaysync.store.manifests import ManifestRow
from overlaysync.trust.envelope import open_envelope
from overlaysync.units import CHUNK, MIB

_MUCH = MIB
"""Bytes in common that are much, however large the images are."""

_PART = 8
"""This part of either content in common is much, however small they are."""


@dataclass(frozen=True, slots=True)
class _Data:
    """What data a content has: those of ``pages`` that are not those of ``without``."""

    pages: PageList
    without: PageList | None = None


def kin(catalog: Catalog, known: Known, rows: Iterable[ManifestRow]) -> ManifestRow | None:
    """Return the first of some versions that an image has much data in common with; None for none.

    Args:
        catalog: keeps the digests.
        known: the image.
        rows: versions that are not public.
    """
    mine = {data.pages.unit: data for data in _data_of(known)}
    size = DataMap(known.content, catalog.pages.load_page).size
    public: dict[int, list[PageList]] | None = None
    for row in {row.content: row for row in reversed(list(rows))}.values():
        theirs = _data_in(catalog, row)
        if theirs is None or theirs.pages.unit not in mine:
            continue
        ours, unit = mine[theirs.pages.unit], theirs.pages.unit
        least = min(_MUCH, size // _PART, open_envelope(row.envelope).header.data_size // _PART)
        if not _is_much(_in_common(catalog, ours, theirs, ()), unit, least):
            continue
        if public is None:
            public = _public(catalog)
        if _is_much(_in_common(catalog, ours, theirs, public.get(unit, ())), unit, least):
            return row
    return None


def _is_much(units: int, unit: int, least: int) -> bool:
    return units > 0 and units * unit >= least


def _data_of(known: Known) -> Iterator[_Data]:
    """Yield what an image adds to its master, by the units of its layer, and by those of a disk."""
    yield _Data(known.content)
    yield _Data(known.disk, known.parent.disk if known.parent else None)


def _data_in(catalog: Catalog, row: ManifestRow) -> _Data | None:
    """Return what a version adds to its master, by the units of a disk where that can be had.

    None when unknown.
    """
    load = catalog.pages.load_list
    content = load(row.content)
    if content is None or content.unit == CHUNK or row.result is None or row.parent is None:
        return _Data(content) if content else None
    disk, below = load(row.result), load(row.parent)
    return _Data(disk, below) if disk and below else _Data(content)


def _public(catalog: Catalog) -> dict[int, list[PageList]]:
    """Return the digests of all public versions that are kept here, by their unit."""
    found: dict[int, list[PageList]] = {}
    rows = catalog.manifests.matching(team="")
    for id in dict.fromkeys(id for row in rows for id in (row.content, row.result) if id):
        pages = catalog.pages.load_list(id)
        if pages is not None:
            found.setdefault(pages.unit, []).append(pages)
    return found


def _in_common(catalog: Catalog, ours: _Data, theirs: _Data, public: Iterable[PageList]) -> int:
    """How many units of data two contents have in common at the same place, and nothing else has there."""
    load = catalog.pages.load_page
    others = [pages for pages in (ours.without, theirs.without, *public) if pages is not None]
    count = 0
    for index in set(ours.pages.indices) & set(theirs.pages.indices):
        left, right = ours.pages.load(index, load), theirs.pages.load(index, load)
        length = min(len(left), len(right))
        same = equal_rows(left[:length], right[:length]) & (kinds_of(left[:length]) == Kind.DATA)
        for pages in others:
            if not same.any():
                break
            if pages.page(index) is not None:
                body = pages.load(index, load)[:length]
                same[: len(body)] &= ~equal_rows(left[: len(body)], body)
        count += int(same.sum())
    return count
