"""States: signed, canonical, within bounds; for one team."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlaysync.errors import DecodeError
from overlaysync.trust.keys import NodeKey, verify
from overlaysync.vault.limits import MAX_COMPANION, is_inner_path
from overlaysync.vault.objects import LIMITS, Kind, hash_of
from overlaysync.vault.pack import HEAD, begin_object
from overlaysync.vault.spaces import PUBLIC, Space
from overlaysync.vault.state import (
    COMPANION_PART,
    STATE_CONTEXT,
    STATE_MAGIC,
    Companion,
    Disk,
    LeftOut,
    Past,
    State,
    decode_state,
    encode_state,
)
from tests.vault.samples import ANN, BOB, OTHER, RED, a_state, a_vm, flips

pytestmark = pytest.mark.holds("F2")
HASH = "5e" * 32


def sealed(payload: bytes, key: NodeKey = ANN, signature: bytes = b"", space: Space = RED) -> bytes:
    """Any payload as a state: a liar can sign what he likes."""
    salt = space.new_salt()
    signed = key.public + (signature or key.sign(STATE_CONTEXT + payload)) + payload
    return begin_object(STATE_MAGIC, space, salt) + space.seal(STATE_MAGIC, salt).close(0, signed)


def payload_of(state: State) -> bytes:
    return msgspec.json.encode(state)


def test_what_is_written_is_read() -> None:
    state = a_state(number=7, follows=("6f" * 32, HASH), note="“final”\n\x1b", packs=(HASH,))
    data, signed = encode_state(state, ANN, RED)
    assert decode_state(data, RED, verify) == signed
    assert (signed.state, signed.node, signed.id, signed.size) == (
        state,
        ANN.public,
        hash_of(data),
        len(data),
    )


@pytest.mark.holds("D2")
def test_every_flipped_byte_is_refused() -> None:
    data, _ = encode_state(a_state(), ANN, RED)
    for wrong in (*flips(data), *(data[:cut] for cut in range(len(data))), data + b"x"):
        with pytest.raises(DecodeError):
            decode_state(wrong, RED, verify)


@pytest.mark.holds("D2")
def test_it_is_of_one_team() -> None:
    data, _ = encode_state(a_state(), ANN, RED)
    for space in (OTHER, PUBLIC, Space.of_team("blue", bytes(range(20)))):
        with pytest.raises(DecodeError):
            decode_state(data, space, verify)
    with pytest.raises(ValueError, match="sealed for the team"):
        encode_state(a_state(team="blue"), ANN, RED)
    with pytest.raises(DecodeError, match="names another team"):
        decode_state(sealed(payload_of(a_state(team="blue"))), RED, verify)


@pytest.mark.holds("D2")
def test_nothing_of_it_is_readable() -> None:
    data, _ = encode_state(a_state(note="a secret note"), ANN, RED)
    for plain in (b"secret", b"router", b"vm.qcow2", ANN.public, b'"v":1'):
        assert plain not in data


@pytest.mark.red_without("F2", "the signature of a state is not checked")
def test_only_its_own_node_signs_it() -> None:
    payload = payload_of(a_state())
    other_context = ANN.sign(b"overlaysync v1 head\0" + payload)
    for signature in (BOB.sign(STATE_CONTEXT + payload), ANN.sign(payload), other_context, bytes(64)):
        with pytest.raises(DecodeError, match="signature"):
            decode_state(sealed(payload, signature=signature), RED, verify)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{}",
        b"null",
        b"[" * 100_000,
        b"\xff",
        payload_of(a_state()) + b" ",
        b" " + payload_of(a_state()),
        payload_of(a_state()).replace(b'"v":1,', b"", 1),
        payload_of(a_state()).replace(b'"v":1', b'"v":2'),
        payload_of(a_state()).replace(b'"v":1', b'"v":1,"x":1'),
        payload_of(a_state()).replace(b'"v":1', b'"v":1,"v":1'),
        payload_of(a_state()).replace(b'"number":1', b'"number":1.0'),
        payload_of(a_state()).replace(b'"number":1', b'"number":1e0'),
        payload_of(a_state()).replace(b'"number":1', b'"number":true'),
        payload_of(a_state()).replace(b'"number":1', b'"number":' + b"9" * 50),
        payload_of(a_state()).replace(b"router", b"r\\u006futer"),
        payload_of(a_state()).replace(b'"tpm"', b'"other"'),
        payload_of(a_state()).replace(b'"off"', b'"live"'),
        payload_of(a_state()).replace(b'"note":""', b'"note":"\\ud800"'),
    ],
)
def test_another_form_is_refused(payload: bytes) -> None:
    with pytest.raises(DecodeError) as caught:
        decode_state(sealed(payload), RED, verify)
    assert str(caught.value).isprintable()


def companion(file: str = "x", size: int = 0, **more: Any) -> Companion:
    fields: dict[str, Any] = {"parts": (HASH,) * -(-size // COMPANION_PART)}
    return Companion(**{"file": file, "role": "tpm", "size": size, **fields, **more})


def disk(file: str = "vm.raw", **more: Any) -> Disk:
    return Disk(**({"file": file, "manifest": HASH} | more))


def past(node: str, counter: int = 1) -> Past:
    return Past(node=node.rjust(64, "0") if len(node) > 1 else node, counter=counter)


GOOD: dict[str, State] = {
    "a past": a_state(vms=(a_vm(past=(past("11"), past("22", 10**12 - 1))),)),
    "the last number": a_state(number=2**31 - 1, follows=(HASH,)),
    "many that it follows": a_state(number=2, follows=tuple(f"{at:064x}" for at in range(64))),
    "the last counter": a_state(counter=10**12 - 1),
    "the longest texts": a_state(by="é" * 160, note="\U0001f4bf" * 200),
    "many VMs": a_state(vms=tuple(a_vm(f"vm{at:03}") for at in range(256))),
    "many disks": a_state(vms=(a_vm(disks=tuple(disk(f"{at}.raw") for at in range(64))),)),
    "the largest companion": a_state(vms=(a_vm(companions=(companion(size=MAX_COMPANION),)),)),
    "an empty companion": a_state(vms=(a_vm(companions=(companion(),)),)),
    "no time that exists": a_state(saved="9999-99-99T99:99:99Z"),
}

BAD: dict[str, State] = {
    "counter 0": a_state(counter=0),
    "too high a counter": a_state(counter=10**12),
    "number 0": a_state(number=0),
    "a negative number": a_state(number=-1),
    "too high a number": a_state(number=2**31, follows=(HASH,)),
    "number 1 that follows": a_state(number=1, follows=(HASH,)),
    "number 2 that follows none": a_state(number=2),
    "saw a node twice": a_state(seen=((HASH, 1), (HASH, 2))),
    "saw nodes in another order": a_state(seen=(("2b" * 32, 1), ("1a" * 32, 1))),
    "saw too many": a_state(seen=tuple((f"{at:064x}", 1) for at in range(1025))),
    "saw no node": a_state(seen=(("node", 1),)),
    "saw counter 0": a_state(seen=((HASH, 0),)),
    "follows one twice": a_state(number=2, follows=(HASH, HASH)),
    "follows too many": a_state(number=2, follows=tuple(f"{at:064x}" for at in range(65))),
    "follows no hash": a_state(number=2, follows=("5E" * 32,)),
    "a pack that is no hash": a_state(packs=("5e" * 31,)),
    "an index that is no hash": a_state(public_indexes=("../" + HASH,)),
    "no time": a_state(saved="2026-01-31 12:00:00"),
    "other digits": a_state(saved="٢٠٢٦-01-31T12:00:00Z"),
    "too long a label": a_state(by="x" * 161),
    "too long a note": a_state(note="x" * 201),
    "no VM": a_state(vms=()),
    "VMs out of order": a_state(vms=(a_vm("b"), a_vm("a"))),
    "a VM twice": a_state(vms=(a_vm("a"), a_vm("a"))),
    "too many VMs": a_state(vms=tuple(a_vm(f"vm{at:03}") for at in range(257))),
    "a VM's hostile name": a_state(vms=(a_vm("../x"),)),
    "a past out of order": a_state(vms=(a_vm(past=(past("22"), past("11"))),)),
    "a node twice in a past": a_state(vms=(a_vm(past=(past("11"), past("11"))),)),
    "a past of nobody": a_state(vms=(a_vm(past=(past("0"),)),)),
    "a past that never was": a_state(vms=(a_vm(past=(past("11", 0),)),)),
    "too long a past": a_state(vms=(a_vm(past=tuple(past(f"{at:04x}") for at in range(1025))),)),
    "a VM without disks": a_state(vms=(a_vm(disks=()),)),
    "too many disks": a_state(vms=(a_vm(disks=tuple(disk(f"{at}.raw") for at in range(65))),)),
    "a disk's hostile name": a_state(vms=(a_vm(disks=(disk("../x"),)),)),
    "a hidden disk": a_state(vms=(a_vm(disks=(disk(".vm.raw"),)),)),
    "a disk that is no id": a_state(vms=(a_vm(disks=(disk(manifest="b3:" + HASH),)),)),
    "a master that is no id": a_state(vms=(a_vm(disks=(disk(below=("x",)),)),)),
    "too many masters": a_state(vms=(a_vm(disks=(disk(below=(HASH,) * 65),)),)),
    "two disks of one name": a_state(vms=(a_vm(disks=(disk("a.raw"), disk("A.raw"))),)),
    "a companion named as a disk": a_state(vms=(a_vm(disks=(disk("a"),), companions=(companion("A"),)),)),
    "too many companions": a_state(vms=(a_vm(companions=tuple(companion(str(at)) for at in range(65))),)),
    "too large a companion": a_state(vms=(a_vm(companions=(companion(size=MAX_COMPANION + 1),)),)),
    "a negative companion": a_state(vms=(a_vm(companions=(companion(size=-1),)),)),
    "too few parts": a_state(vms=(a_vm(companions=(companion(size=1, parts=()),)),)),
    "too many parts": a_state(vms=(a_vm(companions=(companion(size=1, parts=(HASH, HASH)),)),)),
    "a part that is no hash": a_state(vms=(a_vm(companions=(companion(size=1, parts=("x",)),)),)),
    "too long a reason": a_state(vms=(a_vm(left_out=(LeftOut(file="x", why="x" * 201),)),)),
    "too many left out": a_state(vms=(a_vm(left_out=(LeftOut(file="x", why="y"),) * 65),)),
}


@pytest.mark.parametrize("state", GOOD.values(), ids=GOOD)
def test_what_is_within_the_bounds(state: State) -> None:
    data, signed = encode_state(state, ANN, RED)
    assert decode_state(data, RED, verify) == signed


@pytest.mark.parametrize("state", BAD.values(), ids=BAD)
def test_what_is_out_of_bounds_is_neither_written_nor_read(state: State) -> None:
    with pytest.raises(DecodeError, match="a state is wrong"):
        encode_state(state, ANN, RED)
    with pytest.raises(DecodeError, match="a state is wrong"):
        decode_state(sealed(payload_of(state)), RED, verify)


@pytest.mark.holds("N10")
@pytest.mark.red_without("N10", "the name of a companion is not taken apart")
@pytest.mark.parametrize(
    "file",
    [
        "",
        "/",
        "/etc/passwd",
        "a/",
        "a//b",
        "..",
        "../a",
        "a/../b",
        "a/..",
        ".a",
        "a/.b",
        "a\\b\n",
        "a\0",
        "-rf",
        *("~", "a b", "a/" * 8 + "a", "e\u0301", "a\u202eb", "x" * 65, "C:"),
    ],
)
def test_hostile_names_of_files(file: str) -> None:
    assert not is_inner_path(file)
    with pytest.raises(DecodeError):
        encode_state(a_state(vms=(a_vm(disks=(disk(file),)),)), ANN, RED)
    with pytest.raises(DecodeError):
        encode_state(a_state(vms=(a_vm(companions=(companion(file),)),)), ANN, RED)


@pytest.mark.parametrize("file", ["a", "nvram/vars.fd", "1/2/3/4/5/6/7/8", "é/ß-x_y.z"])
def test_good_names_of_files(file: str) -> None:
    assert is_inner_path(file)


@given(st.text(st.one_of(st.sampled_from("a./-\\"), st.characters()), max_size=30))
def test_no_name_leaves_its_directory(file: str) -> None:
    if is_inner_path(file):
        assert not file.startswith("/") and not any(part in ("", ".", "..") for part in file.split("/"))


@pytest.mark.holds("N3")
def test_too_large_a_state_is_refused() -> None:
    many = tuple(f"{at:064x}" for at in range(70_000))
    with pytest.raises(DecodeError, match="too large"):
        encode_state(a_state(packs=many), ANN, RED)
    with pytest.raises(DecodeError, match="too long"):
        decode_state(bytes(LIMITS[Kind.STATE] + 1), RED, verify)
    assert HEAD.size == 40
