"""Reading a companion as it lies beside a VM, with care for what it may be instead."""

from __future__ import annotations

import os
import stat

from overlaysync.errors import UsageError
from overlaysync.store.files import translate
from overlaysync.vault.limits import MAX_COMPANION


def read_companion(path: str) -> bytes:
    """Return what a companion holds.

    Raises:
        UsageError: it is no plain file, or too large.
        OverlaysyncError: it cannot be read.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise UsageError(f"{path} is not a plain file", hint=f"ls -l '{path}'")
            data = file.read(MAX_COMPANION + 1)
    except OSError as error:
        raise translate(error, f"Cannot read {path}") from error
    if len(data) > MAX_COMPANION:
        raise UsageError(f"{path} is too large to be saved with a VM", hint="move it to another directory")
    return data
