"""One writer at a time in a vault directory: a cleanup would remove the objects of a running save."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from overlaysync.errors import InUseError
from overlaysync.store.files import make_directory, translate

_LOCK = ".lock"


@contextmanager
def only_writer(root: Path) -> Iterator[None]:
    """Hold the lock of the vault at ``root``, which is made if it is missing; freed even by ``kill -9``.

    Raises:
        InUseError: another command writes to it.
        NotAllowedError: it cannot be made.
    """
    make_directory(str(root))
    try:
        fd = os.open(root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise translate(error, f"Cannot use the vault {root}", directory=str(root)) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise InUseError(
            f"Another command is writing to the vault {root}",
            hint="wait until it has ended, and repeat this command",
        ) from None
    try:
        yield
    finally:
        os.close(fd)
