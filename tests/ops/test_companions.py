"""Companions: read as they are, put where they belong; nothing is replaced, and no link is followed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from overlaysync.errors import (
    NotFoundError,
    OverlaysyncError,
    UsageError,
    VerificationError,
    WouldDestroyError,
)
from overlaysync.formats.folders import Folder
from overlaysync.model.digest import as_digests, hash_units
from overlaysync.ops.companion_files import put_companion
from overlaysync.ops.recovery.files import companion_data
from overlaysync.ops.vms.place import Place
from overlaysync.ops.vms.reading import read_companion
from overlaysync.ops.vms.vm import Missed, Part
from overlaysync.units import KIB
from overlaysync.vault.contents import Contents
from overlaysync.vault.directory import DirectoryObjects
from overlaysync.vault.limits import MAX_COMPANION
from overlaysync.vault.objects import Kind
from overlaysync.vault.state import COMPANION_PART, Companion
from overlaysync.vault.writer import Writer
from tests.images import run
from tests.ops.world import hidden_files
from tests.vault.samples import RED, noise, store

DATA = noise("vars", 3 * COMPANION_PART + 5)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    made = tmp_path / "vm"
    made.mkdir()
    return made


# -- reading -----------------------------------------------------------------------------------------


def test_it_is_read_as_it_is(place: Path) -> None:
    for data in (b"", DATA):
        (place / "vars.fd").write_bytes(data)
        assert read_companion(str(place / "vars.fd")) == data


@pytest.mark.holds("N11")
@pytest.mark.red_without("N11", "a link is followed where a companion is read")
def test_only_plain_files_are_read(place: Path) -> None:
    (place / "secret").write_bytes(b"x")
    (place / "link").symlink_to(place / "secret")
    os.mkfifo(place / "pipe")
    for name in ("link", "pipe", ".", "missing"):
        with pytest.raises(OverlaysyncError):
            read_companion(str(place / name))


def test_too_large_a_file_is_refused(place: Path) -> None:
    with open(place / "big", "wb") as file:
        file.truncate(MAX_COMPANION + 1)
    with pytest.raises(UsageError, match="too large"):
        read_companion(str(place / "big"))


# -- writing -----------------------------------------------------------------------------------------


def test_it_is_put_in_place_for_its_owner_alone(place: Path) -> None:
    assert put_companion(str(place), "nvram/deep/vars.fd", DATA, "uefi")
    path = place / "nvram" / "deep" / "vars.fd"
    assert path.read_bytes() == DATA
    assert [one.stat().st_mode & 0o777 for one in (path, path.parent)] == [0o600, 0o700]
    assert hidden_files(path.parent) == []
    assert not put_companion(str(place), "nvram/deep/vars.fd", DATA, "uefi"), "the same is there already"


@pytest.mark.holds("R5")
@pytest.mark.red_without("R5", "a companion replaces the file that has its name")
@pytest.mark.parametrize("other", [b"", DATA[:-1], DATA + b"x", b"mine"])
def test_another_file_is_left_alone(place: Path, other: bytes) -> None:
    (place / "vars.fd").write_bytes(other)
    with pytest.raises(WouldDestroyError, match=r"vars\.fd exists"):
        put_companion(str(place), "vars.fd", DATA, "uefi")
    assert (place / "vars.fd").read_bytes() == other and hidden_files(place) == []


def test_what_is_no_plain_file_is_left_alone(place: Path) -> None:
    (place / "directory").mkdir()
    os.mkfifo(place / "pipe")
    (place / "file").write_bytes(b"x")
    for name in ("directory", "pipe", "file/vars.fd"):
        with pytest.raises(OverlaysyncError):
            put_companion(str(place), name, DATA, "uefi")
    with pytest.raises(OverlaysyncError):
        put_companion(str(place), "pipe", b"", "uefi")


@pytest.mark.holds("N11")
@pytest.mark.red_without("N11", "a link is followed below the directory of a restored VM")
def test_no_link_is_followed(place: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "same").write_bytes(DATA)
    (place / "nvram").symlink_to(outside)
    (place / "file").symlink_to(outside / "new")
    (place / "same").symlink_to(outside / "same")
    for name in ("nvram/vars.fd", "file", "same"):
        with pytest.raises(OverlaysyncError):
            put_companion(str(place), name, DATA, "uefi")
    assert os.listdir(outside) == ["same"]


@pytest.mark.holds("N10")
@pytest.mark.parametrize("file", ["../x", "/x", "a/../../x", ".x", ""])
def test_a_hostile_name_is_a_fault_of_the_caller(place: Path, file: str) -> None:
    """States that name such files are refused when they are read."""
    with pytest.raises(AssertionError):
        put_companion(str(place), file, DATA, "uefi")


def leading_elsewhere(kind: str, place: Path, victim: Path) -> bytes:
    """A small file with which QEMU would open the victim."""
    made = place / "made"
    if kind == "vmdk":
        return b'# Disk DescriptorFile\nversion=1\nRW 8 FLAT "%s" 0\n' % os.fsencode(victim)
    options = {
        "backing": ("-f", "qcow2", "-F", "raw", "-b", str(victim), str(made)),
        "qed": ("-f", "qed", "-F", "raw", "-b", str(victim), str(made)),
        "qcow": ("-f", "qcow", "-F", "raw", "-b", str(victim), str(made)),
        "data": ("-f", "qcow2", "-o", f"data_file={victim}", str(made), "64K"),
    }[kind]
    run("qemu-img", "create", "-q", *options)
    return made.read_bytes()


@pytest.mark.qemu
@pytest.mark.holds("N11")
@pytest.mark.red_without("N11", "a restored companion may be an image that stands on another file")
@pytest.mark.parametrize("kind", ["backing", "data", "qcow", "qed", "vmdk"])
@pytest.mark.parametrize("role", ["uefi", "seed"])
def test_what_leads_qemu_to_other_files_is_refused(tmp_path: Path, kind: str, role: str) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(bytes(64 * KIB))
    data, place = leading_elsewhere(kind, tmp_path, victim), tmp_path / "place"
    place.mkdir()
    with pytest.raises(VerificationError, match="other files of this machine"):
        put_companion(str(place), "web_VARS.qcow2", data, role)
    assert list(place.iterdir()) == []
    (place / "web_VARS.qcow2").write_bytes(data)
    found = Place(Folder.open(str(place))).companion("web_VARS.qcow2", role, "it is named so")
    assert isinstance(found, Missed) and "other files" in found.why


@pytest.mark.qemu
def test_variables_in_a_format_of_their_own_travel(tmp_path: Path) -> None:
    run("qemu-img", "create", "-q", "-f", "qcow2", str(tmp_path / "made"), "528K")
    data = (tmp_path / "made").read_bytes()
    assert put_companion(str(tmp_path), "web_VARS.qcow2", data, "uefi")
    found = Place(Folder.open(str(tmp_path))).companion("web_VARS.qcow2", "uefi", "it is named so")
    assert isinstance(found, Part)


# -- from the vault ----------------------------------------------------------------------------------


def saved(tmp_path: Path, data: bytes = DATA) -> tuple[Contents, Companion]:
    items = [data[at : at + COMPANION_PART] for at in range(0, len(data), COMPANION_PART)]
    contents = store(DirectoryObjects(tmp_path / "vault"), RED, *([item] for item in items))
    parts = (row.tobytes().hex() for row in as_digests(hash_units(memoryview(data), COMPANION_PART)))
    return contents, Companion(file="vars.fd", role="uefi", size=len(data), parts=tuple(parts))


@pytest.mark.parametrize("data", [b"", b"x", DATA, DATA[:COMPANION_PART]])
def test_it_comes_back(tmp_path: Path, data: bytes) -> None:
    assert companion_data(*saved(tmp_path, data)) == data


def test_one_that_is_not_all_there(tmp_path: Path) -> None:
    contents, companion = saved(tmp_path)
    parts = (*companion.parts[:-1], "5e" * 32)
    with pytest.raises(NotFoundError, match=r"vars\.fd"):
        companion_data(contents, Companion(file="vars.fd", role="uefi", size=len(DATA), parts=parts))
    for path in (tmp_path / "vault" / RED.tag / Kind.PACK).iterdir():
        path.unlink()
    with pytest.raises(VerificationError, match="missing"):
        companion_data(contents, companion)


@pytest.mark.holds("N1")
@pytest.mark.red_without("N1", "a companion from a vault is not compared with its digests")
def test_an_index_that_lies(tmp_path: Path) -> None:
    """A member can write an index that gives other bytes for a key."""
    _, companion = saved(tmp_path, DATA[: 2 * COMPANION_PART])
    keys = as_digests(b"".join(map(bytes.fromhex, companion.parts)))
    lying = Contents(DirectoryObjects(tmp_path / "lying"), RED)
    writer = Writer(lying)
    writer.add(keys, [COMPANION_PART] * 2, b"\0" + bytes(2 * COMPANION_PART))
    writer.finish()
    with pytest.raises(VerificationError, match="damaged"):
        companion_data(lying, companion)
