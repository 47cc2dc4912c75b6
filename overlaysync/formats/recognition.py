"""What may be taken for an image: one rule for every command.

Rules:
    1. A file is what its first bytes say. Its name must not say otherwise: a web page saved as ``disk.qcow2``
       is no raw disk.
    2. A file that begins like no image is a raw disk only if it looks like one, by its content (a boot
       sector, a partition table, a file system) or by its name and size.
    3. What the user says (``--format``), or what was accepted before, comes first: :data:`Vouched`.

Looks at a few hundred bytes, wherever they lie in the file. Leaves out whether an image is intact: its reader
finds that out. Source: QEMU block.c (bdrv_probe_all); for the signatures util-linux libblkid/src/superblocks
and libblkid/src/partitions.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable
from contextlib import suppress
from typing import TypeAlias

from overlaysync.errors import OverlaysyncError
from overlaysync.formats.image import MAGIC, Format
from overlaysync.units import SECTOR

Vouched: TypeAlias = Callable[[str, Format], bool]
"""Whether the file at a path may be taken for an image of a format, whatever its name and content suggest."""

_OWNERS = {".qcow2": "a qcow2", ".qed": "a QED", ".raw": "a raw", ".img": "an", ".iso": "an ISO"}
"""Endings of names of images, in lower case, and whose images have them."""

IMAGE_ENDINGS = tuple(ending for ending in _OWNERS if ending != ".iso")
"""How images are named, in lower case."""

_ISO = ".iso"
"""A raw disk too, but a CD and not the disk of a VM: directories are not searched for them."""

_RAW_ENDINGS = (".raw", ".img", _ISO)
_UNFINISHED = (".part", ".partial", ".crdownload", ".download", ".filepart", ".tmp")
"""How browsers and other programs name a file that they have not received in full."""

FOREIGN_ENDINGS = (".vmdk", ".vdi", ".vhd", ".vhdx", ".vpc", ".hdd", ".hds", ".qcow", ".dmg", ".ova")
"""How images in formats that are not written here are named, in lower case."""

_GENERIC = re.compile(
    r"(?:disk|image|img|drive|root|rootfs|"
    r"(?:h|s|v|xv)d[a-z]|(?:h|s|v)d[a-z][-_]?disk|virtio[a-z]|(?:diff|base|boot)disk)(?:[-_.]?\d{1,3})?",
    re.IGNORECASE,
)

HEAD_SIZE = 2048
"""Bytes that QEMU looks at to guess a format (block.c, BLOCK_PROBE_BUF_SIZE)."""

SIGNATURES = (
    (0, MAGIC[Format.QCOW2], "a qcow2 image", Format.QCOW2),
    (0, MAGIC[Format.QED], "a QED image", Format.QED),
    (0, b"KDMV", "a VMDK image", None),
    (0, b"COWD", "a VMDK image", None),
    (0, b"# Disk DescriptorFile", "a VMDK descriptor", None),
    (0, b"Bochs Virtual HD Image", "a Bochs image", None),
    (0, b"#!/bin/sh\n#V2.0 Format\n", "a cloop image", None),
    (0, b"conectix", "a VHD image", None),
    (0, b"vhdxfile", "a VHDX image", None),
    (0, b"LUKS\xba\xbe", "a LUKS-encrypted image", None),
    (0, b"WithoutFreeSpace", "a Parallels image", None),
    (0, b"WithouFreSpacExt", "a Parallels image", None),
    (64, b"\x7f\x10\xda\xbe", "a VDI image", None),
)
"""(offset, bytes there, what the file is, its format if we read it). Raw disks have none of them."""

_VMDK_TEXT = re.compile(rb"(?:#[^\n]*\n|[ \t\r]*\n)*[ \t]*version=[0-9]")
"""A descriptor may begin with comments and blank lines; QEMU opens the files that it names."""

_DISK_SIGNATURES = (
    (510, b"\x55\xaa"),  # boot sector: MBR, protective MBR of a GPT, FAT, exFAT, NTFS, boot loaders
    (512, b"EFI PART"),  # GPT, sectors of 512 bytes
    (4096, b"EFI PART"),  # GPT, sectors of 4096 bytes
    (512, b"PM\0\0"),  # Apple partition map
    (512, b"WEV\x82"),  # BSD disklabel
    (1080, b"\x53\xef"),  # ext2, ext3, ext4
    (0, b"XFSB"),
    (65600, b"_BHRfS_M"),  # btrfs
    (1024, b"\x10\x20\xf5\xf2"),  # f2fs
    (1024, b"\xe2\xe1\xf5\xe0"),  # EROFS
    (1024, b"\x02\0\0\0\0\0\x34\x34"),  # NILFS2
    (1024, b"H+\0\x04"),  # HFS+
    (1024, b"HX\0\x05"),  # HFSX
    (3, b"NTFS    "),
    (3, b"EXFAT   "),
    (32, b"NXSB"),  # APFS
    (32768, b"JFS1"),
    (65588, b"ReIsEr"),  # ReiserFS
    (66908, b"\x19\x01\x54\x19"),  # UFS2
    (9564, b"\x19\x01\x54\x19"),  # UFS2, UFS1 of a boot disk
    (9564, b"\x54\x19\x01\0"),  # UFS1
    (65536, b"\x01\x16\x19\x70"),  # GFS2
    (32769, b"CD001"),  # ISO 9660
    (32769, b"BEA01"),  # UDF
    (0, b"hsqs"),  # squashfs
    (0, b"\x45\x3d\xcd\x28"),  # cramfs
    (0, b"-rom1fs-"),
    *((sector * SECTOR, b"LABELONE") for sector in range(4)),  # LVM2 physical volume
    *((page - 10, b"SWAPSPACE2") for page in (4096, 8192, 16384, 65536)),
    (0, b"\xfc\x4e\x2b\xa9"),  # Linux RAID 1.1
    (4096, b"\xfc\x4e\x2b\xa9"),  # Linux RAID 1.2
)
"""(offset, bytes there) of what disks and file systems have; little-endian where they can be either."""


def never(_path: str, _format: Format) -> bool:
    """Vouch for nothing; see :data:`Vouched`."""
    return False


def always(_path: str, _format: Format) -> bool:
    """Vouch for every file; see :data:`Vouched`."""
    return True


# -- names -------------------------------------------------------------------------------------------


def ending_of(path: str) -> str:
    """Return the ending of an image's name, in lower case; "" where the name has another ending or none."""
    ending = os.path.splitext(path)[1].lower()
    return ending if ending in (*IMAGE_ENDINGS, _ISO) else ""


