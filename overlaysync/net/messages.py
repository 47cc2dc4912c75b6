"""Wire messages: catalog, peers, slot ranges, addresses. Bytes in, checked values or DecodeError out.

Leaves out manifests, page lists and pages, which are binary and have their own modules. JSON objects may gain
fields within v1: unknown ones are ignored here (a signed header is stricter). Source: docs/protocol.md.
"""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple, TypeAlias, TypeVar

import msgspec

from overlaysync.errors import DecodeError, UsageError
from overlaysync.model.addresses import is_link_local
from overlaysync.model.names import one_field, printable
from overlaysync.net.bounds import (
    BOOT_SIZE,
    MAX_CATALOG_ITEMS,
    MAX_CATALOG_SIZE,
    MAX_HISTORY_ITEMS,
    MAX_HISTORY_SIZE,
    MAX_HOST,
    MAX_LABEL,
    MAX_MANIFEST_SIZE,
    MAX_PEERS,
    MAX_PEERS_SIZE,
    MAX_RANGES,
    MAX_SLOT_DIGITS,
    MAX_SLOTS,
    MAX_SLOTS_TEXT,
)
from overlaysync.trust.keys import PUBLIC_KEY_SIZE

_Message = TypeVar("_Message")

# -- catalog -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CatalogMessage:
    """What a node serves, as it says itself: only the envelopes are signed.

    Attributes:
        node: its public key.
        label: its label, safe to print.
        envelopes: signed manifests, not yet opened.
        tls: the port of its private lane; 0 when it has none.
        boot: a hash that all nodes on one machine have in common, as it says; b"" when it says none.
        in_use: manifests of what a VM uses there, not yet opened, and since when.
    """

    node: bytes
    label: str
    envelopes: Sequence[bytes]
    tls: int = 0
    boot: bytes = b""
    in_use: Sequence[tuple[bytes, str]] = ()


class _InUseJson(msgspec.Struct, frozen=True):
    item: str
    since: str


class _CatalogJson(msgspec.Struct, frozen=True, omit_defaults=True):
    node: str
    label: str
    items: list[str]
    tls: int = 0
    boot: str = ""
    in_use: list[_InUseJson] = []


class _HistoryJson(msgspec.Struct, frozen=True):
    items: list[str]


class _PeersJson(msgspec.Struct, frozen=True):
    peers: list[str]


_catalog_decoder = msgspec.json.Decoder(_CatalogJson)
_history_decoder = msgspec.json.Decoder(_HistoryJson)
_peers_decoder = msgspec.json.Decoder(_PeersJson)
_encode = msgspec.json.Encoder().encode
_BOOT = re.compile(rf"[0-9a-f]{{{2 * BOOT_SIZE}}}")
_SINCE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)
_IN_USE = ',"in_use":[]'
_IN_USE_ITEM = '{"item":"","since":""},'


def encode_catalog(catalog: CatalogMessage) -> bytes:
    """Return a catalog as JSON; what no longer fits the bounds is left out, first what is in use."""
    items: list[str] = []
    used: list[_InUseJson] = []
    label, boot = catalog.label[:MAX_LABEL], catalog.boot.hex()
    message = _CatalogJson(catalog.node.hex(), label, items, catalog.tls, boot, used)
    size = len(_encode(message)) + len(_IN_USE)
    for envelope, since in (*((envelope, "") for envelope in catalog.envelopes), *catalog.in_use):
        item = base64.b64encode(envelope).decode("ascii")
        size += len(item) + (len(_IN_USE_ITEM) + len(since) if since else 3)  # quotes and comma
        if len(items) + len(used) == MAX_CATALOG_ITEMS or size > MAX_CATALOG_SIZE:
            break
        if since:
            used.append(_InUseJson(item, since))
        else:
            items.append(item)
    return _encode(message)


def decode_catalog(data: bytes) -> CatalogMessage:
    """Return the catalog that ``data`` encodes.

    Raises:
        DecodeError: it is not one, or out of bounds.
    """
    message = parse_json(_catalog_decoder, data, MAX_CATALOG_SIZE, "a catalog")
    try:
        node = bytes.fromhex(message.node)
    except ValueError:
        node = b""
    if len(node) != PUBLIC_KEY_SIZE:
        raise DecodeError("a catalog without its node's public key")
    count = len(message.items) + len(message.in_use)
    if count > MAX_CATALOG_ITEMS:
        raise DecodeError(f"a catalog of {count} manifests", why=f"at most {MAX_CATALOG_ITEMS}")
    if not 0 <= message.tls < 1 << 16:
        raise DecodeError("a catalog with an impossible port")
    if message.boot and not _BOOT.fullmatch(message.boot):
        raise DecodeError("a catalog with a malformed hash of a boot id")
    if not all(_SINCE.fullmatch(used.since) for used in message.in_use):
        raise DecodeError("a catalog with a malformed date")
    return CatalogMessage(
        node,
        one_field(message.label, MAX_LABEL),
        tuple(map(_envelope, message.items)),
        message.tls,
        bytes.fromhex(message.boot),
        tuple((_envelope(used.item), used.since) for used in message.in_use),
    )


