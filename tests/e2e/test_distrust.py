"""A publisher that the user refuses for good: fetched by no name and no id, and listed as such."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest

from overlaysync.units import KIB, MIB
from tests.e2e import disks
from tests.e2e.nodes import DONE, NOT_ALLOWED, NOT_FOUND, USAGE, Lab, Node, Share


def raw(node: Node, name: str, *seeds: object) -> Path:
    path = node.place / f"{name}.raw"
    path.write_bytes(disks.noise([*seeds, name], 256 * KIB))
    return path


class Refused(NamedTuple):
    """A student who has fetched something of a publisher, and refuses it since."""

    name: str
    student: Node
    share: Share
    key: str
    disk: str

    def fetch(self, reference: str, *peers: Share) -> tuple[object, ...]:
        words = [word for peer in peers or (self.share,) for word in ("--peer", peer.peer)]
        return ("fetch", reference, *words, "--wait", "1", "--as", "new")


@pytest.fixture
def refused(lab: Lab) -> Refused:
    name, eve, student = lab.name("router"), lab.node("eve"), lab.node("student")
    share = eve.share(raw(eve, name))
    (item,) = share.document()["shared"]
    student.fetch(name, "--peer", share.peer)
    document = student.json("distrust", item["publisher"][:9])
    assert document["distrusted"]["publisher"] == item["publisher"]
    assert [one["name"] for one in document["before"]["names"]] == [name]
    return Refused(name, student, share, item["publisher"], item["disk"])


def test_nothing_of_it_is_fetched_and_lists_say_so(refused: Refused) -> None:
    student, name = refused.student, refused.name
    for reference in (name, f"{name}:1", f"{name}@eve", refused.disk, refused.disk[:14]):
        for more in ((), ("--dry-run",)):
            error = student.fails(NOT_ALLOWED, *refused.fetch(reference), *more)
            assert refused.key in error["why"]
            assert f"overlaysync trust {refused.key[:9]}" in error["hint"]
    assert student.files() == {f"{name}.raw"}, "what was here stays"
    peer = ("--peer", refused.share.peer, "--wait", "1")
    (item,) = student.json("ls", *peer)["images"]
    assert item["trusted"] == "distrusted" and item["trusted_since"]
    assert "distrusted" in student.run("ls", *peer).stdout
    shown = student.run("show", student.place / f"{name}.raw")
    assert shown.code == DONE and "distrusted" in shown.stdout
    shown = student.run("show", name, *peer)
    assert shown.code == DONE and "would refuse" in shown.stderr


def test_the_same_content_by_another_publisher_can_be_had(refused: Refused, lab: Lab) -> None:
    teacher = lab.node("teacher")
    share = teacher.share(raw(teacher, refused.name))
    (item,) = share.document()["shared"]
    assert item["disk"] == refused.disk and item["publisher"] != refused.key
    (fetched,) = refused.student.json(*refused.fetch(refused.disk, refused.share, share))["fetched"]
    assert fetched["publisher"] == item["publisher"]


def test_untrust_forgets_and_distrust_lasts_until_it_is_taken_back(lab: Lab) -> None:
    name, eve, student = lab.name("router"), lab.node("eve"), lab.node("student")
    share = eve.share(raw(eve, name))
    key = share.document()["shared"][0]["publisher"]
    fetch = ("fetch", name, "--peer", share.peer, "--wait", "1")
    student.json(*fetch)

    forgotten = student.run("untrust", key)
    assert (
        f"overlaysync distrust {key[:9]}" in forgotten.stdout
        and "belongs to no publisher now" in forgotten.stdout
    )
    student.json(*fetch)
    assert [entry["publisher"] for entry in student.json("trust")["trusted"]] == [key], "a first use again"

    told = student.run("distrust", key)
    assert told.code == DONE and name in told.stdout and f"overlaysync trust {key[:9]}" in told.stdout
    listed = student.json("trust")
    assert listed["trusted"] == []
    (entry,) = listed["distrusted"]
    assert (entry["publisher"], entry["by"]) == (key, share.document()["node"]) and entry["distrusted_since"]
    assert "distrusted since" in student.run("trust").stdout
    student.fails(NOT_ALLOWED, *fetch)
    error = student.fails(NOT_FOUND, "untrust", key)
    assert "distrusted" in error["what"] and f"overlaysync trust {key[:9]}" in error["hint"]
    student.fails(NOT_ALLOWED, *fetch)

    trusted = student.json("trust", key)
    assert trusted["was_distrusted"] and trusted["trusted"]["trusted"] == "first-use", "as it was before"
    assert student.json("trust")["distrusted"] == []
    student.json(*fetch)


def test_it_can_be_refused_before_anything_is_fetched(lab: Lab) -> None:
    name, eve, student = lab.name("router"), lab.node("eve"), lab.node("student")
    share = eve.share(raw(eve, name))
    key = share.document()["shared"][0]["publisher"]
    student.fails(NOT_FOUND, "distrust", "aaaa-aaaa", "--peer", share.peer, "--wait", "0.5")
    student.json("distrust", key, "--peer", share.peer, "--wait", "1")
    student.fails(NOT_ALLOWED, "fetch", name, "--peer", share.peer, "--wait", "1")
    own = student.share(raw(student, lab.name("own"))).document()["shared"][0]["publisher"]
    student.fails(USAGE, "distrust", own)
    student.fails(USAGE, "distrust", "short")


@pytest.mark.qemu
def test_a_master_that_only_it_has_signed_is_not_brought_along(lab: Lab) -> None:
    eve, teacher, student = (lab.node(word) for word in ("eve", "teacher", "student"))
    master = disks.make_master(eve.place / f"{lab.name('master')}.qcow2", size=MIB)
    first = eve.share(master)
    (brought,) = teacher.fetch(master.stem, "--peer", first.peer)
    overlay = disks.make_overlay(teacher.place / f"{lab.name('vm')}.qcow2", Path(brought["path"]), (0, KIB))
    second = teacher.share(overlay)
    key = first.document()["shared"][0]["publisher"]
    student.json("distrust", key, "--peer", first.peer, "--wait", "1")
    error = student.fails(NOT_ALLOWED, "fetch", overlay.stem, "--peer", second.peer, "--wait", "1")
    assert key in error["why"] and f"overlaysync trust {key[:9]}" in error["hint"]
    assert student.files() == set() and student.json("trust")["trusted"] == []


def test_taking_a_distrust_back_gives_it_no_name_that_is_another_s(lab: Lab) -> None:
    """The command that ``distrust`` prints, typed literally; two publishers share what is called alike."""
    name, teacher, ben, student = lab.name("debian"), *map(lab.node, ("teacher", "ben", "student"))
    first = teacher.share(raw(teacher, name))
    (item,) = student.json("fetch", name, "--peer", first.peer, "--wait", "1")["fetched"]
    second = ben.share(raw(ben, name, "of ben"))
    key = second.document()["shared"][0]["publisher"]
    before = student.json("trust")
    told = student.run("distrust", key, "--peer", second.peer, "--wait", "1").stdout
    (command,) = re.findall(r"overlaysync (trust [^ \n]*)", told)
    back = student.run(*command.split())
    assert "no longer distrusted" in back.stdout and "now belongs" not in back.stdout
    assert student.json("trust") == before
    peers = ("--peer", first.peer, "--peer", second.peer, "--wait", "1")
    (again,) = student.json("fetch", name, *peers)["fetched"]
    assert again["publisher"] == item["publisher"]
