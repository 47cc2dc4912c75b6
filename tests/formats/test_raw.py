"""Raw images: holes are zeros, sizes are whole sectors, and other formats are not raw."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from overlaysync.errors import ImageError
from overlaysync.formats.detect import open_image
from overlaysync.formats.image import Extent, Format, Geometry
from overlaysync.formats.raw import RawImage
from overlaysync.formats.recognition import SIGNATURES
from overlaysync.model.digest import Kind
from overlaysync.units import KIB, MAX_VIRTUAL_SIZE, MIB
from tests.formats.handmade import memory_file


def raw(data: bytes, *, size: int | None = None) -> RawImage:
    return RawImage.open("master.raw", memory_file(data, size=size))


def read(image: RawImage, extent: Extent) -> bytes:
    buffer = bytearray(b"?" * extent.length)
    image.read_into(extent, memoryview(buffer))
    return bytes(buffer)


def sparse(path: Path, size: int, *data: int) -> RawImage:
    """A file of ``size`` with 64 KiB of data at each offset of ``data``."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, size)
    for offset in data:
        os.pwrite(fd, b"x" * 64 * KIB, offset)
    return RawImage.open(str(path), fd)


def test_geometry_size_and_no_backing_file() -> None:
    with raw(bytes(4096)) as image:
        assert image.geometry == Geometry(Format.RAW, 4096, 4096)
        assert image.virtual_size == 4096
        assert image.backing is None
        assert image.notes == ()


@pytest.mark.parametrize(("size", "virtual_size"), [(0, 0), (1, 512), (512, 512), (1000, 1024)])
def test_sizes_round_up_to_sectors(size: int, virtual_size: int) -> None:
    with raw(b"a" * size) as image:
        assert image.virtual_size == virtual_size
        data = b"".join(
            read(image, extent) if extent.kind is Kind.DATA else bytes(extent.length)
            for extent in image.extents(0, virtual_size)
        )
        assert data == b"a" * size + bytes(virtual_size - size)


def test_the_last_sector_is_one_extent() -> None:
    with raw(b"a" * 1000) as image:
        assert [*image.extents(0, 1024)] == [Extent(0, 1024, Kind.DATA, host=0)]


def test_holes_are_zero(tmp_path: Path) -> None:
    with sparse(tmp_path / "a.raw", 4 * MIB, MIB, 3 * MIB) as image:
        assert [*image.extents(0, 4 * MIB)] == [
            Extent(0, MIB, Kind.ZERO),
            Extent(MIB, 64 * KIB, Kind.DATA, host=MIB),
            Extent(MIB + 64 * KIB, 2 * MIB - 64 * KIB, Kind.ZERO),
            Extent(3 * MIB, 64 * KIB, Kind.DATA, host=3 * MIB),
            Extent(3 * MIB + 64 * KIB, MIB - 64 * KIB, Kind.ZERO),
        ]


def test_a_part_is_clipped(tmp_path: Path) -> None:
    with sparse(tmp_path / "a.raw", 4 * MIB, MIB) as image:
        start = MIB + 512
        assert [*image.extents(start, 1024)] == [Extent(start, 1024, Kind.DATA, host=start)]
        assert [*image.extents(4 * MIB, 0)] == []


@pytest.mark.parametrize("answer", [errno.EINVAL, errno.EOPNOTSUPP])
def test_a_file_system_that_knows_no_holes_has_data(monkeypatch: pytest.MonkeyPatch, answer: int) -> None:
    def refuse(*_: object) -> int:
        raise OSError(answer, "no")

    with raw(b"", size=MIB) as image:
        monkeypatch.setattr(os, "lseek", refuse)
        assert [*image.extents(0, MIB)] == [Extent(0, MIB, Kind.DATA, host=0)]


@pytest.mark.parametrize("answer", [0, 7 * MIB])
def test_odd_answers_mean_data(monkeypatch: pytest.MonkeyPatch, answer: int) -> None:
    def odd(fd: int, offset: int, whence: int) -> int:
        return offset if whence == os.SEEK_DATA else answer

    with raw(b"", size=MIB) as image:
        monkeypatch.setattr(os, "lseek", odd)
        assert [*image.extents(0, MIB)] == [Extent(0, MIB, Kind.DATA, host=0)]


@pytest.mark.parametrize(("offset", "magic", "name", "format"), SIGNATURES)
def test_other_formats_are_not_raw(offset: int, magic: bytes, name: str, format: Format | None) -> None:
    with pytest.raises(ImageError, match=f"it is {name}"):
        raw(bytes(offset) + magic + bytes(1024))


def test_a_disk_over_the_limit_is_refused() -> None:
    with pytest.raises(ImageError, match="over the limit"):
        raw(b"", size=MAX_VIRTUAL_SIZE + 1)


def test_a_range_outside_the_disk_is_a_mistake_of_ours() -> None:
    with raw(bytes(1024)) as image, pytest.raises(ValueError, match="not inside"):
        [*image.extents(512, 1024)]


@pytest.mark.parametrize("head", [b"version=1\n", b"# x\n\n  \nversion=3\r\n", b"#\n" * 900 + b"version=2\n"])
def test_text_that_qemu_takes_for_a_vmdk_descriptor_is_refused(tmp_path: Path, head: bytes) -> None:
    path = tmp_path / "image.raw"
    path.write_bytes(head + b'createType="monolithicFlat"\nRW 2 FLAT "/etc/hostname" 0\n' + bytes(4096))
    with pytest.raises(ImageError, match="VMDK"):
        open_image(str(path))
