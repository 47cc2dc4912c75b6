"""Feeds damaged objects of vaults to their decoders: ``python -m tests.vault.fuzzing --cases N --seed S``.

Structure-aware: takes good objects and messages of each kind and damages them as
:mod:`tests.net.fuzzing_decoders` does. Sealed and signed ones are damaged inside, and sealed and signed anew,
as a member who lies can do. Each must be decoded to values that are within the bounds, or be refused with the
one error; in bounded memory (RLIMIT_AS) and time (an alarm). Run in a process of its own, for those.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
from pathlib import Path

import msgspec

from overlaysync.errors import DecodeError, NotFoundError
from overlaysync.net.vault_wire import VaultOffer, answer, decode_heads, decode_offer
from overlaysync.node.vault_serving import ServedVault
from overlaysync.ops.recovery.placement import Kept
from overlaysync.trust.keys import verify
from overlaysync.units import MIB
from overlaysync.vault.directory import DirectoryObjects
from overlaysync.vault.head import HEAD_CONTEXT, decode_head, encode_head
from overlaysync.vault.index import INDEX_MAGIC, Index, decode_index, encode_index
from overlaysync.vault.limits import is_inner_path
from overlaysync.vault.objects import Kind, hash_of, object_name
from overlaysync.vault.pack import (
    HEAD,
    MAX_RECORD,
    PACK_MAGIC,
    PackBuilder,
    Place,
    begin_object,
    read_record,
    seal_of,
    squeeze,
)
from overlaysync.vault.spaces import PUBLIC, Space
from overlaysync.vault.state import STATE_CONTEXT, STATE_MAGIC, decode_state
from tests.fuzzing import limit_memory, run_cases
from tests.net.fuzzing_decoders import Decoder, damage, use
from tests.vault.samples import ANN, RED, a_head, a_state, a_vm
from tests.vault.test_index import PACKS, plain_of

MEMORY = 2 * MAX_RECORD + 64 * MIB
"""What a decoder may allocate on top of what the process has."""
TEXT = b"".join(b"line %d\n" % number for number in range(3000))
SALT = bytes(range(32))


def sealed(magic: bytes, plain: bytes, space: Space = RED) -> bytes:
    salt = SALT if space is RED else bytes(32)
    return begin_object(magic, space, salt) + space.seal(magic, salt).close(0, plain)


# -- the decoders --------------------------------------------------------------------------------------


def use_index(data: bytes) -> None:
    packs = decode_index(data, PUBLIC)
    assert encode_index(packs, PUBLIC) == data
    index = Index()
    for pack in packs:
        index.add(pack)
        for spot in index.find(pack.keys):
            assert spot is not None and spot.start + spot.length <= spot.place.size <= MAX_RECORD
            assert spot.place.offset + spot.place.stored <= 64 * MIB


def use_team_index(data: bytes) -> None:
    """As it comes, and as a member can make it."""
    use_index(begin_object(INDEX_MAGIC, PUBLIC, bytes(32)) + data)
    decode_index(sealed(INDEX_MAGIC, data), RED)


def use_state(data: bytes) -> None:
    """The payload, signed anew."""
    signed = ANN.public + ANN.sign(STATE_CONTEXT + data) + data
    state = decode_state(sealed(STATE_MAGIC, signed), RED, verify).state
    assert msgspec.json.encode(state) == data
    assert all(is_inner_path(one.file) for vm in state.vms for one in vm.companions)
    assert all(is_inner_path(one.file) for vm in state.vms for one in vm.disks)


def use_state_object(data: bytes) -> None:
    """The object as it lies there: nothing but itself is decoded."""
    decode_state(data, RED, verify)
    assert data == STATE


def use_head(data: bytes) -> None:
    """The body, vouched for and signed anew."""
    voucher = RED.vouch(data)
    signed = data + voucher + ANN.sign(HEAD_CONTEXT + data + voucher)
    head = decode_head(signed, verify, RED)
    assert head.vouched == (head.head.tag == RED.tag)
    assert str(head.head.counter).isdigit() and head.head.made.isprintable()


def use_head_object(data: bytes) -> None:
    decode_head(data, verify, RED)
    assert data == HEAD_OBJECT


def use_record(data: bytes) -> None:
    """The plain bytes of a record, sealed anew."""
    for space in (RED, PUBLIC):
        seal = space.seal(PACK_MAGIC, SALT)
        stored = seal.close(3, data)
        for size in (len(TEXT), 1000):
            try:
                assert len(read_record(seal, Place(3, 40, len(stored), size), stored)) == size
                return
            except DecodeError:
                continue
    raise DecodeError("of no size")


def use_pack(data: bytes) -> None:
    place = PACK[1]
    stored = data[place.offset : place.offset + place.stored]
    assert read_record(seal_of(data, PACK_MAGIC, RED), place, stored) == TEXT


def use_offer(data: bytes) -> None:
    offer = decode_offer(data)
    assert all(len(tag) == 32 and tag.isalnum() for tag in (*offer.spaces, *offer.keeps))


def use_heads(data: bytes) -> None:
    assert all(head.name.startswith(f"{RED.tag}/heads/") for head in decode_heads(data, RED.tag))


def use_question(data: bytes) -> None:
    """A path and a query: nothing of what is outside of the vault is answered, and nothing stays open."""
    path, _, query = data.decode("latin-1").partition("?")
    before = len(os.listdir("/proc/self/fd"))
    found = answer(PROVIDER, path.split("/") if path else [], query, "192.0.2.1")
    if isinstance(found, bytes):
        assert SECRET not in found
    else:
        assert 0 <= found.offset <= found.offset + found.length <= os.fstat(found.fd).st_size
        assert SECRET not in os.pread(found.fd, 1000, 0)
        os.close(found.fd)
    assert len(os.listdir("/proc/self/fd")) == before


def _pack() -> tuple[bytes, Place]:
    builder = PackBuilder(RED)
    place = builder.add(squeeze([TEXT]), len(TEXT))
    return builder.end()[0], place


SECRET = b"a secret beside the vault"
PACK = _pack()
PAYLOADS = (
    msgspec.json.encode(a_state()),
    msgspec.json.encode(a_state(number=2, follows=("5e" * 32,), vms=(a_vm("a"), a_vm("b", companions=())))),
)
STATE = sealed(STATE_MAGIC, ANN.public + ANN.sign(STATE_CONTEXT + PAYLOADS[0]) + PAYLOADS[0])
HEAD_OBJECT = encode_head(a_head(), ANN, RED).data
NAME = object_name(RED.tag, Kind.PACK, hash_of(PACK[0]))
HEAD_NAME = a_head().name
PLAIN = bytes(plain_of(PACKS))


def _provider(root: Path) -> ServedVault:
    (root / "secret").write_bytes(SECRET)
    objects = DirectoryObjects(root / "vault")
    objects.put(NAME, PACK[0])
    objects.put(HEAD_NAME, HEAD_OBJECT)
    (objects.root / RED.tag / "packs" / ("0" * 64)).symlink_to(root / "secret")
    return ServedVault(objects.root, Kept, lambda: 0.0)


_ROOT = tempfile.TemporaryDirectory()
PROVIDER = _provider(Path(_ROOT.name))

DECODERS = {
    "index": Decoder(use_index, DecodeError, (encode_index(PACKS, PUBLIC),)),
    "team's index": Decoder(use_team_index, DecodeError, (PLAIN,)),
    "state": Decoder(use_state, DecodeError, PAYLOADS),
    "state object": Decoder(use_state_object, DecodeError, (STATE,)),
    "head": Decoder(use_head, DecodeError, (HEAD_OBJECT[:-96],)),
    "head object": Decoder(use_head_object, DecodeError, (HEAD_OBJECT,)),
    "record": Decoder(use_record, DecodeError, (squeeze([TEXT]), squeeze([TEXT[:1000]]), b"\0" + TEXT)),
    "pack": Decoder(use_pack, DecodeError, (PACK[0],)),
    "offer": Decoder(
        use_offer,
        DecodeError,
        tuple(map(msgspec.json.encode, (VaultOffer(), VaultOffer((RED.tag,), ("0" * 32,), others=True)))),
    ),
    "heads": Decoder(use_heads, DecodeError, (msgspec.json.encode({"heads": [(HEAD_NAME, 999)]}),)),
    "question": Decoder(
        use_question,
        (DecodeError, NotFoundError),
        tuple(
            path.encode()
            for path in (
                "",
                f"{RED.tag}/heads",
                f"{NAME}?size",
                f"{NAME}?from=0&length=99",
                f"{NAME}?proof={'0' * 32}",
                f"{HEAD_NAME}?from=5&length=5",
                f"{NAME[:-64]}{'0' * 64}?size",
            )[:-1]
        ),
    ),
}
NAMES = [*DECODERS]
assert HEAD.size == 40


def run(case: int, random_: random.Random) -> str:
    """One case: the decoder, and what came of it."""
    name = NAMES[case % len(NAMES)]
    decoder = DECODERS[name]
    return f"{name}: {use(decoder, damage(random_, random_.choice(decoder.seeds)))}"


def main() -> int:
    """Run the cases; the exit code is 0 when every object was decoded or refused."""
    for name, decoder in DECODERS.items():
        assert {use(decoder, seed) for seed in decoder.seeds} == {"decoded"}, name
    limit_memory(MEMORY)
    return run_cases(run, between="\n")


if __name__ == "__main__":
    sys.exit(main())
