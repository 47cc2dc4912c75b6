"""Every command as users and scripts meet it: help, JSON documents, silence, colours."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import overlaysync
from overlaysync.units import KIB, MIB
from tests import images
from tests.e2e import disks
from tests.e2e.nodes import (
    DONE,
    INTERRUPTED,
    NETWORK,
    NOT_FOUND,
    NOT_VERIFIED,
    WOULD_DESTROY,
    Lab,
    Node,
    until,
)
from tests.torture.rot import rot_unseen

pytestmark = pytest.mark.qemu

COMMANDS = (
    "share",
    "fetch",
    "sync",
    "ls",
    "peers",
    "show",
    "history",
    "trust",
    "untrust",
    "distrust",
    "id",
    "new",
    "adopt",
    "verify",
    "promote",
    "discard",
    "rebase",
    "tree",
    "doctor",
)
COMMON = {"name", "path", "format", "virtual_size", "disk", "layer", "parent", "publisher", "version"}
"""The keys of an image here, the same in every document."""
COMMON |= {"team", "trusted", "trusted_since", "follows", "created", "note", "fork"}
LISTED = COMMON - {"path"} | {"manifest", "data_size", "by", "peers", "nodes"}
ID = re.compile(r"b3:[0-9a-f]{64}")
ANSI = "\x1b["


def check_image(item: dict[str, Any], path: Path, *, overlay: bool, published: bool) -> None:
    """Whether ``item`` describes the image at ``path`` with the keys that all documents use."""
    assert item.keys() >= COMMON
    assert item["name"] == path.stem
    assert item["path"] == str(path)
    assert item["format"] == path.suffix.removeprefix(".")
    assert isinstance(item["virtual_size"], int)
    assert ID.fullmatch(item["disk"])
    for key in ("layer", "parent"):
        assert ID.fullmatch(item[key]) if overlay else item[key] is None
    assert (item["publisher"] is not None) == published
    assert (item["trusted"] in ("own", "explicit", "first-use", "team", "no")) == published
    assert isinstance(item["version"], int) == published


# -- documents ---------------------------------------------------------------------------------------


def test_the_documents_of_the_commands_that_need_no_network(lab: Lab) -> None:
    node = lab.node("alice")
    master = disks.make_master(node.place / "master.qcow2", size=MIB)
    other = disks.make_master(node.place / "other.raw", size=MIB, seed="master.qcow2")

    check_image(node.json("id", master), master, overlay=False, published=False)
    overlay = node.place / "vm.qed"
    made = node.json("new", overlay, "--master", "master.qcow2", "--format", "qed")
    check_image(made, overlay, overlay=True, published=False)
    assert made["parent"] == node.json("id", "master.qcow2")["disk"]
    assert made["disk"] == made["parent"]

    disks.write(overlay, 64 * KIB, disks.noise("vm", 100 * KIB))
    known = node.json("id", overlay)
    assert known["disk"] != known["parent"] == made["parent"]
    shown = node.json("show", overlay)
    check_image(shown, overlay, overlay=True, published=False)
    assert [below["path"] for below in shown["lineage"]] == [str(master)]
    assert (shown["in_use"], shown["file_size"]) == (False, overlay.stat().st_size)
    assert node.json("show", master)["stands_on_it"] == [str(overlay)]

    verified = node.json("verify", overlay, master)["verified"]
    assert [(item["path"], item["ok"], item["damage"]) for item in verified] == [
        (str(overlay), True, []),
        (str(master), True, []),
    ]

    promoted = node.json("promote", overlay, "--as", "made")
    check_image(promoted, node.place / "made.qed", overlay=False, published=False)
    assert promoted["disk"] == known["disk"]
    assert (node.place / "made.qed").stat().st_mode & 0o777 == 0o444

    moved = node.json("rebase", overlay, "--onto", other)
    check_image(moved, node.place / "vm-on-other.qed", overlay=True, published=False)
    assert moved["disk"] == known["disk"]
    assert disks.identical(overlay, Path(moved["path"]))

    branches = node.json("tree")["tree"]
    assert {branch["disk"] for branch in branches} >= {known["disk"], known["parent"]}
    relative = Path(moved["path"]).name
    assert node.json("discard", overlay, relative, "--yes")["discarded"] == [str(overlay), moved["path"]]
    assert node.files() == {"master.qcow2", "other.raw", "made.qed"}


def test_the_documents_of_the_commands_that_need_it(lab: Lab) -> None:
    alice, bob = lab.node("alice"), lab.node("bob")
    master = disks.make_master(alice.place / f"{lab.name('master')}.raw", size=MIB)
    overlay = disks.make_overlay(alice.place / f"{lab.name('vm')}.qcow2", master, (0, 64 * KIB))
    team = lab.team("red", alice, bob)
    share = alice.share(overlay, master, "--team", team)
    document = share.document()
    below, top = sorted(document["shared"], key=lambda item: str(item["name"]))
    check_image(top, overlay, overlay=True, published=True)
    check_image(below, master, overlay=False, published=True)
    assert top["team"] == team
    peer = ("--peer", share.peer, "--wait", "1")

    for listed in (
        bob.json("ls", overlay.stem, *peer)["images"][0],
        bob.json("show", f"{team}/{overlay.stem}", *peer),
    ):
        assert listed.keys() >= LISTED
        for key in COMMON - {"path", "trusted", "trusted_since"}:
            assert listed[key] == top[key]
        assert (top["trusted"], listed["trusted"], listed["trusted_since"]) == ("own", "team", None)
        assert document["node"] in listed["nodes"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", listed["created"])

    (mine,) = (item for item in bob.json("peers", *peer)["peers"] if item["node"] == document["node"])
    assert mine["images"] == 2

    for item, path in zip(bob.fetch(overlay.stem, *peer), (master, overlay), strict=True):
        check_image(item, bob.place / path.name, overlay=path == overlay, published=True)
        assert item["publisher"] == top["publisher"]
        assert item.keys() >= {"already_here", "wire", "local", "resumed", "sources", "data_size"}
    share.stop()
    local = {item["name"] for item in bob.json("ls", "--local")["images"]}
    assert local == {master.stem, overlay.stem}
    assert "×0" not in bob.run("ls", "--local").stdout
    assert "within reach" not in lab.node("carol").run("ls", "--local").stderr


def test_doctor_has_a_document(lab: Lab) -> None:
    result = lab.node("alice").run("doctor", "--json")
    for check in result.document["checks"]:
        assert check["state"] in ("ok", "warn", "fail")
        assert check["state"] == "ok" or check["advice"]
    assert result.code == result.document["exit_code"]


def test_long_work_reports_progress_as_json_lines(lab: Lab) -> None:
    alice, bob = lab.node("alice"), lab.node("bob")
    name = lab.name("disk")
    share = alice.share(disks.make_master(alice.place / f"{name}.raw", size=20 * MIB))
    fetch = bob.start("fetch", name, "--peer", share.peer, "--limit-rate", "4M", "--json")

    def progress() -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in fetch.stderr.splitlines(keepends=True) if line.endswith("\n")]
        return [line for line in lines if "progress" in line]

    first = until(progress, what="a line of progress")[0]
    assert first["progress"] == name
    assert 0 < first["done"] < first["total"] == 20 * MIB
    fetch.interrupt()
    assert fetch.wait().code == INTERRUPTED
    assert "what was verified is kept" in fetch.stderr


# -- repair and names --------------------------------------------------------------------------------


def test_rot_is_named_by_guest_offset_and_healed_from_a_peer(lab: Lab) -> None:
    alice, bob = lab.node("alice"), lab.node("bob")
    master = disks.make_master(alice.place / f"{lab.name('master')}.qcow2", size=4 * MIB)
    share = alice.share(master)
    (item,) = bob.fetch(master.stem, "--peer", share.peer)
    path = Path(item["path"])
    rot_unseen(bob.home, path, path.stat().st_size - MIB + 100, 3)

    result = bob.run("verify", path, "--json")
    assert result.code == NOT_VERIFIED
    (verdict,) = result.document["verified"]
    assert json.loads(result.stderr.splitlines()[-1])["error"]["exit_code"] == NOT_VERIFIED
    (damage,) = verdict["damage"]
    assert damage == {"offset": 3 * MIB, "length": 64 * KIB}

    assert bob.json("verify", path, "--repair", "--peer", share.peer)["verified"][0]["ok"]
    assert disks.identical(master, path)


def test_a_repair_that_fails_does_not_take_the_damage_for_the_image(lab: Lab) -> None:
    alice, bob = lab.node("alice"), lab.node("bob")
    master = disks.make_master(alice.place / f"{lab.name('master')}.qcow2", size=4 * MIB)
    share = alice.share(master)
    (item,) = bob.fetch(master.stem, "--peer", share.peer)
    path, peer = Path(item["path"]), share.peer
    share.stop()
    rot_unseen(bob.home, path, path.stat().st_size - MIB + 100, 3)

    assert bob.run("verify", path).code == NOT_VERIFIED
    assert bob.run("verify", path, "--repair", "--peer", peer).code in (NOT_FOUND, NETWORK)
    assert bob.run("verify", path).code == NOT_VERIFIED

    share = alice.share(master)
    assert bob.json("verify", path, "--repair", "--peer", share.peer)["verified"][0]["ok"]
    assert disks.identical(master, path)


def test_what_a_vm_has_written_is_not_healed_away_unasked(lab: Lab) -> None:
    alice, bob = lab.node("alice"), lab.node("bob")
    master = disks.make_master(alice.place / f"{lab.name('master')}.qcow2", size=4 * MIB)
    overlay = disks.make_overlay(alice.place / f"{lab.name('vm')}.qcow2", master, (MIB, 64 * KIB))
    share = alice.share(master, overlay)
    bob.fetch(overlay.stem, "--peer", share.peer)
    path = bob.place / overlay.name
    images.apply(path, [images.Op("write", 2 * MIB, 64 * KIB, 7)])
    written = path.read_bytes()

    said = bob.run("verify", path).stderr
    assert "--repair --yes" in said and "to keep what it holds: overlaysync share" in said
    refused = bob.run("verify", path, "--repair", "--peer", share.peer)
    assert refused.code == WOULD_DESTROY and "would be lost" in refused.stderr and "--yes" in refused.stderr
    assert path.read_bytes() == written

    said = bob.run("verify", path, "--repair", "--yes", "--peer", share.peer).stdout
    assert f"healed ({64 * KIB} bytes that the guest sees) and verified" in said
    assert disks.identical(overlay, path)


def test_a_master_that_is_none_of_its_name_is_not_called_that(lab: Lab) -> None:
    """A file elsewhere that has the name, and was never published: it is what it was when it was hashed."""
    node = lab.node("alice")
    master = disks.make_master(node.place / f"{lab.name('master')}.qcow2", size=MIB)
    node.share(master).stop()
    assert f"as it was when published as {master.stem}:1" in node.run("verify", master).stdout
    (node.place / "copies").mkdir()
    other = disks.make_master(node.place / "copies" / master.name, size=MIB, seed="other")
    node.run("id", other)
    said = node.run("verify", other).stdout
    assert "never published" in said and f"which is no version of '{master.stem}' known here" in said


# -- words -------------------------------------------------------------------------------------------


def test_every_command_has_help(lab: Lab) -> None:
    node = lab.node("alice")
    helps = {command: node.start(command, "--help") for command in COMMANDS}
    overview = node.run("--help")
    assert overview.code == DONE
    assert "new image" not in node.run("id", "--help").stdout
    assert "decides again" in node.run("untrust", "--help").stdout
    for command, process in helps.items():
        result = process.wait()
        assert result.code == DONE
        assert result.stderr == ""
        assert f"overlaysync {command}" in result.stdout
        assert re.search(rf"^\s+{command}\s+\w", overview.stdout, re.MULTILINE)
    assert list(node.home.iterdir()) == []


def test_quiet_prints_results_and_errors_only(lab: Lab) -> None:
    alice, bob = lab.node("alice"), lab.node("bob")
    name = lab.name("disk")
    share = alice.share(disks.make_master(alice.place / f"{name}.raw", size=MIB))
    quiet = bob.run("--quiet", "fetch", name, "--peer", share.peer, "--as", "quiet")
    loud = bob.run("fetch", name, "--peer", share.peer, "--as", "loud")
    assert loud.code == quiet.code == DONE
    assert name in loud.stderr
    assert quiet.stderr == ""
    assert "quiet.raw" in quiet.stdout
    # Whose the name is now is a result.
    assert f"published by {share.document()['shared'][0]['publisher']}" in quiet.stdout
    assert "published by" not in loud.stdout
    failed = bob.run("fetch", f"{name}:7", "--peer", share.peer, "--wait", "1", "-q")
    assert f"No machine within reach has '{name}:7'" in failed.stderr
    assert failed.stdout == ""


def test_global_options_are_accepted_before_and_after_the_command(lab: Lab) -> None:
    node = lab.node("alice")
    path = disks.make_master(node.place / "disk.raw", size=MIB)
    assert json.loads(node.run("--json", "id", path).stdout) == json.loads(
        node.run("id", path, "--json").stdout
    )


@contextmanager
def terminal() -> Iterator[tuple[int, int]]:
    """Both ends of a pseudo-terminal: ours, and the command's."""
    ours, theirs = pty.openpty()
    try:
        yield ours, theirs
    finally:
        os.close(ours)


