"""Hold a guest still for a moment, through a process of its own: see :mod:`overlaysync.live.watch`."""

from __future__ import annotations

import asyncio
import os
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from overlaysync.installed import python_words

# Not with "-m", which would look into the current directory first: anybody may have put a package there.
_PROGRAM = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from overlaysync.live.watch import main
main(sys.argv[1:])
"""
_PLACE = os.fspath(Path(__file__).absolute().parents[2])
_READY_S = 12.0
_BEGIN_S = 30.0
_END_S = 90.0


class Guardian:
    """Holds one guest still, once."""

    def __init__(self, process: Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, words: Sequence[str]) -> Guardian | None:
        """Return what can hold a guest still; None if the guest cannot be reached.

        Args:
            words: that lead to it: see :func:`overlaysync.live.watch.hold_of`.
        """
        # In a session of its own: what ends a group of processes does not end it.
        process = await asyncio.create_subprocess_exec(
            *python_words(),
            "-c",
            _PROGRAM,
            _PLACE,
            *words,
            stdin=PIPE,
            stdout=PIPE,
            start_new_session=True,
        )
        guardian = cls(process)
        try:
            if await guardian._heard(_READY_S) == "ready":
                return guardian
        except BaseException:
            await guardian.close()
            raise
        await guardian.close()
        return None

    async def begin(self) -> bool:
        """Hold the guest still; whether that went well."""
        self._tell("begin")
        return await self._heard(_BEGIN_S) == "begun"

    async def end(self) -> bool:
        """Let the guest go on; whether it was held still until now."""
        self._tell("end")
        return await self._heard(_END_S) == "ended"

    async def close(self) -> None:
        """Let go of it: it lets the guest go on, and ends."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), _END_S)

    def _tell(self, word: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word}\n".encode())

    async def _heard(self, within_s: float) -> str:
        assert self._process.stdout is not None
        with suppress(TimeoutError, ConnectionError):
            return (await asyncio.wait_for(self._process.stdout.readline(), within_s)).decode().strip()
        return ""
