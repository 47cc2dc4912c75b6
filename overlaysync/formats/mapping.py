"""Maps of files that cannot end the process: reading the page cache in place, without a copy.

Touching a map where the file has been cut off, or where its disk cannot read, is SIGBUS. So a window of a map
is given out only

    * while this process holds a lease on the file (fcntl(2), F_SETLEASE): whoever opens it for writing, or
      cuts it, waits in the kernel until the lease is given back, here after a few milliseconds (or, if it
      will not wait, gets EWOULDBLOCK once; from then on the file is not mapped any more); and
    * once the kernel has filled it (madvise(2), MADV_POPULATE_READ), which fails where touching would.

Leases are refused for files of another user, for files that somebody has open for writing, and by many
network file systems; filling needs Linux 5.14. Where either is refused, the caller reads with pread.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Lock

import numpy as np

_POPULATE_READ = 22

_libc = ctypes.CDLL(None)


class Mapping:
    """A read-only map of the open file ``fd``, which must stay open; several threads may use it at once."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = Lock()
        self._users = 0
        self._wanted = False
        self._address = 0
        self._map: mmap.mmap | None = None
        with suppress(OSError, ValueError):
            # A signal that is ignored unless somebody wants it: SIGIO, the usual one, would end the process.
            fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
            self._map = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
            self._address = np.frombuffer(self._map, dtype=np.uint8).ctypes.data

    @contextmanager
    def window(self, offset: int, length: int) -> Iterator[memoryview | None]:
        """Give out the bytes at ``offset`` of the file; None where they cannot be touched safely.

        Ask for a few MiB at a time, and let go of them soon: a program that wants to write waits meanwhile.
        """
        if self._map is None or not self._enter():
            yield None
            return
        start = offset - offset % mmap.PAGESIZE
        try:
            # The size counts only now that nobody can make it less.
            inside = offset + length <= min(len(self._map), os.fstat(self._fd).st_size)
            if not inside or not self._advise(start, offset + length - start, _POPULATE_READ):
                yield None
                return
            with memoryview(self._map) as whole, whole[offset : offset + length] as part:
                yield part
            # Given back page by page: what was read must not stay resident, only in the page cache.
            self._advise(start, offset + length - start, mmap.MADV_DONTNEED)
        finally:
            self._leave()

    def close(self) -> None:
        """Give up the map; nobody may use a window of it."""
        if self._map is not None:
            self._map.close()
            self._map = None

    def _enter(self) -> bool:
        """Take the lease, or share it with the other threads; whether it is held."""
        with self._lock:
            try:
                if self._is_wanted():
                    return False  # it is given back when the last thread has left
                if not self._users:
                    fcntl.fcntl(self._fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            except OSError:
                return False
            self._users += 1
            return True

    def _leave(self) -> None:
        with self._lock:
            self._is_wanted()
            self._users -= 1
            if not self._users:
                fcntl.fcntl(self._fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)

    def _is_wanted(self) -> bool:
        """Whether a program wants to write, or wanted to and would not wait: that one will try again."""
        if self._users and fcntl.fcntl(self._fd, fcntl.F_GETLEASE) != fcntl.F_RDLCK:
            self._wanted = True
        return self._wanted

    def _advise(self, start: int, length: int, advice: int) -> bool:
        """madvise, during which other threads run (those of the module mmap do not)."""
        address = ctypes.c_void_p(self._address + start)
        return bool(_libc.madvise(address, ctypes.c_size_t(length), ctypes.c_int(advice)) == 0)
