"""Peers that lie: no wrong byte ever has a name, and one honest peer is enough."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from overlaysync.trust.envelope import sign_header
from overlaysync.trust.keys import load_or_make
from overlaysync.units import KIB, MIB
from tests.e2e import disks
from tests.e2e.lies import KINDS, OTHER_LIES, WRONG_BYTES, stall
from tests.e2e.nodes import DONE, NETWORK, NO_BASE, NOT_FOUND, NOT_VERIFIED, Lab, Node, Process
from tests.e2e.recorded import RecordedPeer, Recording, record, recording_of

pytestmark = [pytest.mark.qemu, pytest.mark.slow]


# -- the scene ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Scene:
    """What an honest share served, and the images it served."""

    recording: Recording
    teacher: Node
    overlay: Path

    @property
    def name(self) -> str:
        return self.overlay.stem

    def start(self, node: Node, *peers: RecordedPeer) -> Process:
        """Begin to fetch the overlay from these peers."""
        addresses = [word for peer in peers for word in ("--peer", peer.address)]
        return node.start("fetch", self.name, *addresses, "--wait", "2", "--json")

    def check(self, node: Node) -> set[str]:
        """Names of what has arrived, each of them right."""
        for name in node.files():
            assert disks.identical(node.place / name, self.teacher.place / name)
        return node.files()

    @property
    def everything(self) -> set[str]:
        return self.teacher.files()


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Lab(tmp_path_factory.mktemp("lies")) as lab:
        teacher = lab.node("teacher")
        master = disks.make_master(teacher.place / f"{lab.name('master')}.qcow2", size=8 * MIB, data=4 * MIB)
        overlay = disks.make_overlay(
            teacher.place / f"{lab.name('vm')}.qcow2", master, (MIB, MIB), (7 * MIB, 100 * KIB)
        )
        share = teacher.share(overlay)
        recording = record(share.port)
        share.stop()
        yield Scene(recording, teacher, overlay)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


# -- liars alone -------------------------------------------------------------------------------------


@pytest.mark.holds("N1")
@pytest.mark.red_without("N1", "the digests of image data are not compared")
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_that_liars_send_gets_a_name(
    scene: Scene, open_lab: Lab, stack: ExitStack, kind: str
) -> None:
    fetches = {}
    for lies in (WRONG_BYTES, OTHER_LIES):
        liars = [stack.enter_context(RecordedPeer(scene.recording, lie, kind)) for lie in lies]
        fetches[lies] = scene.start(open_lab.node(lies[0].__name__), *liars)
    for lies, fetch in fetches.items():
        result = fetch.wait()
        assert open_lab.node(lies[0].__name__).files() == set()
        if kind == "catalog":
            assert result.code in (NOT_FOUND, NETWORK)
        elif lies is WRONG_BYTES and kind != "page":
            assert result.code == NOT_VERIFIED
        else:
            assert result.code in (NOT_VERIFIED, NETWORK)


def test_the_bytes_of_another_manifest_are_wrong_bytes(scene: Scene, open_lab: Lab, stack: ExitStack) -> None:
    one, other = scene.recording.manifests.values()

    async def swap(request: web.Request, kind: str, body: bytes) -> web.StreamResponse:
        theirs = other if request.match_info["id"] == one.manifest.id.hex() else one
        bodies = {
            "list": theirs.page_list,
            "page": next(iter(theirs.pages.values())),
            "data": theirs.data * 4,
        }
        return web.Response(body=bodies[kind][: len(body)])

    fetches = {}
    for kind in ("list", "page", "data"):
        liar = stack.enter_context(RecordedPeer(scene.recording, swap, kind))
        fetches[kind] = scene.start(open_lab.node(kind), liar)
    for kind, fetch in fetches.items():
        assert fetch.wait().code in (NOT_VERIFIED, NETWORK)
        assert open_lab.node(kind).files() == set()


def test_a_manifest_with_a_wrong_signature_does_not_exist(scene: Scene, open_lab: Lab) -> None:
    def forged(envelope: bytes) -> bytes:
        return envelope.replace(b'"version":1', b'"version":9')

    catalog = scene.recording.catalog
    envelopes = tuple(map(forged, catalog.envelopes))
    assert envelopes != catalog.envelopes
    recording = replace(scene.recording, catalog=replace(catalog, envelopes=envelopes))
    student = open_lab.node("student")
    with RecordedPeer(recording) as liar:
        error = student.fails(NOT_FOUND, "ls", scene.name, "--peer", liar.address, "--wait", "1")
        assert scene.name in error["what"]
        assert scene.start(student, liar).wait().code == NOT_FOUND
    assert student.files() == set()


@pytest.mark.red_without(
    "N1", "the hash of a page list is not compared (nothing was accepted; only the exit code was different)"
)
def test_a_signed_manifest_that_lies_about_its_content_is_refused(
    scene: Scene, open_lab: Lab, stack: ExitStack
) -> None:
    key = load_or_make(open_lab.root / "liar.key")
    master = scene.recording.named(next(iter(scene.everything - {scene.overlay.name})).removesuffix(".qcow2"))
    lies: dict[str, dict[str, int | str]] = {
        "wider": {"virtual_size": master.manifest.header.virtual_size * 2},
        "listless": {"list_size": master.manifest.header.list_size - 1},
        "foreign": {"id": "b3:" + "5" * 64, "result": "b3:" + "5" * 64},
    }
    fetches = {}
    for word, changes in lies.items():
        header = msgspec.structs.replace(master.manifest.header, **changes)
        recorded = replace(master, manifest=sign_header(header, key))
        liar = stack.enter_context(RecordedPeer(recording_of([recorded], key.public)))
        arguments = ("fetch", header.name, "--peer", liar.address, "--wait", "2", "--json")
        fetches[word] = open_lab.node(word).start(*arguments)
    for word, fetch in fetches.items():
        assert fetch.wait().code in (NOT_VERIFIED, NETWORK), word
        assert open_lab.node(word).files() == set()


@pytest.mark.red_without(
    "R5", "the content that an overlay makes is checked only when the file already has its name"
)
def test_who_lies_about_what_an_overlay_makes_replaces_nothing(
    scene: Scene, open_lab: Lab, stack: ExitStack
) -> None:
    key, student = load_or_make(open_lab.root / "liar.key"), open_lab.node("student")
    layer = scene.recording.named(scene.name)
    master = scene.recording.named(next(iter(scene.everything - {scene.overlay.name})).removesuffix(".qcow2"))
    header = msgspec.structs.replace(layer.manifest.header, result="b3:" + "5" * 64)
    recorded = [master, replace(layer, manifest=sign_header(header, key))]
    liar = stack.enter_context(RecordedPeer(recording_of(recorded, key.public)))
    own = disks.make_master(student.place / scene.overlay.name, size=MIB, seed="mine")
    before = own.read_bytes()

    student.fails(
        NOT_VERIFIED, "fetch", scene.name, "--peer", liar.address, "--wait", "2", "--discard-changes"
    )

    assert own.read_bytes() == before
    assert student.files() == scene.everything


def test_an_overlay_without_its_master_names_what_is_missing(scene: Scene, open_lab: Lab) -> None:
    student = open_lab.node("student")
    layer = scene.recording.named(scene.name)
    with RecordedPeer(scene.recording.only(scene.name)) as peer:
        result = scene.start(student, peer).wait()
    assert result.code == NO_BASE
    header = layer.manifest.header
    assert header.parent_name in result.error["why"]
    assert header.parent[:11] in result.error["why"]
    assert f"overlaysync fetch {header.parent[:11]}" in result.error["hint"]
    assert student.files() == set()


# -- liars beside an honest peer ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_one_honest_peer_among_liars_is_enough(
    scene: Scene, open_lab: Lab, stack: ExitStack, kind: str
) -> None:
    liars = [
        stack.enter_context(RecordedPeer(scene.recording, lie, kind)) for lie in WRONG_BYTES + OTHER_LIES
    ]
    honest = stack.enter_context(RecordedPeer(scene.recording))
    student = open_lab.node("student")

    result = scene.start(student, *liars, honest).wait()

    assert result.code == DONE, result.stderr
    assert scene.check(student) == scene.everything
    assert honest.asked[kind] > 0


@pytest.mark.holds("N2")
@pytest.mark.red_without(
    "N2", "a late request goes to no other peer and a body may stop, both at once (one alone stays green)"
)
def test_a_peer_that_stalls_costs_seconds(scene: Scene, open_lab: Lab, stack: ExitStack) -> None:
    honest = stack.enter_context(RecordedPeer(scene.recording))
    started = time.monotonic()
    fetches = {}
    for kind in KINDS:
        staller = stack.enter_context(RecordedPeer(scene.recording, stall, kind))
        fetches[kind] = scene.start(open_lab.node(kind), staller, honest)
    for kind, fetch in fetches.items():
        assert fetch.wait().code == DONE
        assert scene.check(open_lab.node(kind)) == scene.everything
        assert time.monotonic() - started < 40, kind
