"""Feeds damaged messages to every decoder: ``python -m tests.net.fuzzing_decoders --cases N --seed S``.

Structure-aware: takes good messages of each kind, flips bits, cuts, repeats, joins, and puts in words and
numbers that hurt. Each must be decoded to values that are within the bounds, or be refused with the one error
of that decoder; in bounded memory (RLIMIT_AS) and time (an alarm). Run in a process of its own, for those.
"""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from zeroconf import ServiceInfo

from overlaysync.discovery.bounds import DISCOVERY
from overlaysync.discovery.browser import SERVICE
from overlaysync.discovery.txt import Item, NodeText, decode_txt, encode_txt
from overlaysync.errors import DecodeError, OverlaysyncError, PeerError, UsageError
from overlaysync.model.have import HaveMap
from overlaysync.model.manifest import MANIFEST_CONTEXT, Header, decode_header, encode_header
from overlaysync.model.names import is_name
from overlaysync.model.pages import PageList
from overlaysync.model.pieces import PieceLog
from overlaysync.net.bounds import (
    MAX_CATALOG_ITEMS,
    MAX_HISTORY_ITEMS,
    MAX_LABEL,
    MAX_PEERS,
    MAX_SLOTS,
    MAX_TOLD,
)
from overlaysync.net.messages import (
    CatalogMessage,
    decode_catalog,
    decode_history,
    decode_peers,
    decode_slots,
    encode_catalog,
    encode_history,
    encode_peers,
    encode_slots,
    parse_address,
)
from overlaysync.net.receiving import parse_head
from overlaysync.net.swarm_messages import (
    Claim,
    OfSeed,
    SwarmQuestion,
    decode_data_query,
    decode_question,
    decode_swarm,
    decode_taken,
    encode_data_query,
    encode_question,
    encode_swarm,
    encode_taken,
)
from overlaysync.swarm.handed import News
from overlaysync.swarm.members import Member
from overlaysync.trust.envelope import open_envelope, sign_header
from overlaysync.trust.keys import PUBLIC_KEY_SIZE, SIGNATURE_SIZE, NodeKey
from overlaysync.trust.teams import VOUCHER_SIZE, Team
from overlaysync.units import CHUNK, MIB
from tests.fuzzing import limit_memory, run_cases
from tests.net.fuzzing import MEMORY

PIECES = 1000
KEY = NodeKey(Ed25519PrivateKey.from_private_bytes(bytes(32)))
TEAM = Team("red", bytes(20))
_PREFIX = 4 + PUBLIC_KEY_SIZE + SIGNATURE_SIZE + VOUCHER_SIZE
ID = "b3:" + "5" * 64
HEADER = Header(
    kind="layer",
    team="red",
    name="routeur-é",
    version=3,
    follows=("1" * 64, "2" * 64),
    id=ID,
    virtual_size=64 * MIB,
    unit=4096,
    data_size=MIB,
    list_size=100,
    parent=ID,
    parent_name="debian",
    result=ID,
    format="qcow2",
    cluster_size=CHUNK,
    created="2026-01-01T00:00:00Z",
    by="pl@bob-abc234",
    note="“final”",
)
MASTER = Header(
    kind="disk",
    name="debian",
    version=1,
    id=ID,
    virtual_size=64 * MIB,
    unit=CHUNK,
    data_size=MIB,
    list_size=100,
    result=ID,
    format="raw",
    cluster_size=CHUNK,
    created="2026-01-01T00:00:00Z",
)
WORDS = (
    *(
        b"",
        b"\0",
        b"\xff",
        b"\x1b[31m",
        b"\r\n",
        b"\r\n\r\n",
        b"../../etc",
        b"-rf",
        b"NaN",
        b"1e999",
        b"null",
        b"[]",
    ),
    *(
        b"-1",
        b"0",
        b"00",
        b"4294967296",
        b"18446744073709551616",
        b"9" * 40,
        b'"',
        b"\\u0000",
        b"\\ud800",
        b"%00",
    ),
    *(
        "\u202e".encode(),
        "é".encode(),
        "e\u0301".encode(),
        b"[" * 300,
        b"{" * 300,
        b"," * 200,
        b"0-0,",
        b"=",
        b"&",
    ),
    *(
        b"Content-Length: 5\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"[fe80::1%eth0]:80",
        b"localhost:1",
        b" " * 999,
    ),
)
_NUMBER = re.compile(rb"\d+")


@dataclass(frozen=True, slots=True)
class Decoder:
    """One of them.

    Attributes:
        use: decodes and checks what comes of it.
        refusals: what it may raise.
        seeds: good messages.
    """

    use: Callable[[bytes], object]
    refusals: type[OverlaysyncError] | tuple[type[OverlaysyncError], ...]
    seeds: tuple[bytes, ...]


# -- the decoders --------------------------------------------------------------------------------------


