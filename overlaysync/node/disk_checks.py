"""Checks of directories: the space in them, and what their file systems can do."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable

from overlaysync.formats.locks import hold_read_lock, in_use
from overlaysync.node.checks import SPACE_FAILS, Check
from overlaysync.units import format_size

CLOCK_S = 2.0
"""How far clocks may be apart."""

_IMAGE_SPACE = (1 << 30, 10 << 30)
"""Free bytes below which a check fails, and below which it warns."""

_FICLONE = 0x40049409


def check_file_times(directory: str) -> Check:
    """Return whether files get the times of this machine's clock."""
    with tempfile.TemporaryFile(dir=directory) as file:
        file.write(b"x")
        file.flush()
        away = os.fstat(file.fileno()).st_mtime - time.time()
    if abs(away) > CLOCK_S:
        meaning = f"the file system's clock differs by {away:.0f} s: changed files may look old"
        return Check("file times", "warn", meaning, "set the clocks of this machine and of the file server")
    return Check("file times", "ok", "agree with the clock")


def check_directory(directory: str) -> list[Check]:
    """Where images would be written."""
    return [
        check_space("space here", directory, *_IMAGE_SPACE),
        tried("locks here", _check_locks, directory),
        tried("reflinks here", _check_reflink, directory),
    ]


def tried(name: str, check: Callable[[str], Check], directory: str) -> Check:
    """Return a check that needs to write in ``directory``, which may not be allowed."""
    try:
        return check(directory)
    except OSError as error:
        return Check(name, "warn", f"cannot be tried in {directory}: {error.strerror}")


def check_space(name: str, directory: str, least: int, enough: int) -> Check:
    """Return how much is free: less than ``least`` bytes is a failure, and less than ``enough`` a warning."""
    try:
        free = shutil.disk_usage(directory).free
    except OSError as error:
        return Check(name, "fail", f"{directory}: {error.strerror}")
    meaning = f"{format_size(free)} free in {directory}"
    if free < least:
        return Check(name, "fail", meaning, "free some space, or work in another directory", SPACE_FAILS)
    if free < enough:
        return Check(name, "warn", meaning, "images are large: free some space, or work in another directory")
    return Check(name, "ok", meaning)


def _check_locks(directory: str) -> Check:
    with tempfile.NamedTemporaryFile(dir=directory, prefix=".doctor-") as file:
        other = os.open(file.name, os.O_RDONLY | os.O_CLOEXEC)
        try:
            works = hold_read_lock(file.fileno()) and in_use(other)
        finally:
            os.close(other)
    if works:
        return Check("locks here", "ok", "QEMU's image locks work on this file system")
    meaning = "this file system has no locks: whether QEMU uses an image cannot be seen"
    advice = "shut a VM down before its image is shared, or keep images on another file system"
    return Check("locks here", "warn", meaning, advice)


def _check_reflink(directory: str) -> Check:
    with tempfile.TemporaryFile(dir=directory) as source, tempfile.TemporaryFile(dir=directory) as target:
        source.write(bytes(1 << 16))
        source.flush()
        try:
            fcntl.ioctl(target, _FICLONE, source.fileno())
        except OSError:
            return Check("reflinks here", "ok", "not known to this file system; only 'cp' would use them")
    return Check("reflinks here", "ok", "'cp --reflink' shares the blocks of an image")
