"""Which format a file has, and that a declared one must be the real one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from overlaysync.errors import ImageError, NotFoundError
from overlaysync.formats.detect import open_image
from overlaysync.formats.image import Format
from tests.formats.handmade import small_image


@pytest.fixture
def files(tmp_path: Path) -> dict[Format, Path]:
    return {format: small_image(format, tmp_path / f"{format.name}.img") for format in Format}


@pytest.mark.parametrize("format", Format)
def test_the_format_is_read_from_the_file(files: dict[Format, Path], format: Format) -> None:
    for declared in (None, format):
        with open_image(str(files[format]), declared) as image:
            assert image.geometry.format is format
            assert image.path == str(files[format])


@pytest.mark.parametrize(
    ("declared", "real", "sentence"),
    [
        (Format.RAW, Format.QCOW2, "is qcow2, not raw"),
        (Format.RAW, Format.QED, "is qed, not raw"),
        (Format.QCOW2, Format.QED, "is qed, not qcow2"),
        (Format.QED, Format.RAW, "does not begin like a qed image"),
    ],
)
def test_another_format_than_declared_is_refused(
    files: dict[Format, Path], declared: Format, real: Format, sentence: str
) -> None:
    with pytest.raises(ImageError, match=sentence):
        open_image(str(files[real]), declared)


@pytest.mark.parametrize("format", [None, Format.RAW])
def test_formats_that_we_do_not_read_are_not_taken_for_raw(tmp_path: Path, format: Format | None) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(b"KDMV" + bytes(1020))
    with pytest.raises(ImageError, match="VMDK"):
        open_image(str(path), format)


def test_a_refused_image_is_closed_again(files: dict[Format, Path]) -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(ImageError):
        open_image(str(files[Format.QED]), Format.RAW)
    assert os.listdir("/proc/self/fd") == before


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        open_image(str(tmp_path / "missing.qed"))