def use_header(data: bytes) -> None:
    header = decode_header(data)
    assert encode_header(header) == data
    assert is_name(header.name) and (not header.team or is_name(header.team))


def use_envelope(data: bytes) -> None:
    """As it comes, and signed anew, as a liar can sign what he likes."""
    signed = sign_header_bytes(data[_PREFIX:])
    assert open_envelope(signed).envelope == signed
    manifest = open_envelope(data)
    assert manifest.envelope == data
    assert manifest.belongs({"red": TEAM}) == (manifest.header.team == "" or data in ENVELOPES)


def sign_header_bytes(payload: bytes) -> bytes:
    """An envelope around any payload, with no team's voucher."""
    signature = KEY.sign(MANIFEST_CONTEXT.encode() + b"\0" + payload)
    return b"OSM1" + KEY.public + signature + bytes(VOUCHER_SIZE) + payload


def use_txt(data: bytes) -> None:
    text = decode_txt(ServiceInfo(SERVICE, f"x.{SERVICE}", properties=data).properties)
    if text is None:
        raise DecodeError("another version")
    assert len(text.items) <= DISCOVERY.items
    assert (text.node_id + text.revision).isprintable()
    assert all(is_name(part) for item in text.items for part in item.name.split("/"))


def use_slots(data: bytes) -> None:
    text = data.decode("latin-1")
    runs = decode_slots(text)
    assert encode_slots(runs) == text
    assert sum(count for _, count in runs) <= MAX_SLOTS


def use_catalog(data: bytes) -> None:
    catalog = decode_catalog(data)
    assert len(catalog.envelopes) <= MAX_CATALOG_ITEMS
    assert catalog.label.isprintable() and len(catalog.label) <= MAX_LABEL + 1


def use_history(data: bytes) -> None:
    assert len(decode_history(data)) <= MAX_HISTORY_ITEMS


def use_peers(data: bytes) -> None:
    assert len(decode_peers(data)) <= MAX_PEERS


def use_swarm(data: bytes) -> None:
    answer = decode_swarm(data, PIECES)
    assert answer.label.isprintable() and len(answer.members) <= MAX_TOLD
    assert answer.held is None or all(0 <= piece < PIECES for piece in answer.held)
    assert answer.taken is None or all(0 <= piece < PIECES for piece in answer.taken.pieces)


def use_question(data: bytes) -> None:
    text = data.decode("latin-1")
    question = decode_question(text)
    assert question.label.isprintable() and len(question.label) <= MAX_LABEL
    assert decode_question(encode_question(question)) == question


def use_data_query(data: bytes) -> None:
    text = data.decode("latin-1")
    runs, claim = decode_data_query(text)
    assert decode_data_query(encode_data_query(runs, claim)) == (runs, claim)


def use_taken(data: bytes) -> None:
    news = decode_taken(data.decode("latin-1"), PIECES)
    assert all(0 <= piece < PIECES for piece in news.pieces)
    assert decode_taken(encode_taken(news), PIECES) == news


def use_head(data: bytes) -> None:
    head = parse_head(data)
    assert 0 <= head.status <= 999 and head.length >= 0


def use_address(data: bytes) -> None:
    address = parse_address(data.decode("latin-1"))
    assert 0 < address.port < 1 << 16
    assert parse_address(str(address)) == address


def use_page_list(data: bytes) -> None:
    assert PageList.decode(data).encode() == data


def use_have_map(data: bytes) -> None:
    assert HaveMap.from_bytes(data, PIECES).to_bytes() == data


def txt_bytes(text: NodeText) -> bytes:
    """As it is on the wire."""
    strings = (key + b"=" + value for key, value in encode_txt(text).items())
    return b"".join(bytes([len(string)]) + string for string in strings)


def _log() -> PieceLog:
    log = PieceLog(PIECES)
    for piece in (5, 7, 900):
        log.add(piece)
    return log


ENVELOPES = (sign_header(HEADER, KEY, TEAM).envelope, sign_header(MASTER, KEY).envelope)
ITEMS = (Item("master", "debian", bytes(32)), Item("overlay", "équipe/routeur", bytes(32)))
MEMBERS = [Member(f"{number:016x}", f"192.0.2.{number}", 80, number) for number in range(1, 4)]
LISTS = (
    PageList(64 * MIB, CHUNK, None, (0,), (bytes(range(32)),)),
    PageList(640 * MIB, 4096, bytes(range(32)), (1, 7, 70), (bytes(range(32)),) * 3),
)

