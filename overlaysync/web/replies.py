"""Answers of the page: their fields, the same for all, and what a file of the package is sent as."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

from aiohttp import web

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)

FIELDS = {
    "Server": "overlaysync",
    "Content-Security-Policy": CSP,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not no-referrer: a browser would then leave the origin out of what our own forms send.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}

HTML = "text/html"
_SMALL = 1024
"""Bytes below which compressing is not worth it."""

_FILES = {
    "page.js": "text/javascript",
    "page.css": "text/css",
    "icon.svg": "image/svg+xml",
    "idiomorph/idiomorph.esm.js": "text/javascript",
    "idiomorph/LICENSE": "text/plain",
}
"""What there is below ``static/``, and nothing else."""


@dataclass(frozen=True, slots=True)
class StaticFile:
    """A file of the package: its bytes, compressed, and what they are."""

    packed: bytes
    kind: str
    etag: str


@cache
def static_file(name: str) -> StaticFile | None:
    """Return a file below ``static/``; None when there is no such one."""
    kind = _FILES.get(name)
    if kind is None:
        return None
    data = resources.files("overlaysync.web").joinpath("static", name).read_bytes()
    return StaticFile(gzip.compress(data, mtime=0), kind, f'"{hashlib.sha256(data).hexdigest()[:20]}"')


def reply(
    text: str, kind: str = HTML, *, status: int = 200, packed: bool = False, **fields: str
) -> web.Response:
    """Return an answer with a text.

    Args:
        text: as it is.
        kind: its media type.
        status: of the answer.
        packed: whether the browser takes it compressed.
        fields: more fields, with ``_`` for ``-``.
    """
    body = text.encode()
    response = web.Response(status=status, headers=_fields(fields))
    if packed and len(body) > _SMALL:
        body = gzip.compress(body, compresslevel=3, mtime=0)
        response.headers["Content-Encoding"] = "gzip"
    response.body = body
    response.content_type, response.charset = kind, "utf-8"
    return response


def redirect(where: str, **fields: str) -> web.Response:
    """Return an answer that sends the browser elsewhere, to be asked for with GET."""
    return web.Response(status=303, headers=_fields(fields) | {"Location": where})


def _fields(more: Mapping[str, str]) -> dict[str, str]:
    return FIELDS | {name.replace("_", "-"): value for name, value in more.items()}


def file_reply(name: str, if_none_match: str) -> web.Response | None:
    """Return the answer to a request for a file of the package; None when there is no such one."""
    file = static_file(name)
    if file is None:
        return None
    fields = FIELDS | {"Cache-Control": "private, no-cache", "ETag": file.etag}
    if if_none_match == file.etag:
        return web.Response(status=304, headers=fields)
    response = web.Response(body=file.packed, headers=fields | {"Content-Encoding": "gzip"})
    response.content_type = file.kind
    if not file.kind.startswith("image/"):
        response.charset = "utf-8"
    return response
