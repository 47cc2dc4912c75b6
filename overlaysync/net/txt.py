"""The TXT record of a node, as ``avahi-browse -rt _overlaysync._tcp`` shows it: hints, never believed.

``v=1``, ``id=`` node id, ``cat=`` revision of the public catalog, ``tls=`` port of the private lane, then for
each master ``m.NAME=`` and each overlay ``o.NAME=`` eight digits of its id, as far as they fit. A name may be
``team/name``. RFC 6763 allows keys of printable ASCII without "=" that differ in more than case, so other
characters are percent-encoded, and of two names that differ in case only the first is shown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote, unquote

from overlaysync.model.digest import MIN_ID_DIGITS
from overlaysync.model.names import is_name
from overlaysync.net.bounds import DISCOVERY

VERSION = b"1"
_STRING_SIZE = 255  # DNS: one byte holds the length
_DIGITS = re.compile(rb"[0-9a-f]{%d}" % MIN_ID_DIGITS)
_NODE_ID = re.compile(rb"[a-z2-7]{4}(-[a-z2-7]{4}){0,7}")
_PORT = re.compile(rb"[1-9][0-9]{0,4}")
_REVISION_SIZE = 32
_REVISION = re.compile(rb"[0-9A-Za-z_-]{1,%d}" % _REVISION_SIZE)


@dataclass(frozen=True, slots=True)
class Item:
    """One image that a node has.

    Attributes:
        kind: master or overlay.
        name: ``name`` or ``team/name``.
        id: its id; of a foreign one only the first four bytes are known.
    """

    kind: Literal["master", "overlay"]
    name: str
    id: bytes


@dataclass(frozen=True, slots=True)
class NodeText:
    """What a node says of itself; "" where a foreign record says nothing that could be true.

    Attributes:
        node_id: its node id.
        revision: of its catalog.
        items: what it has for everybody, the most important first.
        tls: port of its private lane; 0 when it has none.
    """

    node_id: str = ""
    revision: str = ""
    items: tuple[Item, ...] = ()
    tls: int = 0


def encode_txt(text: NodeText) -> dict[bytes, bytes]:
    """Return the entries, within the bounds of one string and of the record."""
    entries = {
        b"v": VERSION,
        b"id": text.node_id.encode("ascii"),
        b"cat": text.revision.encode("ascii")[:_REVISION_SIZE],
    }
    if text.tls:
        entries[b"tls"] = b"%d" % text.tls
    size = sum(_size(key, value) for key, value in entries.items())
    seen = set()
    for item in text.items:
        key = f"{item.kind[0]}.{quote(item.name, safe='/')}".encode("ascii")
        value = item.id.hex()[:MIN_ID_DIGITS].encode("ascii")
        if key.lower() in seen or _size(key, value) > _STRING_SIZE + 1:
            continue
        size += _size(key, value)
        if size > DISCOVERY.txt_size:
            break
        seen.add(key.lower())
        entries[key] = value
    return entries


def decode_txt(entries: Mapping[bytes, bytes | None]) -> NodeText | None:
    """Return what a foreign record says, damaged entries left out; None when it is of another version."""
    if entries.get(b"v") != VERSION:
        return None
    items: list[Item] = []
    for key, value in entries.items():
        item = _item(key, value or b"")
        if item is not None and len(items) < DISCOVERY.items:
            items.append(item)
    tls = int(_matching(_PORT, entries, b"tls") or 0)
    return NodeText(
        _matching(_NODE_ID, entries, b"id"),
        _matching(_REVISION, entries, b"cat"),
        tuple(items),
        tls if tls < 1 << 16 else 0,
    )


def _size(key: bytes, value: bytes) -> int:
    return 1 + len(key) + 1 + len(value)


def _matching(pattern: re.Pattern[bytes], entries: Mapping[bytes, bytes | None], key: bytes) -> str:
    value = entries.get(key) or b""
    return value.decode("ascii") if pattern.fullmatch(value) else ""


def _item(key: bytes, value: bytes) -> Item | None:
    if key[:2] not in (b"m.", b"o.") or not key.isascii() or not _DIGITS.fullmatch(value):
        return None
    name = unquote(key[2:].decode("ascii"))
    if name.count("/") > 1 or not all(map(is_name, name.split("/"))):
        return None
    return Item("master" if key[:1] == b"m" else "overlay", name, bytes.fromhex(value.decode("ascii")))
