"""Between a client and an object store: notes every request whole, and answers some of them itself."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import urlsplit


class Fault(NamedTuple):
    """An answer that is given instead of the store's."""

    status: int
    code: str = ""


@dataclass(frozen=True)
class Hold:
    """Requests that wait: all after the first ``after`` ones, before or after the store has got them."""

    after: int
    passed_on: bool
    over: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class Request:
    """What the store received."""

    method: str
    path: str
    headers: str
    body: bytes

    def raw(self) -> bytes:
        return f"{self.method} {self.path}\n{self.headers}\n".encode() + self.body


class Wire:
    """Passes requests on to ``target``.

    Attributes:
        url: where it listens.
        requests: what has been received so far.
        faults: the answers to the next requests whose method is ``faulty``.
        held: set once the request has come that :meth:`hold` is for.
    """

    def __init__(self, target: str) -> None:
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.faulty = ""
        self.held = threading.Event()
        self._hold: Hold | None = None
        self._lock = threading.Lock()
        wire, (host, port) = self, urlsplit(target).netloc.split(":")

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_request(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                fault = wire._note(Request(self.command, self.path, str(self.headers), body))
                if fault:
                    self._answer(fault.status, [], f"<Error><Code>{fault.code}</Code></Error>".encode())
                    return
                wire._wait(passed_on=False)
                store = http.client.HTTPConnection(host, int(port))
                store.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    store.putheader(name, value)
                store.endheaders(body)
                answer = store.getresponse()
                headers, data = answer.getheaders(), answer.read()
                store.close()
                wire._wait(passed_on=True)
                with suppress(ConnectionError):
                    self._answer(answer.status, headers, data)

            do_GET = do_HEAD = do_PUT = do_DELETE = do_POST = handle_request

            def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
                self.send_response_only(status)
                named = {name.lower() for name, _ in headers}
                for name, value in headers:
                    if name.lower() not in ("transfer-encoding", "connection"):
                        self.send_header(name, value)
                if "content-length" not in named:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def _note(self, request: Request) -> Fault | None:
        with self._lock:
            self.requests.append(request)
            return self.faults.pop(0) if self.faults and request.method == self.faulty else None

    def fail(self, method: str, *faults: Fault) -> None:
        """Answer the next requests of that method so, one after the other."""
        self.faulty, self.faults = method, list(faults)

    def hold(self, after: int, *, passed_on: bool) -> None:
        """Let so many more requests through, and hold the next one until :meth:`release`.

        Args:
            after: how many.
            passed_on: whether the store has done by then what is asked of it, and only the answer is held.
        """
        self.held.clear()
        self._hold = Hold(len(self.requests) + after, passed_on)

    def release(self) -> None:
        """Hold nothing more."""
        if (hold := self._hold) is not None:
            self._hold = None
            hold.over.set()

    def _wait(self, *, passed_on: bool) -> None:
        hold = self._hold
        if hold is not None and hold.passed_on == passed_on and len(self.requests) > hold.after:
            self.held.set()
            hold.over.wait()

    def count(self, method: str) -> int:
        return sum(request.method == method for request in self.requests)

    def run(self) -> None:
        self._server.serve_forever(poll_interval=0.05)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def wire_to(target: str) -> Iterator[Wire]:
    wire = Wire(target)
    thread = threading.Thread(target=wire.run)
    thread.start()
    try:
        yield wire
    finally:
        wire.close()
        thread.join()
