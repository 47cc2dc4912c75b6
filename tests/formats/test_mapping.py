"""Maps that cannot end the process: what is cut off, or cannot be read, is an answer and no signal."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from fcntl import ioctl
from pathlib import Path

import pytest

from overlaysync.errors import ImageError
from overlaysync.formats.mapping import Mapping
from overlaysync.ops import hashing
from overlaysync.units import CHUNK, KIB, MIB
from tests.filesystems import entered, mounted
from tests.ops.world import World


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "disk.raw"
    made.write_bytes(b"y" * MIB)
    return made


@pytest.fixture
def fd(path: Path) -> Iterator[int]:
    opened = os.open(path, os.O_RDONLY)
    yield opened
    os.close(opened)


def test_a_window_holds_the_bytes_and_leaves_no_lease_behind(path: Path, fd: int) -> None:
    mapped = Mapping(fd)
    for offset, length in ((0, MIB), (5, 100), (MIB - 1, 1)):
        with mapped.window(offset, length) as view:
            assert view is not None and bytes(view) == b"y" * length
    with open(path, "r+b") as other:  # would wait, and then be refused, while there is a lease
        other.truncate(KIB)
    with mapped.window(0, MIB) as view:
        assert view is None
    with mapped.window(0, KIB) as view:
        assert view is not None
    mapped.close()
    with mapped.window(0, KIB) as view:
        assert view is None


@pytest.mark.slow
def test_who_cuts_the_file_waits_for_the_window(path: Path, fd: int) -> None:
    mapped = Mapping(fd)
    with mapped.window(0, MIB) as view, mapped.window(0, CHUNK) as other:
        assert view is not None and other is not None
        cutting = subprocess.Popen([sys.executable, "-c", CUT, path])
        with pytest.raises(subprocess.TimeoutExpired):
            cutting.wait(0.5)
        assert bytes(view) == b"y" * MIB
        with mapped.window(0, CHUNK) as late:
            assert late is None, "who waits gets its turn"
    assert cutting.wait(30) == 0
    assert os.fstat(fd).st_size == 0
    mapped.close()


def test_a_file_that_somebody_writes_is_not_mapped(path: Path, fd: int) -> None:
    mapped = Mapping(fd)
    with open(path, "r+b"), mapped.window(0, CHUNK) as view:
        assert view is None
    mapped.close()


_FIBMAP, _FIGETBSZ = 1, 2

CUT = "import os, sys; os.truncate(sys.argv[1], 0)"

HASH = """
import subprocess, sys
from overlaysync.formats.chain import Chain
from overlaysync.formats.image import Format
from overlaysync.ops import hashing
from overlaysync.ops.hashing import RegionHasher

path, plain = sys.argv[1], hashing.hash_units

def cut_and_hash(data, unit):
    cutting = subprocess.Popen([sys.executable, "-c", sys.argv[2], path])
    try:
        cutting.wait(0.5)
    except subprocess.TimeoutExpired:
        pass
    return plain(data, unit)

hashing.hash_units = cut_and_hash
with Chain.open(path, Format.RAW) as chain:
    hasher = RegionHasher(chain, 65536, False)
    print(len(hasher.page(0)))
    hasher.close()
"""


@pytest.mark.slow
def test_a_file_cut_while_it_is_hashed_does_not_end_the_process(path: Path) -> None:
    command = [sys.executable, "-c", HASH, str(path), CUT]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, f"{MIB // CHUNK * 32}\n"), done.stderr


@pytest.mark.parametrize("leases", [True, False])
def test_a_sector_that_cannot_be_read_is_named_by_its_guest_offset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leases: bool
) -> None:
    """The file's end lies on a part of the device that is gone."""
    if not leases:
        monkeypatch.setattr(hashing, "Mapping", Refused)
    with mounted("ext4", tmp_path) as (made, point), entered(made):
        image = point / "disk.raw"
        image.write_bytes(os.urandom(16 * MIB))
        world = World.make(tmp_path / "node")
        with open(image, "rb") as file:
            os.fsync(file.fileno())
            # What is written after the device is cut would make it long again.
            subprocess.run(["mount", "-o", "remount,ro", point], check=True)
            os.truncate(tmp_path / "ext4-file", place_on_device(file.fileno(), 16 * MIB - 4 * KIB))
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        with pytest.raises(
            ImageError, match=r"the disk cannot read the data at guest offset 0x[0-9a-f]+"
        ) as caught:
            world.known(image)
        named = int(caught.value.reason.split("0x")[1].split()[0], 16)
        assert 15 * MIB < named < 16 * MIB, "the kernel gives up a whole folio, at most 1 MiB here"
        assert caught.value.path == str(image)


class Refused(Mapping):
    """Of a file system without leases."""

    def _enter(self) -> bool:
        return False


def place_on_device(fd: int, offset: int) -> int:
    """Where on its device a file has the byte at ``offset``."""
    size = int.from_bytes(ioctl(fd, _FIGETBSZ, bytes(4)), "little")
    number = ioctl(fd, _FIBMAP, (offset // size).to_bytes(4, "little"))
    return int.from_bytes(number, "little") * size
