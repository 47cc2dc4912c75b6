"""Asks any peer that has a content for what belongs to its manifest: one good answer is enough.

Whatever is asked for proves itself (a page list by its id, a page by its digest), so it does not matter which
peer gives it. A slow peer costs a moment: others are asked as well, at first one and then twice as many each
time, those on other hosts first. Image data are asked for by :mod:`.download`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Container, Mapping
from random import random
from typing import Protocol, TypeAlias, TypeVar

from overlaysync.errors import (
    DecodeError,
    NetworkError,
    NotFoundError,
    OverlaysyncError,
    VerificationError,
)
from overlaysync.model.addresses import host_key
from overlaysync.net.faults import Faults
from overlaysync.net.messages import Endpoint
from overlaysync.net.receiving import SilentError
from overlaysync.net.refusals import BusyError, GoneError
from overlaysync.trust.envelope import Manifest

_SLOW_S = 2.0
"""Who has not answered within this time may still do so, but another is asked as well."""
_SILENCE_S = 30.0
"""When none of them is heard any more, they are asked again for so long: a cable may have been pulled."""
_AGAIN_S = 1.0
_PATIENCE = 30
"""How often a peer may say that it is busy."""

_MOST_AT_ONCE = 32
"""Others asked as well in one step."""

_Answer = TypeVar("_Answer")
Ask = Callable[[Endpoint, Manifest], Awaitable[_Answer]]
_Sources: TypeAlias = Mapping[str, tuple[Endpoint, Manifest]]


class Sources(Protocol):
    """Who is within reach."""

    @property
    def faults(self) -> Faults:
        """Unexpected exceptions go there."""
        ...

    def sources(self, content: bytes, team: str = "") -> Mapping[str, tuple[Endpoint, Manifest]]:
        """Those who list a content to a team ("" for everybody), by name."""
        ...

    async def another(self, *, wait_s: float) -> bool:
        """Whether another may turn up; returns when one has."""
        ...


class AnySource:
    """Those who have a content.

    Args:
        reach: who they are.
        wait_s: how long to wait for one that is being asked what it has.
        slow_s, silence_s, again_s: how long an answer may take until another is asked as well; how long to go
            on when all have gone silent; the pause between two rounds of that.
        random: breaks ties.
    """

    def __init__(
        self,
        reach: Sources,
        *,
        wait_s: float,
        slow_s: float = _SLOW_S,
        silence_s: float = _SILENCE_S,
        again_s: float = _AGAIN_S,
        random: Callable[[], float] = random,
    ) -> None:
        self._reach = reach
        self._wait_s = wait_s
        self._slow_s = slow_s
        self._silence_s = silence_s
        self._again_s = again_s
        self._random = random
        self._last: set[str] = set()  # failed or were slow: asked when there is nobody else
        self._silent_hosts: set[str] = set()  # likewise

    async def ask(self, content: bytes, ask: Ask[_Answer], *, team: str = "") -> _Answer:
        """Return what the first of them gives.

        Raises:
            NotFoundError, VerificationError, NetworkError: nobody gives it.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + self._silence_s
        failures: dict[str, OverlaysyncError] = {}
        asked: dict[asyncio.Task[_Answer], str] = {}
        count = 1
        try:
            while True:
                sources = self._reach.sources(content, team)
                others = self._others(sources, {*failures, *asked.values()})
                if others:
                    for source in others[:count]:
                        asked[asyncio.create_task(_patiently(ask, *sources[source]))] = source
                elif not asked and not await self._reach.another(wait_s=self._wait_s):
                    silent = [source for source, why in failures.items() if isinstance(why, SilentError)]
                    if not silent or loop.time() >= end:
                        raise _nobody(list(failures.values()))
                    await asyncio.sleep(self._again_s)
                    for source in silent:
                        del failures[source]
                ended = len(failures)
                if asked and (first := await self._first(asked, failures, sources)):
                    return first.result()
                count = 1 if len(failures) > ended else min(2 * count, _MOST_AT_ONCE)
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)

    def _others(self, sources: _Sources, tried: Container[str]) -> list[str]:
        """Those not tried yet, the most promising first: one of each host before a second of any."""
        by_host = Counter(host_of(sources[source]) for source in sources if source in tried)
        keys: dict[str, tuple[bool, bool, int, float]] = {}
        others = [source for source in sources if source not in tried]
        for source in sorted(others, key=lambda source: (source in self._last, self._random())):
            host = host_of(sources[source])
            keys[source] = (host in self._silent_hosts, source in self._last, by_host[host], self._random())
            by_host[host] += 1
        return sorted(keys, key=lambda source: keys[source])

    async def _first(
        self,
        asked: dict[asyncio.Task[_Answer], str],
        failures: dict[str, OverlaysyncError],
        sources: _Sources,
    ) -> asyncio.Task[_Answer] | None:
        """Return the first to answer.

        None when there is none within a moment. Any exception is a peer's failure.
        """
        done, slow = await asyncio.wait(asked, timeout=self._slow_s, return_when=asyncio.FIRST_COMPLETED)
        if not done:
            late = [asked[task] for task in slow]
            self._last.update(late)
            self._silent_hosts.update(host_of(sources[source]) for source in late if source in sources)
        for task in done:
            error = task.exception()
            if error is None:
                if asked[task] in sources:
                    self._silent_hosts.discard(host_of(sources[asked[task]]))
                return task
            failures[asked[task]] = self._reach.faults.contain(error, "asking a peer for a manifest")
            self._last.add(asked.pop(task))
        return None


def host_of(where: tuple[Endpoint, Manifest]) -> str:
    """Return what counts as the host of a source."""
    return host_key(where[0].host)


async def _patiently(ask: Ask[_Answer], address: Endpoint, manifest: Manifest) -> _Answer:
    """Return what a peer answers in the end that may be busy at first."""
    for _ in range(_PATIENCE):
        try:
            return await ask(address, manifest)
        except BusyError as error:
            await asyncio.sleep(error.retry_after)
    return await ask(address, manifest)


def _nobody(failures: list[OverlaysyncError]) -> OverlaysyncError:
    """Return the error when no peer gave it."""
    why = "; ".join(sorted({str(error) for error in failures}))
    if all(isinstance(error, GoneError) for error in failures):
        return NotFoundError("No machine within reach has it any more", why=why, hint="overlaysync ls")
    wrong = any(isinstance(error, DecodeError) for error in failures)
    hint = "the same command again, or with --peer HOST for another peer; overlaysync peers lists them"
    what = "No peer gave a usable manifest"
    return (VerificationError if wrong else NetworkError)(what, why=why, hint=hint)
