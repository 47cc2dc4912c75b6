"""The event stream: tells browsers that something has changed, four times a second at most.

What has changed a browser asks for itself. While nobody looks, nothing is looked up.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from overlaysync.net.faults import Faults
from overlaysync.web.board import Board
from overlaysync.web.snapshot import FIRST_S, Snapshots
from overlaysync.web.subject import Subject
from overlaysync.web.tasks import Tasks
from overlaysync.web.texts import ALL
from overlaysync.web.view import View

TICK_S, SLOWEST_S = 0.25, 1.0
"""The least and the longest time between two looks."""
_REST = 30
"""So many times as long as a look took it rests: a large lab is looked at less often."""
HEARTBEAT_S = 15.0
_MOST_BOARDS = 12
"""Boards that are kept: one for each language and view that is looked at, and a few that were."""
LINGER_S = 20.0
"""Peers are asked for so long after the last look: a page that is loaded again finds what it showed."""


@dataclass(slots=True)
class Watch:
    """Keeps the boards as the node is, while somebody looks.

    Args:
        subject: is shown.
        tasks: of the page.
        faults: unexpected exceptions go there.
    """

    subject: Subject
    tasks: Tasks
    faults: Faults
    snapshots: Snapshots = field(init=False)
    _boards: dict[tuple[str, View], Board] = field(default_factory=dict)
    _watching: dict[tuple[str, View], int] = field(default_factory=dict)
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    _task: asyncio.Task[None] | None = None
    _looked_at: float = 0.0

    def __post_init__(self) -> None:
        self.snapshots = Snapshots(self.subject, self.tasks)

    async def board(self, language: str, view: View, *, fresh: bool = True) -> Board:
        """Return what is shown now in a language and view."""
        self._look()
        key = language, view
        board = self._boards.pop(key) if key in self._boards else Board(ALL[language], view)
        self._boards[key] = board
        unseen = [one for one in self._boards if one != key and one not in self._watching]
        for one in unseen[: max(0, len(self._boards) - _MOST_BOARDS)]:
            del self._boards[one]
        if fresh or not board.texts:
            board.show(await self.snapshots.take(age_s=FIRST_S))
        return board

    @asynccontextmanager
    async def watched(self, language: str, view: View) -> AsyncIterator[Board]:
        """Keep the board of a language and view as the node is while the block runs."""
        key = language, view
        self._watching[key] = self._watching.get(key, 0) + 1
        try:
            yield await self.board(language, view, fresh=False)
        finally:
            self._watching[key] -= 1
            if not self._watching[key]:
                del self._watching[key]

    async def next_change(self, board: Board, version: int) -> int:
        """Wait until a board has another version, for a heartbeat's time at most; returns its version."""
        try:
            async with asyncio.timeout(HEARTBEAT_S), self._changed:
                await self._changed.wait_for(lambda: board.version != version)
        except TimeoutError:
            pass
        return board.version

    async def stop(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _look(self) -> None:
        """Note that somebody looks."""
        self._looked_at = asyncio.get_running_loop().time()
        if self._task is None or self._task.done():
            self.subject.reach.polling.look_closer(True)
            self._task = asyncio.create_task(self._keep())

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            took_s = 0.0
            while self._watching or loop.time() - self._looked_at < LINGER_S:
                await asyncio.sleep(min(SLOWEST_S, max(TICK_S, took_s * _REST)))
                began = loop.time()
                try:
                    await self._show()
                except Exception as error:  # the next look must come all the same
                    self.faults.count(error, "showing the page")
                took_s = loop.time() - began
        finally:
            self.subject.reach.polling.look_closer(False)

    async def _show(self) -> None:
        if not self._watching:
            return
        self._looked_at = asyncio.get_running_loop().time()
        snapshot = await self.snapshots.take()
        changed = [board.show(snapshot) for key, board in self._boards.items() if key in self._watching]
        if any(changed):
            async with self._changed:
                self._changed.notify_all()
