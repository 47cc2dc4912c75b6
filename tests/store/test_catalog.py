"""Images, manifests, pages and lists in the catalog."""

import os
import random
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from overlaysync.errors import DecodeError, NotFoundError, OverlaysyncError
from overlaysync.model.digest import ZERO
from overlaysync.model.fingerprint import Fingerprint
from overlaysync.model.pages import PAGE_SIZE, PageList, PageListBuilder, page_digest
from overlaysync.model.pin import Pin, Sighting, TrustedPublisher
from overlaysync.store import manifests as module
from overlaysync.store.catalog import Catalog
from overlaysync.store.database import CatalogError
from overlaysync.store.held import Held
from overlaysync.store.holders import MAX_HOLDERS, label_key
from overlaysync.store.home import Home
from overlaysync.store.images import ImageRow
from overlaysync.store.made import Made
from overlaysync.store.manifests import ManifestRow
from overlaysync.units import CHUNK, PAGE_UNITS

A, B, C, D = (bytes([n]) * 32 for n in (0xAA, 0xBB, 0xCC, 0xDD))
TOP = Fingerprint(1, 2, 3, 4, 5)
MASTER = Fingerprint(1, 7, 8, 9, 10)


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "node", tmp_path / "config").prepare()


@pytest.fixture
def catalog(home):
    catalog = Catalog.open(home)
    yield catalog
    catalog.close()


def image(path="/images/vm.qcow2", **changes):
    row = ImageRow(
        path=path,
        chain=(TOP, MASTER),
        format="qcow2",
        virtual_size=1 << 40,
        disk=A,
        layer=B,
        parent=C,
        verified_at=1000.5,
    )
    return replace(row, **changes)


def manifest(number=1, **changes):
    row = ManifestRow(
        id=number.to_bytes(32, "big"),
        envelope=b"signed",
        kind="layer",
        team="",
        name="vm",
        version=1,
        publisher=b"P" * 32,
        content=B,
        parent=C,
        result=A,
        created="2025-01-02T03:04:05Z",
    )
    return replace(row, **changes)


def number_of(row):
    return int.from_bytes(row.id, "big")


def numbers(rows):
    return [number_of(row) for row in rows]


def file_at(path="/images/vm.qcow2", *manifests, team="", name="vm"):
    return Held(str(path), team, name, tuple(row.id for row in manifests), TOP)


# -- images ------------------------------------------------------------------------------------------


def test_an_image_comes_back_as_it_was(catalog):
    catalog.images.remember(image())
    assert catalog.images.at("/images/vm.qcow2") == image()
    assert catalog.images.at("/images/other") is None
    assert image().fingerprint == TOP


def test_a_standalone_image_has_no_layer(catalog):
    row = image(layer=None, parent=None, chain=(TOP,))
    catalog.images.remember(row)
    assert catalog.images.at(row.path) == row


def test_remembering_again_replaces(catalog):
    catalog.images.remember(image())
    catalog.images.remember(image(disk=D))
    assert catalog.images.all() == [image(disk=D)]


def test_paths_and_numbers_may_be_anything(catalog):
    path = os.fsdecode(b"/images/caf\xe9 \n'\".qed")
    row = image(path, chain=(Fingerprint(2**64 - 1, 2**63, 0, -1, 2**70),))
    catalog.images.remember(row)
    assert catalog.images.at(path) == row


def test_images_are_found_by_what_they_hold(catalog):
    old, new = image("/a", verified_at=1.0), image("/b", verified_at=2.0)
    other = image("/c", disk=D, layer=None, chain=(MASTER,))
    for row in (old, new, other):
        catalog.images.remember(row)
    assert catalog.images.with_disk(A) == [new, old]
    assert catalog.images.with_disk(D) == [other]
    assert len(catalog.images.all()) == 3


def test_forgetting_an_image_is_no_error_when_it_is_unknown(catalog):
    catalog.images.remember(image())
    catalog.forget_image("/elsewhere")
    catalog.forget_image("/images/vm.qcow2")
    assert catalog.images.all() == []


def test_a_fingerprint_sees_every_change(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"one")
    before = Fingerprint.of(path.stat())
    assert before == Fingerprint.of(path.stat())
    os.utime(path, ns=(0, 0))
    assert before != Fingerprint.of(path.stat())
    assert before.size == 3


