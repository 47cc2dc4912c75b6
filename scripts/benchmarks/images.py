"""The images measured: a real ext4 file system full of real files, a changed version, an overlay.

Leaves out invented data: they compress, repeat and hash otherwise than what a machine has on its disk.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import CannotMeasureError, run, say

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
BLOCK = 4 * KIB
SOURCES = (
    "/usr/lib",
    "/usr/share",
    "/usr/bin",
    "/usr/libexec",
    "/usr/local",
    "/usr/include",
    "/opt",
    "/var/lib",
)
_FULL = 0.965
"""Part of the image that is filled with files; the file system needs the rest."""
_INODE_SIZE = 256
_FILES = 500
"""Files in a directory."""

Run = tuple[int, int]
"""(offset, length) in bytes."""


def make_file_system(path: Path, size: int) -> str:
    """An ext4 file system as a raw image, full of files of this machine; says what is in it."""
    tree = path.with_suffix(".tree")
    tree.mkdir()
    copied, count, again = _copy_files(tree, int(size * _FULL) - 2 * MIB)
    inodes = count + count // _FILES + 200
    command = ["mke2fs", "-q", "-t", "ext4", "-m", "0", "-O", "^has_journal,^resize_inode"]
    command += ["-I", str(_INODE_SIZE), "-N", str(inodes), "-E", "lazy_itable_init=0", "-d"]
    run([*command, tree, path, f"{size // KIB}k"])
    shutil.rmtree(tree)
    data = sum(length for _, length in data_runs(path))
    text = f"ext4 of {size / GIB:g} GiB with {count} real files, {data / size:.0%} of it allocated"
    return text + (f", {again / copied:.0%} of the bytes stored twice" if again else "")


def _copy_files(tree: Path, budget: int) -> tuple[int, int, int]:
    """Fill ``tree``: bytes, files, and how many of the bytes are copies of others."""
    left, count, again = budget, 0, 0
    for turn in range(100):
        before = left
        for path, size in _real_files():
            # A file takes whole blocks; its inode and name take some more.
            need = -(-size // BLOCK) * BLOCK + 2 * _INODE_SIZE
            if need > left:
                continue
            target = tree / str(turn) / str(count // _FILES) / str(count)
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                shutil.copyfile(path, target)
            except OSError:
                continue
            left -= need
            count += 1
            again += size if turn else 0
            if left < budget // 500:
                return budget - left, count, again
        if left == before:
            break
    if left > budget // 20:
        raise CannotMeasureError("there are too few readable files under " + ", ".join(SOURCES))
    return budget - left, count, again


def _real_files() -> Iterator[tuple[str, int]]:
    """Readable files of this machine, always in the same order."""
    for source in SOURCES:
        for directory, names, files in os.walk(source):
            names.sort()
            for name in sorted(files):
                path = os.path.join(directory, name)
                status = os.lstat(path)
                if stat.S_ISREG(status.st_mode) and status.st_size and os.access(path, os.R_OK):
                    yield path, status.st_size


def data_runs(path: Path) -> Iterator[Run]:
    """What of a file is not a hole."""
    with path.open("rb") as file:
        end = 0
        while True:
            try:
                start = os.lseek(file.fileno(), end, os.SEEK_DATA)
            except OSError:
                return
            end = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            yield start, end - start


def copy(source: Path, target: Path) -> None:
    """A copy of its own, with the time of ``source`` and without its holes' blocks."""
    run(["cp", "--reflink=never", "--sparse=auto", "--preserve=timestamps", source, target])


def warm(path: Path) -> None:
    """Bring a file into the page cache."""
    buffer = bytearray(4 * MIB)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def change(path: Path, share: float) -> int:
    """Change ``share`` of the data of a raw image, in runs of 256 KiB to 4 MiB; returns the bytes.

    The new contents are real blocks read backwards: as dense as the old ones, and found nowhere else.
    """
    changed = 0
    with path.open("r+b", buffering=0) as file:
        for offset, length in _places(path, share):
            os.pwrite(file.fileno(), os.pread(file.fileno(), length, offset)[::-1], offset)
            changed += length
    return changed


def _places(path: Path, share: float) -> list[Run]:
    """Runs of whole blocks that neither touch nor overlap, in data, up to ``share`` of the data."""
    runs = list(data_runs(path))
    wanted = int(sum(length for _, length in runs) * share) // BLOCK * BLOCK
    dice = random.Random(1)
    chosen: list[Run] = []
    while wanted > 0:
        length = min(wanted, dice.choice((256, 512, 1024, 2048, 4096)) * KIB)
        start, room = dice.choices(runs, [length for _, length in runs])[0]
        if room < length:
            continue
        offset = start + dice.randrange((room - length) // BLOCK + 1) * BLOCK
        if any(offset <= end + at and at <= offset + length for at, end in chosen):
            continue
        chosen.append((offset, length))
        wanted -= length
    return chosen


def make_overlay(path: Path, master: Path, size: int) -> None:
    """A qcow2 overlay on the raw ``master`` in which a guest has written ``size`` bytes of real blocks."""
    run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", master, "-F", "raw", path])
    dice = random.Random(2)
    commands, parts = [], []
    end = master.stat().st_size
    with master.open("rb", buffering=0) as source:
        done = 0
        while done < size:
            length = min(size - done, dice.choice((4, 16, 64, 256, 1024, 4096)) * KIB)
            offset = dice.randrange((end - length) // BLOCK) * BLOCK
            part = path.with_name(f"{path.stem}.{len(parts)}")
            part.write_bytes(os.pread(source.fileno(), length, MIB + done)[::-1])
            parts.append(part)
            commands.append(f"write -q -s {part} {offset} {length}\n")
            done += length
    run(["qemu-io", "-t", "unsafe", "-f", "qcow2", path], stdin="".join(commands) + "quit\n")
    for part in parts:
        part.unlink()


def allocated(path: Path) -> int:
    """Bytes that the top layer of an image itself allocates, as qemu-img says."""
    mapped = json.loads(run(["qemu-img", "map", "--output=json", path]).stdout)
    return sum(item["length"] for item in mapped if item["depth"] == 0 and item["data"])


def make_spread(path: Path, source: Path, size: int, virtual_size: int) -> None:
    """A raw image of ``virtual_size`` with the first ``size`` bytes of ``source`` spread over all of it."""
    step = virtual_size // (size // MIB)
    with source.open("rb", buffering=0) as data, path.open("wb", buffering=0) as file:
        os.ftruncate(file.fileno(), virtual_size)
        for index in range(size // MIB):
            os.pwrite(file.fileno(), os.pread(data.fileno(), MIB, index * MIB), index * step)
    say(f"   {path.name}: {size // MIB} MiB spread over {virtual_size / GIB:g} GiB")
