"""Teams with real processes: how one gets in, what members see, and what others do not, nor on the wire."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from overlaysync.node.node import Node as OwnNode
from overlaysync.trust.envelope import open_envelope
from overlaysync.units import MIB
from tests.e2e.namespaces import NoNamespaceError, namespace
from tests.e2e.nodes import (
    DONE,
    IN_USE,
    INTERRUPTED,
    NOT_ALLOWED,
    NOT_FOUND,
    USAGE,
    WOULD_DESTROY,
    Lab,
    Node,
    Share,
)
from tests.e2e.terminals import Terminal

pytestmark = pytest.mark.holds("B1")

_LOOPBACK = "ip link set lo up && ip link set lo multicast on && ip route add 224.0.0.0/4 dev lo"


def make_image(node: Node, name: str, size: int = MIB) -> Path:
    path = node.place / f"{name}.raw"
    path.write_bytes(os.urandom(size))
    return path


def type_in(node: Node, text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command with ``text`` on its stdin."""
    return subprocess.run(
        node.words(*arguments),
        input=text,
        env=node.environment(),
        cwd=node.place,
        capture_output=True,
        text=True,
        check=False,
    )


# -- getting in --------------------------------------------------------------------------------------


def test_a_code_is_shown_once_and_joined_with(lab: Lab) -> None:
    alice, bob, carl = (lab.node(name) for name in ("alice", "bob", "carl"))
    made = alice.json("team", "create", "red")
    code = made["code"]
    assert type_in(bob, code, "team", "join", "red").returncode == DONE
    file = carl.place / "code"
    file.write_text(f"{code.upper()}\n")
    file.chmod(0o600)
    assert carl.json("team", "join", "red", "--code-file", file) == {
        "team": "red",
        "tag": made["tag"],
        "new": True,
    }
    for node in (alice, bob, carl):
        (listed,) = node.json("team", "show")["teams"]
        assert (listed["team"], listed["tag"]) == ("red", made["tag"]) and listed["since"]
        (key,) = (node.home / "teams").iterdir()
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
        shown = node.run("team", "show").stdout
        assert made["tag"] in shown and code not in shown and code.replace("-", "") not in shown
    assert carl.json("team", "leave", "red", "--yes")["left"]
    assert carl.json("team", "show") == {"teams": []}


def test_what_goes_wrong(lab: Lab) -> None:
    alice, bob = lab.node("alice"), lab.node("bob")
    code = alice.json("team", "create", "red")["code"]
    assert alice.fails(WOULD_DESTROY, "team", "create", "red")["hint"]
    assert alice.fails(USAGE, "team", "create", "../red")
    assert alice.fails(NOT_FOUND, "team", "leave", "blue")["hint"]
    assert alice.fails(NOT_FOUND, "team", "leave", "../node.key")
    typo = ("a" if code[0] != "a" else "b") + code[1:]
    for text in (typo, "", "x" * 100_000, "\x00\xff", code[:-1]):
        done = type_in(bob, text, "team", "join", "red")
        assert done.returncode == USAGE and "not the code of team 'red'" in done.stderr
        assert not text or text not in done.stderr + done.stdout
    assert type_in(bob, code, "team", "join", "blue").returncode == USAGE, "a code belongs to one name"
    error = bob.run("team", "join", "red", code)
    assert error.code == USAGE and code not in error.stderr + error.stdout
    assert type_in(bob, code, "team", "join", "red", "-").returncode == DONE
    assert type_in(bob, code, "team", "join", "red").returncode == DONE, "is in it already"
    other = lab.node("carl").json("team", "create", "red")["code"]
    assert type_in(bob, other, "team", "join", "red").returncode == WOULD_DESTROY


def test_keys_and_codes_that_others_can_read_are_refused(lab: Lab) -> None:
    alice = lab.node("alice")
    code = alice.json("team", "create", "red")["code"]
    (alice.home / "teams" / "red.team").chmod(0o644)
    assert "chmod 600" in alice.fails(NOT_ALLOWED, "team", "show")["hint"]
    (alice.home / "teams" / "red.team").chmod(0o600)
    (alice.place / "code").write_text(code)
    (alice.place / "code").chmod(0o644)
    bob = lab.node("bob")
    assert (
        "chmod 600"
        in bob.fails(NOT_ALLOWED, "team", "join", "red", "--code-file", alice.place / "code")["hint"]
    )
    assert bob.fails(NOT_FOUND, "team", "join", "red", "--code-file", "nowhere")


