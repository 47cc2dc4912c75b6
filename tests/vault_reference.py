"""A second implementation of docs/vault-format.md: reads a vault, and writes a small one. Slow and simple.

Written from the document, to find out whether the document and the program say the same. Takes nothing from
the program; what docs/manifest-format.md defines comes from :mod:`tests.reference`. Refuses with
:class:`RefusedError`.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blake3 import blake3
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.reference import UNALLOCATED, ZERO, derive, mac, manifest_id, text_id

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MIB = 1 << 20
PART = 65536
MAX_RECORD = 16 * MIB
LIMITS = {"packs": 64 * MIB, "indexes": 64 * MIB, "states": 4 * MIB, "heads": 64 * MIB}
PACK, INDEX, STATE, HEAD = b"OSVP", b"OSVI", b"OSVS", b"OSVH"

STATE_MEMBERS = (
    *("v", "team", "number", "follows", "seen", "counter", "saved", "by", "note", "vms"),
    *("indexes", "packs", "public_indexes", "public_packs"),
)
VM_MEMBERS = ("name", "at", "consistency", "past", "disks", "companions", "left_out")
DISK_MEMBERS = ("file", "manifest", "below")
COMPANION_MEMBERS = ("file", "role", "size", "parts")
PAST_MEMBERS = ("node", "counter")
LEFT_OUT_MEMBERS = ("file", "why")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")


class RefusedError(Exception):
    """What was read is not what this page allows."""


def expect(good: bool, what: str) -> None:
    if not good:
        raise RefusedError(what)


def number(data: bytes) -> int:
    return int.from_bytes(data, "little")


def small(value: int, size: int = 4) -> bytes:
    return value.to_bytes(size, "little")


# -- spaces and sealing ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Space:
    """A team's space, or (without a team key) the public one."""

    team: str = ""
    team_key: bytes = b""

    @property
    def key(self) -> bytes:
        return derive("overlaysync v1 vault key", self.team_key + self.team.encode())

    @property
    def tag(self) -> bytes:
        return derive("overlaysync v1 vault tag", self.key)[:16] if self.team_key else bytes(16)

    def cipher(self, magic: bytes, salt: bytes) -> AESGCM | None:
        if not self.team_key:
            return None
        return AESGCM(derive("overlaysync v1 vault object key", self.key + magic + salt))

    def voucher(self, message: bytes) -> bytes:
        if not self.team_key:
            return bytes(32)
        return mac(derive("overlaysync v1 vault voucher", self.key), message)

    def name(self, kind: str, data: bytes) -> str:
        return f"{self.tag.hex()}/{kind}/{blake3(data).hexdigest()}"


def begin(magic: bytes, space: Space, salt: bytes) -> bytes:
    return magic + b"\1" + (b"\1" if space.team_key else b"\0") + bytes(2) + salt


def open_record(data: bytes, magic: bytes, space: Space, place: int, stored: bytes) -> bytes:
    """The plain bytes of the record with number ``place`` in an object that begins with ``data``."""
    expect(len(data) >= 40 and data[:4] == magic, "magic")
    expect(data[4:8] == bytes([1, bool(space.team_key), 0, 0]), "version, or another space")
    cipher = space.cipher(magic, data[8:40])
    if cipher is None:
        expect(data[8:40] == bytes(32), "salt")
        return stored
    try:
        return cipher.decrypt(small(place, 12), stored, None)
    except (InvalidTag, ValueError):
        raise RefusedError("seal") from None


def close_record(magic: bytes, space: Space, salt: bytes, place: int, plain: bytes) -> bytes:
    cipher = space.cipher(magic, salt)
    return cipher.encrypt(small(place, 12), plain, None) if cipher else plain


# -- packs and indexes -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spot:
    """Where an item is: the pack, the record in it, and the item in the record."""

    pack: str
    record: int
    offset: int
    stored: int
    sizes: tuple[int, ...]
    item: int