def on_a_terminal(node: Node, *arguments: object, **environment: str) -> str:
    """What a command prints on a terminal."""
    with terminal() as (ours, theirs):
        process = subprocess.Popen(
            node.words(*arguments),
            env=node.environment(**{"TERM": "xterm", **environment}),
            cwd=node.place,
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        output = b""
        try:
            while part := os.read(ours, 4096):
                output += part
        except OSError:
            pass  # the other end is closed
        process.wait(20)
    return output.decode()


def sleeps(pid: int) -> bool:
    """Whether a process waits, as one that has asked and reads does."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


def answer(node: Node, question: str, reply: bytes | signal.Signals, *arguments: object) -> tuple[int, str]:
    """How a command on a terminal ends, and what it prints, when its question gets this reply."""
    with terminal() as (ours, theirs):
        process = subprocess.Popen(
            node.words(*arguments),
            env=node.environment(),
            cwd=node.place,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        output = b""
        try:
            while part := os.read(ours, 4096):
                asked, output = question in output.decode(), output + part
                if question not in output.decode() or asked:
                    continue
                if isinstance(reply, bytes):
                    os.write(ours, reply)
                else:
                    until(lambda: sleeps(process.pid))  # a signal just before read() would leave it waiting
                    process.send_signal(reply)
        except OSError:
            pass  # the other end is closed
        return process.wait(20), output.decode()


def test_who_is_asked_may_say_no(lab: Lab) -> None:
    node = lab.node("alice")
    master = disks.make_master(node.place / "master.raw", size=MIB)
    disks.make_overlay(node.place / "vm.qcow2", master)
    disks.write(node.place / "vm.qcow2", 0, disks.noise("work", 512))
    code, said = answer(node, "for good?", b"n\n", "discard", "vm.qcow2")
    assert "never published" in said
    assert (code, "vm.qcow2 is kept" in said, "interrupted" in said) == (DONE, True, False)
    assert node.files() == {"master.raw", "vm.qcow2"}
    code, said = answer(node, "for good?", b"y\n", "discard", "vm.qcow2")
    assert (code, node.files()) == (DONE, {"master.raw"})


def test_an_interrupt_speaks_of_what_is_kept_where_something_is(lab: Lab) -> None:
    node = lab.node("alice")
    code, said = answer(node, "Code of team red", signal.SIGINT, "team", "join", "red")
    assert (code, "interrupted" in said, "verified" in said) == (INTERRUPTED, True, False)


def test_colours_are_for_terminals_and_can_be_refused(lab: Lab) -> None:
    node = lab.node("alice")
    path = disks.make_master(node.place / "disk.raw", size=MIB)
    node.run("id", path)
    command = ("verify", path)
    assert ANSI + "32m" in on_a_terminal(node, *command)
    assert ANSI + "31m" in on_a_terminal(node, "id", node.place / "nothing.raw")
    for plain in (
        on_a_terminal(node, *command, NO_COLOR="1"),
        on_a_terminal(node, *command, "--no-color"),
        on_a_terminal(node, *command, TERM="dumb"),
        node.run(*command).stdout,
    ):
        assert "verified" in plain
        assert "32m" not in plain


def test_a_reader_that_goes_away_is_no_reason_for_a_traceback(lab: Lab) -> None:
    node = lab.node("alice")
    disks.make_master(node.place / "disk.raw", size=MIB)
    command = subprocess.list2cmdline(node.words("id", node.place / "disk.raw"))
    done = subprocess.run(
        f"{command} | true",
        shell=True,
        env=node.environment(),
        cwd=node.place,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""


def test_the_version_is_the_package_s(lab: Lab) -> None:
    node = lab.node("alice")
    assert node.run("--version").stdout == f"overlaysync {overlaysync.__version__}\n"
    assert node.json("--version") == {"version": overlaysync.__version__}


def test_an_error_is_a_document_and_a_json_line(lab: Lab) -> None:
    node = lab.node("alice")
    for command in (("id", "nothing.raw"), ("nonsense",), ("fetch", "../x")):
        result = node.run(*command, "--json")
        assert json.loads(result.stderr) == result.document
        assert result.error["exit_code"] == result.code