def test_on_a_terminal_the_code_is_asked_for_and_not_shown(lab: Lab) -> None:
    code = lab.node("alice").json("team", "create", "red")["code"]
    bob = lab.node("bob")
    with Terminal(bob, "team", "join", "red") as terminal:
        terminal.answer("Code of team red:", code)
        assert terminal.end() == DONE
    assert "in team red" in terminal.shown and code not in terminal.shown


# -- what members see --------------------------------------------------------------------------------


def test_members_have_it_and_for_others_there_is_nothing(lab: Lab) -> None:
    alice, bob, carl = (lab.node(name) for name in ("alice", "bob", "carl"))
    team = lab.team("red", alice, bob)
    lab.team("blue", carl)
    image = make_image(alice, lab.name("vm"))
    share = alice.share(image, "--team", team)
    peer = ("--peer", share.peer, "--wait", "10")
    disk = share.document()["shared"][0]["disk"]

    (listed,) = bob.json("ls", *peer)["images"]
    assert (listed["team"], listed["name"], listed["disk"]) == (team, image.stem, disk)
    assert bob.json("show", f"{team}/{image.stem}", *peer)["disk"] == disk
    for number, reference in enumerate((f"{team}/{image.stem}", f"{team}/", image.stem, disk[:20])):
        (fetched,) = bob.fetch(reference, "--to", f"to{number}", *peer)
        assert Path(fetched["path"]).read_bytes() == image.read_bytes()

    assert carl.json("ls", *peer)["images"] == []
    assert [item["images"] for item in carl.json("peers", *peer)["peers"]] == [0]
    for reference in (image.stem, disk[:20]):
        absent = carl.fails(NOT_FOUND, "fetch", reference, *peer)
        assert absent["why"] == "none of the machines that answer shares anything"
    for command in ("fetch", "ls", "show"):
        for reference in (f"{team}/{image.stem}", f"{team}/"):
            absent = carl.fails(NOT_FOUND, command, reference, *peer)
            assert absent["why"].startswith(f"this machine is not in team '{team}'")
            assert f"overlaysync team join {team}" in absent["hint"]
    assert carl.fails(NOT_FOUND, "show", image.stem, *peer)

    bob.json("team", "leave", team, "--yes")
    assert bob.json("ls", *peer)["images"] == []
    assert bob.fails(NOT_FOUND, "fetch", f"{team}/{image.stem}", "--to", "again", *peer)
    assert share.stop().code == INTERRUPTED


def test_only_members_share_with_a_team(lab: Lab) -> None:
    alice, bob = lab.node("alice"), lab.node("bob")
    team = lab.team("red", alice, bob)
    image = make_image(alice, lab.name("vm"))
    assert "team create other" in alice.fails(NOT_ALLOWED, "share", image, "--team", "other")["hint"]
    assert alice.fails(USAGE, "share", image, "--team", "../x")
    share = alice.share(image, "--team", team)
    (fetched,) = bob.fetch(f"{team}/", "--peer", share.peer)
    assert fetched["trusted"] == "team", "its key vouches"
    share.stop()

    again = bob.share(fetched["path"])
    assert again.document()["shared"][0]["team"] == team, "what belongs to a team stays there"
    assert [item["team"] for item in alice.json("ls", "--peer", again.peer)["images"]] == [team]
    assert lab.node("carl").json("ls", "--peer", again.peer)["images"] == []
    again.stop()

    bob.json("team", "leave", team, "--yes")
    assert team in bob.fails(NOT_ALLOWED, "share", fetched["path"])["what"], "not even by accident"
    public = bob.share(fetched["path"], "--public", "--yes")
    assert [item["team"] for item in lab.node("carl").json("ls", "--peer", public.peer)["images"]] == [""]


