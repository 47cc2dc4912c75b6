"""Which files here a reference means, and that several are never silently the first of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from overlaysync.errors import AmbiguousError, NotFoundError
from overlaysync.model.digest import format_id
from overlaysync.model.reference import parse_reference
from overlaysync.ops.present import file_meant, files_meant
from overlaysync.ops.publish import Publisher
from overlaysync.trust.book import Book
from overlaysync.trust.keys import load_or_make
from overlaysync.trust.teams import new_team
from overlaysync.units import MIB
from tests.images import create, draw
from tests.ops.world import World

pytestmark = pytest.mark.qemu

RED = new_team("red")


def publish(world: World, path: Path, *, team: str = "", key: str = "own", name: str | None = None) -> int:
    """Publish the image as it is now; its version."""
    signed = load_or_make(world.images.parent / f"{key}.key")
    publisher = Publisher(world.library, signed, f"{key}@lab-abc234", {"red": RED})
    manifest = publisher.publish(world.known(path), team=team, created="2026-01-31T12:00:00Z", name=name)
    return manifest.header.version


def book(world: World) -> Book:
    own = load_or_make(world.images.parent / "own.key").public
    return Book.of(own, world.catalog.pins.pins(), world.catalog.pins.trusted())


def meant(world: World, text: str, *, unchanged: bool = False, copies: bool = True) -> Path:
    file = file_meant(world.library, book(world), parse_reference(text), unchanged=unchanged, copies=copies)
    return Path(file.path)


def all_meant(world: World, text: str) -> set[str]:
    return {Path(file.path).name for file in files_meant(world.library, book(world), parse_reference(text))}


def make(world: World, name: str, pattern: str) -> Path:
    path = create(world.images / name, MIB)
    draw(path, pattern)
    return path


def test_a_name_means_the_file_that_holds_it(world: World) -> None:
    path = make(world, "web.qcow2", "A")
    publish(world, path, team="red")
    for text in ("web", "red/web", "red/web:1", "w*", "red/"):
        assert meant(world, text) == path
    for text in ("blue/web", "web:2", "db", "red/w*:2", "web@bob"):
        with pytest.raises(NotFoundError):
            meant(world, text)


def test_where_nothing_fits_what_is_here_is_to_be_looked_at(world: World) -> None:
    for text in ("l*", "red/", "web"):
        with pytest.raises(NotFoundError) as caught:
            all_meant(world, text)
        assert "fetch" not in caught.value.hint and "overlaysync tree" in caught.value.hint


def test_a_path_without_its_ending_is_said_to_lack_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(world, "web.qcow2", "A")
    monkeypatch.chdir(path.parent.parent)
    with pytest.raises(NotFoundError) as caught:
        meant(world, f"{path.parent.name}/web")
    assert f"{path.parent.name}/web.qcow2" in caught.value.hint


def test_several_things_are_refused_with_all_of_them_and_files_meant_has_them_all(world: World) -> None:
    web, db = make(world, "web.qcow2", "A"), make(world, "db.qcow2", "B")
    for path in (web, db):
        publish(world, path, team="red")
    for text in ("red/", "*b"):
        with pytest.raises(AmbiguousError) as caught:
            meant(world, text)
        assert len(caught.value.candidates) == 2
        assert all(str(path) in " ".join(caught.value.candidates) for path in (web, db))
        assert all_meant(world, text) == {"web.qcow2", "db.qcow2"}


def test_files_called_alike_that_were_never_published_are_several_things(world: World) -> None:
    one = make(world, "web.qcow2", "A")
    (world.images / "other").mkdir()
    two = create(world.images / "other" / "web.qcow2", MIB)
    draw(two, "B")
    for path in (one, two):
        world.known(path)
    with pytest.raises(AmbiguousError):
        meant(world, "web")


def test_copies_are_one_thing_and_the_read_only_one_is_taken(world: World) -> None:
    path = make(world, "web.qcow2", "A")
    publish(world, path)
    copy = Path(shutil.copy(path, world.images / "a-copy.qcow2"))
    world.known(copy)
    assert meant(world, "web") == copy, "the first by path"
    path.chmod(0o444)
    world.known(path)
    assert meant(world, "web") == path
    assert all_meant(world, "web") == {"web.qcow2", "a-copy.qcow2"}
    with pytest.raises(AmbiguousError):
        meant(world, "web", copies=False)


def test_a_name_means_its_newest_version_here(world: World) -> None:
    path = make(world, "web.qcow2", "A")
    publish(world, path)
    old = Path(shutil.copy(path, world.images / "old.qcow2"))
    world.known(old)
    draw(path, "-B")
    assert publish(world, path) == 2
    assert meant(world, "web") == path
    assert meant(world, "web:1") == old
    assert all_meant(world, "web") == {"web.qcow2", "old.qcow2"}


def test_two_sides_of_a_fork_are_two_things(world: World) -> None:
    path = make(world, "web.qcow2", "A")
    publish(world, path, team="red")
    held = world.catalog.held.at(str(path))
    assert held is not None
    side = Path(shutil.copy(path, world.images / "side.qcow2"))
    world.catalog.held.hold(type(held)(str(side), "red", "web", held.manifests, world.known(side).files[0]))
    draw(path, "-B")
    draw(side, "-C")
    assert publish(world, path, team="red") == publish(world, side, team="red", key="bob") == 2
    with pytest.raises(AmbiguousError) as caught:
        meant(world, "web")
    assert len(caught.value.candidates) == 2


@pytest.mark.parametrize("hashed", [False, True])
def test_a_file_with_work_in_it_counts_only_where_that_may_be(world: World, hashed: bool) -> None:
    path = make(world, "web.qcow2", "A")
    publish(world, path)
    draw(path, "-B")
    if hashed:
        world.known(path)
    assert meant(world, "web") == path
    assert all_meant(world, "web") == {"web.qcow2"}
    with pytest.raises(NotFoundError) as caught:
        meant(world, "web", unchanged=True)
    assert str(path) in caught.value.why


def test_work_and_what_it_was_made_from_are_two_things(world: World) -> None:
    path = make(world, "web.qcow2", "A")
    publish(world, path)
    copy = Path(shutil.copy(path, world.images / "copy.qcow2"))
    world.known(copy)
    draw(path, "-B")
    with pytest.raises(AmbiguousError) as caught:
        meant(world, "web")
    assert "written to since" in " ".join(caught.value.candidates)
    assert meant(world, "web", unchanged=True) == copy


def test_an_id_means_bytes_whatever_was_published(world: World) -> None:
    path = make(world, "web.qcow2", "A")
    publish(world, path)
    draw(path, "-B")
    id = format_id(world.known(path).disk.id)
    assert meant(world, id, unchanged=True) == path
    draw(path, "--C")
    with pytest.raises(NotFoundError):
        meant(world, id, unchanged=True)


def test_a_master_and_the_overlay_it_was_promoted_from_are_copies_of_one_disk(world: World) -> None:
    base = make(world, "base.qcow2", "A")
    overlay = create(world.images / "a-vm.qcow2", backing=base)
    draw(overlay, "-B")
    promoted = world.promote(overlay, world.images / "web.qcow2")
    assert meant(world, format_id(promoted.disk.id)) == Path(promoted.path)


def test_a_stranger_s_file_is_not_what_a_pinned_name_means(world: World) -> None:
    mine = make(world, "web.qcow2", "A")
    publish(world, mine)
    theirs = make(world, "theirs.qcow2", "B")
    publish(world, theirs, key="stranger", name="web")
    assert meant(world, "web") == mine
    assert all_meant(world, "w*") == {"web.qcow2", "theirs.qcow2"}
