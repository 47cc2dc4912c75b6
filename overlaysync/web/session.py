"""The page of a share while that runs: where it is, said in a file of the home, for ``overlaysync page``."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from overlaysync.net.faults import Faults
from overlaysync.store.home import Home
from overlaysync.web.page import Page
from overlaysync.web.secret import Secret, load_or_make, pages_of
from overlaysync.web.subject import Subject

_MAX = 4096
_YOUNG_S = 60.0
"""A mark that is not locked yet may be about to be."""


@asynccontextmanager
async def paged(subject: Subject, faults: Faults, port: int = 0) -> AsyncIterator[Page]:
    """Serve the page of a share while the block runs.

    Raises:
        NetworkError: the port is taken.
        OverlaysyncError: the token cannot be read or made.
    """
    home = subject.node.home
    secret = await asyncio.to_thread(load_or_make, home)
    page = Page(subject, secret, faults)
    await page.start(port)
    try:
        with suppress(OSError):  # it is only not found by "overlaysync page"
            pages_of(home).mkdir(mode=0o700, exist_ok=True)
        path = pages_of(home) / f"{page.port}.json"
        mark = _mark(path, page)
        try:
            yield page
        finally:
            if mark is not None:
                with suppress(OSError):
                    path.unlink()
                os.close(mark)
    finally:
        await page.stop()


def _mark(path: Path, page: Page) -> int | None:
    """Write where the page is; the file stays locked while that is true."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError:
        return None
    with suppress(OSError):
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(fd, 0)
        os.pwrite(fd, json.dumps({"address": page.address, "port": page.port}).encode(), 0)
    return fd


@dataclass(frozen=True, slots=True)
class Running:
    """A page that is served now.

    Attributes:
        address: of it, without the token.
        port: where it listens.
        link: the address that opens it.
    """

    address: str
    port: int
    link: str


def running(home: Home) -> list[Running]:
    """Return the pages of this home that are served now, the newest first; others' marks are removed."""
    secret = load_or_make(home)
    found = []
    for path in _marks(home):
        with suppress(OSError, ValueError, KeyError, TypeError):
            fields = _marked(path)
            if fields is not None:
                address = str(fields["address"])
                found.append(Running(address, int(fields["port"]), link_to(address, secret)))
    return found


def _marked(path: Path) -> dict[str, Any] | None:
    """Return what a mark says; None, and remove the mark, where its page is not served any more.

    Raises:
        OSError, ValueError: it cannot be read.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not _is_free(fd):
            fields: dict[str, Any] = json.loads(os.read(fd, _MAX))
            return fields
        if time.time() - os.fstat(fd).st_mtime > _YOUNG_S:
            path.unlink()
        return None
    finally:
        os.close(fd)


def link_to(address: str, secret: Secret) -> str:
    """Return the address that opens a page."""
    return f"{address}?token={secret.token}"


def _marks(home: Home) -> list[Path]:
    with suppress(OSError):
        return sorted(pages_of(home).glob("*.json"), key=lambda path: -path.stat().st_mtime)
    return []


def _is_free(fd: int) -> bool:
    """Whether nothing holds the lock of a mark: what wrote it has gone."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