def test_an_overlay_does_not_tell_of_a_team_s_master(lab: Lab) -> None:
    """Nor does it take the master along to others."""
    alice, carl = lab.node("alice"), lab.node("carl")
    team = lab.team("red", alice)
    master = make_image(alice, lab.name("quagga"))
    alice.share(master, "--team", team).stop()
    alice.json("new", "vm.qcow2", "--master", master)
    share = alice.share("vm.qcow2")
    assert [item["team"] for item in share.document()["shared"]] == [team, team], "nobody said otherwise"
    assert carl.json("ls", "--peer", share.peer)["images"] == []
    share.stop()

    error = alice.fails(NOT_ALLOWED, "share", "vm.qcow2", "--public", "--yes")
    assert str(master) in error["hint"]


def test_an_older_key_is_worth_nothing(lab: Lab) -> None:
    alice, bob = lab.node("alice"), lab.node("bob")
    team = lab.team("red", alice, bob)
    alice.json("team", "leave", team, "--yes")
    alice.json("team", "create", team)
    share = alice.share(make_image(alice, lab.name("vm")), "--team", team)
    assert bob.json("ls", "--peer", share.peer)["images"] == []


def test_members_go_on_from_each_other_s_versions_and_trust_nobody(lab: Lab) -> None:
    """A turn of each, then two at once: a fork, which one settles, and everybody has what came of it."""
    alice, bob, carl = (lab.node(name) for name in ("alice", "bob", "carl"))
    team = lab.team("red", alice, bob, carl)
    image = make_image(alice, lab.name("vm"))
    name, file = f"{team}/{image.stem}", image.name

    def publish(node: Node, offset: int | None = None) -> Share:
        """Write somewhere, and share it."""
        path = node.place / file
        if offset is not None:
            path.chmod(0o644)
            with open(path, "r+b") as disk:
                os.pwrite(disk.fileno(), os.urandom(4096), offset)
        return node.share(path, "--team", team)

    def shared(share: Share) -> tuple[int, list[str]]:
        (item,) = share.document()["shared"]
        return item["version"], item["follows"]

    def id_of(share: Share) -> str:
        return str(share.document()["shared"][0]["manifest"])

    first = publish(alice)
    for node in (bob, carl):
        node.fetch(name, "--peer", first.peer)
    second = publish(bob, 0)
    assert shared(second) == (2, [id_of(first)])
    error = alice.fails(IN_USE, "fetch", name, "--peer", second.peer, "--replace")
    assert f"(pid {first.popen.pid})" in error["why"], "it is her own share that has it open"
    assert "--as" in error["hint"]
    first.stop()
    error = alice.fails(WOULD_DESTROY, "fetch", name, "--peer", second.peer)
    assert "--replace" in error["hint"]
    for node in (alice, carl):
        (item,) = node.fetch(name, "--peer", second.peer, "--replace")
        assert item["version"] == 2

    left, right = publish(alice, 4096), publish(carl, 8192)
    assert shared(left) == shared(right) == (3, [id_of(second)])
    sides = [id_of(right), id_of(left)]  # first the one that the settlement is made from
    both = ("--peer", left.peer, "--peer", right.peer, "--wait", "2")
    assert len(bob.fails(USAGE, "fetch", name, *both, "--replace")["candidates"]) == 2
    left.stop()
    error = alice.fails(WOULD_DESTROY, "fetch", f"{name}:3@carl", "--peer", right.peer, "--replace")
    assert error["what"] == f"'{name}' is forked: neither version follows the other"
    assert "alice@" in error["why"] and "carl@" in error["why"] and f"{name}:2" in error["why"]
    second.stop()
    (item,) = alice.fetch(f"{name}:3@carl", "--peer", right.peer, "--discard-changes")
    settled = publish(alice)
    assert shared(settled) == (4, sides)
    right.stop()

    for node in (bob, carl):
        (item,) = node.fetch(name, "--peer", settled.peer, "--replace", "--wait", "2")
        assert item["version"] == 4
        assert (node.place / file).read_bytes() == (alice.place / file).read_bytes()
    for node in (alice, bob, carl):
        assert node.json("trust")["trusted"] == []


def test_the_private_port_is_next_to_a_chosen_one(lab: Lab) -> None:
    from tests.e2e.nodes import free_port

    alice, bob = lab.node("alice"), lab.node("bob")
    team = lab.team("red", alice, bob)
    share = alice.share(make_image(alice, lab.name("vm")), "--team", team, "--port", free_port())
    assert len(bob.json("ls", "--peer", share.peer)["images"]) == 1