def encode_history(envelopes: Iterable[bytes]) -> bytes:
    """Return the headers of versions before one, the newest first, as many as the bounds allow."""
    items: list[str] = []
    size = len(_encode(_HistoryJson([])))
    for envelope in islice(envelopes, MAX_HISTORY_ITEMS):
        item = base64.b64encode(envelope).decode("ascii")
        size += len(item) + 3
        if size > MAX_HISTORY_SIZE:
            break
        items.append(item)
    return _encode(_HistoryJson(items))


def decode_history(data: bytes) -> tuple[bytes, ...]:
    """Return the envelopes in ``data``, not yet opened.

    Raises:
        DecodeError: it is no history, or out of bounds.
    """
    message = parse_json(_history_decoder, data, MAX_HISTORY_SIZE, "a history")
    if len(message.items) > MAX_HISTORY_ITEMS:
        raise DecodeError(f"a history of {len(message.items)} versions", why=f"at most {MAX_HISTORY_ITEMS}")
    return tuple(map(_envelope, message.items))


def _envelope(text: str) -> bytes:
    try:
        envelope = base64.b64decode(text, validate=True)
    except ValueError:
        raise DecodeError("a manifest that is not base64") from None
    if not 0 < len(envelope) <= MAX_MANIFEST_SIZE:
        raise DecodeError(f"a manifest of {len(envelope)} bytes")
    return envelope


def parse_json(decoder: msgspec.json.Decoder[_Message], data: bytes, limit: int, what: str) -> _Message:
    """Return the message that ``data`` encodes.

    Raises:
        DecodeError: it has more than ``limit`` bytes, or is not ``what``.
    """
    if len(data) > limit:
        raise DecodeError(f"{what} of {len(data)} bytes", why=f"at most {limit}")
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError(f"not {what}", why=printable(str(error))) from None


# -- addresses and peers -----------------------------------------------------------------------------

DEFAULT_PORT = 29450
"""Where a node shares unless told otherwise; the next one is its private lane.

IANA has assigned none of 29170 to 29997, and Linux gives none of them to outgoing connections.
"""


