"""Headers: the canonical form, the bounds of every field, and any bytes in."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlaysync.errors import DecodeError
from overlaysync.model.digest import parse_id
from overlaysync.model.manifest import MAX_FOLLOWS, MAX_HEADER_SIZE, MAX_NOTE, decode_header, encode_header
from overlaysync.units import MAX_VIRTUAL_SIZE
from tests import reference

DISK, LAYER = (case["members"] for case in reference.load_vectors("manifests")[:2])
MERGE, PACKED = (case["members"] for case in reference.load_vectors("manifests")[-2:])
OTHER_ID = "b3:" + "5" * 64
ONE, TWO, THREE = "1" * 64, "2" * 64, "3" * 64
UEFI = {"role": "uefi", "ending": "fd", "size": 64 << 20, "digest": "a" * 64}
TPM = {"role": "tpm", "ending": "permall", "size": 1 << 20, "digest": "b" * 64}
SEED = {"role": "seed", "ending": "iso", "size": 16 << 20, "digest": "c" * 64}
DEFINITION = {"role": "definition", "ending": "conf", "size": 0, "digest": "d" * 64}
MANY = [f"{number:064x}" for number in range(MAX_FOLLOWS + 1)]


def encoded(members: dict[str, Any], **changes: Any) -> bytes:
    return reference.header(members | changes)


def test_good() -> None:
    disk, layer = decode_header(encoded(DISK)), decode_header(encoded(LAYER))
    assert (disk.is_layer, disk.parent_id, disk.full_name) == (False, None, "debian-13")
    assert (layer.is_layer, layer.full_name) == (True, "équipe_2/vm.1")
    assert layer.parent_id == disk.content_id == parse_id(LAYER["parent"])
    assert layer.result_id == parse_id(LAYER["result"])
    assert disk.followed == () and layer.followed == (b"\x5e" * 32,)
    assert decode_header(encoded(MERGE)).followed == tuple(map(bytes.fromhex, MERGE["follows"]))


@pytest.mark.parametrize(
    ("members", "field", "values"),
    [
        (DISK, "v", [0, 2, "1", True, None]),
        (DISK, "kind", ["layer", "Disk", "", 1]),
        (LAYER, "kind", ["disk"]),
        (DISK, "team", ["a/b", "..", "-x", "a" * 65, None]),
        (DISK, "name", ["", "../x", "-rf", "a b", "\x1b", "a" * 65, None]),
        (DISK, "version", [0, -1, 2, 1 << 31, 1.5, "1", 10**30]),
        (MERGE, "version", [0, 1, 1 << 31]),
        (DISK, "follows", [[ONE], None, "", {}]),
        (
            LAYER,
            "follows",
            [[], [ONE, THREE, TWO], [ONE, ONE], MANY, [ONE[1:]], [OTHER_ID], ["A" * 64], [7], ONE],
        ),
        (DISK, "id", ["", OTHER_ID, "b3:" + "A" * 64, "b3:" + "0" * 63, "0" * 64]),
        (DISK, "virtual_size", [-512, 511, MAX_VIRTUAL_SIZE + 512, 1 << 63, 10**40, 0]),
        (DISK, "unit", [4096, 0, 131072]),
        (LAYER, "unit", [2048, 131072, 4097, 12288, 0, -4096]),
        (DISK, "data_size", [-1, DISK["virtual_size"] + 1]),
        (DISK, "list_size", [0, -1, (16 << 20) + 1]),
        (DISK, "parent", [OTHER_ID]),
        (LAYER, "parent", ["", "b3:" + "g" * 64]),
        (DISK, "parent_name", ["debian"]),
        (LAYER, "parent_name", ["x" * 161]),
        (DISK, "result", [OTHER_ID, ""]),
        (LAYER, "result", ["", "b3:"]),
        (DISK, "format", ["vmdk", "", "QED"]),
        (DISK, "cluster_size", [0, 256, 65537, 1 << 23]),
        (DISK, "compression", ["zlib", "zstd", "lz4", None, 0]),
        (DISK, "compressed_size", [1, -1, 1 << 53, None]),
        (LAYER | {"format": "qcow2", "compressed_size": 1}, "compression", ["zlib"]),
        (PACKED, "format", ["raw", "qed"]),
        (PACKED, "compression", ["", "lz4", "ZSTD", "zlib ", None, 1]),
        (PACKED, "compressed_size", [0, -1, 1 << 53, 1.5, "1", None]),
        (DISK, "created", ["", "2025-01-31", "2025-01-31T12:00:00+00:00", "２０２５-01-31T12:00:00Z"]),
        (DISK, "by", ["x" * 161, 7]),
        (
            DISK,
            "companions",
            [
                None,
                {},
                [UEFI, UEFI],
                [UEFI, TPM],
                [UEFI | {"role": "firmware"}],
                [UEFI | {"ending": "../x"}],
                [UEFI | {"ending": "img"}],
                [UEFI | {"size": -1}],
                [UEFI | {"size": (64 << 20) + 1}],
                [TPM | {"size": (1 << 20) + 1}],
                [UEFI | {"digest": "A" * 64}],
                [UEFI | {"digest": ""}],
                [UEFI | {"file": "x"}],
            ],
        ),
        (DISK, "note", ["x" * (MAX_NOTE + 1), 7, None]),
    ],
)
def test_out_of_bounds(members: dict[str, Any], field: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(DecodeError):
            decode_header(encoded(members, **{field: value}))


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("by", ["", "x" * 160, "\x1b[31m\0\n", "💿" * 160]),
        ("virtual_size", [DISK["virtual_size"], MAX_VIRTUAL_SIZE]),
        ("cluster_size", [512, 1 << 22]),
        ("name", ["x" * 64, "文" * 64]),
        ("list_size", [1, 16 << 20]),
        ("note", ["x" * MAX_NOTE, "💿" * MAX_NOTE, "\x1b[31m\0"]),
    ],
)
def test_within_bounds(field: str, values: list[Any]) -> None:
    for value in values:
        header = decode_header(encoded(DISK, **{field: value}))
        assert getattr(header, field) == value
        assert encode_header(header) == encoded(DISK, **{field: value})


def test_a_compressed_master_says_how_and_how_large_it_is() -> None:
    for compression, size in (("zlib", 1), ("zstd", (1 << 53) - 1)):
        header = decode_header(encoded(PACKED, compression=compression, compressed_size=size))
        assert (header.compression, header.compressed_size) == (compression, size)


def test_a_version_follows_something_and_a_first_one_nothing() -> None:
    for version, follows in ((1, []), (2, [ONE]), (9, [ONE, TWO]), (2, MANY[1:])):
        header = decode_header(encoded(DISK, version=version, follows=follows))
        assert header.followed == tuple(map(bytes.fromhex, follows))
    for version, follows in ((1, [ONE]), (2, []), (9, [])):
        with pytest.raises(DecodeError, match="version"):
            decode_header(encoded(DISK, version=version, follows=follows))


def test_the_longest_header_that_a_publisher_makes_fits() -> None:
    """Eight versions followed, the longest names and label, and a note that takes six bytes a character."""
    name = "文" * 64
    more = {
        "team": name,
        "name": name,
        "parent_name": name,
        "by": f"{name}@{name}-abc234",
        "note": "\1" * MAX_NOTE,
        "companions": [DEFINITION, SEED, TPM, UEFI],
    }
    header = decode_header(encoded(LAYER, version=(1 << 31) - 1, follows=MANY[1:], **more))
    assert len(encode_header(header)) < MAX_HEADER_SIZE


@pytest.mark.red_without("F2", "invalid JSON does not raise a DecodeError")
def test_only_the_canonical_form() -> None:
    good = encoded(DISK)
    text = good.decode()
    swapped = json.dumps(dict(reversed(DISK.items())), separators=(",", ":"), ensure_ascii=False)
    for other in (
        " " + text,
        text + "\n",
        text.replace(",", ", "),
        text.replace('"v":1', '"v":1.0'),
        text.replace('"v":1', '"v":01'),
        text.replace('"version":1', '"version":1e0'),
        text.replace('"version":1', '"version":-0'),
        text.replace('"version":1', '"version":2,"version":1'),
        text.replace('"by":"ann', '"by":"\\u0061nn'),
        text.replace('"team":"",', ""),
        text.replace('"follows":[],', ""),
        text.replace(',"note":""', ""),
        text.replace(',"companions":[]', ""),
        text.replace("}", ',"extra":1}'),
        swapped,
        "\ufeff" + text,
        "[" + text + "]",
    ):
        assert other != text
        with pytest.raises(DecodeError):
            decode_header(other.encode())
    for cut in range(len(good)):
        with pytest.raises(DecodeError):
            decode_header(good[:cut])


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xfe",
        b'{"v":1,"kind":"\xff"}',
        b"[" * MAX_HEADER_SIZE,
        b'{"v":' + b"9" * 4000 + b"}",
        b'{"by":"\\ud800"}',
        b"{}",
        b"null",
        b"",
        bytes(MAX_HEADER_SIZE),
    ],
    ids=lambda data: ascii(data[:12]),
)
def test_not_a_header(data: bytes) -> None:
    with pytest.raises(DecodeError) as caught:
        decode_header(data)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 400


@pytest.mark.red_without("F2", "a header may have any length (another check still refuses it)")
def test_a_long_header_is_refused_whatever_it_says() -> None:
    long = encoded(DISK, by="x" * MAX_HEADER_SIZE)
    with pytest.raises(DecodeError, match="bytes"):
        decode_header(long)


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20),
    st.sampled_from([OTHER_ID, "disk", "layer", "raw", 512, 4096, 65536]),
)


@pytest.mark.holds("F2")
@pytest.mark.red_without("F2", "a header need not be in canonical form")
@given(
    st.one_of(
        st.binary(max_size=300),
        st.dictionaries(st.sampled_from(reference.HEADER_MEMBERS), VALUES, max_size=4).map(
            lambda changes: encoded(DISK, **changes)
        ),
        st.tuples(st.integers(0, 480), st.binary(min_size=1, max_size=3)).map(
            lambda damage: encoded(LAYER)[: damage[0]] + damage[1] + encoded(LAYER)[damage[0] + 1 :]
        ),
        st.tuples(st.sampled_from(range(1, 17)), st.sampled_from([" ", "\n", '"v":1,', '"x":1,'])).map(
            lambda more: f",{more[1]}".join(encoded(DISK).decode().split(",", more[0])).encode()
        ),
    )
)
def test_any_bytes_are_a_header_in_canonical_form_or_an_error(data: bytes) -> None:
    try:
        header = decode_header(data)
    except DecodeError as error:
        assert str(error).isprintable()
    else:
        assert encode_header(header) == data