# -- what is on the wire -----------------------------------------------------------------------------


@pytest.fixture
def wire_lab(tmp_path: Path) -> Iterator[Lab]:
    """Nodes in a network of their own, a loopback with mDNS."""
    try:
        with namespace("net", "mount", script=_LOOPBACK) as made, Lab(tmp_path, prefix=made.prefix) as lab:
            yield lab
    except NoNamespaceError as error:
        pytest.skip(str(error))


def windows(data: bytes) -> np.ndarray:
    """A hash of every 16 consecutive bytes of ``data``, sorted."""
    if len(data) < 16:
        return np.empty(0, np.uint64)
    words = np.empty(len(data) - 7, np.uint64)
    for shift in range(8):
        part = np.frombuffer(data, np.uint64, offset=shift, count=(len(data) - shift) // 8)
        words[shift::8] = part
    return np.unique(words[:-8] * np.uint64(0x9E3779B97F4A7C15) ^ words[8:] * np.uint64(0xC2B2AE3D27D4EB4F))


def seen_in(seen: np.ndarray, data: bytes) -> int:
    """How many of the 16-byte windows of ``data`` are among those that were seen."""
    return int(np.isin(windows(data), seen, assume_unique=True).sum())


@pytest.mark.holds("N13")
@pytest.mark.red_without("N13", "what belongs to a team is announced like everything else")
@pytest.mark.red_without(
    "N13", "members of a team ask each other on the public lane (where they find nothing and form no swarm)"
)
@pytest.mark.lan
@pytest.mark.slow
@pytest.mark.parametrize("private", [True, False], ids=["private", "public"])
def test_nothing_of_a_team_is_on_the_wire(wire_lab: Lab, private: bool) -> None:
    """A share that is announced, found by mDNS, listed, and fetched by a swarm of three."""
    lab = wire_lab
    seed, *fetchers = (lab.node(name) for name in ("seed", "one", "two", "three"))
    team = lab.team("zebrateam", seed, *fetchers)
    image = make_image(seed, lab.name("quaggaimage"), 2 * MIB)
    capture = lab.root / "capture"
    sniffer = seed.start_module("tests.e2e.sniffer", capture)
    sniffer.document()
    share = seed.share(image, "--limit-rate", "1M", *(("--team", team) if private else ()))
    outsider = lab.node("outsider")
    outsider.run("ls", "--wait", "2")
    fetched = [
        node.start("fetch", image.stem, "--wait", "10", "--json", OVERLAYSYNC_COMPRESSION="never")
        for node in fetchers
    ]
    documents = []
    for process in fetched:
        assert process.wait().code == DONE
        documents.append(process.document())
    share.stop()
    sniffer.stop()

    assert all(
        Path(document["fetched"][0]["path"]).read_bytes() == image.read_bytes() for document in documents
    )
    assert any(len(document["fetched"][0]["sources"]) > 1 for document in documents), "they were a swarm"
    seen = capture.read_bytes()
    assert b"_overlaysync" in seen and b"overlaysync-" in seen, "mDNS was captured"
    node = OwnNode.open(seed.environment())
    try:
        (row,) = node.catalog.manifests.matching()
        manifest = open_envelope(row.envelope)
        pages = node.catalog.pages.load_list(manifest.header.content_id)
        assert pages is not None
        # Who publishes it is no secret: every catalog begins with that label.
        envelope = row.envelope.split(node.label.encode())
        described = [*envelope, pages.encode(), *map(node.library.load_page, pages.digests)]
        key = node.teams[team].key
    finally:
        node.close()
    ids = [manifest.id, manifest.header.content_id, *dict.fromkeys(pages.digests)]
    words = [team.encode(), image.stem.encode(), *ids, *(id.hex()[:8].encode() for id in ids)]
    found = [word in seen for word in words]
    every = windows(seen)
    data = seen_in(every, image.read_bytes())
    text = [seen_in(every, part) for part in described]
    assert key not in seen and key.hex().encode() not in seen
    if private:
        assert not any(found), [word for word, is_there in zip(words, found, strict=True) if is_there]
        assert data == 0 and not any(text)
    else:
        assert found[1] and all(found[-len(ids) :]), "the image and its ids are there for all to see"
        assert data > 0.9 * image.stat().st_size and text[-1] and text[-2]
