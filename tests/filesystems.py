"""Small file systems of a test's own: files mounted in a mount namespace that goes with the test.

Only root can mount them, and the kernel must know them; where it cannot be done the tests are left out.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from overlaysync.units import KIB, MIB
from tests.e2e.namespaces import Namespace, NoNamespaceError, namespace
from tests.images import run

SIZE = 320 * MIB
"""XFS takes no less than 300 MiB; nothing of it is written before it is used."""

_MAKE = {
    "xfs": ("mkfs.xfs", "-q", "-m", "reflink=1"),
    "btrfs": ("mkfs.btrfs", "-q"),
    "ext4": ("mkfs.ext4", "-q"),
}
REFLINKS = ("xfs", "btrfs")
"""File systems whose files can share their blocks."""

_CLONE_FS = 0x200
_CLONE_NEWNS = 0x20000
_EXTENT = re.compile(r"^ *\d+: +(\d+)\.\. *(\d+):.*: *([a-z_,]*)$", re.MULTILINE)
_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def mounted(kind: str, place: Path, within: tuple[str, ...] = ()) -> Iterator[tuple[Namespace, Path]]:
    """A new file system of this kind: the namespace in which it is mounted, and where.

    Args:
        kind: one of those above, or ``tmpfs``.
        place: a directory for what it is made of.
        within: prefix of other namespaces to begin in.
    """
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    point, file = place / f"{kind}-disk", place / f"{kind}-file"
    point.mkdir()
    mount = f"mount -t tmpfs -o size={SIZE} tmpfs '{point}'"
    if kind in _MAKE:
        with open(file, "wb") as made:
            made.truncate(SIZE)
        program, *options = _MAKE[kind]
        subprocess.run([_tool(program), *options, str(file)], check=True, capture_output=True)
        mount = f"mount -t {kind} -o loop '{file}' '{point}'"
    try:
        with namespace("mount", script=mount, within=within) as made_namespace:
            yield made_namespace, point
    except NoNamespaceError:
        pytest.skip(f"{kind} cannot be mounted here")


@contextmanager
def entered(made: Namespace) -> Iterator[None]:
    """This thread, and those that it starts, see what is mounted there."""
    directory = os.getcwd()
    before = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    after = os.open(f"/proc/{made.pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        # A thread can go there alone once its working directory is its own.
        _call("unshare", _CLONE_FS)
        _call("setns", after, _CLONE_NEWNS)
        try:
            yield
        finally:
            _call("unshare", _CLONE_FS)  # threads begun in there, and not ended yet, share it again
            _call("setns", before, _CLONE_NEWNS)
            os.chdir(directory)
    finally:
        os.close(before)
        os.close(after)


def _tool(name: str) -> str:
    """A program of the administrator's; users' paths may lack it."""
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin") or name


def _call(name: str, *arguments: int) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), name)


def shared(path: Path) -> int:
    """Bytes of a file that its file system says it shares with another (``filefrag``), synced before."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
    text = run(_tool("filefrag"), "-v", "-b4096", path)
    extents = [(int(low), int(high), flags) for low, high, flags in _EXTENT.findall(text)]
    assert extents, text
    return sum((high - low + 1) * 4 * KIB for low, high, flags in extents if "shared" in flags.split(","))


def used(point: Path) -> int:
    """Bytes in use on the file system, after all is written."""
    fd = os.open(point, os.O_RDONLY)
    try:
        assert _libc.syncfs(fd) == 0
    finally:
        os.close(fd)
    status = os.statvfs(point)
    return (status.f_blocks - status.f_bfree) * status.f_frsize