@dataclass(frozen=True)
class Record:
    """A record to be written: its items, their keys, and its plain bytes."""

    items: list[bytes]
    keys: list[bytes]
    plain: bytes


def unpack(plain: bytes, size: int) -> bytes:
    """The items of a record, joined."""
    expect(size <= MAX_RECORD and len(plain) > 0, "size of a record")
    kind, body = plain[0], plain[1:]
    if kind == 1:
        try:
            expect(zstd.get_frame_info(body).decompressed_size == size, "content size")
            frame = zstd.ZstdDecompressor()
            body = frame.decompress(body)
            expect(frame.eof and not frame.unused_data, "bytes after a frame")
        except zstd.ZstdError:
            raise RefusedError("zstd") from None
    expect(kind in (0, 1) and len(body) == size, "size of a record")
    return body


def plain_record(items: list[bytes], keys: list[bytes]) -> Record:
    return Record(items, keys, b"\0" + b"".join(items))


def run_record(item: bytes, key: bytes) -> Record:
    """An item that is one byte repeated, in a zstd frame made by hand (RFC 8878): one block of that byte."""
    assert len(set(item)) == 1 and len(item) <= 128 * 1024
    block = small(1 | 1 << 1 | len(item) << 3, 3) + item[:1]
    return Record([item], [key], b"\1" + b"\x28\xb5\x2f\xfd" + b"\xa0" + small(len(item)) + block)


def make_pack(space: Space, salt: bytes, records: list[Record]) -> tuple[bytes, bytes]:
    """A pack, and its entry in an index."""
    data, entries, items = begin(PACK, space, salt), b"", b""
    for place, record in enumerate(records):
        stored = close_record(PACK, space, salt, place, record.plain)
        entries += small(len(data)) + small(len(stored)) + small(len(record.items))
        for key, item in zip(record.keys, record.items, strict=True):
            items += key + small(len(item))
        data += stored
    entry = blake3(data).digest() + small(len(data)) + small(len(records)) + entries + items
    return data, entry


def make_index(space: Space, salt: bytes, entries: list[bytes]) -> bytes:
    plain = small(len(entries)) + bytes(4) + b"".join(entries)
    return begin(INDEX, space, salt) + close_record(INDEX, space, salt, 0, plain)


def read_index(data: bytes, space: Space, packs: list[str]) -> dict[bytes, Spot]:
    """Where each item is, as far as the index says that it is in one of these packs."""
    plain = open_record(data, INDEX, space, 0, data[40:])
    at = 0

    def take(size: int) -> bytes:
        nonlocal at
        expect(at + size <= len(plain), "index cut off")
        at += size
        return plain[at - size : at]

    count = number(take(4))
    expect(take(4) == bytes(4), "zeros")
    found: dict[bytes, Spot] = {}
    for _ in range(count):
        pack, size, records = take(32).hex(), number(take(4)), number(take(4))
        places = [(number(take(4)), number(take(4)), number(take(4))) for _ in range(records)]
        end = 40
        for record, (offset, stored, items) in enumerate(places):
            expect(offset == end and items > 0, "record")
            end += stored
            rows = [(take(32), number(take(4))) for _ in range(items)]
            sizes = tuple(length for _, length in rows)
            expect(sum(sizes) <= MAX_RECORD, "size of a record")
            for item, (key, _) in enumerate(rows):
                if pack in packs:
                    found.setdefault(key, Spot(pack, record, offset, stored, sizes, item))
        expect(end == size <= LIMITS["packs"], "size of a pack")
    expect(at == len(plain), "bytes after the last entry")
    return found


# -- states ------------------------------------------------------------------------------------------


