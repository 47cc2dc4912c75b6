"""The last command that uses a home removes from it what nothing here needs, and nothing that is needed."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from overlaysync.node.node import Node, now, timestamp
from overlaysync.ops.publish import Edition
from overlaysync.store.home import Home
from overlaysync.store.journal import JournalHeader
from overlaysync.store.partial import journal_path
from overlaysync.store.target import part_path
from overlaysync.units import CHUNK
from tests import images

TWO_DAYS_S = 2 * 86_400


def open_node() -> Node:
    return Node.open(os.environ)


def stored(home: Path) -> tuple[int, int]:
    """How many page lists and pages the catalog has."""
    with closing(sqlite3.connect(Home.from_environment(os.environ).catalog)) as connection:
        counts = [connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in TABLES]
    return counts[0], counts[1]


TABLES = ("lists", "pages")


def write(path: Path) -> None:
    path.write_bytes(os.urandom(3 * CHUNK))


def examine(node: Node, path: Path) -> None:
    node.library.examine(str(path), now=now())


def test_what_an_image_held_before_it_changed_goes(home: Path, tmp_path: Path) -> None:
    image = tmp_path / "image.raw"
    node = open_node()
    for _ in range(2):
        write(image)
        examine(node, image)
    assert stored(home) == (2, 2)
    node.close()
    assert stored(home) == (1, 1)


def test_only_the_last_command_removes_anything(home: Path, tmp_path: Path) -> None:
    image = tmp_path / "image.raw"
    first, second = open_node(), open_node()
    for _ in range(2):
        write(image)
        examine(first, image)
    first.close()
    assert stored(home) == (2, 2)
    second.close()
    assert stored(home) == (1, 1)


def test_what_a_file_was_published_as_stays_when_the_file_is_damaged(home: Path, tmp_path: Path) -> None:
    image = tmp_path / "image.raw"
    node = open_node()
    write(image)
    known = node.library.examine(str(image), now=now())
    node.publisher.publish(known, team=None, created=timestamp())
    write(image)
    examine(node, image)
    node.close()
    assert stored(home) == (2, 2)


def test_a_discarded_overlay_can_still_be_recognised(home: Path, tmp_path: Path) -> None:
    master, overlay = tmp_path / "master.raw", tmp_path / "vm.qcow2"
    write(master)
    images.create(overlay, backing=master)
    images.apply(overlay, [images.Op("write", 0, CHUNK, 7)])
    node = open_node()
    known = node.library.examine(str(overlay), now=now())
    node.publisher.publish_lineage(
        known, team=None, edition=Edition(timestamp()), names={str(overlay): "vm", str(master): "master"}
    )
    node.catalog.forget_image(overlay)
    overlay.unlink()
    node.close()
    node = open_node()
    assert known.layer is not None
    assert node.catalog.pages.load_list(known.layer.id) is not None
    node.close()


def test_what_an_interrupted_fetch_left_waits_for_it(home: Path, tmp_path: Path) -> None:
    image, target = tmp_path / "image.raw", tmp_path / "target.raw"
    node = open_node()
    journal = journal_path(node.home.journals, target)
    journal.write_bytes(JournalHeader(bytes(32), 1, os.fsencode(target)).encode())
    part_path(target).touch()
    for _ in range(2):
        write(image)
        examine(node, image)
    node.close()
    assert stored(home) == (2, 2)

    part_path(target).unlink()
    open_node().close()
    assert stored(home) == (1, 1)
    assert not journal.exists()


@pytest.mark.parametrize("days", [0, 2])
def test_pages_that_no_list_has_go_once_a_day(home: Path, days: int) -> None:
    node = open_node()
    node.catalog.pages.keep_pages({bytes(32): b"a page"})
    lock = node.home.root / "use.lock"
    os.utime(lock, (now() - days * TWO_DAYS_S / 2,) * 2)
    node.close()
    assert stored(home) == (0, 0 if days else 1)
    open_node().close()
    assert stored(home) == (0, 0 if days else 1)
