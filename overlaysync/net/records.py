"""Sockets that let only so many TLS records through to OpenSSL.

OpenSSL works through all that was received before it comes back, and what is in it need not be of any use:
a record of 27 bytes can demand new keys, and an answer that says so. Python does not tell how many of these
there are, nor can it refuse them. But each is a record of its own, and records can be counted before they are
decrypted. What a client asks for fits into one, and what a server answers fills them, so few are allowed, and
as many again whenever something useful has come.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from overlaysync.units import KIB

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_HEADER = 5  # type, version, and the length of what follows
_READ = 256 * KIB
"""Received at once at most, so that what is useful in it is seen before much more has come."""


class TooManyRecordsError(ConnectionError):
    """The other side sends records, and little or nothing in them."""

    def __init__(self) -> None:
        super().__init__("it sends too many TLS records for what is in them")


class RecordSocket(socket.socket):
    """A TCP socket for one TLS connection.

    Args:
        family, kind, proto, fileno: as for a socket.
        records: how many records may come until :meth:`renew` is called.
    """

    def __init__(
        self,
        family: int = -1,
        kind: int = -1,
        proto: int = -1,
        fileno: int | None = None,
        *,
        records: int = 0,
    ) -> None:
        super().__init__(family, kind, proto, fileno)
        self.setblocking(False)
        self._records = self._allowed = records
        self._header = b""
        self._left = 0  # bytes of the record that is being received

    def renew(self) -> None:
        """Something useful has come: as many records may follow."""
        self._allowed = self._records

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        """Receive, as of any socket.

        Raises:
            TooManyRecordsError: as in :meth:`recv_into`.
        """
        data = super().recv(min(bufsize, _READ), flags)
        self._count(memoryview(data))
        return data

    def recv_into(self, buffer: WriteableBuffer, nbytes: int = 0, flags: int = 0) -> int:
        """Receive, as into any socket.

        Raises:
            TooManyRecordsError: too many records have come. None of what was received may be used.
        """
        with memoryview(buffer).cast("B") as view:
            count = super().recv_into(view, min(nbytes or len(view), _READ), flags)
            self._count(view[:count])
        return count

    def _count(self, data: memoryview) -> None:
        at = 0
        while at < len(data):
            if self._left:
                step = min(self._left, len(data) - at)
                self._left -= step
            else:
                step = min(_HEADER - len(self._header), len(data) - at)
                self._header += data[at : at + step]
                if len(self._header) == _HEADER:
                    self._left = int.from_bytes(self._header[3:], "big")
                    self._header = b""
                    self._allowed -= 1
                    if self._allowed < 0:
                        raise TooManyRecordsError
            at += step