# -- manifests ---------------------------------------------------------------------------------------


def test_a_manifest_comes_back_as_it_was(catalog):
    disk = manifest(2, kind="disk", parent=None, result=None, content=A, team="red")
    for row in (manifest(), disk):
        catalog.manifests.keep(row)
        catalog.manifests.keep(row)
    assert catalog.manifests.matching() == [manifest(), disk]


def test_manifests_are_found_by_name_team_and_content(catalog):
    rows = [
        manifest(1, team="red", name="vm", version=1),
        manifest(2, team="red", name="vm", version=2, content=D),
        manifest(3, team="blue", name="vm"),
        manifest(4, team="", name="vm"),
        manifest(5, team="red", name="other"),
    ]
    for row in rows:
        catalog.manifests.keep(row)

    assert numbers(catalog.manifests.matching(name="vm")) == [4, 3, 2, 1]
    assert numbers(catalog.manifests.matching(team="red")) == [5, 2, 1]
    assert numbers(catalog.manifests.matching(team="")) == [4]
    assert numbers(catalog.manifests.matching(team="red", name="vm", content=D)) == [2]


def test_versions_that_were_only_seen_are_known_and_not_here(catalog):
    mine, seen = manifest(1, version=1), manifest(2, version=2, follows=(manifest(1).id,))
    catalog.manifests.keep(mine)
    catalog.manifests.note_seen([mine, seen], at="2026-01-02T00:00:00Z")
    assert catalog.manifests.matching() == [mine]
    assert catalog.manifests.versions("", "vm") == [seen, mine]
    assert catalog.manifests.versions("red", "vm") == catalog.manifests.versions("", "other") == []
    assert [catalog.manifests.find(row.id) for row in (mine, seen)] == [mine, seen]
    assert catalog.manifests.find(D) is None
    catalog.manifests.keep(seen)
    assert catalog.manifests.matching() == [seen, mine]


def test_what_a_version_follows_comes_back_as_it_was(catalog):
    for number, follows in enumerate([(), (A,), (A, B, C)], 1):
        catalog.manifests.keep(manifest(number, version=number, follows=follows))
    assert [row.follows for row in catalog.manifests.versions("", "vm")] == [(A, B, C), (A,), ()]


def test_what_is_known_already_is_not_written_again(catalog, home):
    catalog.manifests.note_seen([manifest()], at="2026-01-02T00:00:00Z")
    with sqlite3.connect(home.catalog) as busy:
        busy.execute("BEGIN IMMEDIATE")
        catalog.manifests.note_seen([manifest()], at="2026-01-03T00:00:00Z")
    busy.close()


def test_the_highest_version_seen_of_each_publisher_and_when_it_came(catalog):
    P, Q = b"P" * 32, b"Q" * 32
    rows = [
        manifest(1, version=1, publisher=P, label="pl@old"),
        manifest(3, version=3, publisher=P, label="pl@bob"),
        manifest(2, version=2, publisher=P),
        manifest(4, version=9, publisher=Q),
        manifest(5, version=2, publisher=P, team="red"),
    ]
    for day, row in enumerate(rows, 1):
        catalog.manifests.note_seen([row], at=f"2026-01-0{day}T00:00:00Z")
    catalog.manifests.keep(rows[1], at="2026-02-02T00:00:00Z")
    assert catalog.manifests.sightings() == [
        Sighting("", "vm", P, 3, "2026-01-02T00:00:00Z", "pl@bob"),
        Sighting("", "vm", Q, 9, "2026-01-04T00:00:00Z"),
        Sighting("red", "vm", P, 2, "2026-01-05T00:00:00Z"),
    ]


def seen_of(catalog):
    kept = {row.name for row in catalog.manifests.matching()}
    return {seen.name for seen in catalog.manifests.sightings()} - kept


