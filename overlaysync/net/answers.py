"""What is common to all answers of the server: how one ends early, and who has asked."""

from __future__ import annotations

import socket
from contextlib import suppress

from aiohttp import web

from overlaysync.model.addresses import is_link_local
from overlaysync.net.compression import ENCODING
from overlaysync.net.connections import reset


class Answer(Exception):
    """Ends a request with a status and no more."""

    def __init__(self, status: int, **fields: str) -> None:
        super().__init__(status)
        self.status = status
        self.fields = {name.replace("_", "-"): value for name, value in fields.items()}


def asker_of(request: web.BaseRequest) -> str:
    """Return the address of who asks.

    A link-local one with its interface: without it nobody can be told of it.
    """
    peer = request.transport.get_extra_info("peername") if request.transport is not None else None
    if not peer:
        return request.remote or ""
    host = str(peer[0])
    if "%" not in host and is_link_local(host):
        with suppress(OSError):  # the interface has just gone
            return f"{host}%{socket.if_indextoname(peer[3])}"
    return host


def abort(request: web.BaseRequest) -> None:
    """Drop the connection at once, so that the client sees that the body is not whole."""
    if request.transport is not None:
        reset(request.transport)


def takes_zstd(request: web.BaseRequest) -> bool:
    """Whether this body may be compressed."""
    return request.headers.get("Accept-Encoding") == ENCODING
