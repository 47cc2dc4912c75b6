"""Which commands use a home: each holds a shared lock while it runs, so that one knows when it is alone."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class Presence:
    """One command among those that use a home.

    A file system without locks has no last one: what only that one may do is then never done.
    """

    def __init__(self, fd: int, *, locked: bool) -> None:
        self._fd = fd
        self._locked = locked

    @classmethod
    def begin(cls, root: Path) -> Presence:
        """Join the commands that use the home at ``root``; waits while the last one tidies up.

        Raises:
            OSError: the lock file cannot be made.
        """
        fd = os.open(root / "use.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH)
        except OSError:
            return cls(fd, locked=False)
        return cls(fd, locked=True)

    def is_last(self) -> bool:
        """Return whether no other command uses the home, and none can begin until :meth:`end`.

        Call it only right before the end: a command that is not the last one may lose its place by asking.
        """
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return self._locked

    @property
    def tidied_at(self) -> float:
        """When the last one tidied up, in seconds since 1970."""
        return os.fstat(self._fd).st_mtime

    def note_tidied(self) -> None:
        """Note that this one has."""
        os.utime(self._fd)

    def end(self) -> None:
        """Leave."""
        os.close(self._fd)
