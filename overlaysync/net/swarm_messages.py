"""Messages of the swarm: who fetches, and what each of them has. Bytes in, checked values or DecodeError out.

A node that fetches asks each source for this now and then, and says with the question who it is and how far.
Source: docs/protocol.md, "Swarm".
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

import msgspec

from overlaysync.errors import DecodeError, UsageError
from overlaysync.model.have import HaveMap
from overlaysync.model.names import one_field
from overlaysync.model.pieces import MAX_PIECES, PieceLog
from overlaysync.net.bounds import (
    MAX_CURSOR,
    MAX_LABEL,
    MAX_NEWS,
    MAX_QUESTION,
    MAX_SWARM_SIZE,
    MAX_TOLD,
    MEMBER_ID_SIZE,
)
from overlaysync.net.messages import Address, parse_ip_address, parse_json
from overlaysync.swarm.members import Member

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class SwarmQuestion:
    """What a node that fetches says of itself when it asks another what it has.

    Attributes:
        member: its member id; "" when it cannot be asked itself.
        port: where it answers.
        held: pieces it has.
        cursor: how far it has read the other's piece log.
        label: its label, for people; without what does not fit a query string.
    """

    member: str = ""
    port: int = 0
    held: int = 0
    cursor: int = 0
    label: str = ""


@dataclass(frozen=True, slots=True)
class SwarmAnswer:
    """What a node has of a content, and who else fetches it.

    Attributes:
        label: its label, safe to print.
        pieces: pieces there are.
        held: pieces it has got since the cursor it was asked from; None for all there are.
        cursor: to be sent the next time.
        members: who fetches, this node itself left out.
    """

    label: str
    pieces: int
    held: tuple[int, ...] | None
    cursor: int = 0
    members: tuple[Member, ...] = ()


class _SwarmJson(msgspec.Struct, frozen=True, omit_defaults=True):
    label: str
    pieces: int
    whole: bool = False
    map: str = ""
    news: list[int] = []
    cursor: int = 0
    members: list[Any] = []  # looked at one by one: a bad one is left out


_swarm_decoder = msgspec.json.Decoder(_SwarmJson)
_MEMBER_ID = re.compile(rf"[0-9a-f]{{{2 * MEMBER_ID_SIZE}}}", re.ASCII)
_LABEL = r"[\w.@-]"
_QUESTION = re.compile(
    rf"(?:member=([0-9a-f]{{{2 * MEMBER_ID_SIZE}}})&port=(\d{{1,5}})&by=({_LABEL}{{0,{MAX_LABEL}}})&)?"
    r"held=(\d{1,6})&since=(\d{1,13})",
    re.ASCII,
)


def encode_question(question: SwarmQuestion) -> str:
    """Return the query string of a question."""
    label = "".join(re.findall(_LABEL, question.label, re.ASCII))[:MAX_LABEL]
    who = f"member={question.member}&port={question.port}&by={label}&" if question.member else ""
    return f"{who}held={question.held}&since={question.cursor}"


def decode_question(text: str) -> SwarmQuestion:
    """Return the question in a query string.

    Raises:
        DecodeError: it is anything else, or out of bounds.
    """
    match = _QUESTION.fullmatch(text) if len(text) <= MAX_QUESTION else None
    if match is None:
        raise DecodeError("not a swarm question")
    port, held, cursor = int(match[2] or 0), int(match[4]), int(match[5])
    if (match[1] and not 0 < port < 1 << 16) or held > MAX_PIECES or cursor > MAX_CURSOR:
        raise DecodeError("a swarm question out of bounds")
    return SwarmQuestion(match[1] or "", port, held, cursor, match[3] or "")


def encode_swarm(
    label: str, pieces: int, log: PieceLog | None, *, cursor: int, members: Iterable[Member]
) -> bytes:
    """Return what a node answers.

    Args:
        label: of the node.
        pieces: pieces there are.
        log: those it has; None for all.
        cursor: where the other's knowledge of it ends.
        members: who fetches.
    """
    listed = [
        (member.id, str(Address(member.host, member.port)), member.held)
        for member in islice(members, MAX_TOLD)
    ]
    if log is None:
        return _encode(_SwarmJson(label[:MAX_LABEL], pieces, whole=True, members=listed))
    news = log.since(cursor) if 0 < cursor <= log.cursor else None
    if news is None or len(news) > MAX_NEWS:
        text = base64.b64encode(log.held.to_bytes()).decode("ascii")
        return _encode(_SwarmJson(label[:MAX_LABEL], pieces, map=text, cursor=log.cursor, members=listed))
    return _encode(_SwarmJson(label[:MAX_LABEL], pieces, news=news, cursor=log.cursor, members=listed))


def decode_swarm(data: bytes, pieces: int) -> SwarmAnswer:
    """Return the answer that ``data`` encodes, about a content of ``pieces`` pieces.

    Bad members are left out.

    Raises:
        DecodeError: it is none, out of bounds, or about another number of pieces.
    """
    message = parse_json(_swarm_decoder, data, MAX_SWARM_SIZE, "a swarm answer")
    if message.pieces != pieces:
        raise DecodeError(f"a swarm answer about {message.pieces} pieces instead of {pieces}")
    if len(message.members) > MAX_TOLD or not 0 <= message.cursor <= MAX_CURSOR:
        raise DecodeError("a swarm answer out of bounds")
    members = tuple(member for fields in message.members if (member := _member(fields)) is not None)
    held = None if message.whole else _held(message, pieces)
    return SwarmAnswer(one_field(message.label, MAX_LABEL), pieces, held, message.cursor, members)


def _held(message: _SwarmJson, pieces: int) -> tuple[int, ...]:
    if message.map:
        try:
            held = HaveMap.from_bytes(base64.b64decode(message.map, validate=True), pieces)
        except ValueError:
            raise DecodeError("a swarm answer with a map that is not base64") from None
        return tuple(held.slots())
    if len(message.news) > MAX_NEWS or not all(0 <= piece < pieces for piece in message.news):
        raise DecodeError("a swarm answer with pieces out of bounds")
    return tuple(message.news)


def _member(fields: object) -> Member | None:
    """Return the member that a list begins with, which may gain more within v1; None when it is none."""
    match fields:
        case [str(id), str(text), int(held), *_] if not isinstance(held, bool) and 0 <= held <= MAX_PIECES:
            with suppress(UsageError, ValueError):
                address = parse_ip_address(text)
                if _MEMBER_ID.fullmatch(id):
                    return Member(id, address.host, address.port, held)
    return None
