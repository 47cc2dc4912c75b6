"""Manifest headers: the signed description of a disk or a layer.

A manifest is a header (this module), a page list and pages (:mod:`overlaysync.model.pages`). The header
names the content by its id; the id commits to the page list, the list to the pages, a page to the chunks.
The header is canonical JSON: re-encoding what was decoded must give the same bytes, which refuses unknown and
repeated fields, odd numbers and white space at once. Source: docs/manifest-format.md, "Header".
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Literal

import msgspec

from overlaysync.errors import DecodeError
from overlaysync.model.companions import CompanionFile, are_companions
from overlaysync.model.digest import derive, parse_id
from overlaysync.model.names import is_name, printable
from overlaysync.model.pages import MAX_LIST_SIZE
from overlaysync.units import CHUNK, MAX_VIRTUAL_SIZE, MIN_GRANULE, SECTOR

MAX_HEADER_SIZE = 8192
MANIFEST_CONTEXT = "overlaysync v1 manifest"
FORMATS = ("raw", "qed", "qcow2")
COMPRESSIONS = ("zlib", "zstd")
MAX_COMPRESSED_SIZE = (1 << 53) - 1
"""What a JSON number holds anywhere, far more than a file has."""
MAX_VERSION = (1 << 31) - 1
MAX_FOLLOWS = 8
"""Versions that one version may follow."""
MAX_NOTE = 200
"""Characters of a publisher's note."""

_ID = re.compile(r"b3:[0-9a-f]{64}")
_MANIFEST_ID = re.compile(r"[0-9a-f]{64}")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
_LABEL_LIMIT = 160
"""Characters; two names (user and host) and the beginning of a node id fit."""


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a publisher says of a disk or a layer.

    Attributes:
        v: version of this form, 1.
        kind: ``disk`` or ``layer``.
        team: the team it is labelled with, or "".
        name: its name.
        version: 1 + the highest version that it follows; 1 when it follows none.
        follows: ids of the manifests that the publisher's file held before this one, in hexadecimal: first
            the one that this one was made from, then, rising, those that it was chosen over.
        id: disk id or layer id.
        virtual_size: guest bytes.
        unit: bytes a digest covers.
        data_size: bytes of all DATA units.
        list_size: bytes of the encoded page list.
        parent: disk id below a layer, else "".
        parent_name: what the publisher calls that disk; for people only.
        result: disk id the guest sees: of a disk its own id, of a layer that of the layer on its parent.
        format: format of the publisher's image.
        cluster_size: cluster size a rebuilt image should have, in bytes.
        compression: how the publisher's master has its clusters compressed, "" where they are not.
        compressed_size: bytes of that file; 0 where they are not.
        created: when it was published, ISO 8601 UTC.
        by: label of the publisher's node; for people only.
        note: what the publisher says of this version, one line; for people only.
        companions: small files that its VM needs beside it, by role.
    """

    v: Literal[1] = 1
    kind: Literal["disk", "layer"]
    team: str = ""
    name: str
    version: int
    follows: tuple[str, ...] = ()
    id: str
    virtual_size: int
    unit: int
    data_size: int
    list_size: int
    parent: str = ""
    parent_name: str = ""
    result: str
    format: str
    cluster_size: int
    compression: str = ""
    compressed_size: int = 0
    created: str
    by: str = ""
    note: str = ""
    companions: tuple[CompanionFile, ...] = ()

    @property
    def followed(self) -> tuple[bytes, ...]:
        """The ids of the manifests it follows, 32 bytes each."""
        return tuple(map(bytes.fromhex, self.follows))

    @property
    def content_id(self) -> bytes:
        return parse_id(self.id)

    @property
    def result_id(self) -> bytes:
        return parse_id(self.result)

    @property
    def parent_id(self) -> bytes | None:
        return parse_id(self.parent) if self.parent else None

    @property
    def is_layer(self) -> bool:
        return self.kind == "layer"

    @property
    def full_name(self) -> str:
        """``team/name`` or ``name``."""
        return f"{self.team}/{self.name}" if self.team else self.name


_encode = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder(Header)


def encode_header(header: Header) -> bytes:
    """Return the canonical bytes, which are what is signed."""
    return _encode(header)


def decode_header(data: bytes) -> Header:
    """Return the header that ``data`` encodes.

    Raises:
        DecodeError: it is too long, not canonical, or a field is out of bounds.
    """
    if len(data) > MAX_HEADER_SIZE:
        raise DecodeError(f"a manifest header cannot have {len(data)} bytes")
    try:
        header = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError("not a manifest header", why=printable(str(error))) from None
    if _encode(header) != data:
        raise DecodeError("the manifest header is not in canonical form")
    problem = _problem(header)
    if problem:
        raise DecodeError(f"the manifest header is wrong: {problem}")
    return header


def manifest_id(envelope: bytes) -> bytes:
    """Return the id of a signed header, from all bytes of its envelope."""
    return derive(MANIFEST_CONTEXT, envelope)


def _problem(header: Header) -> str:
    """Return the first field out of bounds, in words; "" when there is none."""
    layer = header.is_layer
    checks = {
        "name": is_name(header.name) and (not header.team or is_name(header.team)),
        "version": 1 <= header.version <= MAX_VERSION and (header.version > 1) == bool(header.follows),
        "follows": _are_ids(header.follows),
        "id": bool(_ID.fullmatch(header.id) and _ID.fullmatch(header.result)),
        "parent": bool(_ID.fullmatch(header.parent)) if layer else header.parent == header.parent_name == "",
        "result": layer or header.result == header.id,
        "virtual_size": 0 <= header.virtual_size <= MAX_VIRTUAL_SIZE and header.virtual_size % SECTOR == 0,
        "unit": header.unit == CHUNK if not layer else header.unit in _GRANULES,
        "data_size": 0 <= header.data_size <= header.virtual_size,
        "list_size": 0 < header.list_size <= MAX_LIST_SIZE,
        "format": header.format in FORMATS,
        "cluster_size": header.cluster_size in _CLUSTER_SIZES,
        "compression": not header.compression
        or (header.compression in COMPRESSIONS and header.format == "qcow2" and not layer),
        "compressed_size": 0 < header.compressed_size <= MAX_COMPRESSED_SIZE
        if header.compression
        else header.compressed_size == 0,
        "created": bool(_TIME.fullmatch(header.created)),
        "note": len(header.note) <= MAX_NOTE,
        "companions": are_companions(header.companions),
        "label": len(header.by) <= _LABEL_LIMIT and len(header.parent_name) <= _LABEL_LIMIT,
    }
    return next((field for field, good in checks.items() if not good), "")


def _are_ids(follows: tuple[str, ...]) -> bool:
    """Whether they are manifest ids, each once, all but the first in rising order, and not too many."""
    rising = all(before < after for before, after in pairwise(follows[1:]))
    once = len(set(follows)) == len(follows) <= MAX_FOLLOWS
    return once and rising and all(map(_MANIFEST_ID.fullmatch, follows))


_GRANULES = {MIN_GRANULE << shift for shift in range(5)}
_CLUSTER_SIZES = {1 << bits for bits in range(9, 23)}