def ordered(members: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    expect(set(members) == set(names), "members")
    return {name: members[name] for name in names}


def payload_of(members: dict[str, Any]) -> bytes:
    """The canonical bytes of a state; the members come in any order."""
    state = ordered(members, STATE_MEMBERS)
    state["vms"] = [
        ordered(vm, VM_MEMBERS)
        | {
            "past": [ordered(one, PAST_MEMBERS) for one in vm["past"]],
            "disks": [ordered(disk, DISK_MEMBERS) for disk in vm["disks"]],
            "companions": [ordered(one, COMPANION_MEMBERS) for one in vm["companions"]],
            "left_out": [ordered(one, LEFT_OUT_MEMBERS) for one in vm["left_out"]],
        }
        for vm in state["vms"]
    ]
    return json.dumps(state, ensure_ascii=False, separators=(",", ":")).encode()


def make_state(space: Space, salt: bytes, seed: bytes, members: dict[str, Any]) -> bytes:
    key, payload = Ed25519PrivateKey.from_private_bytes(seed), payload_of(members)
    signature = key.sign(b"overlaysync v1 state\0" + payload)
    plain = key.public_key().public_bytes_raw() + signature + payload
    return begin(STATE, space, salt) + close_record(STATE, space, salt, 0, plain)


def check_signature(key: bytes, signature: bytes, message: bytes) -> None:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError):
        raise RefusedError("signature") from None


def read_state(data: bytes, space: Space) -> dict[str, Any]:
    plain = open_record(data, STATE, space, 0, data[40:])
    check_signature(plain[:32], plain[32:96], b"overlaysync v1 state\0" + plain[96:])
    try:
        members: dict[str, Any] = json.loads(plain[96:])
        expect(payload_of(members) == plain[96:], "canonical form")
    except (ValueError, KeyError, TypeError):
        raise RefusedError("not a state") from None
    names = [vm["name"] for vm in members["vms"]]
    expect(members["v"] == 1 and members["team"] == space.team, "version or team")
    expect(names == sorted(set(names)) and 1 <= len(names) <= 256, "VMs")
    expect(1 <= members["number"] < 1 << 31, "number")
    expect((members["number"] == 1) == (not members["follows"]), "number")
    expect(len(members["follows"]) <= 64, "follows")
    nodes = [node for node, _ in members["seen"]]
    expect(nodes == sorted(set(nodes)) and len(nodes) <= 1024, "seen")
    expect(all(re.fullmatch("[0-9a-f]{64}", node) for node in nodes), "seen")
    expect(all(1 <= counter < 10**12 for _, counter in members["seen"]), "seen")
    expect(1 <= members["counter"] < 10**12, "counter")
    expect(_TIME.fullmatch(members["saved"]) is not None, "saved")
    return members


# -- heads -------------------------------------------------------------------------------------------

HEAD_LISTS = ("states", "indexes", "packs", "public_indexes", "public_packs")


def make_head(space: Space, seed: bytes, members: dict[str, Any]) -> bytes:
    """A head; the members are ``counter``, ``size``, ``made`` and the five lists."""
    key = Ed25519PrivateKey.from_private_bytes(seed)
    data = HEAD + b"\1" + bytes(3) + space.tag + key.public_key().public_bytes_raw()
    data += small(members["counter"], 8) + small(members["size"], 8)
    data += members["made"].encode() + bytes(4)
    data += b"".join(small(len(members[what])) for what in HEAD_LISTS) + bytes(4)
    data += b"".join(bytes.fromhex(one) for what in HEAD_LISTS for one in members[what])
    data += space.voucher(data)
    return data + key.sign(b"overlaysync v1 head\0" + data)


def head_name(space: Space, data: bytes) -> str:
    return f"{space.tag.hex()}/heads/{data[24:56].hex()}/{number(data[56:64]):012}"


