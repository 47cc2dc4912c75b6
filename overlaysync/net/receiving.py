"""Bodies straight into the caller's buffer: a small, strict HTTP/1.1 client.

Others make a bytes object of everything they receive and hand it through a queue; here the kernel copies to
the place where the data are hashed. What it understands is what our server sends: a status, fields,
Content-Length and that many bytes, which are a zstd frame where that was asked for (the caller unpacks it).
The rest of HTTP (chunks, other encodings, interim answers) is an error, and seen with the first packet: a
client that speaks all of it works through interim answers and trailers for as long as a peer sends them.
"""

from __future__ import annotations

import asyncio
import fcntl
import re
import socket
import sys
import termios
from dataclasses import dataclass
from enum import Enum, auto

from overlaysync.errors import PeerError
from overlaysync.net.bounds import MAX_ETAG, RECORDS_SIZE, ClientBounds
from overlaysync.net.rate import RateLimit
from overlaysync.net.records import RecordSocket, TooManyRecordsError
from overlaysync.swarm.link import Link
from overlaysync.units import KIB

_STATUS = re.compile(rb"HTTP/1\.1 (\d{3})(?: [^\x00-\x08\x0a-\x1f\x7f]*)?")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*?)[ \t]*")
NOT_MODIFIED = 304
_END = b"\r\n\r\n"
_WAKE_SIZE = 64 * KIB


class ConnectionLostError(PeerError):
    """The connection ended before an answer began, which is how a server closes an idle one."""


class SilentError(PeerError):
    """The peer does not answer, or sends no more, in time: it may come back."""


@dataclass(frozen=True, slots=True)
class Head:
    """The status line and fields of an answer.

    Attributes:
        status: the status.
        length: bytes of the body.
        retry_after: seconds, 0 when the peer does not say.
        close: whether the connection ends after the body.
        compressed: whether the body is a zstd frame.
        etag: its beginning; "" when the peer gives none.
        taken: the field that says which pieces others have been handed; "" when there is none.
    """

    status: int
    length: int
    retry_after: int
    close: bool
    compressed: bool = False
    etag: str = ""
    taken: str = ""


def parse_head(data: bytes) -> Head:
    """Return the head in ``data``, which is everything before the empty line.

    Raises:
        PeerError: it is not what our server sends.
    """
    first, *lines = data.split(b"\r\n")
    status = _STATUS.fullmatch(first)
    if status is None:
        raise PeerError("The peer does not speak HTTP/1.1")
    fields: dict[bytes, bytes] = {}
    for line in lines:
        field = _FIELD.fullmatch(line)
        if field is None or field[1].lower() in fields:
            raise PeerError("The peer sends a damaged or repeated header field")
        fields[field[1].lower()] = field[2]
    # An answer without a body says how long that would be, or nothing.
    length = fields.get(b"content-length", b"") if int(status[1]) != NOT_MODIFIED else b"0"
    encoding = fields.get(b"content-encoding")
    if b"transfer-encoding" in fields or encoding not in (None, b"zstd") or not _is_number(length, 18):
        raise PeerError("The peer sends a body of unknown length or form")
    retry_after = fields.get(b"retry-after", b"")
    return Head(
        int(status[1]),
        int(length),
        int(retry_after) if _is_number(retry_after, 6) else 0,
        fields.get(b"connection", b"").lower() == b"close",
        encoding is not None,
        fields.get(b"etag", b"")[:MAX_ETAG].decode("ascii", "ignore"),
        fields.get(b"taken", b"").decode("ascii", "ignore"),
    )


def _is_number(text: bytes, digits: int) -> bool:
    return text.isdigit() and len(text) <= digits


class _State(Enum):
    IDLE = auto()
    HEAD = auto()
    BODY = auto()
    DEAD = auto()


