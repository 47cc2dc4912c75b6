"""Page lists and pages: what is signed about sizes is true, or nothing is kept."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from overlaysync.errors import NetworkError, OverlaysyncError, PeerError, VerificationError
from overlaysync.model.digest import UNALLOCATED, ZERO, format_id
from overlaysync.model.manifest import Header
from overlaysync.model.pages import PAGE_SIZE, PageList, PageListBuilder, page_digest
from overlaysync.net.faults import Faults
from overlaysync.net.messages import Address, Endpoint
from overlaysync.node.any_source import AnySource
from overlaysync.node.metadata import Metadata
from overlaysync.node.node import Node
from overlaysync.store.catalog import Catalog
from overlaysync.store.home import Home
from overlaysync.trust.envelope import Manifest
from overlaysync.units import CHUNK, KIB, PAGE_UNITS
from tests.net.fuzzing_decoders import HEADER, MASTER

PAGE = PAGE_UNITS * CHUNK


@dataclass
class Content:
    """A content as its publisher describes it, and the peer that has it."""

    header: Header
    pages: PageList
    bodies: dict[bytes, bytes]
    gone: set[bytes] = field(default_factory=set)
    asked: list[bytes] = field(default_factory=list)
    faults: Faults = field(default_factory=Faults)

    def says(self, **changes: Any) -> Content:
        """The same, with other words in its header."""
        return Content(msgspec.structs.replace(self.header, **changes), self.pages, self.bodies)

    # what stands for the reach

    def sources(self, content: bytes, team: str = "") -> dict[str, tuple[Endpoint, Manifest]]:
        manifest = Manifest(bytes(32), self.header, bytes(32), b"")
        return {"peer": (Address("192.0.2.7", 40001), manifest)}

    async def another(self, *, wait_s: float) -> bool:
        return False

    # what stands for the client

    async def page_list(self, address: Endpoint, manifest_id: bytes, size: int) -> bytes:
        return self.pages.encode()

    async def page(self, address: Endpoint, manifest_id: bytes, digest: bytes) -> tuple[bytes, int]:
        self.asked.append(digest)
        if digest in self.gone:
            raise PeerError("cut")
        return self.bodies[digest], 100


def content(bodies: list[bytes], *, last: int = PAGE_UNITS, data_size: int | None = None) -> Content:
    """A disk with these pages, the last of them with so many units."""
    bodies = [*bodies[:-1], bodies[-1][: last * 32]]
    kept: dict[bytes, bytes] = {}
    size = ((len(bodies) - 1) * PAGE_UNITS + last) * CHUNK
    builder = PageListBuilder(virtual_size=size, unit=CHUNK, parent=None, keep=kept.__setitem__)
    for index, body in enumerate(bodies):
        builder.add(index, body)
    pages = builder.build()
    count = sum(
        body[at : at + 32] not in (ZERO, UNALLOCATED) for body in bodies for at in range(0, len(body), 32)
    )
    header = msgspec.structs.replace(
        MASTER,
        id=format_id(pages.id),
        result=format_id(pages.id),
        virtual_size=size,
        data_size=count * CHUNK if data_size is None else data_size,
        list_size=len(pages.encode()),
    )
    return Content(header, pages, kept)


def sparse(data: int) -> bytes:
    """A page with so many DATA units."""
    return os.urandom(32 * data) + ZERO * (PAGE_UNITS - data)


def tables() -> closing[sqlite3.Connection]:
    """The catalog's file itself."""
    return closing(sqlite3.connect(Home.from_environment(os.environ).catalog))


@pytest.fixture
def catalog(home: Path) -> Iterator[Catalog]:
    node = Node.open(os.environ)
    yield node.catalog
    node.close()


async def fetch(catalog: Catalog, what: Content) -> PageList:
    anyone = AnySource(what, wait_s=0, silence_s=0, again_s=0)
    return (await Metadata(cast(Any, what), anyone, catalog.pages).fetch(what.header))[0]


def kept(catalog: Catalog, what: Content) -> tuple[set[bytes], bool]:
    """Which pages are here, and whether the list is."""
    digests = catalog.pages.has_pages(what.bodies)
    return digests, catalog.pages.load_list(what.header.content_id) is not None


CONTENTS = {
    "one page": lambda: content([sparse(7)]),
    "many pages": lambda: content([sparse(number) for number in range(1, 200)]),
    "a short one at the end": lambda: content([sparse(10), os.urandom(PAGE_SIZE)], last=3),
    "the same page many times": lambda: content([sparse(5)] * 50),
    "blank pages between": lambda: content([ZERO * PAGE_UNITS, sparse(3), ZERO * PAGE_UNITS, sparse(4)]),
    "nothing at all": lambda: content([ZERO * PAGE_UNITS]),
}


@pytest.mark.parametrize("make", CONTENTS.values(), ids=CONTENTS.keys())
async def test_what_is_as_it_was_signed_is_kept(catalog: Catalog, make: Any) -> None:
    what = make()
    assert await fetch(catalog, what) == what.pages
    assert kept(catalog, what) == (set(what.bodies), True)
    for digest, body in what.bodies.items():
        assert catalog.pages.load_page(digest) == body


