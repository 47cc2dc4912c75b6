"""Files for their owner alone (0600): whole or not there, and refused when others can read them."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from overlaysync.errors import NotAllowedError


def make_secret(path: Path, data: bytes) -> None:
    """Write a new file, by link.

    Raises:
        FileExistsError: there is one already.
        OSError: it cannot be made.
    """
    scratch = _scratch(path, data)
    try:
        os.link(scratch, path)
    finally:
        os.unlink(scratch)
    _sync(path.parent)


def replace_secret(path: Path, data: bytes) -> None:
    """Write a file in the place of the one that may be there: the old one or the new one is there, whole.

    Raises:
        OSError: it cannot be made.
    """
    scratch = _scratch(path, data)
    try:
        os.replace(scratch, path)
    except BaseException:
        os.unlink(scratch)
        raise
    _sync(path.parent)


def read_secret(path: Path, what: str, limit: int) -> bytes:
    """At most ``limit`` bytes of the file, which is ``what``.

    Raises:
        NotAllowedError: others may read it, or it is no regular file.
        OSError: it cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise NotAllowedError(
                f"{path} is not a {what}",
                why="it is not a regular file",
                hint=f"move it away: mv '{path}' '{path}.old'",
            )
        if mode & 0o077:
            raise NotAllowedError(f"The {what} {path} can be read by others", hint=f"chmod 600 '{path}'")
        return os.read(descriptor, limit)
    finally:
        os.close(descriptor)


def remove_secret(path: Path) -> None:
    """Remove the file, for good.

    Raises:
        OSError: it cannot be removed, or is not there.
    """
    os.unlink(path)
    _sync(path.parent)


def _scratch(path: Path, data: bytes) -> str:
    """Return a file beside ``path`` with ``data`` in it, on the disk."""
    descriptor, scratch = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
    except BaseException:
        os.unlink(scratch)
        raise
    return scratch


def _sync(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
