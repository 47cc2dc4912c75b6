"""A second implementation of docs/manifest-format.md: bytes in, bytes out, slow and simple.

Written from the document, to find out whether the document and the program say the same. Leaves out image
formats (what a layer's tables say is given as a list of runs) and everything about speed and memory. Takes
nothing from the program. ``python -m tests.reference`` writes the test vectors anew.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

CHUNK = 65536
SECTOR = 512
UNALLOCATED = bytes(32)
ZERO = bytes(31) + b"\x01"
VECTORS = Path(__file__).parent / "vectors"

HEADER_MEMBERS = (
    "v",
    "kind",
    "team",
    "name",
    "version",
    "follows",
    "id",
    "virtual_size",
    "unit",
    "data_size",
    "list_size",
    "parent",
    "parent_name",
    "result",
    "format",
    "cluster_size",
    "compression",
    "compressed_size",
    "created",
    "by",
    "note",
    "companions",
)


def derive(context: str, data: bytes) -> bytes:
    return blake3(data, derive_key_context=context).digest()


def mac(key: bytes, data: bytes) -> bytes:
    return blake3(data, key=key).digest()


# -- units -------------------------------------------------------------------------------------------


def row(data: bytes) -> bytes:
    """The 32 bytes of a unit that holds ``data``."""
    return ZERO if data == bytes(len(data)) else blake3(data).digest()


def disk_rows(guest: bytes) -> list[bytes]:
    """The 32 bytes of every chunk of a disk."""
    return [row(guest[at : at + CHUNK]) for at in range(0, len(guest), CHUNK)]


@dataclass(frozen=True)
class Run:
    """What an overlay's own tables say of some of its bytes; bytes without a run are unallocated.

    Attributes:
        kind: ``data`` or ``zero``.
    """

    offset: int
    length: int
    kind: str
    data: bytes = b""


def guest_of(parent: bytes, size: int, runs: list[Run]) -> bytes:
    """What the guest of an overlay sees."""
    guest = bytearray(parent[:size].ljust(size, b"\0"))
    for run in runs:
        piece = run.data if run.kind == "data" else bytes(run.length)
        guest[run.offset : run.offset + run.length] = piece
    return bytes(guest[:size])


def layer_rows(parent: bytes, size: int, granule: int, runs: list[Run]) -> list[bytes]:
    """The 32 bytes of every granule of a layer."""
    said = ["unallocated"] * (-(-size // SECTOR))
    for run in runs:
        for sector in range(run.offset // SECTOR, min(len(said), -(-(run.offset + run.length) // SECTOR))):
            said[sector] = run.kind
    guest = guest_of(parent, size, runs)
    rows = []
    for at in range(0, size, granule):
        kinds = set(said[at // SECTOR : (at + granule) // SECTOR])
        if kinds == {"unallocated"}:
            rows.append(UNALLOCATED)
        elif kinds == {"zero"}:
            rows.append(ZERO)
        else:
            rows.append(row(guest[at : at + granule]))
    return rows


# -- pages and lists ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Listed:
    """The rows of a disk or layer with everything that follows from them."""

    rows: list[bytes]
    pages: dict[int, bytes]
    page_list: bytes
    id: bytes


def listed(rows: list[bytes], *, size: int, unit: int, parent: bytes | None) -> Listed:
    """Pages, page list and id; ``parent`` is the disk id below a layer."""
    blank = ZERO if parent is None else UNALLOCATED
    pages = {}
    for first in range(0, len(rows), 1024):
        page = rows[first : first + 1024]
        if any(one != blank for one in page):
            pages[first // 1024] = b"".join(page)
    encoded = b"OSD1" if parent is None else b"OSL1"
    encoded += unit.to_bytes(4, "little") + size.to_bytes(8, "little") + (parent or bytes(32))
    for number, body in pages.items():
        encoded += number.to_bytes(8, "little") + derive("overlaysync v1 page", body)
    context = "overlaysync v1 disk id" if parent is None else "overlaysync v1 layer id"
    return Listed(rows, pages, encoded, derive(context, encoded))


def disk(guest: bytes) -> Listed:
    return listed(disk_rows(guest), size=len(guest), unit=CHUNK, parent=None)


def layer(parent: bytes, size: int, granule: int, runs: list[Run]) -> Listed:
    rows = layer_rows(parent, size, granule, runs)
    return listed(rows, size=size, unit=granule, parent=disk(parent).id)


# -- slots -------------------------------------------------------------------------------------------


def slots(rows: list[bytes]) -> list[int]:
    """The unit of every slot."""
    return [unit for unit, one in enumerate(rows) if one not in (UNALLOCATED, ZERO)]


def data_size(rows: list[bytes], *, size: int, unit: int) -> int:
    return sum(min(unit, size - number * unit) for number in slots(rows))


def have_map(held: set[int], count: int) -> bytes:
    encoded = bytearray((count + 7) // 8)
    for slot in held:
        encoded[slot // 8] |= 0x80 >> slot % 8
    return bytes(encoded)


# -- header and envelope -----------------------------------------------------------------------------


def text_id(digest: bytes) -> str:
    return "b3:" + digest.hex()


def header(members: dict[str, Any]) -> bytes:
    """The canonical bytes of a header; the members come in any order."""
    assert set(members) == set(HEADER_MEMBERS)
    ordered = {name: members[name] for name in HEADER_MEMBERS}
    return json.dumps(ordered, ensure_ascii=False, separators=(",", ":")).encode()


@dataclass(frozen=True)
class TeamKey:
    """What the members of a team share."""

    name: str
    key: bytes

    def vouch(self, message: bytes) -> bytes:
        secret = derive("overlaysync v1 team voucher of a manifest", self.key + self.name.encode())
        return mac(secret, message)


def envelope(seed: bytes, payload: bytes, team: TeamKey | None = None) -> bytes:
    """``payload`` signed with the private key ``seed``, and vouched for with the key of ``team``."""
    key = Ed25519PrivateKey.from_private_bytes(seed)
    public, signature = key.public_key().public_bytes_raw(), key.sign(b"overlaysync v1 manifest\0" + payload)
    voucher = team.vouch(public + signature + payload) if team else bytes(32)
    return b"OSM1" + public + signature + voucher + payload


def manifest_id(signed: bytes) -> bytes:
    return derive("overlaysync v1 manifest", signed)


def node_id(public_key: bytes) -> str:
    text = base64.b32encode(derive("overlaysync v1 node id", public_key)[:20]).decode().lower()
    return "-".join(text[at : at + 4] for at in range(0, 32, 4))


# -- history -----------------------------------------------------------------------------------------


def followed_by(manifest: bytes, follows: Mapping[bytes, Sequence[bytes]]) -> set[bytes]:
    """All that a manifest follows, directly or through others, as far as headers are known."""
    found = set(follows.get(manifest, ()))
    while more := {before for one in found for before in follows.get(one, ())} - found:
        found |= more
    return found


# -- vectors -----------------------------------------------------------------------------------------


def filled(length: int, fill: str) -> bytes:
    """``fill`` (hexadecimal) repeated to ``length`` bytes."""
    pattern = bytes.fromhex(fill)
    return (pattern * (length // len(pattern) + 1))[:length]


def contents(size: int, runs: list[dict[str, Any]]) -> bytes:
    """The bytes that a vector describes."""
    guest = bytearray(size)
    for run in runs:
        guest[run["offset"] : run["offset"] + run["length"]] = filled(run["length"], run["fill"])
    assert len(guest) == size
    return bytes(guest)


def layer_runs(runs: list[dict[str, Any]]) -> list[Run]:
    """The runs that a vector describes."""
    return [
        Run(
            run["offset"],
            run["length"],
            run["kind"],
            filled(run["length"], run["fill"]) if run["kind"] == "data" else b"",
        )
        for run in runs
    ]


def load_vectors(name: str) -> list[dict[str, Any]]:
    """The cases in a file of vectors."""
    cases: list[dict[str, Any]] = json.loads((VECTORS / f"{name}.json").read_text())
    return cases


def _expected(it: Listed, blank: bytes) -> dict[str, Any]:
    return {
        "units": {str(number): one.hex() for number, one in enumerate(it.rows) if one != blank},
        "page_list": it.page_list.hex(),
        "id": text_id(it.id),
    }


def disk_case(name: str, size: int, runs: list[dict[str, Any]]) -> dict[str, Any]:
    given = {"name": name, "virtual_size": size, "content": runs}
    return given | _expected(disk(contents(size, runs)), ZERO)


def layer_case(
    name: str,
    parent: tuple[int, list[dict[str, Any]]],
    size: int,
    granule: int,
    runs: list[dict[str, Any]],
) -> dict[str, Any]:
    below = contents(*parent)
    own = layer_runs(runs)
    it = layer(below, size, granule, own)
    result = disk(guest_of(below, size, own))
    return {
        "name": name,
        "parent": {"virtual_size": parent[0], "content": parent[1], "id": text_id(disk(below).id)},
        "virtual_size": size,
        "granule": granule,
        "tables": runs,
        **_expected(it, UNALLOCATED),
        "slots": slots(it.rows),
        "data_size": data_size(it.rows, size=size, unit=granule),
        "result": text_id(result.id),
    }


def manifest_case(
    name: str, seed: bytes, members: dict[str, Any], team: TeamKey | None = None
) -> dict[str, Any]:
    payload = header(members)
    signed = envelope(seed, payload, team)
    return {
        "name": name,
        "private_key": seed.hex(),
        **({"team_key": team.key.hex()} if team else {}),
        "public_key": signed[4:36].hex(),
        "node_id": node_id(signed[4:36]),
        "members": members,
        "header": payload.decode(),
        "envelope": signed.hex(),
        "id": text_id(manifest_id(signed)),
    }


def have_map_case(count: int, held: set[int]) -> dict[str, Any]:
    return {"count": count, "slots": sorted(held), "bytes": have_map(held, count).hex()}


def _run(offset: int, length: int, fill: str, kind: str = "") -> dict[str, Any]:
    said = {"kind": kind} if kind else {}
    return {"offset": offset, "length": length, **said, **({} if kind == "zero" else {"fill": fill})}


def _disks() -> list[dict[str, Any]]:
    page = 1024 * CHUNK
    return [
        disk_case("empty", 0, []),
        disk_case("one sector of zeros", 512, []),
        disk_case("one sector", 512, [_run(0, 512, "a5")]),
        disk_case("one chunk", CHUNK, [_run(0, CHUNK, "000102")]),
        disk_case("a single byte at the end", CHUNK, [_run(CHUNK - 1, 1, "01")]),
        disk_case("short last chunk", CHUNK + 1536, [_run(CHUNK, 1536, "deadbeef")]),
        disk_case("short last chunk of zeros", CHUNK + 1536, [_run(0, CHUNK, "ff")]),
        disk_case("a page and one sector", page + 512, [_run(page, 512, "42")]),
        disk_case(
            "blank page in the middle",
            2 * page + 3 * CHUNK,
            [
                _run(3 * CHUNK, CHUNK + 1, "11"),
                _run(2 * page, 512, "22"),
                _run(2 * page + 2 * CHUNK, 9, "33"),
            ],
        ),
    ]


def _layers() -> list[dict[str, Any]]:
    base = (4 * CHUNK, [_run(0, CHUNK, "0a"), _run(2 * CHUNK, CHUNK + 512, "0b0c")])
    short = (CHUNK + 512, [_run(0, CHUNK + 512, "0d")])
    data, zero = "data", "zero"
    return [
        layer_case("nothing allocated", base, base[0], CHUNK, []),
        layer_case(
            "data, zeros, stored zeros, nothing",
            base,
            base[0],
            CHUNK,
            [_run(0, CHUNK, "", zero), _run(CHUNK, CHUNK, "e1", data), _run(2 * CHUNK, CHUNK, "00", data)],
        ),
        layer_case(
            "granules of 4 KiB",
            base,
            base[0],
            4096,
            [
                _run(4096, 8192, "e2", data),
                _run(2 * CHUNK, 4096, "", zero),
                _run(CHUNK - 4096, 4096, "", zero),
            ],
        ),
        layer_case(
            "clusters of 512 bytes in granules of 4 KiB",
            base,
            base[0],
            4096,
            [
                _run(512, 1024, "e3", data),
                _run(8192, 512, "", zero),
                _run(CHUNK + 512, 512, "", zero),
                _run(2 * CHUNK, 2048, "e4", data),
                _run(2 * CHUNK + 2048, 2048, "", zero),
            ],
        ),
        layer_case("larger than its parent", short, 3 * CHUNK, CHUNK, [_run(2 * CHUNK, CHUNK, "e5", data)]),
        layer_case("a sector larger than its parent", short, short[0] + 512, 4096, []),
        layer_case("a sector smaller than its parent", short, CHUNK, 4096, [_run(4096, 4096, "e6", data)]),
        layer_case("cuts a chunk of its parent", base, 2 * CHUNK + 1024, 32768, [_run(0, 32768, "e7", data)]),
        layer_case("short last granule of its own", short, CHUNK + 512, 4096, [_run(CHUNK, 512, "e8", data)]),
        layer_case("short last granule of zeros", short, CHUNK + 512, CHUNK, [_run(CHUNK, 512, "", zero)]),
        layer_case("on a disk of 0 bytes", (0, []), 1024, 4096, [_run(512, 512, "e9", data)]),
        layer_case(
            "second page",
            short,
            1025 * 4096,
            4096,
            [_run(1024 * 4096, 4096, "ea", data)],
        ),
    ]


def _manifests() -> list[dict[str, Any]]:
    seed = bytes(range(32))
    team = TeamKey("équipe_2", bytes(range(100, 120)))
    base = contents(CHUNK + 512, [_run(0, CHUNK + 512, "0d")])
    runs = layer_runs([_run(0, 4096, "e1", "data")])
    below, over = disk(base), layer(base, 2 * CHUNK, 4096, runs)
    result = disk(guest_of(base, 2 * CHUNK, runs))
    master = {
        "v": 1,
        "kind": "disk",
        "team": "",
        "name": "debian-13",
        "version": 1,
        "follows": [],
        "id": text_id(below.id),
        "virtual_size": len(base),
        "unit": CHUNK,
        "data_size": len(base),
        "list_size": len(below.page_list),
        "parent": "",
        "parent_name": "",
        "result": text_id(below.id),
        "format": "raw",
        "cluster_size": CHUNK,
        "compression": "",
        "compressed_size": 0,
        "created": "2025-01-31T12:00:00Z",
        "by": "ann@lab-07-abc234",
        "note": "",
        "companions": [],
    }
    overlay = master | {
        "kind": "layer",
        "team": "équipe_2",
        "name": "vm.1",
        "version": 2147483647,
        "follows": ["5e" * 32],
        "id": text_id(over.id),
        "virtual_size": 2 * CHUNK,
        "unit": 4096,
        "data_size": 4096,
        "list_size": len(over.page_list),
        "parent": text_id(below.id),
        "parent_name": "debian-13",
        "result": text_id(result.id),
        "format": "qed",
        "cluster_size": 4096,
    }
    odd = overlay | {
        "by": 'a"b\\c/\b\f\n\r\t\x00\x1f\x7fé\u2028\U0001f4bf<&>',
        "parent_name": "",
        "note": "\u2029\x01\\u0001 \\ “ß” \ud7ff\ue000\U0010ffff",
    }
    with_files = overlay | {
        "companions": [
            {"role": "definition", "ending": "xml", "size": 4321, "digest": "d4" * 32},
            {"role": "uefi", "ending": "fd", "size": 540672, "digest": "0e" * 32},
        ]
    }
    packed = master | {"format": "qcow2", "compression": "zstd", "compressed_size": 2_345_678}
    first = manifest_case("master", seed, master)
    second = manifest_case(
        "a version that follows one, with a note",
        seed,
        _after(master, [first]) | {"note": "Kernel 6.12, “final” for week 3"},
    )
    other = manifest_case("the other side of a fork", bytes([9]) * 32, _after(master, [first]))
    return [
        first,
        manifest_case("overlay of a team", seed, overlay, team),
        manifest_case("characters that need care", bytes([7]) * 32, odd, team),
        manifest_case("an overlay with what its VM needs beside it", seed, with_files, team),
        second,
        other,
        manifest_case("a version that follows two", seed, _after(master, [second, other])),
        manifest_case("a compressed master", seed, packed),
    ]


def _after(members: dict[str, Any], cases: list[dict[str, Any]]) -> dict[str, Any]:
    """The members of a version that follows these."""
    return members | {
        "version": 1 + max(case["members"]["version"] for case in cases),
        "follows": sorted(case["id"].removeprefix("b3:") for case in cases),
    }


def _have_maps() -> list[dict[str, Any]]:
    return [
        have_map_case(0, set()),
        have_map_case(1, {0}),
        have_map_case(8, {0, 7}),
        have_map_case(9, {8}),
        have_map_case(20, {1, 2, 3, 10, 19}),
    ]


def write_vectors() -> None:
    """Write all files of vectors, those of docs/vault-format.md too."""
    from tests import vault_reference

    files = {"disks": _disks, "layers": _layers, "manifests": _manifests, "have_maps": _have_maps}
    files["vault"] = vault_reference.cases
    VECTORS.mkdir(exist_ok=True)
    for name, cases in files.items():
        text = json.dumps(cases(), indent=1, ensure_ascii=False) + "\n"
        (VECTORS / f"{name}.json").write_text(text)


if __name__ == "__main__":
    write_vectors()
