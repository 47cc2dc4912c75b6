"""What may be taken for an image: names, contents, and who may say otherwise."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from overlaysync.errors import ImageError
from overlaysync.formats.detect import open_image
from overlaysync.formats.files import open_regular
from overlaysync.formats.image import Format
from overlaysync.formats.recognition import (
    _DISK_SIGNATURES,
    always,
    ending_of,
    fits_ending,
    has_disk_signature,
    is_listed,
    objection,
    unlike_disk,
)
from overlaysync.units import KIB, MIB
from tests.formats.handmade import memory_file, qcow2, qed
from tests.images import run

pytestmark = pytest.mark.holds("C3")

TEXT = b"<!DOCTYPE html>\n<title>404 Not Found</title>\n" * 100


def boot_sector(path: Path, size: int = 1000) -> Path:
    """A file of any size that begins like a disk with a partition table."""
    path.write_bytes((bytes(510) + b"\x55\xaa").ljust(size, b"\0"))
    return path


def refusal(path: Path) -> ImageError:
    with pytest.raises(ImageError) as caught:
        open_image(str(path))
    return caught.value


# -- names -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "ending"),
    [("a.qcow2", ".qcow2"), ("A.QED", ".qed"), ("a.Img", ".img"), ("a.b.raw", ".raw"), ("a.ISO", ".iso")],
)
def test_endings_count_in_any_case(name: str, ending: str) -> None:
    assert ending_of(f"/x.d/{name}") == ending


@pytest.mark.parametrize("name", ["web", "web.snap1", "web.qcow2.bak", "x.vmdk", ".qcow2", "raw"])
def test_other_endings_are_none(name: str) -> None:
    assert ending_of(name) == ""
    assert all(fits_ending(name, format) for format in Format)


@pytest.mark.parametrize(
    ("name", "formats"),
    [
        ("a.qcow2", {Format.QCOW2}),
        ("a.QED", {Format.QED}),
        ("a.raw", {Format.RAW}),
        ("a.iso", {Format.RAW}),
        ("a.img", set(Format)),
    ],
)
def test_which_format_an_ending_fits(name: str, formats: set[Format]) -> None:
    assert {format for format in Format if fits_ending(name, format)} == formats


@pytest.mark.parametrize("name", ["debian.qcow2", "DISK.QCOW2", "vm.qed", "vm.Qed"])
@pytest.mark.parametrize(
    "content", [TEXT, bytes(MIB), bytes(510) + b"\x55\xaa"], ids=["text", "zeros", "disk"]
)
def test_a_name_that_promises_a_format_must_keep_it(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    error = refusal(path)
    assert name.split(".")[1].lower() in error.reason.lower() and "does not begin like one" in error.reason
    assert f"--format raw {path}" in error.hint
    with open_image(str(path), Format.RAW) as image:
        assert image.geometry.format is Format.RAW


@pytest.mark.parametrize(
    ("name", "content", "format"),
    [
        ("a.qcow2", qed(), Format.QED),
        ("a.qed", qcow2(), Format.QCOW2),
        ("guest-wrote-a-header.raw", qcow2(), Format.QCOW2),
        ("a.iso", qed(), Format.QED),
    ],
)
def test_a_name_of_another_format_is_refused(
    tmp_path: Path, name: str, content: object, format: Format
) -> None:
    path = content.write(tmp_path / name)  # type: ignore[attr-defined]
    error = refusal(path)
    assert f"but it is {format}" in error.reason
    assert f"--format {format}" in error.hint
    for call in (lambda: open_image(str(path), format), lambda: open_image(str(path), None, always)):
        with call() as image:
            assert image.geometry.format is format


def test_a_symlink_is_named_like_the_file_that_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "notes").write_bytes(bytes(512))
    link = tmp_path / "link.raw"
    link.symlink_to("notes")
    assert "does not look like a disk" in refusal(link).reason


def test_what_qemu_takes_for_a_dmg_image_by_its_name_is_refused(tmp_path: Path) -> None:
    assert "DMG" in refusal(boot_sector(tmp_path / "disk.dmg")).reason


# -- contents ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("offset", "magic"), _DISK_SIGNATURES)
def test_every_signature_makes_a_disk(offset: int, magic: bytes) -> None:
    fd = memory_file(TEXT.ljust(offset, b"x")[:offset] + magic + b"x" * 100)
    try:
        assert unlike_disk("disk", fd) == ""
        os.pwrite(fd, b"?", offset)
        assert "no known partition table" in unlike_disk("disk", fd)
    finally:
        os.close(fd)


def made_by(tool: str, *words: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        program = shutil.which(tool, path=f"{os.environ['PATH']}:/sbin:/usr/sbin")
        if program is None:
            pytest.skip(f"there is no {tool}")
        run(program, *words, path)

    return make


@pytest.mark.parametrize(
    "make",
    [
        made_by("mkfs.ext4", "-q"),
        made_by("mkfs.ext2", "-q"),
        made_by("mkfs.xfs", "-q"),
        made_by("mkfs.btrfs", "-q"),
        made_by("mkfs.vfat"),
        made_by("mkfs.f2fs", "-q"),
        made_by("mkfs.exfat"),
        made_by("mkswap", "-q"),
    ],
    ids=["ext4", "ext2", "xfs", "btrfs", "vfat", "f2fs", "exfat", "swap"],
)
def test_real_file_systems_are_recognised(tmp_path: Path, make: Callable[[Path], None]) -> None:
    path = tmp_path / "disk"
    with open(path, "wb") as file:
        file.truncate(512 * MIB)
        os.fchmod(file.fileno(), 0o600)
    assert "does not look like a disk" in refusal(path).reason
    make(path)
    with open_image(str(path)) as image:
        assert image.geometry.format is Format.RAW


@pytest.mark.parametrize("name", ["README", "passwd", "notes.txt", "web.snap1", "disk.bin"])
def test_a_file_that_looks_like_no_disk_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(TEXT.ljust(8 * KIB))
    error = refusal(path)
    assert "no known partition table" in error.reason and f"--format raw {path}" in error.hint
    for call in (lambda: open_image(str(path), Format.RAW), lambda: open_image(str(path), None, always)):
        with call() as image:
            assert image.virtual_size == 8 * KIB


@pytest.mark.parametrize("name", ["a.raw", "a.img", "a.iso", "A.RAW"])
def test_a_name_and_whole_sectors_make_a_disk(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"x" * 1024)
    open_image(str(path)).close()
    path.write_bytes(b"x" * 1000)
    assert "1000 bytes, is not a multiple of 512" in refusal(path).reason
    path.write_bytes(b"")
    assert refusal(path).reason == "it is empty"
    open_image(str(boot_sector(path, 1000))).close()


def test_a_foreign_format_is_called_by_its_name_whatever_the_file_is_called(tmp_path: Path) -> None:
    for name in ("a.vmdk", "a", "a.raw", "a.qcow2"):
        path = tmp_path / name
        path.write_bytes(b"KDMV" + bytes(1020))
        error = refusal(path)
        assert "VMDK" in error.reason and "qemu-img convert" in error.hint


def test_who_vouches_is_asked_only_about_what_would_be_refused(tmp_path: Path) -> None:
    asked: list[tuple[str, Format]] = []

    def vouched(path: str, format: Format) -> bool:
        asked.append((path, format))
        return False

    good = boot_sector(tmp_path / "good.raw", 1024)
    open_image(str(good), None, vouched).close()
    open_image(str(qed().write(tmp_path / "good.qed")), None, vouched).close()
    assert not asked
    bad = tmp_path / "bad.qcow2"
    bad.write_bytes(TEXT)
    with pytest.raises(ImageError):
        open_image(str(bad), None, vouched)
    assert asked == [(str(bad), Format.RAW)]


def test_little_is_read_however_large_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    read = 0
    real = os.pread

    def pread(fd: int, length: int, offset: int) -> bytes:
        nonlocal read
        read += length
        return real(fd, length, offset)

    fd = memory_file(b"", size=1 << 40)
    monkeypatch.setattr(os, "pread", pread)
    try:
        assert not has_disk_signature(fd)
        assert objection("disk", fd, Format.RAW)
    finally:
        os.close(fd)
    assert read < KIB


# -- directories -------------------------------------------------------------------------------------


def test_what_counts_in_the_listing_of_a_directory(tmp_path: Path) -> None:
    for name in ("a.qcow2", "A.QED", "a.RAW", "a.img"):  # named like images, whatever they are
        (tmp_path / name).write_bytes(b"")
    for name in ("web.snap1", "vm", "web.qcow2.bak"):
        qcow2().write(tmp_path / name)
    qed().write(tmp_path / "old.snapshot")
    listed = {path.name for path in tmp_path.iterdir()}

    boot_sector(tmp_path / "live.iso")
    boot_sector(tmp_path / "disk.bin")
    (tmp_path / "notes.txt").write_bytes(TEXT)
    for name in ("a.qcow2.part", "a.qcow2.crdownload"):
        qcow2().write(tmp_path / name)

    def is_there(path: Path) -> bool:
        return is_listed(path.name, lambda: open_regular(str(path)))

    assert {path.name for path in tmp_path.iterdir() if is_there(path)} == listed
    assert not is_there(tmp_path / "missing.snap1")
