"""Opening only regular files, reading exactly and zeros past the end."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from overlaysync.errors import ImageError, NotAllowedError, NotFoundError
from overlaysync.formats.files import fill_zeros, open_regular, pread_exact, read_padded


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "master.raw"
    path.write_bytes(b"0123456789")
    return path


def test_a_regular_file_opens_for_reading_only(image: Path) -> None:
    fd = open_regular(str(image))
    assert os.read(fd, 10) == b"0123456789"
    with pytest.raises(OSError):
        os.write(fd, b"x")
    os.close(fd)


def test_symlinks_that_the_user_named_are_followed(image: Path) -> None:
    masters = image.parent / "masters"
    masters.symlink_to(image.parent)
    link = image.parent / "link.raw"
    link.symlink_to("masters/master.raw")
    os.close(open_regular(str(link)))
    os.close(open_regular(str(masters / "link.raw")))


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("directory", "it is a directory"),
        ("fifo", "it is a FIFO"),
        ("socket", "it is a socket"),
        ("device", "it is a character device"),
    ],
)
def test_all_else_is_refused_and_said(tmp_path: Path, kind: str, sentence: str) -> None:
    path = tmp_path / "thing"
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
    else:
        path = Path("/dev/null")
    with pytest.raises(ImageError, match=sentence) as caught:
        open_regular(str(path))
    assert caught.value.exit_code == 11


def test_a_symlink_loop_is_an_image_error(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(ImageError):
        open_regular(str(tmp_path / "a"))


def test_a_name_with_a_zero_byte_is_an_image_error() -> None:
    with pytest.raises(ImageError):
        open_regular("a\0b")


@pytest.mark.parametrize("name", ["missing", "master.raw/inside"])
def test_nothing_there_is_not_found(image: Path, name: str) -> None:
    with pytest.raises(NotFoundError, match=name):
        open_regular(str(image.parent / name))


def test_a_forbidden_file_is_not_allowed(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Root may read everything, so the system's answer is played.
    def forbid(*_: object, **__: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", forbid)
    with pytest.raises(NotAllowedError):
        open_regular(str(image))


def test_pread_exact_goes_on_after_short_reads(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fd = open_regular(str(image))
    whole = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, length, offset: whole(fd, min(length, 3), offset))
    assert pread_exact(fd, 8, 1, path="x") == b"12345678"
    os.close(fd)


def test_pread_exact_refuses_what_the_file_does_not_hold(image: Path) -> None:
    fd = open_regular(str(image))
    with pytest.raises(ImageError) as caught:
        pread_exact(fd, 8, 5, path="master.raw")
    assert caught.value.offset == 10
    os.close(fd)


def test_what_lies_past_the_end_reads_as_zeros(image: Path) -> None:
    fd = open_regular(str(image))
    buffer = bytearray(b"x" * 8)
    read_padded(fd, 6, memoryview(buffer), path="x", guest=0)
    assert buffer == b"6789\0\0\0\0"
    read_padded(fd, 1 << 40, memoryview(buffer), path="x", guest=0)
    assert buffer == bytes(8)
    os.close(fd)


def test_fill_zeros_also_fills_nothing() -> None:
    buffer = bytearray(b"xyz")
    fill_zeros(memoryview(buffer)[1:1])
    assert buffer == b"xyz"
    fill_zeros(memoryview(buffer)[1:])
    assert buffer == b"x\0\0"