class Address(NamedTuple):
    """Where a node listens: a name or an IP address (IPv6 without brackets), and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class PrivateAddress(NamedTuple):
    """Where a node serves the members of one team, over TLS.

    Attributes:
        host, port: as in :class:`Address`.
        team: the team.
        key: the node key that must answer there; b"" when it is not known beforehand.
    """

    host: str
    port: int
    team: str
    key: bytes = b""

    def __str__(self) -> str:
        return f"tls://{Address(self.host, self.port)}"


Endpoint: TypeAlias = Address | PrivateAddress

_ADDRESS = re.compile(r"(?:\[([0-9A-Fa-f:.]+)(%[\w.-]{1,15})?\]|([\w.-]+)):(\d{1,5})", re.ASCII)
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")


def parse_address(text: str) -> Address:
    """Return the address in ``text``: ``HOST:PORT``, ``192.0.2.1:80`` or ``[2001:db8::1]:80``.

    Raises:
        UsageError: it is none.
    """
    address = _address(text)
    if address is None:
        raise UsageError(
            f"'{printable(text)}' is not an address",
            hint=f"write HOST:PORT, such as 192.0.2.7:{DEFAULT_PORT} or [2001:db8::7]:{DEFAULT_PORT}",
        )
    return address


def _address(text: str) -> Address | None:
    match = _ADDRESS.fullmatch(text) if len(text) <= MAX_HOST + 8 else None
    if match is None:
        return None
    literal, scope, name, port = match[1], match[2] or "", match[3], int(match[4])
    host = _ipv6(literal, scope) if literal else _host(name)
    return Address(host, port) if host and 0 < port < 1 << 16 else None


def parse_peer(text: str) -> Address:
    """Return the address that a user wrote for a peer: as :func:`parse_address`, or without a port.

    Raises:
        UsageError: it is none, or it is a link-local one and the interface is missing.
    """
    address = _address(text) or _address(f"{text}:{DEFAULT_PORT}")
    if address is None:
        known = _bracketed(text)
        raise UsageError(
            f"'{printable(text)}' is not an address",
            why="an IPv6 address goes into brackets" if known else "",
            hint=f"--peer '{known}'"
            if known
            else f"write HOST or HOST:PORT, such as bob.lab, 192.0.2.7:{DEFAULT_PORT} or [2001:db8::7]",
        )
    if is_link_local(address.host) and "%" not in address.host:
        raise UsageError(
            f"'{printable(text)}' does not say on which network that machine is",
            why="a link-local address needs the name of an interface of this machine",
            hint=f"--peer '{Address(f'{address.host}%eth0', address.port)}', with your interface for eth0",
        )
    return address


def _bracketed(text: str) -> str:
    """Return an IPv6 address, with a port or without, in brackets as it is written; "" for anything else."""
    before, _, port = text.rpartition(":")
    found = (f"[{one}]{end}" for one, end in ((text, ""), (before, f":{port}")) if _ipv6(one, ""))
    return printable(next(found, ""))


def is_host_field(text: str) -> bool:
    """Whether ``text`` is a host name or an IP address, with a port or without (RFC 9110, section 7.2)."""
    return _address(text) is not None or _address(f"{text}:80") is not None


def _ipv6(text: str, scope: str) -> str:
    try:
        return str(ipaddress.IPv6Address(text)) + scope
    except ValueError:
        return ""


def _host(text: str) -> str:
    """``text`` when it is a host name or a dotted address, else ""."""
    if re.fullmatch(r"[\d.]+", text):  # never a name: resolvers read 1.2 as 1.0.0.2
        try:
            return str(ipaddress.IPv4Address(text))
        except ValueError:
            return ""
    labels = text.removesuffix(".").split(".")
    return text if len(text) <= MAX_HOST and all(map(_LABEL.fullmatch, labels)) else ""


def encode_peers(peers: Iterable[str]) -> bytes:
    """Return the list of peers a node knows, as many as the bounds allow."""
    return _encode(_PeersJson(list(peers)[:MAX_PEERS]))


def decode_peers(data: bytes) -> tuple[Address, ...]:
    """Return the peers that ``data`` lists, by IP address: a name would make us ask DNS for a stranger.

    Raises:
        DecodeError: it is no such list, or out of bounds.
    """
    message = parse_json(_peers_decoder, data, MAX_PEERS_SIZE, "a list of peers")
    if len(message.peers) > MAX_PEERS:
        raise DecodeError(f"a list of {len(message.peers)} peers", why=f"at most {MAX_PEERS}")
    try:
        return tuple(map(parse_ip_address, message.peers))
    except (UsageError, ValueError) as error:
        raise DecodeError("a list of peers with malformed entries", why=printable(str(error))) from None


def parse_ip_address(text: str) -> Address:
    """Return the address that a peer wrote: an IP address and port that mean the same on every machine.

    Raises:
        UsageError, ValueError: it is none.
    """
    address = parse_address(text)
    ipaddress.ip_address(address.host)
    if "%" in address.host:
        raise ValueError("an address with a scope, which means something on one machine only")
    return address


# -- slot ranges -------------------------------------------------------------------------------------

Runs: TypeAlias = tuple[tuple[int, int], ...]
"""(first slot, count), rising and not overlapping."""

_RANGE = re.compile(
    rf"(0|[1-9]\d{{0,{MAX_SLOT_DIGITS - 1}}})-(0|[1-9]\d{{0,{MAX_SLOT_DIGITS - 1}}})", re.ASCII
)


def encode_slots(runs: Iterable[tuple[int, int]]) -> str:
    """Return ``runs`` as inclusive ranges: ``0-63,80-95``."""
    return ",".join(f"{first}-{first + count - 1}" for first, count in runs)


def decode_slots(text: str) -> Runs:
    """Return the runs that ``text`` encodes: one range at least, rising, not overlapping.

    Raises:
        DecodeError: it is anything else, or out of bounds.
    """
    if len(text) > MAX_SLOTS_TEXT or text.count(",") >= MAX_RANGES:
        raise DecodeError("too many slot ranges", why=f"at most {MAX_RANGES}")
    runs = []
    end = total = 0
    for part in text.split(","):
        match = _RANGE.fullmatch(part)
        if match is None:
            raise DecodeError(f"'{printable(part, 40)}' is not a slot range")
        first, last = int(match[1]), int(match[2])
        if first < end or last < first:
            raise DecodeError("slot ranges are not rising")
        end = last + 1
        total += end - first
        runs.append((first, end - first))
    if total > MAX_SLOTS:
        raise DecodeError(f"{total} slots in one request", why=f"at most {MAX_SLOTS}")
    return tuple(runs)