DECODERS = {
    "header": Decoder(use_header, DecodeError, (encode_header(HEADER), encode_header(MASTER))),
    "envelope": Decoder(use_envelope, DecodeError, ENVELOPES),
    "page list": Decoder(use_page_list, DecodeError, tuple(pages.encode() for pages in LISTS)),
    "have map": Decoder(use_have_map, DecodeError, (_log().held.to_bytes(),)),
    "txt": Decoder(use_txt, DecodeError, (txt_bytes(NodeText("abcd-efgh", "r1", ITEMS)), b"\x03v=1")),
    "slots": Decoder(use_slots, DecodeError, (b"0-63,80-95", b"999999999990-999999999999", b"0-0")),
    "catalog": Decoder(
        use_catalog,
        DecodeError,
        (
            encode_catalog(
                CatalogMessage(
                    bytes(32),
                    "pl@bob",
                    ENVELOPES,
                    boot=bytes(16),
                    in_use=[(ENVELOPES[0], "2026-11-28T10:14:00Z")],
                )
            ),
        ),
    ),
    "history": Decoder(use_history, DecodeError, (encode_history(ENVELOPES), encode_history([]))),
    "peers": Decoder(use_peers, DecodeError, (encode_peers(["192.0.2.1:80", "[2001:db8::1]:81"]),)),
    "swarm": Decoder(
        use_swarm,
        DecodeError,
        (
            encode_swarm("pl@bob", PIECES, None, cursor=0, members=MEMBERS),
            encode_swarm("pl@bob", PIECES, None, cursor=0, members=(), beside=OfSeed(9, News((3, 1), 7))),
            encode_swarm("pl@bob", PIECES, _log(), cursor=0, members=MEMBERS),
            encode_swarm("pl@bob", PIECES, _log(), cursor=1, members=MEMBERS),
        ),
    ),
    "data": Decoder(
        use_data_query,
        DecodeError,
        tuple(
            encode_data_query(((0, 64), (80, 16)), claim).encode() for claim in (None, Claim("5f" * 8, 17))
        ),
    ),
    "taken": Decoder(use_taken, DecodeError, (encode_taken(News((3, 1), 7)).encode(), b"7")),
    "question": Decoder(
        use_question,
        DecodeError,
        tuple(
            encode_question(question).encode()
            for question in (
                SwarmQuestion("5f" * 8, 80, 17, 3, "pl@bob"),
                SwarmQuestion(held=1, known=4, taken=9),
            )
        ),
    ),
    "head": Decoder(
        use_head,
        PeerError,
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 65536\r\nServer: overlaysync",
            b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nRetry-After: 7\r\nConnection: close",
            b"HTTP/1.1 200 OK\r\nContent-Encoding: zstd\r\nContent-Length: 99",
        ),
    ),
    "address": Decoder(use_address, UsageError, (b"192.0.2.1:80", b"[2001:db8::7]:43210", b"bob.lab:1")),
}


# -- damage --------------------------------------------------------------------------------------------


def damage(random_: random.Random, data: bytes) -> bytes:
    """A damaged copy."""
    wrong = bytearray(data)
    for _ in range(random_.choice((1, 1, 1, 2, 3, 6))):
        what = random_.randrange(10)
        at = random_.randrange(len(wrong) + 1)
        if what < 2 and wrong:
            wrong[at % len(wrong)] ^= 1 << random_.randrange(8)
        elif what == 2 and wrong:
            wrong[at % len(wrong)] = random_.randrange(256)
        elif what == 3:
            del wrong[at : at + random_.randrange(1, 20)]
        elif what == 4:
            del wrong[at:]
        elif what == 5:
            wrong[at:at] = random_.randbytes(random_.randrange(1, 9))
        elif what == 6:
            start = random_.randrange(len(wrong) + 1)
            wrong[at:at] = wrong[start : start + random_.randrange(1, 100)] * random_.choice((1, 1, 2, 300))
        elif what == 7 and (numbers := [*_NUMBER.finditer(wrong)]):
            number = random_.choice(numbers)
            wrong[slice(*number.span())] = b"%d" % random_.choice(
                (0, 1, int(number[0][:18]) + 1, 1 << random_.randrange(70), random_.randrange(70_000))
            )
        else:
            wrong[at : at + random_.choice((0, 0, 1, 4))] = random_.choice(WORDS)
    return bytes(wrong)


def use(decoder: Decoder, data: bytes) -> str:
    """Decode a message; return what came of it."""
    try:
        decoder.use(data)
    except decoder.refusals as error:
        assert str(error).isprintable(), repr(str(error))
        return "refused"
    return "decoded"


def run(case: int, random_: random.Random) -> str:
    """One case: the decoder, and what came of it."""
    name = NAMES[case % len(NAMES)]
    decoder = DECODERS[name]
    return f"{name}: {use(decoder, damage(random_, random_.choice(decoder.seeds)))}"


NAMES = [*DECODERS]


def main() -> int:
    """Run the cases; the exit code is 0 when every message was decoded or refused."""
    for decoder in DECODERS.values():
        assert {use(decoder, seed) for seed in decoder.seeds} == {"decoded"}
    limit_memory(MEMORY)
    return run_cases(run, between="\n")


if __name__ == "__main__":
    sys.exit(main())
