"""Speak with a QEMU through its QMP monitor; the package that does so is optional, and imported here only.

Source: QEMU docs/interop/qmp-spec.rst.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from overlaysync.errors import InUseError, NotFoundError, OverlaysyncError
from overlaysync.installed import adding
from overlaysync.live.sockets import connect_unix, peer_of
from overlaysync.model.names import printable

if TYPE_CHECKING:
    from qemu.qmp import QMPClient

_CONNECT_S = 2.0
_ANSWER_S = 30.0
"""An answer takes this long at most: QEMU finishes what its guest writes before a transaction."""
_SAID = 200
"""Characters of what it says that are repeated."""
_SILENT = 100
"""Above every level of the package's log: what it says there we say ourselves."""


class RefusedError(Exception):
    """QEMU did not do what it was asked to; the text is its own."""


class GoneError(Exception):
    """QEMU has ended, or answers no more."""


class Monitor(Protocol):
    """A way to a running QEMU."""

    async def ask(
        self, command: str, arguments: Mapping[str, Any] | None = None, *, file: int | None = None
    ) -> Any:
        """Run a command and return its answer.

        Args:
            command: of QMP.
            arguments: its arguments.
            file: a descriptor that goes with it.

        Raises:
            RefusedError: QEMU says no.
            GoneError: it does not answer.
        """
        ...

    async def close(self) -> None:
        """Leave; QEMU runs on."""
        ...


class QmpMonitor:
    """A monitor behind a Unix socket, which it has to itself until it is closed."""

    def __init__(self, client: QMPClient, peer: int) -> None:
        self._client = client
        self.peer = peer
        """Id of the process that made the socket; 0 if it cannot be seen."""

    @classmethod
    async def connect(cls, path: str) -> QmpMonitor:
        """Connect to the monitor at ``path``.

        Raises:
            NotFoundError: nothing listens there, or the package is missing.
            InUseError: another program holds the monitor.
            OverlaysyncError: what listens there is no monitor.
        """
        try:
            from qemu.qmp import QMPClient, QMPError
        except ImportError:
            raise NotFoundError(
                "Cannot save a running VM",
                why="the package qemu.qmp is not installed",
                hint=f"shut the VM down first; or install it: {adding('live')}",
            ) from None
        client = QMPClient("overlaysync")
        client.logger.setLevel(_SILENT)
        client.events.event_filter = lambda _: False  # it would keep them all, and nobody looks at them
        connection = _connected(path)
        try:
            await asyncio.wait_for(client.connect(connection), _CONNECT_S)
        except TimeoutError:
            connection.close()
            raise InUseError(
                f"Another program holds the monitor {path}",
                why="a monitor serves one program at a time, and this one sent no greeting",
                hint="end that program, or give QEMU a second monitor: -qmp unix:PATH,server=on,wait=off",
            ) from None
        except (QMPError, OSError, EOFError) as error:
            connection.close()
            raise OverlaysyncError(
                f"Cannot use the monitor {path}",
                why=printable(str(error), _SAID),
                hint="name the socket of a QMP monitor with --qmp SOCKET",
            ) from None
        return cls(client, peer_of(connection))

    async def ask(
        self, command: str, arguments: Mapping[str, Any] | None = None, *, file: int | None = None
    ) -> Any:
        """Run a command; see :class:`Monitor`."""
        from qemu.qmp import ExecuteError, QMPError

        try:
            if file is not None:
                self._client.send_fd_scm(file)
            return await asyncio.wait_for(self._client.execute(command, dict(arguments or {})), _ANSWER_S)
        except ExecuteError as error:
            raise RefusedError(printable(str(error), _SAID)) from None
        except TimeoutError:
            raise GoneError(f"it did not answer for {_ANSWER_S:.0f} s") from None
        except (QMPError, OSError, EOFError):
            raise GoneError("the connection to its monitor has ended") from None

    async def close(self) -> None:
        """Leave; see :class:`Monitor`."""
        with suppress(Exception):  # whatever the connection has come to
            await asyncio.wait_for(self._client.disconnect(), _CONNECT_S)


def _connected(path: str) -> socket.socket:
    """Return a connection to a Unix socket.

    Raises:
        NotFoundError: nothing listens there.
    """
    try:
        connection = connect_unix(path, _CONNECT_S)
    except OSError as error:
        raise NotFoundError(
            f"Cannot reach the monitor {path}",
            why=os.strerror(error.errno) if error.errno else str(error),
            hint="name the socket of a QMP monitor of that VM with --qmp SOCKET",
        ) from None
    connection.setblocking(False)
    return connection
