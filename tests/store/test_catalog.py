"""Images, manifests, pages and lists in the catalog."""

import os
import random
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from overlaysync.errors import DecodeError, NotFoundError, OverlaysyncError, UsageError
from overlaysync.model.digest import ZERO
from overlaysync.model.fingerprint import Fingerprint
from overlaysync.model.manifest import MAX_VERSION
from overlaysync.model.pages import PAGE_SIZE, PageList, PageListBuilder, page_digest
from overlaysync.model.pin import Sighting
from overlaysync.store.catalog import (
    MAX_HOLDERS,
    Catalog,
    Held,
    ImageRow,
    Made,
    ManifestRow,
    label_key,
)
from overlaysync.store.database import CatalogError
from overlaysync.store.home import Home
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


def saw(catalog, team, name, version, publisher):
    catalog.pins.note([Sighting(team, name, publisher, version)])


# -- images ------------------------------------------------------------------------------------------


def test_an_image_comes_back_as_it_was(catalog):
    catalog.remember_image(image())
    assert catalog.image_at("/images/vm.qcow2") == image()
    assert catalog.image_at("/images/other") is None
    assert image().fingerprint == TOP


def test_a_standalone_image_has_no_layer(catalog):
    row = image(layer=None, parent=None, chain=(TOP,))
    catalog.remember_image(row)
    assert catalog.image_at(row.path) == row


def test_remembering_again_replaces(catalog):
    catalog.remember_image(image())
    catalog.remember_image(image(disk=D))
    assert catalog.all_images() == [image(disk=D)]


def test_paths_and_numbers_may_be_anything(catalog):
    path = os.fsdecode(b"/images/caf\xe9 \n'\".qed")
    row = image(path, chain=(Fingerprint(2**64 - 1, 2**63, 0, -1, 2**70),))
    catalog.remember_image(row)
    assert catalog.image_at(path) == row


def test_images_are_found_by_what_they_hold(catalog):
    old, new = image("/a", verified_at=1.0), image("/b", verified_at=2.0)
    other = image("/c", disk=D, layer=None, chain=(MASTER,))
    for row in (old, new, other):
        catalog.remember_image(row)
    assert catalog.images_with_disk(A) == [new, old]
    assert catalog.images_with_disk(D) == [other]
    assert len(catalog.all_images()) == 3


def test_forgetting_an_image_is_no_error_when_it_is_unknown(catalog):
    catalog.remember_image(image())
    catalog.forget_image("/elsewhere")
    catalog.forget_image("/images/vm.qcow2")
    assert catalog.all_images() == []


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
        catalog.keep_manifest(row)
        catalog.keep_manifest(row)
    assert catalog.manifests() == [manifest(), disk]


def test_manifests_are_found_by_name_team_and_content(catalog):
    rows = [
        manifest(1, team="red", name="vm", version=1),
        manifest(2, team="red", name="vm", version=2, content=D),
        manifest(3, team="blue", name="vm"),
        manifest(4, team="", name="vm"),
        manifest(5, team="red", name="other"),
    ]
    for row in rows:
        catalog.keep_manifest(row)

    def numbers(found):
        return [int.from_bytes(row.id, "big") for row in found]

    assert numbers(catalog.manifests(name="vm")) == [4, 3, 2, 1]
    assert numbers(catalog.manifests(team="red")) == [5, 2, 1]
    assert numbers(catalog.manifests(team="")) == [4]
    assert numbers(catalog.manifests(team="red", name="vm", content=D)) == [2]


def test_versions_count_whoever_published_them(catalog):
    assert catalog.highest_version("red", "vm") == 0
    catalog.keep_manifest(manifest(team="red", version=3))
    saw(catalog, "red", "vm", 7, b"Q" * 32)
    saw(catalog, "red", "vm", 5, b"Q" * 32)
    saw(catalog, "blue", "vm", 9, b"Q" * 32)
    assert catalog.highest_version("red", "vm") == 7
    assert catalog.highest_version("red", "other") == 0


