"""Images made and judged by QEMU: thin wrappers of qemu-img and qemu-io for tests.

A file's format is its suffix: ``.raw``, ``.qed``, ``.qcow2``. Contents are drawn with patterns: one character
a unit, ``A`` .. ``Z`` write that byte, ``0`` marks zeros (write-zeroes), ``o`` stores real zero bytes, ``x``
discards, ``c`` writes a compressed cluster, ``-`` leaves alone::

    base = create(tmp_path / "base.raw", 4 * MIB)
    draw(base, "AAB-C")
    overlay = create(tmp_path / "vm.qed", 4 * MIB, backing=base, cluster_size=4096)
    draw(overlay, "-X0", unit=4096)
    assert content(overlay).startswith(b"A" * 4096 + b"X" * 4096)
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from overlaysync.formats.image import Extent, Image
from overlaysync.model.digest import Kind
from overlaysync.units import CHUNK

QED_LEAKS = 3
"""What ``qemu-img check`` exits with when clusters are only leaked."""


@dataclass(frozen=True, slots=True)
class Op:
    """One request of a guest: what, where, how many bytes, and which byte is written."""

    what: str
    offset: int
    length: int
    byte: int = 0

    def command(self) -> str:
        """The request in qemu-io's words."""
        where = f"{self.offset} {self.length}"
        return {
            "write": f"write -q -P {self.byte} {where}",
            "compress": f"write -q -c -P {self.byte} {where}",
            "zero": f"write -q -z {where}",
            "unmap": f"write -q -z -u {where}",
            "discard": f"discard -q {where}",
        }[self.what]


def run(*command: str | Path, stdin: str | None = None) -> str:
    """Run a program and return what it prints; its complaints are the assertion's message."""
    done = subprocess.run([*map(str, command)], input=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(map(str, command))}: {done.stderr or done.stdout}"
    return done.stdout


def format_of(path: Path) -> str:
    """QEMU's name of the format of ``path``."""
    return path.suffix.removeprefix(".")


def create(
    path: Path, size: int | None = None, *, backing: Path | str | None = None, **options: object
) -> Path:
    """Create an empty image.

    Args:
        path: its suffix says the format.
        size: bytes; an overlay takes its backing file's by default.
        backing: written into the header as it is; the suffix says its format.
        options: of the format, as for ``qemu-img create -o``.
    """
    command: list[str | Path] = ["qemu-img", "create", "-q", "-f", format_of(path)]
    if options:
        command += ["-o", ",".join(f"{name}={value}" for name, value in options.items())]
    if backing is not None:
        command += ["-b", str(backing), "-F", format_of(Path(backing))]
    run(*command, path, *([] if size is None else [str(size)]))
    return path


def apply(path: Path, ops: Iterable[Op]) -> None:
    """Send requests to an image, as a guest would; QEMU writes the image."""
    commands = "".join(op.command() + "\n" for op in ops)
    if commands:
        run("qemu-io", "-t", "unsafe", "-d", "unmap", "-f", format_of(path), path, stdin=commands)


def draw(path: Path, pattern: str, *, unit: int = CHUNK, offset: int = 0) -> None:
    """Apply a pattern (see the module) from ``offset`` on."""
    ops = []
    for char, group in groupby(pattern):
        length = len([*group]) * unit
        if char == "c":
            ops += [Op("compress", at, unit, ord("c")) for at in range(offset, offset + length, unit)]
        elif char != "-":
            what = {"0": "zero", "x": "discard"}.get(char, "write")
            ops.append(Op(what, offset, length, 0 if char == "o" else ord(char)))
        offset += length
    apply(path, ops)


def convert(source: Path, target: Path, *, compress: bool = False, **options: object) -> Path:
    """Convert an image (through its chain) into a standalone one."""
    command: list[str | Path] = [
        "qemu-img",
        "convert",
        "-q",
        "-f",
        format_of(source),
        "-O",
        format_of(target),
    ]
    if compress:
        command.append("-c")
    if options:
        command += ["-o", ",".join(f"{name}={value}" for name, value in options.items())]
    run(*command, source, target)
    return target


def content(path: Path) -> bytes:
    """All guest bytes, as QEMU reads them through the chain."""
    with tempfile.TemporaryDirectory(dir=path.parent) as directory:
        return convert(path, Path(directory) / "content.raw").read_bytes()


def own_extents(path: Path) -> list[tuple[int, int, Kind]]:
    """(offset, length, kind) of the top layer as QEMU maps it, neighbours of one kind joined."""
    entries = json.loads(run("qemu-img", "map", "--output=json", "-f", format_of(path), path))
    return join((entry["start"], entry["length"], _kind(entry)) for entry in entries)


def _kind(entry: dict[str, object]) -> Kind:
    # "depth 0" alone is not enough: past the end of a shorter backing file it says so too.
    if entry["depth"] != 0 or not entry["present"]:
        return Kind.UNALLOCATED
    return Kind.DATA if entry["data"] else Kind.ZERO


def join(extents: Iterable[tuple[int, int, Kind]]) -> list[tuple[int, int, Kind]]:
    """Extents with neighbours of one kind joined."""
    joined: list[tuple[int, int, Kind]] = []
    for offset, length, kind in extents:
        if joined and joined[-1][2] is kind:
            start, before, _ = joined.pop()
            joined.append((start, before + length, kind))
        else:
            joined.append((offset, length, kind))
    return joined


def kinds(image: Image) -> list[tuple[int, int, Kind]]:
    """The layer of an open image in the same form as :func:`own_extents`."""
    extents: Iterable[Extent] = image.extents(0, image.virtual_size)
    return join((extent.offset, extent.length, extent.kind) for extent in extents)


def check(path: Path) -> int:
    """The exit code of ``qemu-img check``: 0 clean, 2 corrupt, 3 leaks."""
    command = ["qemu-img", "check", "-q", "-f", format_of(path), str(path)]
    return subprocess.run(command, capture_output=True, check=False).returncode


def same_content(left: Path, right: Path) -> bool:
    """Whether QEMU reads the same guest bytes from both, of one size, with the same parts allocated.

    Where formats differ in what they can leave out, :func:`tests.e2e.disks.identical` compares bytes alone.
    """
    command = ["qemu-img", "compare", "-q", "-s", "-f", format_of(left), "-F", format_of(right)]
    done = subprocess.run([*command, str(left), str(right)], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    return done.returncode == 0


def patch(path: Path, offset: int, data: bytes) -> None:
    """Overwrite bytes of a file in place."""
    with open(path, "r+b") as file:
        os.pwrite(file.fileno(), data, offset)