def test_what_strangers_make_up_is_forgotten_the_oldest_first(catalog, monkeypatch):
    monkeypatch.setattr(module, "MAX_UNKEPT", 100)
    P, Q = b"P" * 32, b"Q" * 32
    catalog.pins.trust(TrustedPublisher(Q, "2026"), [Pin("", "router", P, "2026")])
    known = [
        manifest(1000, name="router", publisher=P),
        manifest(1001, name="web", publisher=Q),
        manifest(1002, name="of-a-team", team="red", publisher=b"S" * 32),
    ]
    made_up = [manifest(n, name=f"n{n}", publisher=bytes([1, n]) * 16) for n in range(250)]
    catalog.manifests.note_seen([*known, *made_up[:150]], at="")
    for at in range(150, 250, 10):
        catalog.manifests.note_seen(made_up[at : at + 10], at="")
    assert seen_of(catalog) == {row.name for row in (*known, *made_up[150:])}


def test_strangers_that_use_a_name_of_ours_are_forgotten_as_well(catalog, monkeypatch):
    """Or a peer could fill the disk of everybody who has an image called "debian"."""
    monkeypatch.setattr(module, "MAX_UNKEPT", 10)
    catalog.manifests.keep(manifest(1000))
    catalog.manifests.note_seen([manifest(n, publisher=b"S" * 32, version=n + 1) for n in range(50)], at="")
    assert numbers(catalog.manifests.versions("", "vm")) == [*range(49, 39, -1), 1000]


def test_what_a_version_here_follows_is_never_forgotten(catalog, monkeypatch):
    monkeypatch.setattr(module, "MAX_UNKEPT", 10)
    S = b"S" * 32
    old = manifest(2000, publisher=S)
    older = manifest(2001, publisher=S, follows=(D,))
    between = manifest(2002, publisher=S, follows=(old.id, older.id), version=2)
    catalog.manifests.note_seen([old, older, between, manifest(2003, publisher=S)], at="")
    catalog.manifests.keep(manifest(2004, follows=(between.id,), version=3))
    catalog.manifests.note_seen([manifest(n, name="x", publisher=S) for n in range(50)], at="")
    assert numbers(catalog.manifests.versions("", "vm")) == [2004, 2002, 2000, 2001]


# -- what files hold ---------------------------------------------------------------------------------


def test_what_a_file_holds_comes_back_as_it_was(catalog):
    path = os.fsdecode(b"/images/caf\xe9 \n'\".qed")
    rows = [file_at(path, manifest(1), manifest(2), team="red"), file_at("/b")]
    for held in rows:
        catalog.held.hold(held)
    assert [catalog.held.at(held.path) for held in rows] == rows
    assert catalog.held.all() == sorted(rows, key=lambda held: os.fsencode(held.path))
    assert catalog.held.at("/elsewhere") is None
    catalog.held.hold(replace(rows[1], manifests=(A,)))
    assert catalog.held.at("/b") == replace(rows[1], manifests=(A,))
    catalog.forget_image("/b")
    assert catalog.held.at("/b") is None and catalog.held.at(path) == rows[0]


def test_holders_are_told_the_latest_first(catalog):
    for day, (node, label) in enumerate([(b"1", "ann"), (b"2", "bob"), (b"1", "ann@new")], 1):
        catalog.holders.note(A, node * 32, label, at=f"2026-01-0{day}T00:00:00Z")
    assert [(one.node, one.label) for one in catalog.holders.of(A)] == [
        (b"1" * 32, "ann@new"),
        (b"2" * 32, "bob"),
    ]
    assert catalog.holders.of(B) == []


# -- publishing --------------------------------------------------------------------------------------


def following(number, content, *, asked=None, **more):
    """Decides for a manifest that follows all that the file held; ``asked`` gets what it was asked with."""

    def decide(held, same):
        if asked is not None:
            asked.append((numbers(held), numbers(same)))
        version = 1 + max((row.version for row in held), default=0)
        follows = tuple(row.id for row in held)
        return manifest(number, content=content, version=version, follows=follows, **more)

    return decide


def test_a_file_holds_what_was_published_of_it(catalog, tmp_path):
    path = tmp_path / "vm.qcow2"
    path.touch()
    asked: list[tuple[list[int], list[int]]] = []
    catalog.manifests.keep(manifest(9, content=A))
    for number, content in ((1, A), (2, B), (3, A)):
        row = catalog.publish(file_at(path), content, following(number, content, asked=asked))
        assert catalog.held.at(str(path)) == file_at(path, row)
        assert row in catalog.manifests.matching()
    assert asked == [([], [9]), ([1], []), ([2], [1, 9])]
    assert [(number_of(row), row.version) for row in catalog.manifests.versions("", "vm")] == [
        (3, 3), (2, 2), (1, 1), (9, 1)
    ]  # fmt: skip


