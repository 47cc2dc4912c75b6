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
    MAX_CROWD,
    MAX_CURSOR,
    MAX_LABEL,
    MAX_NEWS,
    MAX_QUESTION,
    MAX_SWARM_SIZE,
    MAX_TAKEN,
    MAX_TOLD,
    MEMBER_ID_SIZE,
)
from overlaysync.net.messages import (
    Address,
    Runs,
    decode_slots,
    encode_slots,
    parse_ip_address,
    parse_json,
)
from overlaysync.swarm.handed import News
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
        known: other members it knows.
        taken: how far it has read what a complete source handed out, 0 at first; None when it does not want
            to know.
    """

    member: str = ""
    port: int = 0
    held: int = 0
    cursor: int = 0
    label: str = ""
    known: int = 0
    taken: int | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """What a member says that asks a complete source for data, and will pass them on.

    Attributes:
        member: its member id.
        taken: how far it has read what the source handed out.
    """

    member: str
    taken: int


@dataclass(frozen=True, slots=True)
class SwarmAnswer:
    """What a node has of a content, and who else fetches it.

    Attributes:
        label: its label, safe to print.
        pieces: pieces there are.
        held: pieces it has got since the cursor it was asked from; None for all there are.
        cursor: to be sent the next time.
        members: who fetches, this node itself left out.
        crowd: how many fetch, where not all of them are told of; else 0.
        taken: what was handed to others; None when the answer does not say.
    """

    label: str
    pieces: int
    held: tuple[int, ...] | None
    cursor: int = 0
    members: tuple[Member, ...] = ()
    crowd: int = 0
    taken: News | None = None


class _SwarmJson(msgspec.Struct, frozen=True, omit_defaults=True):
    label: str
    pieces: int
    whole: bool = False
    map: str = ""
    news: list[int] = []
    cursor: int = 0
    members: list[Any] = []  # looked at one by one: a bad one is left out
    crowd: int = 0
    taken: list[int] = []
    taken_cursor: int = 0


_swarm_decoder = msgspec.json.Decoder(_SwarmJson)
_MEMBER_ID = re.compile(rf"[0-9a-f]{{{2 * MEMBER_ID_SIZE}}}", re.ASCII)
_LABEL = r"[\w.@-]"
_QUESTION = re.compile(
    rf"(?:member=([0-9a-f]{{{2 * MEMBER_ID_SIZE}}})&port=(\d{{1,5}})&by=({_LABEL}{{0,{MAX_LABEL}}})&)?"
    r"held=(\d{1,6})&since=(\d{1,13})(?:&known=(\d{1,6})&taken=(\d{1,13}))?",
    re.ASCII,
)
_CLAIM = re.compile(rf"member=([0-9a-f]{{{2 * MEMBER_ID_SIZE}}})&taken=(\d{{1,13}})", re.ASCII)
_TAKEN = re.compile(r"(\d{1,13})(?: (\d{1,5}(?:,\d{1,5})*))?", re.ASCII)


def encode_question(question: SwarmQuestion) -> str:
    """Return the query string of a question."""
    label = "".join(re.findall(_LABEL, question.label, re.ASCII))[:MAX_LABEL]
    who = f"member={question.member}&port={question.port}&by={label}&" if question.member else ""
    news = "" if question.taken is None else f"&known={question.known}&taken={question.taken}"
    return f"{who}held={question.held}&since={question.cursor}{news}"


def decode_question(text: str) -> SwarmQuestion:
    """Return the question in a query string.

    Raises:
        DecodeError: it is anything else, or out of bounds.
    """
    match = _QUESTION.fullmatch(text) if len(text) <= MAX_QUESTION else None
    if match is None:
        raise DecodeError("not a swarm question")
    port, held, cursor = int(match[2] or 0), int(match[4]), int(match[5])
    taken = None if match[7] is None else int(match[7])
    if (match[1] and not 0 < port < 1 << 16) or held > MAX_PIECES or max(cursor, taken or 0) > MAX_CURSOR:
        raise DecodeError("a swarm question out of bounds")
    return SwarmQuestion(match[1] or "", port, held, cursor, match[3] or "", int(match[6] or 0), taken)


def encode_data_query(runs: Runs, claim: Claim | None = None) -> str:
    """Return the query string of a request for data."""
    who = f"&member={claim.member}&taken={claim.taken}" if claim else ""
    return f"slots={encode_slots(runs)}{who}"


def decode_data_query(text: str) -> tuple[Runs, Claim | None]:
    """Return the slots that are asked for, and who says that it will pass them on.

    Raises:
        DecodeError: it is anything else, or out of bounds.
    """
    slots, _, who = text.partition("&")
    name, _, ranges = slots.partition("=")
    if name != "slots":
        raise DecodeError("not a request for slots")
    runs = decode_slots(ranges)
    if slots == text:
        return runs, None
    match = _CLAIM.fullmatch(who)
    if match is None or int(match[2]) > MAX_CURSOR:
        raise DecodeError("not a claim")
    return runs, Claim(match[1], int(match[2]))


def encode_taken(news: News) -> str:
    """Return the field of a refusal that says what was handed to others."""
    return f"{news.cursor} {','.join(map(str, news.pieces))}".rstrip()


def decode_taken(text: str, pieces: int) -> News:
    """Return what such a field says of a content of so many pieces.

    Raises:
        DecodeError: it is anything else, or out of bounds.
    """
    match = _TAKEN.fullmatch(text)
    if match is None:
        raise DecodeError("a refusal that does not say what is taken")
    return _news(int(match[1]), [int(piece) for piece in (match[2] or "").split(",") if piece], pieces)


def _news(cursor: int, taken: list[int], pieces: int) -> News:
    within = len(taken) <= MAX_TAKEN and all(0 <= piece < pieces for piece in taken)
    if not within or not 0 <= cursor <= MAX_CURSOR:
        raise DecodeError("pieces handed out that are out of bounds")
    return News(tuple(taken), cursor)


NO_NEWS = News((), 0)


@dataclass(frozen=True, slots=True)
class OfSeed:
    """What only a node that has everything says of a swarm.

    Attributes:
        crowd: how many members there are, when those it tells of are not all.
        taken: what it handed to others.
    """

    crowd: int = 0
    taken: News = NO_NEWS


_NOTHING = OfSeed()


def encode_swarm(
    label: str,
    pieces: int,
    log: PieceLog | None,
    *,
    cursor: int,
    members: Iterable[Member],
    beside: OfSeed = _NOTHING,
) -> bytes:
    """Return what a node answers.

    Args:
        label: of the node.
        pieces: pieces there are.
        log: those it has; None for all.
        cursor: where the other's knowledge of it ends.
        members: who fetches.
        beside: what only one that has everything says.
    """
    listed = [
        (member.id, str(Address(member.host, member.port)), member.held)
        for member in islice(members, MAX_TOLD)
    ]
    if log is None:
        return _encode(
            _SwarmJson(
                label[:MAX_LABEL],
                pieces,
                whole=True,
                members=listed,
                crowd=beside.crowd,
                taken=list(beside.taken.pieces),
                taken_cursor=beside.taken.cursor,
            )
        )
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
    if not 0 <= message.crowd <= MAX_CROWD:
        raise DecodeError("a swarm answer about too large a crowd")
    label = one_field(message.label, MAX_LABEL)
    if not message.whole:
        return SwarmAnswer(label, pieces, _held(message, pieces), message.cursor, members)
    taken = _news(message.taken_cursor, message.taken, pieces)
    return SwarmAnswer(
        label, pieces, None, message.cursor, members, message.crowd, taken if taken.cursor else None
    )


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