def fits_ending(path: str, format: Format) -> bool:
    """Return whether an image of ``format`` may have that name; ``.img`` fits each format."""
    ending = ending_of(path)
    return ending in ("", ".img", f".{format.value}") or (ending == _ISO and format is Format.RAW)


def is_listed(name: str, opened: Callable[[], int]) -> bool:
    """Return whether the file counts as an image in the listing of a directory.

    It does when it is named like one, or has another ending (``web.snap1``) and begins like qcow2 or QED.

    Args:
        name: of the file.
        opened: opens it and returns the descriptor, which is closed here.
    """
    ending = ending_of(name)
    if ending or name.lower().endswith(_UNFINISHED):
        return ending in IMAGE_ENDINGS
    with suppress(OverlaysyncError, OSError):
        fd = opened()
        try:
            return detect_format(fd) is not Format.RAW
        finally:
            os.close(fd)
    return False


def is_generic(name: str) -> bool:
    """Whether a file's name without its ending says nothing of what it holds (``disk``, ``hda``)."""
    return bool(_GENERIC.fullmatch(name))


# -- content -----------------------------------------------------------------------------------------


def detect_format(fd: int) -> Format:
    """Return the format that the file begins like, raw for none that we read."""
    head = os.pread(fd, HEAD_SIZE, 0)
    found = (format for offset, magic, _, format in SIGNATURES if format and head.startswith(magic, offset))
    return next(found, Format.RAW)


def foreign_format(head: bytes) -> str | None:
    """Return what a file that begins with ``head`` (HEAD_SIZE bytes or all) is, if not raw."""
    if _VMDK_TEXT.match(head):
        return "a VMDK descriptor"
    return next((name for offset, magic, name, _ in SIGNATURES if head.startswith(magic, offset)), None)


def has_disk_signature(fd: int) -> bool:
    """Return whether the file has a boot sector, a partition table or a file system that we know."""
    return any(os.pread(fd, len(magic), offset) == magic for offset, magic in _DISK_SIGNATURES)


# -- the rule ----------------------------------------------------------------------------------------


def looks_like_image(fd: int) -> bool:
    """Whether a file begins like an image of any format, or looks like a disk."""
    return foreign_format(os.pread(fd, HEAD_SIZE, 0)) is not None or has_disk_signature(fd)


def objection(path: str, fd: int, format: Format) -> str:
    """Return why the file must not be taken for an image of the format that it begins like.

    Args:
        path: of the file; if it is a symlink, the name of the file that it leads to counts.
        fd: the open file.
        format: what :func:`detect_format` says.

    Returns:
        A sentence fragment ("it is empty"); "" where nothing speaks against it.
    """
    real = os.path.realpath(path)
    if not fits_ending(real, format):
        begins = f"it is {format}" if format is not Format.RAW else "it does not begin like one"
        return f"it is named like {_OWNERS[ending_of(real)]} image, but {begins}"
    if format is not Format.RAW:
        return ""
    if real.endswith(".dmg"):
        return "it is named like a DMG image, and QEMU takes every file of that name for one"
    return unlike_disk(real, fd)


def unlike_disk(path: str, fd: int) -> str:
    """Return why a file does not look like a raw disk; "" when its content, or its name and size, say so."""
    size = os.fstat(fd).st_size
    if not size:
        return "it is empty"
    named = ending_of(os.path.realpath(path)) in _RAW_ENDINGS
    if (named and not size % SECTOR) or has_disk_signature(fd):
        return ""
    odd = f", and its size, {size} bytes, is not a multiple of {SECTOR}" if named else ""
    return f"it does not look like a disk: it has no known partition table or file system{odd}"


def how_to_insist(path: str, format: Format) -> str:
    """Return what to type so that the file is taken for an image of ``format`` after all."""
    kind = "disk" if format is Format.RAW else "image"
    return (
        f"if it is a {format} {kind} anyway: "
        f"overlaysync id --format {format} {shlex.quote(path)}, then repeat the command"
    )