def test_what_was_only_seen_of_the_same_content_is_not_here(catalog):
    asked: list[tuple[list[int], list[int]]] = []
    catalog.manifests.note_seen([manifest(9, content=A)], at="")
    catalog.publish(file_at(), A, following(1, A, asked=asked))
    assert asked == [([], [])]


def test_what_a_file_held_under_another_name_is_not_followed(catalog, tmp_path):
    path = tmp_path / "vm.qcow2"
    path.touch()
    other, team = manifest(1, name="other"), manifest(2, team="red")
    for row in (other, team):
        catalog.manifests.keep(row)
    asked: list[tuple[list[int], list[int]]] = []
    for held in (file_at(path, other, name="other"), file_at(path, team, team="red"), file_at(path, other)):
        catalog.held.hold(held)
        catalog.publish(file_at(path), B, following(3, B, asked=asked))
    assert [held for held, _ in asked] == [[]] * 3


def test_what_could_not_be_published_leaves_nothing(catalog):
    def fail(held, same):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        catalog.publish(file_at(), A, fail)
    for wrong in ({"name": "other"}, {"team": "red"}, {"content": D}):
        with pytest.raises(ValueError, match="not a manifest of that content"):
            catalog.publish(file_at(), A, following(1, **{"content": A} | wrong))
    assert catalog.manifests.versions("", "vm") == catalog.held.all() == catalog.manifests.matching() == []


def test_a_name_follows_its_file_however_often_it_is_moved(catalog, tmp_path):
    for number, place in enumerate(["a", "b", "c"], 1):
        path = tmp_path / f"{place}.qcow2"
        path.touch()
        content = bytes([number]) * 32
        row = catalog.publish(file_at(path), content, following(number, content))
        assert (row.version, len(row.follows)) == (number, number > 1)
        path.unlink()


def test_a_copy_is_no_move(catalog, tmp_path):
    """The other file is there, and may become another version of its own."""
    original, copy = tmp_path / "vm.qcow2", tmp_path / "copy.qcow2"
    original.touch()
    catalog.publish(file_at(original), A, following(1, A))
    asked: list[tuple[list[int], list[int]]] = []
    catalog.publish(file_at(copy), B, following(2, B, asked=asked))
    assert asked == [([], [])]
    assert catalog.held.at(str(original)) is not None


def test_of_two_files_that_are_gone_none_was_moved(catalog, tmp_path):
    for number, place in enumerate(["a", "b"], 1):
        row = manifest(number)
        catalog.manifests.keep(row)
        catalog.held.hold(file_at(tmp_path / place, row))
    asked: list[tuple[list[int], list[int]]] = []
    catalog.publish(file_at(tmp_path / "c"), B, following(3, B, asked=asked))
    assert asked == [([], [1, 2])]


def test_a_file_that_continues_a_name_follows_the_newest_that_is_here(catalog, tmp_path):
    first, second = manifest(1), manifest(2, version=2, follows=(manifest(1).id,))
    for row, place in ((first, "a"), (second, "b")):
        catalog.manifests.keep(row)
        (tmp_path / place).touch()
        catalog.held.hold(file_at(tmp_path / place, row))
    asked: list[tuple[list[int], list[int]]] = []
    made = catalog.publish(file_at(tmp_path / "c"), D, following(3, D, asked=asked), continues=True)
    assert (asked, made.version) == ([([2], [])], 3)
    assert [held.path for held in catalog.held.all()] == [str(tmp_path / place) for place in "abc"]


def is_one_line(rows):
    """Whether each version follows the one before it, and the first nothing."""
    oldest_first = sorted(rows, key=lambda row: row.version)
    return [row.follows for row in oldest_first] == [(), *((row.id,) for row in oldest_first[:-1])]


def test_threads_that_publish_one_file_make_one_line_of_versions(catalog, tmp_path):
    path = tmp_path / "vm.qcow2"
    path.touch()

    def publish(number):
        content = number.to_bytes(32, "big")
        return catalog.publish(file_at(path), content, following(number, content)).version

    with ThreadPoolExecutor(4) as threads:
        versions = [*threads.map(publish, range(40))]
    assert sorted(versions) == [*range(1, 41)]
    assert is_one_line(catalog.manifests.matching())