class DataConnection(asyncio.BufferedProtocol):
    """One connection, one request at a time.

    Args:
        bounds: how long the peer may be silent, and its least rate.
        limit: the rate of all that is received.
        link: is told what is received.
        sock: what counts the TLS records of the connection, if it is to be one.

    Attributes:
        transport: the connection; None before it is there.
    """

    def __init__(
        self, bounds: ClientBounds, limit: RateLimit, link: Link, sock: RecordSocket | None = None
    ) -> None:
        self._bounds = bounds
        self._limit = limit
        self._link = link
        self._loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport | None = None
        self._sock = sock
        self._useful = 0  # bytes since more records were allowed
        self._state = _State.IDLE
        self._head_buffer = memoryview(bytearray(bounds.head_size))
        self._body = memoryview(b"")
        self._compress = False
        self._at_most = False
        self._filled = 0
        self._least = 1  # SO_RCVLOWAT
        self._request = b""
        self._head: Head | None = None
        self._answer: asyncio.Future[Head] | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._watched = 0  # bytes since the watchdog last looked
        self._left = 0.0  # seconds until it looks again, while reading is paused
        self._resume: asyncio.TimerHandle | None = None
        self._idle_since = 0.0

    @property
    def usable(self) -> bool:
        """Whether another request may be sent."""
        return self._state is _State.IDLE and self.transport is not None and not self.transport.is_closing()

    @property
    def idle_for(self) -> float:
        """Seconds since the last answer ended."""
        return self._loop.time() - self._idle_since

    def begin(
        self, request: bytes, body: memoryview, *, compress: bool = False, at_most: bool = False
    ) -> asyncio.Future[Head]:
        """Send ``request``, now or when connected.

        Args:
            request: the whole request.
            body: where the body of a 200 goes; it has this length, or is compressed and not longer.
            compress: whether the request asks for a compressed body.
            at_most: whether the body may be shorter as it is.

        Returns:
            the head, once the body is there or the status is not 200; PeerError when neither happens.
        """
        self._request, self._body = request, body
        self._compress, self._at_most = compress, at_most
        self._state, self._filled, self._head = _State.HEAD, 0, None
        self._answer = self._loop.create_future()
        if self.transport is not None:
            self._send()
        return self._answer

    @property
    def waiting_size(self) -> int:
        """Bytes of image data that have come, and wait in the kernel for more."""
        return self._unread() if self._state is _State.BODY and not self._at_most else 0

    def abort(self) -> None:
        """Close at once: a request under way is cancelled, and its buffer not touched again."""
        if self._answer is not None:
            self._answer.cancel()
        self._end(ConnectionLostError("The connection was closed"))

    # -- called by the event loop --------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        if self._state is _State.HEAD:
            self._send()

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._state is _State.BODY:
            if self._limit.rate is None:
                return self._body[self._filled :]
            return self._body[self._filled : self._filled + self._limit.step]
        return self._head_buffer[self._filled if self._state is _State.HEAD else 0 :]

    def buffer_updated(self, nbytes: int) -> None:
        self._watched += nbytes
        self._useful += nbytes
        if self._useful >= RECORDS_SIZE:
            self._allow_records()
        if self._state is _State.BODY:
            self._filled += nbytes
            self._link.received(nbytes, self._loop.time(), data=not self._at_most)
            self._slow_down(nbytes)
            self._wait_for_more()
            self._check_body()
        elif self._state is _State.HEAD:
            self._filled += nbytes
            self._check_head()
        else:
            self._end(PeerError("The peer sends what was not asked for"))

    def connection_lost(self, exc: Exception | None) -> None:
        if isinstance(exc, TooManyRecordsError):
            self._end(PeerError("The connection was closed", why=str(exc)))
            return
        early = self._state is _State.HEAD and not self._filled
        self._end(
            ConnectionLostError("The connection was lost") if early else PeerError("The body ended early")
        )

    # -- inside --------------------------------------------------------------------------------------

    def _send(self) -> None:
        assert self.transport is not None
        self.transport.write(self._request)
        self._allow_records()
        self._start_watch()

    def _allow_records(self) -> None:
        self._useful = 0
        if self._sock is not None:
            self._sock.renew()

    def _check_head(self) -> None:
        data = bytes(self._head_buffer[: self._filled])
        end = data.find(_END)
        if end < 0:
            if self._filled == len(self._head_buffer):
                self._end(PeerError("The peer's answer begins with too many header fields"))
            return
        rest = data[end + len(_END) :]
        try:
            self._head = head = parse_head(data[:end])
        except PeerError as error:
            self._end(error)
            return
        if head.compressed and not (head.status == 200 and self._compress and head.length > 0):
            self._end(PeerError("The peer sends a compressed body that was not asked for"))
        elif head.status != 200:
            self._finish(reusable=head.length == 0 and not rest)
        elif head.length > len(self._body) or not (
            head.length == len(self._body) or head.compressed or self._at_most
        ):
            self._end(PeerError(f"The peer offers {head.length} bytes instead of {len(self._body)}"))
        elif len(rest) > head.length:
            self._end(PeerError("The peer sends more than was asked for"))
        else:
            self._body = self._body[: head.length]
            self._body[: len(rest)] = rest
            self._state, self._filled = _State.BODY, len(rest)
            self._link.began(self._loop.time())
            self._link.received(len(rest), self._loop.time(), data=not self._at_most)
            self._start_watch()
            self._wait_for_more()
            self._slow_down(len(rest))
            self._check_body()

    def _wait_for_more(self) -> None:
        """Be woken for a good deal of the body, not for every packet: many slow sources send many.

        Not over TLS: the kernel counts records there, and what is asked for may never come as so many bytes.
        """
        if self._sock is not None:
            return
        least = max(1, min(_WAKE_SIZE, len(self._body) - self._filled)) if self._limit.rate is None else 1
        if least != self._least and self.transport is not None:
            self._least = least
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, least)

    def _check_body(self) -> None:
        if self._filled == len(self._body):
            self._finish(reusable=True)

    def _finish(self, *, reusable: bool) -> None:
        """Finish: the answer is complete."""
        assert self._head is not None
        answer, head = self._answer, self._head
        self._leave_body()
        self._answer, self._body, self._state = None, memoryview(b""), _State.IDLE
        self._idle_since = self._loop.time()
        if answer is not None and not answer.done():
            answer.set_result(head)
        if head.close or not reusable:
            self._end(PeerError("The connection was closed"))

    def _end(self, error: PeerError) -> None:
        answer = self._answer
        self._leave_body()
        if self._resume is not None:
            self._resume.cancel()
            self._resume = None
        self._answer, self._body, self._state = None, memoryview(b""), _State.DEAD
        if self.transport is not None:
            self.transport.abort()
        if answer is not None and not answer.done():
            answer.set_exception(error)

    def _leave_body(self) -> None:
        """Nothing more is awaited."""
        if self._state is _State.BODY:
            self._link.ended(self._loop.time())
        self._stop_watch()

    # -- pace ----------------------------------------------------------------------------------------

    def _start_watch(self) -> None:
        self._stop_watch()
        self._watched = 0
        self._left = self._bounds.read_s / (2 if self._state is _State.BODY else 1)
        if self._resume is None:
            self._watch = self._loop.call_later(self._left, self._look)

    def _stop_watch(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def _look(self) -> None:
        """Demand the head within ``read_s``, and thereafter the least rate in each half of it."""
        enough = self._bounds.min_rate * self._bounds.read_s / 2
        unread = self._unread()
        if self._state is _State.BODY and self._watched + unread >= enough:
            self._start_watch()
            self._watched = -unread  # it has been counted
        else:
            self._end(SilentError("The peer stalls"))

    def _unread(self) -> int:
        """Bytes that have come, and wait in the kernel for more: see :meth:`_wait_for_more`."""
        if self._sock is not None or self.transport is None:
            return 0
        sock = self.transport.get_extra_info("socket")
        return int.from_bytes(fcntl.ioctl(sock.fileno(), termios.FIONREAD, bytes(4)), sys.byteorder)

    def _slow_down(self, count: int) -> None:
        """Pause for the rate limit. The watch stands still meanwhile: the pause is ours, not the peer's."""
        delay = self._limit.reserve(count)
        if delay > 0 and self.transport is not None:
            self.transport.pause_reading()
            if self._watch is not None:
                self._left = self._watch.when() - self._loop.time()
            self._stop_watch()
            self._resume = self._loop.call_later(delay, self._go_on)

    def _go_on(self) -> None:
        assert self.transport is not None
        self._resume = None
        self.transport.resume_reading()
        if self._state in (_State.HEAD, _State.BODY):  # else the pause came with the end of a body
            self._watch = self._loop.call_later(self._left, self._look)