def read_head(data: bytes, space: Space) -> dict[str, Any]:
    expect(len(data) >= 120 + 32 + 64 and data[:8] == HEAD + b"\1\0\0\0", "not a head")
    check_signature(data[24:56], data[-64:], b"overlaysync v1 head\0" + data[:-64])
    expect(data[8:24] == space.tag, "another space")
    expect(space.voucher(data[:-96]) == data[-96:-64], "voucher")
    expect(data[92:96] == data[116:120] == bytes(4), "zeros")
    counts = [number(data[at : at + 4]) for at in range(96, 116, 4)]
    expect(len(data) == 120 + 32 * sum(counts) + 96, "length")
    at = 120
    members: dict[str, Any] = {
        "node": data[24:56].hex(),
        "counter": number(data[56:64]),
        "size": number(data[64:72]),
        "made": data[72:92].decode("ascii", "replace"),
    }
    expect(1 <= members["counter"] < 10**12, "counter")
    expect(_TIME.fullmatch(members["made"]) is not None, "made")
    for what, count in zip(HEAD_LISTS, counts, strict=True):
        hashes = [data[at + 32 * row : at + 32 * row + 32].hex() for row in range(count)]
        at += 32 * count
        expect(len(set(hashes)) == count, "a hash twice")
        expect(what == "states" or hashes == sorted(hashes), "order")
        members[what] = hashes
    return members


# -- a whole vault -----------------------------------------------------------------------------------


@dataclass
class Vault:
    """A vault in a directory, read with the key of one team."""

    root: Path
    space: Space
    public: Space = field(default_factory=Space)

    def get(self, space: Space, kind: str, hash: str) -> bytes:
        data = (self.root / space.tag.hex() / kind / hash).read_bytes()
        expect(len(data) <= LIMITS[kind] and blake3(data).hexdigest() == hash, f"{kind} {hash}")
        return data

    def put(self, name: str, data: bytes) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def heads(self) -> dict[str, dict[str, Any]]:
        """The newest head of each node that is a member."""
        found: dict[str, dict[str, Any]] = {}
        for path in sorted((self.root / self.space.tag.hex() / "heads").glob("*/*")):
            data = path.read_bytes()
            head = read_head(data, self.space)
            expect(str(path.relative_to(self.root)) == head_name(self.space, data), "name of a head")
            if head["counter"] > found.get(head["node"], {"counter": 0})["counter"]:
                found[head["node"]] = head
        return found

    def states(self) -> list[dict[str, Any]]:
        hashes = {hash: None for head in self.heads().values() for hash in head["states"]}
        return [read_state(self.get(self.space, "states", hash), self.space) for hash in hashes]

    def items(self, state: dict[str, Any], *, public: bool) -> dict[bytes, bytes]:
        """Every item of the packs that a state names, verified where its key says of itself what it is."""
        space, prefix = (self.public, "public_") if public else (self.space, "")
        spots: dict[bytes, Spot] = {}
        for hash in state[f"{prefix}indexes"]:
            found = read_index(self.get(space, "indexes", hash), space, state[f"{prefix}packs"])
            spots |= found
        items = {}
        for pack in state[f"{prefix}packs"]:
            data = self.get(space, "packs", pack)
            for key, spot in spots.items():
                if spot.pack == pack:
                    stored = data[spot.offset : spot.offset + spot.stored]
                    plain = unpack(open_record(data, PACK, space, spot.record, stored), sum(spot.sizes))
                    start = sum(spot.sizes[: spot.item])
                    items[key] = plain[start : start + spot.sizes[spot.item]]
        return items

    def disk(self, state: dict[str, Any], vm: str, file: str) -> bytes:
        """What the guest of a VM saw on one of its disks."""
        (saved,) = (one for one in state["vms"] if one["name"] == vm)
        (disk,) = (one for one in saved["disks"] if one["file"] == file)
        spaces = [self.items(state, public=False), self.items(state, public=True)]
        guest: bytes | None = None
        for manifest in reversed([disk["manifest"], *disk["below"]]):
            items = next(items for items in spaces if bytes.fromhex(manifest) in items)
            guest = content(items, bytes.fromhex(manifest), guest)
        assert guest is not None
        return guest

    def companion(self, state: dict[str, Any], vm: str, file: str) -> bytes:
        (saved,) = (one for one in state["vms"] if one["name"] == vm)
        (companion,) = (one for one in saved["companions"] if one["file"] == file)
        items = self.items(state, public=False)
        data = b""
        for part in companion["parts"]:
            expect(blake3(items[bytes.fromhex(part)]).hexdigest() == part, "part")
            data += items[bytes.fromhex(part)]
        expect(len(data) == companion["size"], "size")
        return data