# -- pages and lists ---------------------------------------------------------------------------------


def page(number, units=PAGE_UNITS):
    return random.Random(number).randbytes(32 * units)


def a_list(pages, bodies, **options):
    builder = PageListBuilder(
        virtual_size=len(bodies) * PAGE_UNITS * CHUNK,
        unit=CHUNK,
        parent=None,
        keep=lambda digest, body: pages.update({digest: body}),
        **options,
    )
    for index, body in enumerate(bodies):
        builder.add(index, body)
    return builder.build()


def test_pages_come_back_as_they_were(catalog):
    pages = {page_digest(page(n)): page(n) for n in range(3)}
    catalog.pages.keep_pages(pages)
    catalog.pages.keep_pages(pages)
    for digest, body in pages.items():
        assert catalog.pages.load_page(digest) == body
    with pytest.raises(NotFoundError):
        catalog.pages.load_page(A)


def test_a_page_that_is_too_long_is_refused_with_its_batch(catalog):
    with pytest.raises(DecodeError):
        catalog.pages.keep_pages({A: b"x", B: bytes(PAGE_SIZE + 1)})
    assert catalog.pages.has_pages([A, B]) == set()


def test_has_pages_takes_any_number(catalog):
    catalog.pages.keep_pages({n.to_bytes(32, "big"): b"x" for n in range(0, 3000, 2)})
    asked = [n.to_bytes(32, "big") for n in range(3000)]
    assert catalog.pages.has_pages(asked) == set(asked[::2])
    assert catalog.pages.has_pages([]) == set()


def test_a_list_comes_back_as_it_was(catalog):
    bodies: dict[bytes, bytes] = {}
    pages = a_list(bodies, [page(1), ZERO * PAGE_UNITS, page(2)])
    catalog.pages.keep_pages(bodies)
    catalog.pages.keep_list(pages)
    catalog.pages.keep_list(pages)
    assert catalog.pages.load_list(pages.id) == pages
    assert catalog.pages.load_list(A) is None


def test_a_list_is_kept_after_its_pages_only(catalog):
    bodies: dict[bytes, bytes] = {}
    pages = a_list(bodies, [page(1), page(2)])
    catalog.pages.keep_pages(dict([bodies.popitem()]))
    with pytest.raises(NotFoundError, match="1 pages"):
        catalog.pages.keep_list(pages)
    assert catalog.pages.load_list(pages.id) is None


def test_a_blank_list_needs_no_pages(catalog):
    pages = PageList(virtual_size=1 << 40)
    catalog.pages.keep_list(pages)
    assert catalog.pages.load_list(pages.id) == pages


def test_lists_that_differ_in_their_parent_alone_are_found_together(catalog):
    def layer(parent, size=1 << 20):
        return PageList(virtual_size=size, unit=4096, parent=parent)

    on_one, on_other, bigger = layer(A), layer(B), layer(A, 1 << 21)
    disk = PageList(virtual_size=1 << 20)
    for pages in (on_one, on_other, bigger, disk):
        catalog.pages.keep_list(pages)
    assert set(catalog.pages.lists_of_shape(on_one.shape)) == {on_one, on_other}
    assert catalog.pages.lists_of_shape(layer(C).shape) == catalog.pages.lists_of_shape(on_other.shape)
    assert catalog.pages.lists_of_shape(disk.shape) == [disk]
    assert catalog.pages.lists_of_shape(A) == []


@pytest.mark.parametrize("body", [b"", b"OSD1", PageList(virtual_size=512).encode()])
def test_a_changed_list_is_damage(catalog, home, body):
    pages = PageList(virtual_size=1 << 40)
    catalog.pages.keep_list(pages)
    with sqlite3.connect(home.catalog) as connection:
        connection.execute("UPDATE lists SET body = ?", (body,))
    connection.close()
    with pytest.raises(CatalogError, match="damaged"):
        catalog.pages.load_list(pages.id)


