"""What a team stores in an archive says nothing to the store's owner: not in its files, not on the way."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from overlaysync.model.digest import as_digests
from overlaysync.vault.contents import Contents
from overlaysync.vault.head import Head, encode_head
from overlaysync.vault.objects import Kind, object_name
from overlaysync.vault.pack import squeeze
from overlaysync.vault.spaces import PUBLIC, Space
from overlaysync.vault.state import Companion, Disk, SavedVm, State, encode_state
from overlaysync.vault.writer import Writer
from tests.archive.conftest import Cloud
from tests.archive.wire import Wire

pytestmark = [pytest.mark.swift, pytest.mark.slow]

TEAM, KEY = "blue-whales", b"\x17the key of the team, secret!..."
VM, DISK, NOTE = "winter-exam-vm", "winter-exam.qcow2", "before-the-exam"
CONTENT = b"planted-in-the-guest " * 40
DIGEST, MANIFEST = bytes(range(100, 132)), bytes(range(60, 92))
SECRETS = {
    "team": TEAM.encode(),
    "key": KEY,
    "VM": VM.encode(),
    "file": DISK.encode(),
    "companion": b"efi-vars.fd",
    "note": NOTE.encode(),
    "content": CONTENT[:20],
    "digest": DIGEST,
    "manifest": MANIFEST,
}
"""What must not be found."""
OPEN = b"a master that everybody may have"


class Signer:
    public = b"\5" * 32

    def sign(self, message: bytes) -> bytes:
        return b"\6" * 64


def save(contents: Contents) -> None:
    """Store a state as a save does: packs, index, state, head."""
    writer = Writer(contents)
    writer.add(as_digests(DIGEST), [len(CONTENT)], squeeze([CONTENT]))
    writer.add_item(MANIFEST, f"manifest of {DISK}".encode())
    writer.finish()
    vm = SavedVm(
        name=VM,
        at="2026-01-02T03:04:05Z",
        disks=(Disk(file=DISK, manifest=MANIFEST.hex()),),
        companions=(Companion(file="efi-vars.fd", role="uefi", size=5, parts=(DIGEST.hex(),)),),
    )
    state = State(team=TEAM, number=1, counter=1, saved="2026-01-02T03:04:05Z", note=NOTE, vms=(vm,))
    data, signed = encode_state(state, Signer(), contents.space)
    contents.objects.put(object_name(contents.space.tag, Kind.STATE, signed.id), data)
    head = Head(contents.space.tag, Signer.public, 1, len(data), "2026-01-02T03:04:05Z", (signed.id,))
    contents.objects.put(head.name, encode_head(head, Signer(), contents.space).data)


def forms(secret: bytes) -> list[bytes]:
    """A secret as it is, and as it may be written."""
    # The first bytes of Base64 do not depend on what follows.
    return [secret, secret.hex().encode(), base64.b64encode(secret)[: len(secret) // 3 * 4]]


def found_in(data: bytes, secrets: dict[str, bytes]) -> set[str]:
    return {name for name, secret in secrets.items() if any(form in data for form in forms(secret))}


@pytest.mark.holds("D2")
@pytest.mark.red_without("D2", "what belongs to a team is stored unsealed")
def test_the_store_learns_nothing_of_a_team(cloud: Cloud, wire: Wire) -> None:
    bucket = cloud.bucket()
    objects = cloud.objects(bucket, url=wire.url)
    team = Space.of_team(TEAM, KEY)
    save(Contents(objects, team))
    public = Writer(Contents(objects, PUBLIC))
    public.add_item(b"\7" * 32, OPEN)
    public.finish()
    read = Contents(objects, team)
    read.learn()
    for key, item in ((DIGEST, CONTENT), (MANIFEST, f"manifest of {DISK}".encode())):
        assert read.item(key, item.__eq__) == item

    received = b"\n".join(request.raw() for request in wire.requests)
    raw: dict[Path, bytes] = dict(cloud.swift.raw())
    # The search finds what is there: names of objects, and what is stored plain.
    known = {"tag": team.tag.encode(), "public": OPEN, "bucket": bucket.encode()}
    assert found_in(received, known) == known.keys() == found_in(b"\n".join(raw.values()), known)
    assert found_in(received, SECRETS) == set()
    assert {path: found for path, data in raw.items() if (found := found_in(data, SECRETS))} == {}
    # Three replicas of each object, each on a device of its own.
    devices = cloud.swift.root / "devices"
    copies = [path.relative_to(devices).parts[0] for path, data in raw.items() if OPEN in data]
    assert sorted(copies) == ["d1", "d2", "d3"]
