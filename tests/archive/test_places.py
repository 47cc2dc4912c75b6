"""The archives of a home: added, listed, removed; and nobody else reads the list."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from overlaysync.archive.location import parse_location
from overlaysync.archive.opening import open_place
from overlaysync.archive.places import MAX_PLACES, add_place, find_place, load_places, remove_place
from overlaysync.errors import NotAllowedError, NotFoundError, UsageError, WouldDestroyError
from overlaysync.vault.directory import DirectoryObjects

CEPH, DISK = parse_location("s3://lab/rooms?profile=ceph"), parse_location("file:///srv/vault")


def test_archives_are_added_listed_and_removed(tmp_path: Path) -> None:
    assert load_places(tmp_path) == {}
    assert add_place(tmp_path, "ceph", CEPH) and add_place(tmp_path, "disk", DISK)
    assert not add_place(tmp_path, "ceph", CEPH)
    assert load_places(tmp_path) == {"ceph": CEPH, "disk": DISK}
    assert stat.S_IMODE((tmp_path / "archives.json").stat().st_mode) == 0o600
    assert remove_place(tmp_path, "ceph") == CEPH and load_places(tmp_path) == {"disk": DISK}


def test_a_name_that_is_taken_is_not_given_to_another(tmp_path: Path) -> None:
    add_place(tmp_path, "disk", DISK)
    with pytest.raises(WouldDestroyError, match=r"already an archive 'disk'.*file:///srv/vault"):
        add_place(tmp_path, "disk", CEPH)
    assert load_places(tmp_path) == {"disk": DISK}


@pytest.mark.parametrize("name", ["", "a b", "../x", "-x", "x" * 65])
def test_a_name_follows_the_rule(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="cannot be a name for an archive"):
        add_place(tmp_path, name, DISK)


def test_an_unknown_name_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no archive 'x'"):
        remove_place(tmp_path, "x")
    with pytest.raises(NotFoundError, match="no archive 'x'"):
        find_place({}, "x")


def test_there_are_not_endlessly_many(tmp_path: Path) -> None:
    for number in range(MAX_PLACES):
        add_place(tmp_path, f"a{number}", DISK)
    with pytest.raises(UsageError, match="at most"):
        add_place(tmp_path, "one-more", DISK)


def test_two_that_add_at_once_both_succeed(tmp_path: Path) -> None:
    names = [f"a{number}" for number in range(20)]
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda name: add_place(tmp_path, name, DISK), names))
    assert sorted(load_places(tmp_path)) == sorted(names)


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1}', '{"a": "http://x"}', '{"a b": "s3://lab"}', "\xff"])
def test_a_damaged_list_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "archives.json"
    path.write_text(text, encoding="latin-1")
    path.chmod(0o600)
    with pytest.raises(NotAllowedError, match="list of archives") as caught:
        load_places(tmp_path)
    assert f"mv '{path}'" in caught.value.hint


def test_a_list_that_others_can_read_is_refused(tmp_path: Path) -> None:
    add_place(tmp_path, "disk", DISK)
    (tmp_path / "archives.json").chmod(0o644)
    with pytest.raises(NotAllowedError, match="can be read by others"):
        load_places(tmp_path)


def test_a_directory_is_opened_without_a_further_package(tmp_path: Path) -> None:
    objects = open_place(parse_location(f"file://{tmp_path}"))
    assert isinstance(objects, DirectoryObjects) and objects.root == tmp_path
