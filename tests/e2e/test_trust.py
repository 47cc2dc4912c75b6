"""Publishers: whose a name is, who may not have it, whom the user trusts; and nothing is taken back."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from overlaysync.trust.envelope import sign_header
from overlaysync.trust.keys import load_or_make
from overlaysync.units import KIB, MIB
from tests.e2e import disks
from tests.e2e.nodes import DONE, NOT_ALLOWED, NOT_FOUND, USAGE, WOULD_DESTROY, Lab, Node, Share, free_port
from tests.e2e.recorded import RecordedPeer, Recording, record, recording_of

pytestmark = pytest.mark.holds("N12")

FINGERPRINT = re.compile(r"([a-z2-7]{4}-){7}[a-z2-7]{4}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


def raw(node: Node, name: str, *seeds: object) -> Path:
    """A small raw image that needs no QEMU."""
    path = node.place / f"{name}.raw"
    path.write_bytes(disks.noise([node.base.name, name, *seeds], 256 * KIB))
    return path


class Rivals(NamedTuple):
    """A teacher and a stranger who share different things under one name; the student knows the first."""

    name: str
    student: Node
    teacher: Share
    stranger: Share

    def publisher(self, share: Share) -> str:
        return str(share.document()["shared"][0]["publisher"])

    def fetch(self, *words: object) -> tuple[object, ...]:
        """A command that may replace what is there."""
        return ("fetch", self.name, *words, "--replace", "--wait", "1.5")


@pytest.fixture
def rivals(lab: Lab) -> Rivals:
    name = lab.name("router")
    teacher, stranger, student = (lab.node(word) for word in ("teacher", "stranger", "student"))
    shares = [node.start_share(raw(node, name)) for node in (teacher, stranger)]
    made = Rivals(name, student, *shares)
    student.fetch(name, "--peer", made.teacher.peer)
    return made


# -- the first use -----------------------------------------------------------------------------------


def test_the_first_use_shows_the_fingerprint_and_lasts(lab: Lab) -> None:
    teacher, student = lab.node("teacher"), lab.node("student")
    name = lab.name("router")
    share = teacher.share(raw(teacher, name))
    (shared,) = share.document()["shared"]
    assert shared["trusted"] == "own" and TIME.fullmatch(shared["trusted_since"])
    command = ("fetch", name, "--peer", share.peer)

    # Looking, and a plan, trust nobody.
    (listed,) = student.json("ls", name, "--peer", share.peer, "--wait", "0.5")["images"]
    (planned,) = student.json(*command, "--dry-run")["plan"]
    assert (listed["trusted"], planned["trusted"], planned["trusted_since"]) == ("no", "no", None)
    assert student.json("trust") == {"trusted": [], "distrusted": []}

    first = student.run(*command)
    assert shared["publisher"] in first.stderr and "First use" in first.stderr
    assert FINGERPRINT.fullmatch(shared["publisher"])
    again = student.run(*command)
    assert shared["publisher"] not in again.stderr
    (item,) = student.json(*command)["fetched"]
    assert (item["publisher"], item["trusted"]) == (shared["publisher"], "first-use")
    assert TIME.fullmatch(item["trusted_since"])

    (entry,) = student.json("trust")["trusted"]
    assert entry == {
        "publisher": shared["publisher"],
        "by": share.document()["node"],
        "trusted": "first-use",
        "trusted_since": item["trusted_since"],
        "all_names": False,
        "names": [{"name": name, "team": "", "trusted": "first-use", "trusted_since": item["trusted_since"]}],
    }
    assert shared["publisher"] in student.run("trust").stdout
    assert shared["publisher"] in student.run("untrust", shared["publisher"][:9]).stdout
    assert student.json("trust") == {"trusted": [], "distrusted": []}


def test_show_says_who_signed_what_and_since_when_that_is_trusted(rivals: Rivals) -> None:
    student, name = rivals.student, rivals.name
    teacher = rivals.publisher(rivals.teacher)
    shown = student.json("show", student.place / f"{name}.raw")
    assert (shown["publisher"], shown["trusted"]) == (teacher, "first-use")
    (signature,) = shown["published_as"]
    assert teacher in signature and "first use" in signature and shown["trusted_since"] in signature
    text = student.run("show", student.place / f"{name}.raw").stdout
    assert re.search(rf"^publisher +{teacher}$", text, re.MULTILINE)
    assert re.search(r"^trusted +first-use$", text, re.MULTILINE)
    assert re.search(rf"^trusted since +{shown['trusted_since']}$", text, re.MULTILINE)
    # What a fetch would refuse can be looked at.
    result = student.run("show", name, "--peer", rivals.stranger.peer, "--wait", "1", "--json")
    assert result.document["publisher"] == teacher  # which is here
    (student.place / f"{name}.raw").unlink()
    result = student.run("show", name, "--peer", rivals.stranger.peer, "--wait", "1", "--json")
    assert (result.document["publisher"], result.document["trusted"]) == (
        rivals.publisher(rivals.stranger),
        "no",
    )
    assert "would refuse" in result.stderr


# -- takeovers ---------------------------------------------------------------------------------------


def test_another_publisher_of_a_known_name_is_refused_until_it_is_trusted(rivals: Rivals) -> None:
    student, name = rivals.student, rivals.name
    known, new = (rivals.publisher(share) for share in (rivals.teacher, rivals.stranger))
    before = (student.place / f"{name}.raw").read_bytes()
    command = rivals.fetch("--peer", rivals.stranger.peer)

    error = student.fails(NOT_ALLOWED, *command)

    assert known in error["why"] and new in error["why"]
    assert rivals.teacher.document()["node"] in error["why"]
    assert TIME.search(error["why"])
    assert f"overlaysync trust {new}" in error["hint"]
    assert (student.place / f"{name}.raw").read_bytes() == before

    # Beside the publisher that is known the other is listed, and not chosen.
    both = ("--peer", rivals.teacher.peer, "--peer", rivals.stranger.peer)
    text = student.run("ls", name, *both, "--wait", "1").stdout
    (marked,) = (line for line in text.splitlines() if "other publisher" in line)
    assert rivals.stranger.document()["node"] in marked
    assert {item["publisher"]: item["trusted"] for item in student.json("ls", name, *both)["images"]} == {
        known: "first-use",
        new: "no",
    }
    assert student.json(*rivals.fetch(*both))["fetched"][0]["publisher"] == known

    trusted = student.json("trust", new[:9])
    assert trusted["trusted"]["trusted"] == "explicit" and trusted["trusted"]["all_names"]
    assert trusted["before"] == [{"name": name, "team": "", "publisher": known}]
    # What is here is the other's: neither follows the other, so that is for the user to decide.
    error = student.fails(WOULD_DESTROY, *rivals.fetch(*both))
    assert known in error["why"] and new in error["why"]
    assert "--discard-changes" in error["hint"] and "--as" in error["hint"]
    assert (student.place / f"{name}.raw").read_bytes() == before
    (item,) = student.json(*rivals.fetch(*both), "--discard-changes")["fetched"]
    assert (item["publisher"], item["trusted"]) == (new, "explicit")
    error = student.fails(NOT_ALLOWED, *rivals.fetch("--peer", rivals.teacher.peer))
    assert f"overlaysync trust {known}" in error["hint"]

    # Who is forgotten is refused to nobody, and refuses nobody.
    untrusted = student.json("untrust", new.replace("-", ""))["untrusted"]
    assert (untrusted["publisher"], [one["name"] for one in untrusted["names"]]) == (new, [name])
    back = (*rivals.fetch("--peer", rivals.teacher.peer), "--discard-changes")
    (item,) = student.json(*back)["fetched"]
    assert (item["publisher"], item["trusted"]) == (known, "first-use")


def test_an_id_and_a_peer_name_content_whoever_signed_it(rivals: Rivals) -> None:
    student, name = rivals.student, rivals.name
    known, new = (rivals.publisher(share) for share in (rivals.teacher, rivals.stranger))
    peer = ("--peer", rivals.stranger.peer, "--wait", "1.5")
    id = rivals.stranger.document()["shared"][0]["disk"]
    for number, reference in enumerate((id[:15], f"{name}@stranger")):
        result = student.run("fetch", reference, *peer, "--as", f"other{number}", "--json")
        assert result.code == DONE
        assert (result.document["fetched"][0]["disk"], result.document["fetched"][0]["trusted"]) == (id, "no")
        assert new in result.stderr
    assert [entry["publisher"] for entry in student.json("trust")["trusted"]] == [known]
    # What is here by the name is not what came so.
    verified = student.json("verify", name)["verified"]
    assert [item["path"] for item in verified] == [str(student.place / f"{name}.raw")]


def test_trust_can_be_for_one_name(rivals: Rivals, lab: Lab) -> None:
    student, name, other = rivals.student, rivals.name, lab.name("web")
    known, new = (rivals.publisher(share) for share in (rivals.teacher, rivals.stranger))
    share = lab.node("stranger").share(raw(lab.node("stranger"), other))
    peers = ("--peer", rivals.stranger.peer, "--peer", share.peer)
    student.fails(NOT_ALLOWED, *rivals.fetch(*peers))

    done = student.run("trust", new, "--name", name)

    assert done.code == DONE and known in done.stdout
    (entry,) = student.json("trust")["trusted"]
    assert (entry["trusted"], entry["all_names"]) == ("explicit", False)
    (item,) = student.json(*rivals.fetch(*peers, "--trusted-only"), "--discard-changes")["fetched"]
    assert (item["publisher"], item["trusted"]) == (new, "explicit")
    error = student.fails(NOT_ALLOWED, "fetch", other, *peers, "--trusted-only", "--wait", "1")
    assert new in error["why"]


def test_one_s_own_name_is_one_s_own_and_a_share_says_when_a_name_is_not(rivals: Rivals, lab: Lab) -> None:
    teacher, student, name = lab.node("teacher"), rivals.student, rivals.name
    error = teacher.fails(NOT_ALLOWED, *rivals.fetch("--peer", rivals.stranger.peer))
    assert "is yours" in error["why"]
    path = student.place / f"{name}.raw"
    path.chmod(0o644)
    path.write_bytes(disks.noise("changed", MIB))
    share = student.share(path)
    assert rivals.publisher(rivals.teacher) in share.stderr
    assert f"overlaysync trust {share.document()['shared'][0]['publisher']} --name {name}" in share.stderr
    entries = {entry["publisher"]: entry for entry in student.json("trust")["trusted"]}
    assert list(entries) == [rivals.publisher(rivals.teacher)]


def test_of_one_content_by_several_publishers_a_liar_is_not_in_the_way(open_lab: Lab) -> None:
    teacher, student, name = open_lab.node("teacher"), open_lab.node("student"), open_lab.name("router")
    share = teacher.share(raw(teacher, name))
    honest = record(share.port).named(name)
    header = honest.manifest.header
    lie = msgspec.structs.replace(
        header, version=9, follows=("5e" * 32,), virtual_size=header.virtual_size * 2
    )
    key = load_or_make(open_lab.root / "liar.key")
    with RecordedPeer(recording_of([replace(honest, manifest=sign_header(lie, key))], key.public)) as liar:
        (item,) = student.fetch(name, "--peer", share.peer, "--peer", liar.address)
    assert (item["version"], item["trusted"]) == (1, "no")
    assert (student.place / f"{name}.raw").read_bytes() == (teacher.place / f"{name}.raw").read_bytes()
    assert student.json("trust") == {"trusted": [], "distrusted": []}


# -- trusted only ------------------------------------------------------------------------------------


def test_trusted_only_needs_more_than_a_first_use(rivals: Rivals) -> None:
    student, name = rivals.student, rivals.name
    known = rivals.publisher(rivals.teacher)
    peer = ("--peer", rivals.teacher.peer)
    command = rivals.fetch(*peer)
    id = rivals.teacher.document()["shared"][0]["disk"]

    error = student.fails(NOT_ALLOWED, *command, "--trusted-only")
    assert known in error["why"] and f"overlaysync trust {known}" in error["hint"]
    assert student.fails(NOT_ALLOWED, *command, OVERLAYSYNC_FETCH_TRUSTED_ONLY="1")
    assert student.fails(NOT_ALLOWED, "fetch", id, *peer, "--wait", "1", "--trusted-only")
    assert student.run(*command, OVERLAYSYNC_FETCH_TRUSTED_ONLY="0").code == DONE
    config = student.home / "config"
    config.mkdir(exist_ok=True)
    (config / "config.toml").write_text("[fetch]\ntrusted_only = true\n")
    assert student.fails(NOT_ALLOWED, *command)

    student.run("trust", known)

    for words in (command, ("fetch", id, *peer, "--replace")):
        (item,) = student.json(*words)["fetched"]
        assert (item["publisher"], item["trusted"]) == (known, "explicit")
    (entry,) = student.json("trust")["trusted"]
    assert entry["all_names"] and entry["trusted_since"] == item["trusted_since"]
    assert entry["names"][0]["name"] == name


# -- nothing is taken back ---------------------------------------------------------------------------


def two_versions(lab: Lab) -> tuple[str, Recording, Share]:
    """A name, what a peer with its first version says, and a share of the second."""
    teacher, name = lab.node("teacher"), lab.name("router")
    share = teacher.share(raw(teacher, name))
    old = record(share.port)
    share.stop()
    raw(teacher, name, "newer")
    return name, old, teacher.share(teacher.place / f"{name}.raw")


def test_an_old_version_is_refused_when_a_newer_one_was_seen_unless_it_is_named(open_lab: Lab) -> None:
    name, old, share = two_versions(open_lab)
    student, fresh = open_lab.node("student"), open_lab.node("fresh")
    (item,) = student.fetch(name, "--peer", share.peer)
    fresh.json("ls", name, "--peer", share.peer, "--wait", "1")
    assert item["version"] == 2
    share.stop()
    with RecordedPeer(old) as peer:
        command = ("fetch", name, "--peer", peer.address, "--wait", "1", "--replace")
        # What is here is newer, and stays.
        (here,) = student.json(*command)["fetched"]
        assert (here["already_here"], here["version"], here["disk"]) == (True, 2, item["disk"])
        assert f"{name}:2, which is newer than {name}:1" in student.run(*command).stdout
        (student.place / f"{name}.raw").unlink()
        # Whoever has only looked has seen it, too.
        for node in (student, fresh):
            error = node.fails(NOT_ALLOWED, *command)
            assert f"{name}:1" in error["why"] and f"{name}:2" in error["why"]
            assert len(TIME.findall(error["why"])) == 2
            assert f"overlaysync fetch {name}:1" in error["hint"]
        (first,) = student.fetch(f"{name}:1", "--peer", peer.address, "--as", "old")
        assert (first["version"], first["trusted"]) == (1, "first-use")
        assert student.files() == {"old.raw"}


def test_high_versions_of_strangers_lock_no_name(open_lab: Lab) -> None:
    """Not even one that follows the version here, and is listed beside it."""
    teacher, student, name = open_lab.node("teacher"), open_lab.node("student"), open_lab.name("router")
    share = teacher.share(raw(teacher, name))
    student.fetch(name, "--peer", share.peer)
    honest = record(share.port).named(name)
    header, id = honest.manifest.header, "b3:" + "5e" * 32
    high = msgspec.structs.replace(
        header, version=1 << 30, follows=(honest.manifest.id.hex(),), id=id, result=id, by="stranger@host"
    )
    key = load_or_make(open_lab.root / "stranger.key")
    with RecordedPeer(recording_of([replace(honest, manifest=sign_header(high, key))], key.public)) as peer:
        both = ("--peer", share.peer, "--peer", peer.address, "--wait", "1.5")
        listed = student.json("ls", name, *both)["images"]
        assert {item["version"] for item in listed} == {1, 1 << 30}
        for words in (both, ("--peer", share.peer)):
            (item,) = student.json("fetch", name, *words, "--replace")["fetched"]
            assert (item["version"], item["already_here"]) == (1, True)
        # Where the name is nobody's yet, none of them is chosen.
        assert len(open_lab.node("fresh").fails(USAGE, "fetch", name, *both)["candidates"]) == 2


# -- mistakes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        (USAGE, ("trust", "short")),
        (USAGE, ("trust", "not-a-fingerprint!")),
        (USAGE, ("trust", "--name", "router")),
        (USAGE, ("untrust",)),
        (USAGE, ("untrust", "1111-1111")),
        (NOT_FOUND, ("untrust", "aaaa-aaaa")),
    ],
    ids=str,
)
def test_mistakes(lab: Lab, code: int, arguments: tuple[str, ...]) -> None:
    error = lab.node("student").fails(code, *arguments)
    assert error["what"] and error["hint"]


def test_a_publisher_that_was_never_seen_is_looked_for(lab: Lab) -> None:
    teacher, student, name = lab.node("teacher"), lab.node("student"), lab.name("router")
    share = teacher.share(raw(teacher, name))
    (shared,) = share.document()["shared"]
    nobody = ("--peer", f"[::1]:{free_port()}")
    error = student.fails(NOT_FOUND, "trust", shared["publisher"], *nobody, "--wait", "1")
    assert "--peer" in error["hint"]
    for bad in ("red/", f"{name}:2", "b3:12345678", f"{name}@teacher"):
        student.fails(USAGE, "trust", shared["publisher"], "--name", bad, "--peer", share.peer)

    trusted = student.json("trust", shared["publisher"], "--peer", share.peer, "--wait", "1")["trusted"]

    assert (trusted["publisher"], trusted["by"], trusted["names"]) == (
        shared["publisher"],
        share.document()["node"],
        [],
    )
    result = student.run("fetch", name, "--peer", share.peer, "--trusted-only")
    assert result.code == DONE
    assert "First use" not in result.stderr  # it was compared already


@pytest.mark.qemu
def test_a_master_that_comes_along_needs_no_trust_of_its_own(lab: Lab) -> None:
    teacher, other, student = (lab.node(word) for word in ("teacher", "other", "student"))
    master = disks.make_master(other.place / f"{lab.name('master')}.qcow2", size=MIB)
    first = other.share(master)
    teacher.fetch(master.stem, "--peer", first.peer)
    overlay = disks.make_overlay(
        teacher.place / f"{lab.name('vm')}.qcow2", teacher.place / master.name, (0, 64 * KIB)
    )
    share = teacher.share(overlay)
    (shared,) = (item for item in share.document()["shared"] if item["layer"])
    student.json("trust", shared["publisher"], "--peer", share.peer, "--wait", "1")

    brought, wanted = student.fetch(overlay.stem, "--peer", share.peer, "--trusted-only")

    assert (wanted["trusted"], brought["trusted"]) == ("explicit", "no")
    assert brought["publisher"] == first.document()["shared"][0]["publisher"]
    (entry,) = student.json("trust")["trusted"]
    assert [item["name"] for item in entry["names"]] == [overlay.stem]
    assert disks.identical(overlay, student.place / overlay.name)
