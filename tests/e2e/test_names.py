"""Names that a peer chooses, through all a fetch does: nothing outside the target, nothing unprintable."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from overlaysync.discovery.txt import decode_txt
from overlaysync.errors import DecodeError, OverlaysyncError, UsageError
from overlaysync.model.manifest import decode_header, encode_header
from overlaysync.model.names import check_name, is_name, name_from, printable
from overlaysync.net.messages import CatalogMessage, decode_catalog, encode_catalog
from overlaysync.net.swarm_messages import decode_swarm
from overlaysync.trust.envelope import open_envelope, sign_header
from overlaysync.trust.keys import load_or_make
from overlaysync.units import MIB
from tests.counts import record_counts
from tests.e2e.nodes import NETWORK, NOT_FOUND, USAGE, Lab
from tests.e2e.recorded import RecordedPeer, record, recording_of
from tests.net.fuzzing_decoders import HEADER, sign_header_bytes
from tests.net.nasty import is_safe, names

COUNT = 5000


def encodable(name: str) -> bool:
    return not any(0xD800 <= ord(char) < 0xE000 for char in name)


def refusal(*call: object) -> str:
    """What the user reads of a name that is refused."""
    decode, *arguments = call
    with pytest.raises(OverlaysyncError) as caught:
        decode(*arguments)  # type: ignore[operator]
    error = caught.value
    return f"{error} {error.hint}"


def test_thousands_of_names_are_refused_or_harmless(tmp_path: Path) -> None:
    """Every way on which a name comes in."""
    refused = 0
    for name in names(COUNT):
        assert is_safe(printable(name)) and is_name(name_from(name))
        if is_name(name):
            path = os.path.normpath(tmp_path / f"{name}.qcow2")
            assert Path(path).parent == tmp_path and is_safe(name) and not name.startswith((".", "-"))
            continue
        refused += 1
        assert is_safe(refusal(check_name, name))
        if not encodable(name):
            continue
        for field in ("name", "team") if name else ("name",):
            payload = encode_header(msgspec.structs.replace(HEADER, **{field: name}))
            assert is_safe(refusal(decode_header, payload))
            assert is_safe(refusal(open_envelope, sign_header_bytes(payload)))
        text = decode_txt({b"v": b"1", b"m." + name.encode(): b"01234567"})
        assert text is not None and not [item for item in text.items if not is_name(item.name.split("/")[-1])]
        assert is_safe(decode_catalog(encode_catalog(CatalogMessage(bytes(32), name, []))).label)
        answer = msgspec.json.encode({"label": name, "pieces": 1, "whole": True})
        assert is_safe(decode_swarm(answer, 1).label)
    record_counts("nasty-names", names=COUNT, refused=refused, outside=0, control_bytes=0)
    assert refused > COUNT // 2


def test_labels_that_a_signed_header_may_hold_are_shown_safely() -> None:
    """``by`` and ``parent_name`` are for people, and may be anything."""
    for name in names(1000):
        if encodable(name) and len(name) <= 160:
            payload = encode_header(msgspec.structs.replace(HEADER, by=name, parent_name=name))
            header = open_envelope(sign_header_bytes(payload)).header
            assert is_safe(printable(header.by) + printable(header.parent_name))


@pytest.mark.slow
def test_a_peer_with_nasty_words_in_all_it_may_choose(open_lab: Lab) -> None:
    """Real commands: a catalog of forged names and of signed headers whose labels are nasty."""
    teacher, student = open_lab.node("teacher"), open_lab.node("student")
    name = open_lab.name("vm")
    (teacher.place / f"{name}.raw").write_bytes(os.urandom(MIB))
    share = teacher.share(teacher.place / f"{name}.raw")
    recorded = record(share.port).named(name)
    share.stop()
    key = load_or_make(open_lab.root / "nasty.key")
    signed = [
        sign_header(
            msgspec.structs.replace(
                recorded.manifest.header,
                by=word,
                note=word,
                version=number,
                follows=(f"{number:064x}",) if number > 1 else (),
            ),
            key,
        )
        for number, word in enumerate(
            (word for word in names(400) if encodable(word) and len(word) <= 160), 1
        )
    ]
    recording = recording_of([recorded], recorded.manifest.publisher)
    forged = []
    for word in filter(encodable, names(400)):
        if not is_name(word) and len(word) < 300:
            header = msgspec.structs.replace(recorded.manifest.header, name=word)
            forged.append(sign_header_bytes(encode_header(header)))
    envelopes = (*recording.catalog.envelopes, *(manifest.envelope for manifest in signed), *forged)
    recording = replace(
        recording, catalog=replace(recording.catalog, label="\x1b[31m\u202eevil", envelopes=envelopes)
    )
    before = set(open_lab.root.rglob("*"))
    with RecordedPeer(recording) as peer:
        outputs = [
            student.run(*words, "--peer", peer.address, "--wait", "1")
            for words in (("ls",), ("peers",), ("show", name), ("fetch", name), ("ls", "--json"))
        ]
        outputs += [
            student.run("fetch", word, "--peer", peer.address, "--wait", "0.2", "--to", student.place)
            for word in ("../../etc/passwd", "\x1b[31m", "a/../b")
        ]
    for result in outputs[:4] + outputs[5:]:
        assert is_safe(result.stdout + result.stderr), result
    for result in outputs[5:]:
        assert result.code in (USAGE, NOT_FOUND, NETWORK)
    made = set(open_lab.root.rglob("*")) - before
    outside = [path for path in made if student.base not in path.parents]
    assert outside == []
    assert {path for path in student.files() if not path.startswith(name)} == set()


def test_refusals_are_of_two_kinds() -> None:
    """What a user typed, and what a peer sent."""
    with pytest.raises(UsageError):
        check_name("../x")
    with pytest.raises(DecodeError):
        decode_header(b"{}")
