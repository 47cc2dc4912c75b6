"""The HTTP server: what a node serves to anybody who asks, and over TLS to the members of its teams.

GET only, for a HEAD costs what its body would; no request has a body, and none from a web page is answered.
Leaves out who may see what: a :class:`~.content_provider.View` shows only what may be served.
"No" and "absent" are one answer, byte for byte. Paths (docs/protocol.md):

    /v1/catalog                             what is served, with an ETag
    /v1/peers                               other nodes this one knows
    /v1/manifests/ID                        a signed manifest
    /v1/manifests/ID/pages                  its page list
    /v1/manifests/ID/pages/DIGEST           one of its pages
    /v1/manifests/ID/companions/DIGEST      a small file that its VM needs beside it
    /v1/manifests/ID/data?slots=0-63,80-95  the bytes of these slots, in order; also with a claim to them
    /v1/manifests/ID/swarm?held=7&since=3   what it has of it, and who else fetches it
    /v1/vault…                              objects of a vault: see :mod:`.vault_wire`

On the private lane there is nothing but these, until membership of a team has been proven:

    /v1/nonce                               what the proof is bound to
    /v1/proof?nonce=…&proof=…               the client's proof, answered by the server's
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from random import Random
from typing import TypeVar
from weakref import WeakKeyDictionary

from aiohttp import web

from overlaysync.errors import DecodeError, NetworkError, NotFoundError
from overlaysync.model.addresses import is_told_port, told_to
from overlaysync.model.digest import DIGEST_SIZE
from overlaysync.model.names import one_field
from overlaysync.net.answers import Answer, abort, asker_of, takes_zstd
from overlaysync.net.bodies import Bodies, Uploads
from overlaysync.net.boot import boot_hash
from overlaysync.net.bounds import MAX_TAKEN, SERVER, ServerBounds
from overlaysync.net.compression import ENCODING, compress
from overlaysync.net.connections import BoundedServer, fitting, raise_descriptor_limit
from overlaysync.net.content_provider import ContentProvider, View
from overlaysync.net.faults import Faults
from overlaysync.net.listening import listen
from overlaysync.net.membership import Membership, PrivateLane
from overlaysync.net.messages import (
    DEFAULT_PORT,
    Address,
    CatalogMessage,
    encode_catalog,
    encode_history,
    encode_peers,
    is_host_field,
)
from overlaysync.net.swarm_messages import NO_NEWS, OfSeed, decode_question, encode_swarm
from overlaysync.net.tls import TlsListener, is_private
from overlaysync.net.vault_wire import VaultProvider
from overlaysync.ops.offer import Offer
from overlaysync.swarm.members import Member, some_of
from overlaysync.trust.keys import NodeKey
from overlaysync.units import KIB

_JSON = "application/json"
_BROWSER = ("Origin", "Sec-Fetch-Site")
"""Fields that a browser adds to what a web page asks for, and that a page cannot take away."""
_BINARY = "application/octet-stream"
_ACCEPTED_AT_ONCE = 8
_READERS = 4  # threads that read images
_LEAST_SHARE = 64 * KIB  # bytes per second a body should get under a rate limit, else there are fewer
_UNSENT = 64 * KIB  # of a body over TLS, so that a client that takes nothing is soon noticed
_T = TypeVar("_T")


class Server:
    """Serves the contents of a provider.

    Args:
        provider: what to serve.
        uploads: how image data is given.
        lane: what the private lane needs; None for no private lane.
        bounds: limits.
        faults: unexpected exceptions go there.
        vault: what is served of a vault; None for nothing.

    Attributes:
        port: where it listens.
        tls: where it listens for members of its teams; 0 when it does not.
        bodies: answers requests for image data.
    """

    def __init__(
        self,
        provider: ContentProvider,
        *,
        uploads: Uploads | None = None,
        lane: PrivateLane | None = None,
        bounds: ServerBounds = SERVER,
        faults: Faults | None = None,
        vault: VaultProvider | None = None,
    ) -> None:
        self._provider = provider
        self._vault = vault
        self._faults = faults or Faults()
        self._lane = lane
        self._members: WeakKeyDictionary[asyncio.BaseTransport, Membership] = WeakKeyDictionary()
        self._bounds = bounds
        self._random = Random()
        self._catalogs: dict[frozenset[str], tuple[str, bytes]] = {}
        self._threads = ThreadPoolExecutor(_READERS, thread_name_prefix="serve")
        self.bodies = Bodies(
            lambda: provider.swarms,
            self._threads,
            uploads=uploads or Uploads(),
            bounds=bounds,
        )
        self._http: BoundedServer | None = None
        self._listeners: list[asyncio.Server] = []
        self._tls: TlsListener | None = None
        self._boot = boot_hash()
        self.port = 0
        self.tls = 0

    async def start(self, addresses: Sequence[str] = (), port: int | None = 0) -> int:
        """Listen, and return the port.

        Args:
            addresses: IP addresses; none for all that there are and will be.
            port: the port, the same on all; 0 for a free one, None for the default, or a free one when that
                is taken: several nodes on one host are normal.

        Raises:
            NetworkError: an address or the port cannot be had.
        """
        self._bounds = fitting(self._bounds, raise_descriptor_limit())
        self._http = BoundedServer(self._handle, self._bounds)
        sockets = self._listen_at_default(addresses) if port is None else self._listen(addresses, port)
        loop = asyncio.get_running_loop()
        self._faults.watch(loop)
        for sock in sockets:
            # asyncio tries to accept as often as the queue is long, and complains each time of having no
            # descriptors left: it is told of a short queue, and the kernel of the long one.
            self._listeners.append(await loop.create_server(self._http, sock=sock, backlog=_ACCEPTED_AT_ONCE))
            sock.listen(self._bounds.queue)
        self.port = sockets[0].getsockname()[1]
        if self._lane is not None:
            self._start_tls(self._http, self._lane.key, addresses, 0 if port == 0 else self.port + 1)
        return self.port

    def _start_tls(self, http: BoundedServer, key: NodeKey, addresses: Sequence[str], port: int) -> None:
        """Listen for members: at the port after the public one unless any will do, for firewalls."""
        try:
            sockets = self._listen(addresses, port)
        except (NetworkError, OverflowError):
            sockets = self._listen(addresses, 0)
        self._tls = TlsListener(http, key, self._bounds, self._faults)
        self._tls.start(sockets)
        self.tls = sockets[0].getsockname()[1]

    def _listen_at_default(self, addresses: Sequence[str]) -> list[socket.socket]:
        """Listen at the default port, or at a free one: whether it is taken, only trying can tell."""
        try:
            return self._listen(addresses, DEFAULT_PORT)
        except NetworkError:
            return self._listen(addresses, 0)

    def _listen(self, addresses: Sequence[str], port: int) -> list[socket.socket]:
        every = addresses or ("0.0.0.0", "::")
        return listen(every, port, self._bounds.queue, all_needed=bool(addresses))

    async def stop(self) -> None:
        """Stop listening, let what is under way end for a moment, then close everything."""
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        if self._tls is not None:
            await self._tls.stop()
        if self._http is not None:
            self._http.pre_shutdown()
            await self._http.shutdown(self._bounds.stop_s)
        self._threads.shutdown(wait=False, cancel_futures=True)
        self.bodies.close()

    # -- requests ------------------------------------------------------------------------------------

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        assert self._http is not None
        if self._tls is not None:
            self._tls.renew(request.protocol)
        with self._http.busy(request):
            try:
                response = await self._respond(request)
                await self._finish(request, response)
            except Answer as answer:
                response = web.Response(status=answer.status, headers=answer.fields)
                if answer.status == 413:
                    response.force_close()
                await self._finish(request, response)
        return response

    async def _respond(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await self._route(request)
        except (Answer, ConnectionError):
            raise
        except DecodeError:
            raise Answer(400) from None
        except NotFoundError:
            raise Answer(410) from None
        except Exception as error:
            self._faults.count(error, "answering a request")
            raise Answer(500) from None

    async def _finish(self, request: web.BaseRequest, response: web.StreamResponse) -> None:
        """Send a small response whole, within a time that its size allows."""
        if response.prepared and not isinstance(response, web.Response):
            return
        response.headers["Server"] = "overlaysync"
        response.headers["X-Content-Type-Options"] = "nosniff"
        size = response.content_length or 0
        try:
            async with asyncio.timeout(self._bounds.write_s + size / self._bounds.min_rate):
                await response.prepare(request)
                await response.write_eof()
        except TimeoutError:
            abort(request)

    async def _route(self, request: web.BaseRequest) -> web.StreamResponse:
        _check_asked_by_a_node(request)
        path = request.rel_url.raw_path.split("/")[1:]
        view = self._view(request, path)
        if isinstance(view, web.Response):
            return view
        match path:
            case ["v1", "catalog"]:
                return self._get_catalog(request, view)
            case ["v1", "peers"]:
                return self._get_peers(asker_of(request))
            case ["v1", "vault", *rest] if self._vault is not None:
                return await self.bodies.get_vault(request, self._vault, rest)
            case ["v1", "manifests", manifest_id, "history"]:
                past = view.past(_digest(manifest_id))
                if past is not None:
                    return web.Response(body=encode_history(past), content_type=_JSON)
            case ["v1", "manifests", manifest_id, *rest]:
                offer = view.offer(_digest(manifest_id))
                if offer is not None:
                    return await self._get_manifest(request, offer, rest)
        raise Answer(404)

    def _get_peers(self, asker: str) -> web.Response:
        places = ((told_to(address.host, asker), address.port) for address in self._provider.peers())
        told = (str(Address(host, port)) for host, port in places if host)
        return web.Response(body=encode_peers(told), content_type=_JSON)

    def _view(self, request: web.BaseRequest, path: list[str]) -> View | web.Response:
        """Return what this client may see; or the answer, when it is about to prove that it may see more."""
        transport = request.transport
        if transport is None or not is_private(transport):
            return View(self._provider)
        member = self._members.setdefault(transport, Membership())
        body: bytes | None = None
        match path:
            case ["v1", "nonce"]:
                body = member.challenge()
            case ["v1", "proof"]:
                query = request.rel_url.raw_query_string
                if self._lane is not None and self._tls is not None and self._tls.shown is not None:
                    body = member.answer(query, self._tls.shown, self._lane.teams.values())
            case _ if member.teams:
                return View(self._provider, member.teams)
        if body is None:
            raise Answer(404)
        return web.Response(body=body, content_type=_BINARY)

    def _get_catalog(self, request: web.BaseRequest, view: View) -> web.Response:
        revision = view.revision
        etag = f'"{revision}"'
        if request.headers.get("If-None-Match") == etag:
            return web.Response(status=304, headers={"ETag": etag})
        known, body = self._catalogs.get(view.teams, ("", b""))
        if known != revision:
            body = encode_catalog(
                CatalogMessage(
                    self._provider.public_key,
                    self._provider.label,
                    tuple(offer.manifest.envelope for offer in view.offers()),
                    tls=self.tls,
                    boot=self._boot,
                    in_use=tuple((used.manifest.envelope, used.since) for used in view.in_use()),
                )
            )
            self._catalogs[view.teams] = revision, body
        return web.Response(body=body, content_type=_JSON, headers={"ETag": etag})

    async def _get_manifest(
        self, request: web.BaseRequest, offer: Offer, rest: list[str]
    ) -> web.StreamResponse:
        match rest:
            case []:
                return web.Response(body=offer.manifest.envelope, content_type=_BINARY)
            case ["pages"]:
                return web.Response(body=offer.page_list, content_type=_BINARY)
            case ["companions", text]:
                return await self.bodies.get_companion(request, offer, _digest(text))
            case ["pages", text]:
                return await self._get_page(request, offer, _digest(text))
            case ["data"]:
                return await self.get_data(request, offer)
            case ["swarm"]:
                return self.get_swarm(request, offer)
        raise Answer(404)

    async def _get_page(self, request: web.BaseRequest, offer: Offer, digest: bytes) -> web.Response:
        page = await self._read(lambda: offer.page(digest))
        if page is None:
            raise Answer(404)
        response = web.Response(body=page, content_type=_BINARY)
        if takes_zstd(request):
            packed = await self._read(lambda: compress(page))
            if len(packed) < len(page):
                response.body, response.headers["Content-Encoding"] = packed, ENCODING
        return response

    async def get_data(self, request: web.BaseRequest, offer: Offer) -> web.StreamResponse:
        """Answer a request for data of ``offer``."""
        return await self.bodies.get(request, offer)

    def get_swarm(self, request: web.BaseRequest, offer: Offer) -> web.Response:
        """Answer what is here of ``offer``, and who else fetches it."""
        question = decode_question(request.rel_url.raw_query_string)
        members = self._provider.swarms.of(offer.manifest.id)
        now = asyncio.get_running_loop().time()
        host = asker_of(request)
        if question.member and is_told_port(question.port):
            asking = Member(question.member, host, question.port, question.held, one_field(question.label))
            members.seen(asking, offer.pieces.count, now)
        # A node that fetches tells of the others once, one that has everything each time: it knows the most.
        others: list[Member] = []
        if offer.log is None or not question.cursor:
            current = (member for member in members.current(now) if member.id != question.member)
            places = ((member, told_to(member.host, host)) for member in current)
            others = [replace(member, host=told) for member, told in places if told]
        told = some_of(others, known=question.known, random=self._random)
        taken = NO_NEWS
        if offer.log is None and question.taken is not None:
            claims = self._provider.swarms.handed(offer.manifest.id)
            taken = claims.news(question.taken, question.member, now, most=MAX_TAKEN)
        body = encode_swarm(
            self._provider.label,
            offer.pieces.count,
            offer.log,
            cursor=question.cursor,
            members=told,
            beside=OfSeed(len(others) if len(others) > len(told) else 0, taken),
        )
        return web.Response(body=body, content_type=_JSON)

    async def _read(self, read: Callable[[], _T]) -> _T:
        """Read from an image in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, read)


def _check_asked_by_a_node(request: web.BaseRequest) -> None:
    """Refuse what no node sends, before anything is done for it.

    Raises:
        Answer: 405 for another method than GET, 403 for a web page's request, 400 for a damaged Host field,
            413 for a request with a body.
    """
    if request.method != "GET":
        raise Answer(405, Allow="GET")
    if any(name in request.headers for name in _BROWSER):
        raise Answer(403)
    if [is_host_field(text) for text in request.headers.getall("Host", ())] != [True]:
        raise Answer(400)
    if request.body_exists:
        raise Answer(413)


def _digest(text: str) -> bytes:
    """Lower-case hexadecimal of 32 bytes, in exactly one spelling; anything else is absent."""
    with suppress(ValueError):
        digest = bytes.fromhex(text)
        if len(digest) == DIGEST_SIZE and digest.hex() == text:
            return digest
    raise Answer(404)