async def test_a_last_unit_that_is_short_counts_as_long_as_it_is(catalog: Catalog) -> None:
    body = os.urandom(PAGE_SIZE)[: 3 * 32]
    size = 3 * CHUNK - 512
    pages = PageList(size, CHUNK, None, (0,), (page_digest(body),))
    header = msgspec.structs.replace(
        MASTER,
        id=format_id(pages.id),
        result=format_id(pages.id),
        virtual_size=size,
        data_size=size,
        list_size=len(pages.encode()),
    )
    assert await fetch(catalog, Content(header, pages, {page_digest(body): body})) == pages


@pytest.mark.parametrize("off", [-CHUNK, -1, 1, CHUNK])
@pytest.mark.parametrize("make", list(CONTENTS.values())[:5], ids=list(CONTENTS)[:5])
@pytest.mark.slow
async def test_another_sum_of_data_keeps_nothing(catalog: Catalog, make: Any, off: int) -> None:
    honest = make()
    what = honest.says(data_size=honest.header.data_size + off)
    with pytest.raises(VerificationError, match="does not match its content"):
        await fetch(catalog, what)
    assert kept(catalog, what) == (set(), False)


async def test_more_data_than_its_pages_can_hold_are_refused_before_a_page_is_asked_for(
    catalog: Catalog,
) -> None:
    honest = content([ZERO * PAGE_UNITS] * 300 + [sparse(5)])
    what = honest.says(data_size=PAGE + 1)
    with pytest.raises(VerificationError):
        await fetch(catalog, what)
    assert what.asked == []


async def test_more_data_than_were_signed_end_the_asking_soon(catalog: Catalog) -> None:
    what = content([sparse(1000 - number) for number in range(500)]).says(data_size=1000 * CHUNK)
    with pytest.raises(VerificationError):
        await fetch(catalog, what)
    assert len(what.asked) <= 64
    assert kept(catalog, what) == (set(), False)


LIES: dict[str, dict[str, Any]] = {
    "virtual_size": {"virtual_size": 2 * PAGE},
    "list_size": {"list_size": 1000},
    "unit": {"unit": 4 * KIB},
    "parent": {"parent": HEADER.parent or format_id(b"p" * 32)},
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
async def test_another_list_than_was_signed(catalog: Catalog, lie: dict[str, Any]) -> None:
    what = content([sparse(7)]).says(**lie)
    with pytest.raises(VerificationError):
        await fetch(catalog, what)
    assert what.asked == [] and kept(catalog, what) == (set(), False)


@pytest.mark.parametrize("body", [sparse(7)[:-32] + UNALLOCATED, sparse(7)[:-32], b""])
async def test_a_page_that_is_not_canonical_keeps_nothing(catalog: Catalog, body: bytes) -> None:
    good = sparse(9)
    pages = PageList(2 * PAGE, CHUNK, None, (0, 1), (page_digest(good), page_digest(body)))
    header = msgspec.structs.replace(
        MASTER,
        id=format_id(pages.id),
        result=format_id(pages.id),
        virtual_size=2 * PAGE,
        data_size=16 * CHUNK,
        list_size=len(pages.encode()),
    )
    what = Content(header, pages, {page_digest(good): good, page_digest(body): body})
    with pytest.raises(VerificationError):
        await fetch(catalog, what)
    assert kept(catalog, what) == (set(), False)


@pytest.mark.slow
async def test_pages_of_a_fetch_that_failed_go_and_those_of_others_stay(catalog: Catalog) -> None:
    shared = [sparse(number) for number in range(1, 4)]
    before = content(shared)
    await fetch(catalog, before)
    what = content([*shared, *(sparse(number) for number in range(100, 300))])
    what.gone.add(what.pages.digests[-1])
    with pytest.raises(NetworkError):
        await fetch(catalog, what)
    assert len(what.asked) > 64, "some had been kept"
    assert kept(catalog, what) == (set(before.bodies), False)
    assert kept(catalog, before) == (set(before.bodies), True)
    what.gone.clear()
    await fetch(catalog, what)
    assert kept(catalog, what) == (set(what.bodies), True)


@pytest.mark.slow
async def test_pages_that_are_mostly_markers_take_little_room(catalog: Catalog) -> None:
    what = content([sparse(1) for _ in range(2000)])
    await fetch(catalog, what)
    with tables() as connection:
        (size,) = connection.execute("SELECT sum(length(body)) FROM pages").fetchone()
    assert size < 2000 * PAGE_SIZE // 50


def test_nothing_is_forgotten_that_a_list_has(catalog: Catalog) -> None:
    what = content([sparse(3), sparse(4)])
    catalog.pages.keep_pages(what.bodies)
    other = sparse(5)
    catalog.pages.keep_pages({page_digest(other): other})
    catalog.pages.keep_list(what.pages)
    catalog.pages.forget_unlisted([*what.bodies, page_digest(other)])
    assert catalog.pages.has_pages([*what.bodies, page_digest(other)]) == set(what.bodies)
    catalog.pages.forget_unlisted([])


def test_a_page_that_has_changed_on_disk_is_damage(catalog: Catalog) -> None:
    body = sparse(3)
    catalog.pages.keep_pages({page_digest(body): body})
    for stored in (b"", b"not zstd", body):
        with tables() as connection:
            connection.execute("UPDATE pages SET body = ?", (stored,))
            connection.commit()
        with pytest.raises(OverlaysyncError, match="damaged"):
            catalog.pages.load_page(page_digest(body))
