"""Reads what is served again, one image after the other, in the background, to find damage.

It runs on a thread of lowest priority (which the kernel applies to its reading as well), at a limited rate,
and not while peers fetch the image, unless that is overdue by as long again. It does not heal: the user
decides that.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress

from overlaysync.errors import InUseError, OverlaysyncError, StoppedError
from overlaysync.node.node import now
from overlaysync.node.offered import Shared
from overlaysync.node.sharing import Share
from overlaysync.ops.offer import ImageOffer
from overlaysync.ops.scrub import Finding, recheck
from overlaysync.units import MIB

ROUND_S = 60.0
"""How often it is looked whether something is due; also the peace after the start."""
SHORTEST_ROUND_S = 0.5
RATE = 32 * MIB
"""Guest bytes read in a second: a quarter of what an old hard disk gives."""


@asynccontextmanager
async def rechecked(share: Share, age_s: float | None) -> AsyncIterator[None]:
    """Re-check what ``share`` serves while the block runs; ``age_s`` None: nothing."""
    if age_s is None:
        yield
        return
    checker = Scrubber(share, age_s)
    with ThreadPoolExecutor(1, "recheck", initializer=_step_back) as pool:
        task = asyncio.create_task(_go_round(checker, pool))
        try:
            yield
        finally:
            checker.stop()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def _go_round(checker: Scrubber, pool: ThreadPoolExecutor) -> None:
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(max(SHORTEST_ROUND_S, min(ROUND_S, checker.age_s)))
        for shared in checker.share.shared:
            members = checker.share.swarms.of(shared.manifest.id)
            wanted = next(members.current(loop.time()), None) is not None
            await loop.run_in_executor(pool, checker.check, shared, wanted)


def _step_back() -> None:
    """Let everybody else go first; for this thread only, and for good."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)


class Scrubber:
    """Re-checks images of ``share`` that were last read longer than ``age_s`` ago."""

    def __init__(self, share: Share, age_s: float, *, rate: int = RATE) -> None:
        self.share = share
        self.age_s = age_s
        self._rate = rate
        self._stop = threading.Event()
        self._told: set[str] = set()

    def stop(self) -> None:
        """End a check that is under way, and begin no other; from any thread."""
        self._stop.set()

    def check(self, shared: Shared, wanted: bool = False) -> bool:
        """Read the image again if it is due; whether it was read to its end.

        Args:
            shared: the image.
            wanted: whether others are fetching it: then it may wait.
        """
        path = shared.known.path
        try:
            return self._check(shared, self.age_s * (2 if wanted else 1))
        except (StoppedError, InUseError):
            return False
        except (OverlaysyncError, OSError) as error:
            if path not in self._told:
                self.share.observer.note(f"Cannot read {path} again: {error}")
            self._told.add(path)
            return False

    def _check(self, shared: Shared, age_s: float) -> bool:
        path, catalog = shared.known.path, self.share.node.catalog
        offer, row = self.share.offer(shared.manifest.id), catalog.images.at(path)
        if not isinstance(offer, ImageOffer) or row is None or not offer.unchanged():
            return False
        if 0 <= now() - row.verified_at < age_s:  # a time to come is no reason never to look
            return False
        begun = now()
        load = self.share.node.library.load_page
        finding = recheck(offer.chain, offer.pages, load, pause=self._pacer(offer))
        if not offer.unchanged():
            return False
        if finding.damage:
            self.share.found_rotten(path, row.fingerprint, _words(path, finding))
        else:
            catalog.images.confirm(row, at=begun)
        return True

    def _pacer(self, offer: ImageOffer) -> Pacer:
        return Pacer(self._rate, self._stop, offer)


class Pacer:
    """Waits before each read, so that ``rate`` is kept; ends the reading when it is to stop or in vain."""

    def __init__(self, rate: int, stop: threading.Event, offer: ImageOffer) -> None:
        self._rate = rate
        self._stop = stop
        self._offer = offer
        self._next = time.monotonic()

    def __call__(self, size: int) -> None:
        # What was slower than the rate is not made up for.
        wait_s = self._next - time.monotonic()
        if self._stop.wait(max(0.0, wait_s)):
            raise StoppedError("stopped")
        if not self._offer.unchanged():
            raise InUseError(
                f"{self._offer.path} changed while it was read", hint="it is read again when it is quiet"
            )
        self._next = time.monotonic() + size / self._rate


def _words(path: str, finding: Finding) -> str:
    first = finding.damage[0]
    more = f" and {len(finding.damage) - 1} more places" if len(finding.damage) > 1 else ""
    what = finding.unreadable or f"guest offset {first.offset:#x}, {first.length} bytes{more}"
    return f"{path} is damaged: {what}; to heal it from peers: overlaysync verify '{path}' --repair"