def test_the_next_version_follows_the_highest_seen(catalog):
    saw(catalog, "red", "vm", 7, b"Q" * 32)
    made = catalog.keep_next("red", "vm", lambda version: manifest(1, team="red", version=version))
    assert made.version == 8
    assert catalog.manifests(team="red") == [made]
    assert catalog.highest_version("red", "vm") == 8


def test_a_version_that_could_not_be_made_is_not_used_up(catalog):
    def fail(version):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        catalog.keep_next("", "vm", fail)
    for wrong in ({"version": 2}, {"name": "other"}, {"team": "red"}):
        with pytest.raises(ValueError, match="not version 1"):
            catalog.keep_next("", "vm", lambda version, wrong=wrong: manifest(**{"version": version} | wrong))
    assert catalog.manifests() == [] and catalog.highest_version("", "vm") == 0


def test_versions_end(catalog):
    saw(catalog, "red", "vm", MAX_VERSION - 1, b"Q" * 32)
    make = lambda version: manifest(1, team="red", version=version)  # noqa: E731
    assert catalog.keep_next("red", "vm", make).version == MAX_VERSION
    with pytest.raises(UsageError, match="no next version of red/vm") as caught:
        catalog.keep_next("red", "vm", make)
    assert caught.value.why and caught.value.hint
    assert catalog.highest_version("red", "vm") == MAX_VERSION


def test_threads_never_make_the_same_version(catalog):
    def publish(number):
        return catalog.keep_next("", "vm", lambda version: manifest(number, version=version)).version

    with ThreadPoolExecutor(4) as threads:
        versions = [*threads.map(publish, range(40))]
    assert sorted(versions) == [*range(1, 41)]
    assert sorted(row.version for row in catalog.manifests()) == [*range(1, 41)]


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


@pytest.mark.parametrize("body", [b"", b"OSD1", PageList(virtual_size=512).encode()])
def test_a_changed_list_is_damage(catalog, home, body):
    pages = PageList(virtual_size=1 << 40)
    catalog.pages.keep_list(pages)
    with sqlite3.connect(home.catalog) as connection:
        connection.execute("UPDATE lists SET body = ?", (body,))
    connection.close()
    with pytest.raises(CatalogError, match="damaged"):
        catalog.pages.load_list(pages.id)


# -- damage and company ------------------------------------------------------------------------------


@pytest.mark.parametrize("chain", ["", "{", "[]", "[[1]]", "[1, 2]", "7"])
def test_a_broken_image_row_is_damage(catalog, home, chain):
    catalog.remember_image(image())
    with sqlite3.connect(home.catalog) as connection:
        connection.execute("UPDATE images SET chain = ?", (chain,))
    connection.close()
    with pytest.raises(CatalogError, match="damaged"):
        catalog.all_images()


# -- what was made here, and who has what ------------------------------------------------------------


def test_what_was_made_here_counts_until_the_file_is_fetched_or_published(catalog):
    made = Made("/images/m.raw", A, MASTER, 5.5)
    catalog.note_made(made)
    assert catalog.made_at(made.path) == made and catalog.made_at("/other") is None
    catalog.hold(Held(made.path, "", "m", (bytes(32),), MASTER))
    assert catalog.made_at(made.path) is None
    catalog.note_made(replace(made, disk=None))
    catalog.forget_image(made.path)
    assert catalog.made_at(made.path) is None


EARLY, LATE, LATER = "2025-01-02T03:04:05Z", "2025-01-02T03:05:00Z", "2025-01-02T03:06:00Z"


def seen(catalog, content=B):
    return [(holder.node, holder.label, holder.seen_at) for holder in catalog.holders(content)]


def test_others_are_noted_to_have_what_is_kept_here(catalog):
    catalog.note_manifests([manifest(2, content=D)], at=EARLY)
    catalog.keep_manifest(manifest())
    catalog.note_holdings(b"b" * 32, "bob", [B, C, D], at=EARLY)
    assert seen(catalog) == [(b"b" * 32, "bob", EARLY)]
    assert seen(catalog, C) == seen(catalog, D) == [], "what was never here is not noted"


