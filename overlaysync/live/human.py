"""A QEMU that has only a monitor for people: it can be stopped and continued.

Runs in a process of its own, see :mod:`overlaysync.live.watch`. QEMU finishes and flushes what its guest has
written before it says that it has stopped. Source: QEMU docs/system/monitor.rst.
"""

from __future__ import annotations

import re
import socket
import time
from contextlib import suppress

from overlaysync.live.sockets import connect_unix, receive

_ANSWER_S = 10.0
_CONTINUE_S = 60.0
_PROMPT = b"(qemu) "
_LIMIT = 1 << 20
_STATUS = re.compile(rb"VM status: ([a-z ]+)")


class HumanError(Exception):
    """The monitor does not answer."""


class HumanMonitor:
    """The monitor behind a socket, which has one client at a time."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._until_prompt()

    @classmethod
    def at_socket(cls, path: str, owner: int) -> HumanMonitor:
        """Connect to a Unix socket that this process has made.

        Raises:
            OSError, HumanError: there is no monitor.
        """
        return cls(connect_unix(path, _ANSWER_S, owner))

    @classmethod
    def at_port(cls, host: str, port: int) -> HumanMonitor:
        """Connect to a port.

        Raises:
            OSError, HumanError: there is no monitor.
        """
        return cls(socket.create_connection((host, port), _ANSWER_S))

    def ask(self, line: str) -> bytes:
        """Return what a command prints, together with the command itself.

        Raises:
            HumanError: the monitor does not answer.
        """
        try:
            self._socket.sendall(line.encode() + b"\n")
        except OSError as error:
            raise HumanError(str(error)) from None
        return self._until_prompt()

    def _until_prompt(self) -> bytes:
        received = b""
        deadline = time.monotonic() + _ANSWER_S
        while not received.endswith(_PROMPT):
            try:
                data = receive(self._socket, deadline)
            except OSError as error:
                raise HumanError(str(error)) from None
            received += data
            if not data or len(received) > _LIMIT:
                raise HumanError("the monitor has ended")
        return received


class Pause:
    """A VM that is stopped for a while; see :class:`overlaysync.live.watch.Hold`."""

    held_s = 10.0

    def __init__(self, monitor: HumanMonitor) -> None:
        self._monitor = monitor
        self._ran = False

    def prepare(self) -> bool:
        """Return whether the monitor answers."""
        try:
            return self._status() != b""
        except HumanError:
            return False

    def begin(self) -> bool:
        """Stop the VM, unless it is stopped."""
        try:
            self._ran = self._status() == b"running"
            if self._ran:
                self._monitor.ask("stop")
            return self._status() != b"running"
        except HumanError:
            return False

    def end(self) -> None:
        """Let the VM go on, if it ran before."""
        deadline = time.monotonic() + _CONTINUE_S
        while self._ran and time.monotonic() < deadline:
            with suppress(HumanError):
                self._monitor.ask("cont")
                if self._status() == b"running":
                    return
            time.sleep(0.2)

    def _status(self) -> bytes:
        found = _STATUS.search(self._monitor.ask("info status"))
        return found[1].strip() if found else b""
