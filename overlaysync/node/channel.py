"""Conversations with a QEMU of our own, over sockets that it inherits: its monitor, a serial port.

The monitor is QMP: JSON objects, a line each. Left out: monitors of VMs that others have started.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections import deque
from contextlib import suppress
from typing import Any

from overlaysync.errors import PeerError

_LINE = 4 << 20
"""Bytes of an answer of the monitor."""
_KEPT = 64 * 1024
"""Bytes of a serial port that are kept: the last ones."""
_CONSOLE_LINES, _CONSOLE_WIDTH = 20, 120
_CONTROL = re.compile(r"\x1b\[[0-9;?=]*[A-Za-z]|\x1b[()][A-Z0-9]|\x1b[c=>78]|[^\n\x20-\U0010ffff]|\x7f")


class ChannelError(PeerError):
    """QEMU has closed a channel, or refused a command."""


class Monitor:
    """QEMU's monitor.

    Attributes:
        events: names of what it has reported and nobody has looked at.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.events: deque[str] = deque(maxlen=1000)
        self._reader = reader
        self._writer = writer
        self._asked = 0
        self._turn = asyncio.Lock()

    @classmethod
    async def open(cls, end: socket.socket) -> Monitor:
        """Greet QEMU.

        Raises:
            ChannelError: it has ended.
        """
        monitor = cls(*await asyncio.open_connection(sock=end, limit=_LINE))
        try:
            await monitor._line()
            await monitor.ask("qmp_capabilities")
        except BaseException:
            monitor.close()
            raise
        return monitor

    async def ask(self, command: str, **arguments: object) -> Any:
        """Give a command, and return the answer.

        Raises:
            ChannelError: it has ended, or refuses.
        """
        async with self._turn:
            self._asked += 1  # the answer to an abandoned question must not be taken for that to the next
            question: dict[str, object] = {"execute": command, "id": self._asked}
            if arguments:
                question["arguments"] = arguments
            try:
                self._writer.write(json.dumps(question).encode() + b"\n")
                await self._writer.drain()
            except OSError as error:
                raise ChannelError(f"QEMU has ended: {error}") from None
            while True:
                answer = await self._line()
                if "event" in answer:
                    self.events.append(str(answer["event"]))
                elif answer.get("id") != self._asked:
                    continue
                elif "error" in answer:
                    raise ChannelError(f"QEMU refuses {command}: {answer['error'].get('desc', '')}")
                elif "return" in answer:
                    return answer["return"]

    async def tell(self, command_line: str) -> str:
        """Give a command of the monitor for people, and return what it prints."""
        return str(await self.ask("human-monitor-command", **{"command-line": command_line}))

    def close(self) -> None:
        """End the conversation."""
        self._writer.close()

    async def _line(self) -> dict[str, Any]:
        try:
            line = await self._reader.readline()
            answer = json.loads(line)
        except (OSError, ValueError):
            raise ChannelError("QEMU has ended") from None
        if not isinstance(answer, dict):
            raise ChannelError("QEMU sent something that is not an answer")
        return answer


class Console:
    """What a guest prints on its serial port: read all the time, so that it never waits, and bounded."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._kept = bytearray()
        self._task = asyncio.create_task(self._read())
        self.changed = asyncio.Event()

    @classmethod
    async def open(cls, end: socket.socket) -> Console:
        """Begin to read."""
        return cls(*await asyncio.open_connection(sock=end))

    @property
    def text(self) -> str:
        """The last of what it has printed, without what a terminal would obey."""
        return _CONTROL.sub("", bytes(self._kept).decode(errors="replace"))

    @property
    def lines(self) -> tuple[str, ...]:
        """The last lines."""
        lines = [line.rstrip()[:_CONSOLE_WIDTH] for line in self.text.split("\n")]
        return tuple(line for line in lines if line)[-_CONSOLE_LINES:]

    async def close(self) -> None:
        """Read no more."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._writer.close()

    async def _read(self) -> None:
        with suppress(OSError):
            while data := await self._reader.read(4096):
                self._kept += data
                del self._kept[:-_KEPT]
                self.changed.set()