def test_what_resembles_something_here_takes_little_room(catalog, home):
    bodies = [page(1), page(2)]
    pages: dict[bytes, bytes] = {}
    master = a_list(pages, bodies)
    catalog.pages.keep_pages(pages)
    catalog.pages.keep_list(master)
    disks = [master]
    for number in range(3):  # each upon the one before
        bodies[0] = A + bodies[0][32 * (number + 1) :].rjust(len(bodies[0]) - 32, b"x")
        own: dict[bytes, bytes] = {}
        disk = a_list(own, bodies)
        catalog.pages.keep_pages(own, {disk.digests[0]: disks[-1].digests[0]})
        catalog.pages.keep_list(disk, like=disks[-1].id)
        disks.append(disk)
        pages |= own
    with sqlite3.connect(home.catalog) as connection:
        (size,) = connection.execute("SELECT sum(length(body)) FROM pages").fetchone()
    connection.close()
    assert size < 2.1 * PAGE_SIZE
    assert [catalog.pages.load_list(disk.id) for disk in disks] == disks
    assert {digest: catalog.pages.load_page(digest) for digest in pages} == pages


def test_what_others_are_stored_beside_is_not_forgotten(catalog):
    base, other = page(1), A + page(1)[32:]
    bodies: dict[bytes, bytes] = {}
    disk = a_list(bodies, [other])
    catalog.pages.keep_pages({page_digest(base): base})
    catalog.pages.keep_pages(bodies, {page_digest(other): page_digest(base)})
    catalog.pages.keep_list(disk)
    catalog.pages.forget_unlisted([page_digest(base)])
    assert catalog.pages.load_page(page_digest(other)) == other


def test_a_page_whose_base_is_gone_is_damage(catalog, home):
    base, other = page(1), A + page(1)[32:]
    catalog.pages.keep_pages({page_digest(base): base})
    catalog.pages.keep_pages({page_digest(other): other}, {page_digest(other): page_digest(base)})
    with sqlite3.connect(home.catalog) as connection:
        connection.execute("DELETE FROM pages WHERE digest = ?", (page_digest(base),))
    connection.close()
    with pytest.raises(CatalogError, match="damaged"):
        catalog.pages.load_page(page_digest(other))


# -- damage and company ------------------------------------------------------------------------------


@pytest.mark.parametrize("chain", ["", "{", "[]", "[[1]]", "[1, 2]", "7"])
def test_a_broken_image_row_is_damage(catalog, home, chain):
    catalog.images.remember(image())
    with sqlite3.connect(home.catalog) as connection:
        connection.execute("UPDATE images SET chain = ?", (chain,))
    connection.close()
    with pytest.raises(CatalogError, match="damaged"):
        catalog.images.all()


# -- what was made here, and who has what ------------------------------------------------------------


def test_what_was_made_here_counts_until_the_file_is_fetched_or_published(catalog):
    made = Made("/images/m.raw", A, MASTER, 5.5, B, (A, B))
    catalog.made.note(made)
    assert catalog.made.at(made.path) == made and catalog.made.at("/other") is None
    assert catalog.made.all() == [made]
    catalog.held.hold(Held(made.path, "", "m", (bytes(32),), MASTER))
    assert catalog.made.at(made.path) is None
    catalog.made.note(replace(made, disk=None))
    catalog.forget_image(made.path)
    assert catalog.made.at(made.path) is None


EARLY, LATE, LATER = "2025-01-02T03:04:05Z", "2025-01-02T03:05:00Z", "2025-01-02T03:06:00Z"


def seen(catalog, content=B):
    return [(holder.node, holder.label, holder.seen_at) for holder in catalog.holders.of(content)]


def test_others_are_noted_to_have_what_is_kept_here(catalog):
    catalog.manifests.note_seen([manifest(2, content=D)], at=EARLY)
    catalog.manifests.keep(manifest())
    catalog.holders.note_all(b"b" * 32, "bob", [B, C, D], at=EARLY)
    assert seen(catalog) == [(b"b" * 32, "bob", EARLY)]
    assert seen(catalog, C) == seen(catalog, D) == [], "what was never here is not noted"


