"""Memory does not follow the size of an image: measured in processes of their own.

The peak is VmHWM: what getrusage says begins with the peak of the process that started this one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from overlaysync.units import CHUNK, GIB, MIB, TIB
from tests.images import Op, apply, create

pytestmark = [pytest.mark.qemu, pytest.mark.slow]

PROGRAM = """
import re, sys
from pathlib import Path
from overlaysync.formats.image import Format
from overlaysync.ops.library import Library
from overlaysync.ops.make import Maker
from overlaysync.store.catalog import Catalog
from overlaysync.store.home import Home

root, image, *base = sys.argv[1:]
home = Home(Path(root), Path(root) / "config").prepare()
library = Library(Catalog.open(home))
known = library.examine(image, now=0.0)
if base:
    other = library.examine(base[0], now=0.0)
    Maker(library, home.journals).rebase(known, other, image + ".moved.qcow2", now=0.0)
print(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


def peak(tmp_path: Path, *images: Path) -> int:
    """Peak resident bytes of a process that examines the first image, and moves it onto the second."""
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / f"home-of-{images[0].name}"), *map(str, images)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout) * 1024


def scattered(size: int, *, shift: int = 0) -> list[Op]:
    """64 writes of half a MiB from end to end, whatever the size."""
    return [Op("write", number * (size // 64) + shift, MIB // 2, number + 1) for number in range(64)]


def small(peaks: list[int]) -> bool:
    return max(peaks) <= 200 * MIB and max(peaks) - min(peaks) <= 32 * MIB


@pytest.mark.holds("N3")
@pytest.mark.parametrize("suffix", ["raw", "qcow2"])
def test_from_a_gibibyte_to_a_tebibyte(tmp_path: Path, suffix: str) -> None:
    peaks = []
    for size in (GIB, TIB):
        path = create(tmp_path / f"{size}.{suffix}", size)
        apply(path, scattered(size))
        peaks.append(peak(tmp_path, path))
    assert small(peaks), peaks


def test_overlays_and_rebase_from_a_gibibyte_to_a_tebibyte(tmp_path: Path) -> None:
    peaks = []
    for size in (GIB, TIB):
        master, other = (create(tmp_path / f"{name}-{size}.raw", size) for name in ("master", "other"))
        apply(master, scattered(size))
        apply(other, scattered(size, shift=CHUNK))
        path = create(tmp_path / f"vm-{size}.qcow2", backing=master, cluster_size=4096)
        apply(path, scattered(size, shift=4096))
        peaks.append(peak(tmp_path, path, other))
    assert small(peaks), peaks


def test_data_from_end_to_end(tmp_path: Path) -> None:
    """What is hashed in place must not stay resident."""
    path = tmp_path / "full.raw"
    with open(path, "wb") as file:
        piece = os.urandom(MIB)
        for _ in range(500):
            file.write(piece)
    assert peak(tmp_path, path) <= 200 * MIB
