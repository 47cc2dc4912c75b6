"""Progress for the page: lines of JSON on a descriptor that the page hands to the commands it runs.

What people read stays as it is. A page that has gone, or does not read, costs nothing but the lines.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping

DESCRIPTOR = "OVERLAYSYNC_PROGRESS_FD"
_EVERY_S = 0.2
_SOURCES = 16
_MOST = 1024


class Report:
    """Tells how far the work is, a few times a second.

    Args:
        fd: where the lines go; None for nowhere.
        clock: seconds, rising.
    """

    def __init__(self, fd: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._fd = fd
        self._clock = clock
        self._what = self._cells = self._copies = ""
        self._total = self._done = 0
        self._stalled_s = 0.0
        self._sources: Counter[str] = Counter()
        self._told_at = 0.0

    def begin(self, what: str, total: int) -> None:
        """Work of ``total`` bytes begins."""
        self._what, self._total, self._done, self._stalled_s = what, total, 0, 0.0
        self._cells = self._copies = ""
        self._sources.clear()
        self._tell(now=True)

    def advance(self, size: int, source: str) -> None:
        """``size`` more bytes are done, from ``source``."""
        self._done += size
        if source and (source in self._sources or len(self._sources) < _MOST):
            self._sources[source] += size
        self._tell()

    def fetching(self, stalled_s: float, cells: str, copies: str) -> None:
        """Nothing has come for so long, and so much is there of each part."""
        self._stalled_s = stalled_s
        self._cells, self._copies = cells, copies
        self._tell()

    def end(self) -> None:
        """Note that the work has ended."""
        if self._what:
            self._what = ""
            self._tell(now=True)

    def _tell(self, *, now: bool = False) -> None:
        at = self._clock()
        if self._fd is None or (not now and at - self._told_at < _EVERY_S):
            return
        self._told_at = at
        line = json.dumps(
            {
                "what": self._what,
                "done": self._done,
                "total": self._total,
                "stalled": round(self._stalled_s, 1),
                "cells": self._cells,
                "copies": self._copies,
                "sources": [name for name, _ in self._sources.most_common(_SOURCES)],
            }
        )
        try:
            os.write(self._fd, f"{line}\n".encode())
        except BlockingIOError:
            pass
        except OSError:
            self._fd = None


def report_to(environment: Mapping[str, str]) -> Report:
    """Return where progress is reported to, as the environment says."""
    text = environment.get(DESCRIPTOR, "")
    if not text.isdecimal() or int(text) < 3:
        return Report(None)
    fd = int(text)
    try:
        os.set_blocking(fd, False)
        os.set_inheritable(fd, False)
    except OSError:
        return Report(None)
    return Report(fd)