def test_what_was_noted_of_late_is_not_noted_again(catalog):
    catalog.manifests.keep(manifest())
    catalog.holders.note_all(b"b" * 32, "bob", [B], at=EARLY)
    catalog.holders.note_all(b"b" * 32, "bob", [B], at=LATE, fresh=EARLY)
    assert seen(catalog) == [(b"b" * 32, "bob", EARLY)]
    catalog.holders.note_all(b"b" * 32, "bob", [B], at=LATER, fresh=LATE)
    assert seen(catalog) == [(b"b" * 32, "bob", LATER)]


def test_a_node_known_by_its_label_is_the_one_whose_key_becomes_known(catalog):
    catalog.manifests.keep(manifest())
    catalog.holders.note_all(label_key("bob"), "bob", [B], at=EARLY)
    assert seen(catalog) == [(label_key("bob"), "bob", EARLY)]
    catalog.holders.note_all(b"b" * 32, "bob", [B], at=LATE)
    catalog.holders.note_all(label_key("bob"), "bob", [B], at=LATER)
    assert seen(catalog) == [(b"b" * 32, "bob", LATER)]


def test_holders_of_a_content_are_bounded(catalog):
    catalog.manifests.keep(manifest())
    for number in range(MAX_HOLDERS + 3):
        at = f"2025-01-02T03:{number // 60:02}:{number % 60:02}Z"
        catalog.holders.note(B, number.to_bytes(32, "big"), f"node{number}", at=at)
    labels = [label for _, label, _ in seen(catalog)]
    assert len(labels) == MAX_HOLDERS and labels[0] == f"node{MAX_HOLDERS + 2}" and labels[-1] == "node3"


@pytest.mark.slow
def test_flipped_bytes_give_an_answer_or_our_error(home):
    catalog = Catalog.open(home)
    catalog.pages.keep_pages({n.to_bytes(32, "big"): page(n) for n in range(8)})
    for n in range(40):
        catalog.images.remember(image(f"/{n}"))
        catalog.manifests.keep(manifest(n))
    catalog.close()
    whole = home.catalog.read_bytes()
    chance = random.Random(5)
    refused = 0
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(20):
            damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        home.catalog.write_bytes(damaged)
        try:
            catalog = Catalog.open(home)
            try:
                catalog.images.all()
                catalog.manifests.matching()
                catalog.pages.has_pages([bytes(32)])
                catalog.images.remember(image("/new"))
            finally:
                catalog.close()
        except OverlaysyncError:
            refused += 1
    assert 0 < refused <= 150


NEIGHBOUR = """
import sys
from overlaysync.model.fingerprint import Fingerprint
from overlaysync.store.catalog import Catalog
from overlaysync.store.held import Held
from overlaysync.store.manifests import ManifestRow
from overlaysync.store.home import Home
home = Home.from_environment({"OVERLAYSYNC_HOME": sys.argv[1]}).prepare()
catalog = Catalog.open(home)
me = sys.argv[2]

def row(name, number, version=1, follows=()):
    id = f"{me}-{number}-{name}".encode().ljust(32)
    return ManifestRow(id, b"", "disk", "", name, version, b"P", id, None, None, "", "", follows)

for number in range(40):
    catalog.pages.keep_pages({f"{me}-{number}".encode().ljust(32): bytes(32768)})
    catalog.manifests.note_seen([row("seen", number)], at="")

    def decide(held, same):
        version = 1 + max((row.version for row in held), default=0)
        return row("next", number, version, tuple(row.id for row in held))

    as_held = Held("/next", "", "next", (), Fingerprint(1, 2, 3, 4, 5))
    catalog.publish(as_held, row("next", number).content, decide)
catalog.close()
"""


@pytest.mark.slow
def test_processes_share_a_home(tmp_path):
    root = str(tmp_path / "node")
    nodes = [subprocess.Popen([sys.executable, "-c", NEIGHBOUR, root, str(n)]) for n in range(4)]
    assert [node.wait() for node in nodes] == [0] * 4
    catalog = Catalog.open(Home.from_environment({"OVERLAYSYNC_HOME": root}))
    keys = [f"{me}-{number}".encode().ljust(32) for me in range(4) for number in range(40)]
    assert catalog.pages.has_pages(keys) == set(keys)
    assert len(catalog.manifests.versions("", "seen")) == 160
    published = catalog.manifests.matching(name="next")
    assert [row.version for row in published] == [*range(160, 0, -1)]
    assert is_one_line(published)
    catalog.close()
