"""A name becomes its publisher's when the image is here, and not before: whatever fails in between."""

from __future__ import annotations

import pytest

from overlaysync.units import KIB
from tests.e2e import disks
from tests.e2e.lies import broken, hang, zeros
from tests.e2e.nodes import INTERRUPTED, Lab, Node, until
from tests.e2e.recorded import Answer, RecordedPeer, Recording, record


def recorded(lab: Lab, name: str) -> Recording:
    """What a teacher's share of a small raw image says, which then ends."""
    teacher = lab.node("teacher")
    (teacher.place / f"{name}.raw").write_bytes(disks.noise(name, 256 * KIB))
    share = teacher.share(f"{name}.raw")
    recording = record(share.port)
    share.stop()
    return recording


def pinned(node: Node) -> list[str]:
    return [one["name"] for entry in node.json("trust")["trusted"] for one in entry["names"]]


@pytest.mark.parametrize(("answer", "kind"), [(broken, "list"), (broken, "data"), (zeros, "data")])
def test_a_publisher_that_cannot_serve_it_does_not_get_the_name(
    open_lab: Lab, answer: Answer, kind: str
) -> None:
    student, name = open_lab.node("student"), open_lab.name("router")
    recording = recorded(open_lab, name)
    with RecordedPeer(recording, answer, kind) as peer:
        failed = student.run("fetch", name, "--peer", peer.address, "--wait", "1")
        assert failed.code and "First use" in failed.stderr
    assert pinned(student) == [] and student.files() == set()
    with RecordedPeer(recording) as peer:
        student.fetch(name, "--peer", peer.address)
    assert pinned(student) == [name]


def test_a_publisher_that_goes_silent_does_not_get_the_name(open_lab: Lab) -> None:
    student, name = open_lab.node("student"), open_lab.name("router")
    with RecordedPeer(recorded(open_lab, name), hang, "data") as peer:
        fetch = student.start("fetch", name, "--peer", peer.address)
        until(lambda: peer.asked["data"], what="a request for data")
        assert "First use" in fetch.stderr
        assert pinned(student) == [], "not while it waits"
        fetch.interrupt()
        assert fetch.wait().code == INTERRUPTED
    assert pinned(student) == []


def test_a_name_is_pinned_too_when_its_content_was_here_before(open_lab: Lab) -> None:
    student, name = open_lab.node("student"), open_lab.name("router")
    recording = recorded(open_lab, name)
    (student.place / f"{name}.raw").write_bytes(disks.noise(name, 256 * KIB))
    with RecordedPeer(recording) as peer:
        (item,) = student.fetch(name, "--peer", peer.address)
    assert item["already_here"] and pinned(student) == [name]
