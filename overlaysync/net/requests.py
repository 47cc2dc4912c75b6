"""Requests as a client writes them."""

from __future__ import annotations

from overlaysync.net.compression import ENCODING
from overlaysync.net.messages import Address, Endpoint


def request_for(address: Endpoint, path: str, *, etag: str = "", compress: bool = False) -> bytes:
    """Return the bytes that ask for what is at a path.

    Args:
        address: of the peer.
        path: without the version.
        etag: of what is known: it need not come again.
        compress: whether it may come compressed.
    """
    fields = [f"GET /v1/{path} HTTP/1.1", f"Host: {_host_field(address)}", "User-Agent: overlaysync"]
    if etag:
        fields.append(f"If-None-Match: {etag}")
    if compress:
        fields.append(f"Accept-Encoding: {ENCODING}")
    return "\r\n".join([*fields, "", ""]).encode("ascii")


def _host_field(address: Endpoint) -> str:
    """Return the Host field: a scope is this machine's own (RFC 6874, section 4)."""
    return str(Address(address.host.partition("%")[0], address.port))