def content(items: dict[bytes, bytes], manifest: bytes, parent: bytes | None) -> bytes:
    """The guest bytes that a manifest describes, on those of its parent."""
    envelope = items[manifest]
    expect(manifest_id(envelope) == manifest, "manifest")
    check_signature(envelope[4:36], envelope[36:100], b"overlaysync v1 manifest\0" + envelope[132:])
    header = json.loads(envelope[132:])
    page_list = items[bytes.fromhex(header["id"].removeprefix("b3:"))]
    context = f"overlaysync v1 {header['kind']} id"
    expect(text_id(derive(context, page_list)) == header["id"], "page list")
    size, unit = header["virtual_size"], header["unit"]
    expect((header["kind"] == "layer") == (parent is not None), "kind")
    guest = bytearray((parent or b"")[:size].ljust(size, b"\0"))
    for at in range(48, len(page_list), 40):
        page, digest = number(page_list[at : at + 8]), page_list[at + 8 : at + 40]
        rows = items[digest]
        expect(derive("overlaysync v1 page", rows) == digest, "page")
        for row in range(len(rows) // 32):
            key, start = rows[32 * row : 32 * row + 32], (1024 * page + row) * unit
            end = min(start + unit, size)
            if key == ZERO:
                guest[start:end] = bytes(end - start)
            elif key != UNALLOCATED:
                expect(blake3(items[key]).digest() == key and len(items[key]) == end - start, "unit")
                guest[start:end] = items[key]
    return bytes(guest)


# -- vectors -----------------------------------------------------------------------------------------


def space_case(name: str, team: str, team_key: str) -> dict[str, Any]:
    space = Space(team, bytes.fromhex(team_key))
    given = {"kind": "space", "name": name, "team": team, "team_key": team_key}
    return given | {"space_key": space.key.hex(), "tag": space.tag.hex()}


def space_of(case: dict[str, Any]) -> Space:
    return Space(case.get("team", ""), bytes.fromhex(case.get("team_key", "")))


def objects_case(
    name: str, team: dict[str, str], salts: list[str], records: list[dict[str, Any]]
) -> dict[str, Any]:
    """One pack, and the index of it."""
    case = {"kind": "objects", "name": name, **team, "salts": salts, "records": records}
    space, made = space_of(case), []
    for record in records:
        items = [bytes.fromhex(item) for item in record["items"]]
        keys = [blake3(item).digest() for item in items]
        run = record["packed"] == "run"
        made.append(run_record(items[0], keys[0]) if run else plain_record(items, keys))
    pack, entry = make_pack(space, bytes.fromhex(salts[0]), made)
    index = make_index(space, bytes.fromhex(salts[1]), [entry])
    return case | {
        "keys": [key.hex() for record in made for key in record.keys],
        "pack": pack.hex(),
        "pack_name": space.name("packs", pack),
        "index": index.hex(),
        "index_name": space.name("indexes", index),
    }


def state_case(
    name: str, team: dict[str, str], salt: str, seed: bytes, members: dict[str, Any]
) -> dict[str, Any]:
    case = {"kind": "state", "name": name, **team, "salt": salt, "private_key": seed.hex()}
    space = space_of(case)
    data = make_state(space, bytes.fromhex(salt), seed, members)
    return case | {"members": members, "object": data.hex(), "object_name": space.name("states", data)}


def head_case(name: str, team: dict[str, str], seed: bytes, members: dict[str, Any]) -> dict[str, Any]:
    case = {"kind": "head", "name": name, **team, "private_key": seed.hex(), "members": members}
    space = space_of(case)
    data = make_head(space, seed, members)
    return case | {"object": data.hex(), "object_name": head_name(space, data)}


def proof_case(name: str, nonce: str, data: str) -> dict[str, Any]:
    key = derive("overlaysync v1 vault proof", bytes.fromhex(nonce))
    proof = mac(key, bytes.fromhex(data)).hex()
    return {"kind": "proof", "name": name, "nonce": nonce, "object": data, "proof": proof}


def cases() -> list[dict[str, Any]]:
    team = {"team": "équipe_2", "team_key": bytes(range(100, 120)).hex()}
    seed, salts = bytes(range(32)), ["a1" * 32, "b2" * 32]
    records = [
        {"packed": "plain", "items": ["00010203", "ff", ""]},
        {"packed": "run", "items": ["5a" * 600]},
    ]
    sealed = objects_case("a sealed pack of two records", team, salts, records)
    public = objects_case("a public pack", {}, ["00" * 32] * 2, records)
    parts = [blake3(bytes([byte])).hexdigest() for byte in (1, 2)]
    vm = {
        "name": "routeur-é",
        "at": "2026-01-31T11:59:58Z",
        "consistency": "off",
        "past": [{"node": f"{at:02x}" * 32, "counter": 10**at} for at in (3, 11)],
        "disks": [{"file": "vm.qcow2", "manifest": "1a" * 32, "below": ["2b" * 32]}],
        "companions": [{"file": "tpm/state.bin", "role": "tpm", "size": 65537, "parts": parts}],
        "left_out": [{"file": "cd.iso", "why": 'it is a "medium"\n'}],
    }
    small_vm = vm | {"name": "a", "companions": [], "left_out": [], "consistency": "crash", "past": []}
    state = {
        "v": 1,
        "team": "équipe_2",
        "number": 1,
        "follows": [],
        "seen": [],
        "counter": 1,
        "saved": "2026-01-31T12:00:00Z",
        "by": "ann@lab-07-abc234",
        "note": "before “week 3”",
        "vms": [small_vm, vm],
        "indexes": [sealed["index_name"][-64:]],
        "packs": [sealed["pack_name"][-64:]],
        "public_indexes": [public["index_name"][-64:]],
        "public_packs": [public["pack_name"][-64:]],
    }
    first = state_case("a state", team, "c3" * 32, seed, state)
    later = state | {
        "number": 2147483647,
        "counter": 10**12 - 1,
        "follows": [first["object_name"][-64:]],
        "seen": [["0b" * 32, 10**12 - 1], ["e7" * 32, 1]],
        "note": "",
    }
    second = state_case("a state that follows one", team, "d4" * 32, seed, later)
    lists = {what: state[what] for what in HEAD_LISTS[1:]}
    head = {
        "counter": 1,
        "size": 4711,
        "made": "2026-01-31T12:00:01Z",
        "states": [first["object_name"][-64:]],
        **lists,
    }
    empty = {"counter": 10**12 - 1, "size": 0, "made": "2026-01-31T12:00:01Z"} | {
        what: [] for what in HEAD_LISTS
    }
    both = head | {"counter": 2, "states": [one["object_name"][-64:] for one in (first, second)]}
    return [
        space_case("a team", **team),
        space_case("another name, the same key", "red", team["team_key"]),
        sealed,
        public,
        first,
        second,
        head_case("a head", team, seed, head),
        head_case("the next head", team, seed, both),
        head_case("a head that lists nothing", team, bytes([7]) * 32, empty),
        head_case("a head of the public space", {}, seed, empty),
        proof_case("a proof", "e5" * 16, public["pack"]),
    ]
