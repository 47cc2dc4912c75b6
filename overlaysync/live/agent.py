"""Freeze the file systems of a guest for a moment, through a process of its own: see :mod:`.thawer`."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from contextlib import suppress

from overlaysync.live.thawer import FROZEN_S

_READY_S = 8.0
_FREEZE_S = 8.0
_THAW_S = FROZEN_S + 20


class Freezer:
    """What freezes one guest, once."""

    def __init__(self, process: Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, words: Sequence[str]) -> Freezer | None:
        """Return what freezes a guest; None if no agent answers.

        Args:
            words: that lead to the agent: see :func:`overlaysync.live.thawer.main`.
        """
        # In a session of its own: what ends a group of processes does not end it.
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "overlaysync.live.thawer",
            *words,
            stdin=PIPE,
            stdout=PIPE,
            start_new_session=True,
        )
        freezer = cls(process)
        if await freezer._heard(_READY_S) == "ready":
            return freezer
        await freezer.close()
        return None

    async def freeze(self) -> bool:
        """Freeze all file systems; False if that failed."""
        self._tell("freeze")
        return await self._heard(_FREEZE_S) == "frozen"

    async def thaw(self) -> bool:
        """Thaw them; whether they were frozen until now."""
        self._tell("thaw")
        return await self._heard(_THAW_S) == "thawed"

    async def close(self) -> None:
        """Let go of it: it thaws what is frozen, and ends."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), _THAW_S)

    def _tell(self, word: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word}\n".encode())

    async def _heard(self, within_s: float) -> str:
        assert self._process.stdout is not None
        with suppress(TimeoutError, ConnectionError):
            return (await asyncio.wait_for(self._process.stdout.readline(), within_s)).decode().strip()
        return ""