def test_what_was_noted_of_late_is_not_noted_again(catalog):
    catalog.keep_manifest(manifest())
    catalog.note_holdings(b"b" * 32, "bob", [B], at=EARLY)
    catalog.note_holdings(b"b" * 32, "bob", [B], at=LATE, fresh=EARLY)
    assert seen(catalog) == [(b"b" * 32, "bob", EARLY)]
    catalog.note_holdings(b"b" * 32, "bob", [B], at=LATER, fresh=LATE)
    assert seen(catalog) == [(b"b" * 32, "bob", LATER)]


def test_a_node_known_by_its_label_is_the_one_whose_key_becomes_known(catalog):
    catalog.keep_manifest(manifest())
    catalog.note_holdings(label_key("bob"), "bob", [B], at=EARLY)
    assert seen(catalog) == [(label_key("bob"), "bob", EARLY)]
    catalog.note_holdings(b"b" * 32, "bob", [B], at=LATE)
    catalog.note_holdings(label_key("bob"), "bob", [B], at=LATER)
    assert seen(catalog) == [(b"b" * 32, "bob", LATER)]


def test_holders_of_a_content_are_bounded(catalog):
    catalog.keep_manifest(manifest())
    for number in range(MAX_HOLDERS + 3):
        at = f"2025-01-02T03:{number // 60:02}:{number % 60:02}Z"
        catalog.note_holder(B, number.to_bytes(32, "big"), f"node{number}", at=at)
    labels = [label for _, label, _ in seen(catalog)]
    assert len(labels) == MAX_HOLDERS and labels[0] == f"node{MAX_HOLDERS + 2}" and labels[-1] == "node3"


def test_flipped_bytes_give_an_answer_or_our_error(home):
    catalog = Catalog.open(home)
    catalog.pages.keep_pages({n.to_bytes(32, "big"): page(n) for n in range(8)})
    for n in range(40):
        catalog.remember_image(image(f"/{n}"))
        catalog.keep_manifest(manifest(n))
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
                catalog.all_images()
                catalog.manifests()
                catalog.pages.has_pages([bytes(32)])
                catalog.remember_image(image("/new"))
            finally:
                catalog.close()
        except OverlaysyncError:
            refused += 1
    assert 0 < refused <= 150


NEIGHBOUR = """
import sys
from pathlib import Path
from overlaysync.model.pin import Sighting
from overlaysync.store.catalog import Catalog, ManifestRow
from overlaysync.store.home import Home
home = Home.from_environment({"OVERLAYSYNC_HOME": sys.argv[1]}).prepare()
catalog = Catalog.open(home)
me = sys.argv[2]
for number in range(40):
    catalog.pages.keep_pages({f"{me}-{number}".encode().ljust(32): bytes(32768)})
    catalog.pins.note([Sighting("team", "vm", me.encode(), number + 1)])
    assert catalog.highest_version("team", "vm") > number
    made = lambda version: ManifestRow(
        f"{me}-{number}".encode().ljust(32), b"", "disk", "", "next", version, b"P", b"C", None, None, ""
    )
    catalog.keep_next("", "next", made)
catalog.close()
"""


def test_processes_share_a_home(tmp_path):
    root = str(tmp_path / "node")
    nodes = [subprocess.Popen([sys.executable, "-c", NEIGHBOUR, root, str(n)]) for n in range(4)]
    assert [node.wait() for node in nodes] == [0] * 4
    catalog = Catalog.open(Home.from_environment({"OVERLAYSYNC_HOME": root}))
    keys = [f"{me}-{number}".encode().ljust(32) for me in range(4) for number in range(40)]
    assert catalog.pages.has_pages(keys) == set(keys)
    assert catalog.highest_version("team", "vm") == 40
    assert [row.version for row in catalog.manifests(name="next")] == [*range(160, 0, -1)]
    catalog.close()
