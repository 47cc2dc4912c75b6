"""The server of the page, on loopback: who asks is judged first, then the address says what is answered.

Built on the server that answers other nodes, with its bounds on connections, lines and fields. Requests that
show no token get one answer, whatever they ask for.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace

from aiohttp import web

from overlaysync.errors import NetworkError
from overlaysync.net.bounds import SERVER
from overlaysync.net.connections import BoundedServer
from overlaysync.net.faults import Faults
from overlaysync.net.listening import listen
from overlaysync.units import KIB
from overlaysync.web import texts
from overlaysync.web.guard import Verdict, cookie_for, is_arrival, judge
from overlaysync.web.opening import leading_to
from overlaysync.web.render import environment
from overlaysync.web.replies import redirect, reply
from overlaysync.web.secret import Secret
from overlaysync.web.site import Site, fields_of
from overlaysync.web.subject import Subject

LOOPBACK = ("127.0.0.1", "::1")
BOUNDS = replace(
    SERVER,
    connections=96,
    connections_per_address=64,  # whoever comes through one ssh has one address
    line_size=4 * KIB,
    field_size=8 * KIB,  # cookies of every other server on this host come along
    fields=64,
    queue=64,
)


@dataclass(slots=True)
class Page:
    """The page of a share.

    Args:
        subject: what it shows.
        secret: what opens it.
        faults: unexpected exceptions go there.

    Attributes:
        port: where it listens.
        hosts: on which loopback addresses.
        site: what it answers.
    """

    subject: Subject
    secret: Secret
    faults: Faults
    port: int = 0
    hosts: tuple[str, ...] = ()
    _http: BoundedServer | None = None
    site: Site = field(init=False)
    _listeners: list[asyncio.Server] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.site = Site(self.subject, self.secret, self.faults)

    # -- addresses -----------------------------------------------------------------------------------

    @property
    def address(self) -> str:
        """Where it is, without its token."""
        return f"http://{self.host}:{self.port}/"

    @property
    def host(self) -> str:
        host = self.hosts[0]
        return f"[{host}]" if ":" in host else host

    # -- begin and end ---------------------------------------------------------------------------------

    async def start(self, port: int = 0) -> int:
        """Listen on loopback, and return the port.

        Raises:
            NetworkError: the port is taken.
        """
        sockets = _listen(port)
        self._http = BoundedServer(self._handle, BOUNDS)
        loop = asyncio.get_running_loop()
        for sock in sockets:
            self._listeners.append(await loop.create_server(self._http, sock=sock))
        self.port = sockets[0].getsockname()[1]
        self.hosts = tuple(sock.getsockname()[0] for sock in sockets)
        return self.port

    async def stop(self) -> None:
        """Close everything."""
        for listener in self._listeners:
            listener.close()
        await self.site.stop()
        if self._http is not None:
            self._http.pre_shutdown()
            await self._http.shutdown(BOUNDS.stop_s)

    # -- requests ----------------------------------------------------------------------------------------

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        assert self._http is not None
        with self._http.busy(request):
            try:
                response = await self._respond(request)
            except ConnectionError:
                raise
            except Exception as error:
                self.faults.count(error, "answering the page")
                response = reply("", "text/plain", status=500)
            if not response.prepared:
                with suppress(TimeoutError):
                    async with asyncio.timeout(BOUNDS.write_s):
                        await response.prepare(request)
                        await response.write_eof()
        return response

    async def _respond(self, request: web.BaseRequest) -> web.StreamResponse:
        headers = fields_of(request)
        verdict = judge(self.secret, headers)
        path = request.rel_url.raw_path.split("/")[1:]
        shown = request.method == "GET" and path == [""] and self._is_shown(request)
        if verdict is Verdict.FOREIGN:
            if shown and is_arrival(headers):
                where = f"/{self.secret.path}/"
                leading = leading_to(where, icon=f"{where}static/icon.svg")
                return reply(leading, Set_Cookie=cookie_for(self.secret))
            return reply("", "text/plain", status=403)
        if verdict is Verdict.KNOWN and request.method == "GET" and path == ["metrics"]:
            return await self.site.metrics()
        if shown:
            return redirect(f"/{self.secret.path}/", Set_Cookie=cookie_for(self.secret))
        if verdict is not Verdict.KNOWN or path[:1] != [self.secret.path]:
            return self._unknown(headers)
        if request.method == "GET":
            return await self.site.get(request, path[1:], headers)
        if request.method == "POST":
            return await self.site.post(request, path[1:], headers)
        return reply("", "text/plain", status=405, Allow="GET, POST")

    def _is_shown(self, request: web.BaseRequest) -> bool:
        """Whether the address of a request has the token."""
        return self.secret.is_token(request.rel_url.query.get("token", ""))

    def _unknown(self, headers: Mapping[str, list[str]]) -> web.Response:
        words = texts.ALL[texts.chosen(", ".join(headers.get("accept-language", [])))]
        text = environment().get_template("unknown.html").render(w=words)
        return reply(text, status=403)


def _listen(port: int) -> list[socket.socket]:
    """Listen on loopback: where there is only IPv6 as well.

    Raises:
        NetworkError: the port is taken.
    """
    try:
        return listen(LOOPBACK, port, BOUNDS.queue, all_needed=False)
    except NetworkError as error:
        with suppress(NetworkError):
            if not port:
                return listen(LOOPBACK[1:], port, BOUNDS.queue, all_needed=True)
        raise NetworkError(
            f"Cannot serve the page on port {port}" if port else "Cannot serve the page",
            why=error.why,
            hint="choose another --page-port, or: --no-page",
        ) from None
