"""Images with random content, made by QEMU, and a boot sector that needs no operating system.

Random content has no two equal chunks, so what is on the wire can be counted.
"""

from __future__ import annotations

import json
import random
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from overlaysync.model.digest import Kind
from overlaysync.units import MIB
from tests import images

BOOT_LBA = 2048
"""The sector whose text the boot sector prints: 1 MiB into the disk."""


def noise(seed: object, length: int) -> bytes:
    """``length`` bytes that are always the same for one seed."""
    return random.Random(str(seed)).randbytes(length)


def make_master(path: Path, *, size: int = 8 * MIB, data: int | None = None, seed: object = "") -> Path:
    """A master whose first ``data`` bytes (all of them by default) are noise; its suffix says its format."""
    content = noise(f"{path.name} {seed}", size if data is None else data)
    raw = path if path.suffix == ".raw" else path.with_name(f".{path.name}.raw")
    with open(raw, "wb") as file:
        file.write(content)
        file.truncate(size)
    if raw != path:
        images.convert(raw, path)
        raw.unlink()
    return path


def make_packed(path: Path, *, size: int) -> Path:
    """A compressed qcow2 master: noise, and text that shrinks, in clusters that take turns."""
    raw = path.with_name(f".{path.name}.raw")
    half = 32 * 1024
    with open(raw, "wb") as file:
        for offset in range(0, size, 2 * half):
            file.write(noise(f"{path.name} {offset}", half // 4).ljust(half, b"t"))
            file.write(b"%032d" % offset * (half // 32))
    images.convert(raw, path, compress=True)
    raw.unlink()
    return path


def make_overlay(path: Path, backing: Path, *writes: tuple[int, int], **options: Any) -> Path:
    """An overlay on ``backing`` with noise at each (offset, length)."""
    images.create(path, backing=backing, **options)
    for offset, length in writes:
        write(path, offset, noise(f"{path.name} {offset}", length))
    return path


def write(path: Path, offset: int, data: bytes) -> None:
    """Write into an image as its guest would."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".write-") as file:
        file.write(data)
        file.flush()
        images.run(
            "qemu-io", "-t", "unsafe", "-f", images.format_of(path), path,
            stdin=f"write -q -s {file.name} {offset} {len(data)}\n",
        )  # fmt: skip


def write_through_qemu(path: Path, offset: int, data: bytes) -> None:
    """Write into an image that :func:`opened_by_qemu` holds."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".write-") as file:
        file.write(data)
        file.flush()
        images.run(
            "qemu-io",
            "-f",
            "raw",
            f"nbd+unix:///n?socket={path}.sock",
            stdin=f"write -q -s {file.name} {offset} {len(data)}\nflush\n",
        )


def allocated(path: Path) -> int:
    """Bytes of data in the own layer of an image, as QEMU maps it."""
    return sum(length for _, length, kind in images.own_extents(path) if kind is Kind.DATA)


def identical(left: Path, right: Path) -> bool:
    """Whether guests see the same of both: ``qemu-img compare``, and one size.

    Not its strict mode, which also compares how the files happen to lie on the host.
    """
    sizes = {
        json.loads(images.run("qemu-img", "info", "--output=json", "-f", images.format_of(path), path))[
            "virtual-size"
        ]
        for path in (left, right)
    }
    command = ["qemu-img", "compare", "-q", "-f", images.format_of(left), "-F", images.format_of(right)]
    done = subprocess.run([*command, str(left), str(right)], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    return done.returncode == 0 and len(sizes) == 1


# -- QEMU holding an image ---------------------------------------------------------------------------


@contextmanager
def opened_by_qemu(path: Path) -> Iterator[int]:
    """A QEMU process that has the image open for writing; its pid."""
    node = f"driver={images.format_of(path)},node-name=n,file.driver=file,file.filename={path}"
    command = ["qemu-storage-daemon", "--blockdev", node]
    # Without a user a node takes no permission to write.
    command += ["--nbd-server", f"addr.type=unix,addr.path={path}.sock"]
    command += ["--export", "nbd,id=e,node-name=n,writable=on"]
    # Options are obeyed in their order: once the monitor greets, the image is open.
    command += ["--chardev", "stdio,id=c", "--monitor", "c"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin and process.stdout
        try:
            assert b"QMP" in process.stdout.readline()
            yield process.pid
        finally:
            process.terminate()


def qemu_may_write(path: Path) -> bool:
    """Whether QEMU can open the image for writing at this moment."""
    command = ["qemu-io", "-f", images.format_of(path), "-c", "length", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 or "lock" in done.stderr, done.stderr
    return done.returncode == 0


# -- booting -----------------------------------------------------------------------------------------

_PRINT = b"\xac\x84\xc0\x74\x06\xba\xf8\x03\xee\xeb\xf5"  # lodsb; stop at zero; out to the serial port; again
_START = 0x7C00
_BUFFER = 0x8000


def boot_sector(word: str) -> bytes:
    """A boot sector that prints ``word`` and the text in sector :data:`BOOT_LBA` on the first serial port."""
    # Segments zero, stack below us, strings forwards; keep the number of the drive.
    code = b"\x31\xc0\x8e\xd8\x8e\xc0\x8e\xd0\xbc\x00\x7c\xfc\x52"
    packet = struct.pack("<BBHHHQ", 16, 0, 1, _BUFFER, 0, BOOT_LBA)
    text = word.encode() + b" \0"
    size = len(code) + 3 + len(_PRINT) + 8 + 3 + len(_PRINT) + 7
    code += b"\xbe" + struct.pack("<H", _START + size + len(packet)) + _PRINT
    code += b"\xbe" + struct.pack("<H", _START + size) + b"\x5a\xb4\x42\xcd\x13"  # BIOS: extended read
    code += b"\xbe" + struct.pack("<H", _BUFFER) + _PRINT
    code += b"\xba\xf4\x00\x31\xc0\xee\xf4"  # leave QEMU by its debug-exit device
    assert len(code) == size
    return (code + packet + text).ljust(510, b"\0") + b"\x55\xaa"


def boot(path: Path) -> str:
    """What a machine with this disk prints on its serial port."""
    with tempfile.TemporaryDirectory() as directory:
        serial = Path(directory) / "serial"
        drive = f"file={path},format={images.format_of(path)},if=ide,snapshot=on"
        command = ["qemu-system-x86_64", "-accel", "tcg", "-m", "32", "-nodefaults", "-display", "none"]
        command += ["-no-reboot", "-device", "isa-debug-exit,iobase=0xf4", "-serial", f"file:{serial}"]
        subprocess.run([*command, "-drive", drive], capture_output=True, timeout=60, check=False)
        return serial.read_text(errors="replace").strip("\0 \r\n")
