"""Commands of one user among files of another, and files that are swapped under a command."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from overlaysync.units import MIB
from tests.e2e.nodes import BAD_IMAGE, IN_USE, NOT_ALLOWED, NOT_FOUND, Lab, Node
from tests.images import create, draw, run

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user"),
]

USER, OTHER = 65534, 12345
CAPABILITY = "+dac_read_search"
"""So that the user can read the interpreter, wherever that is installed; it owns nothing by that."""


@pytest.fixture
def lab(apart: tuple[str, ...]) -> Iterator[Lab]:
    """In a directory that all users can enter; pytest's own is closed to them."""
    root = Path(tempfile.mkdtemp(prefix="overlaysync-", dir="/var/tmp"))
    root.chmod(0o755)
    try:
        with Lab(root, prefix=apart) as made:
            yield made
    finally:
        shutil.rmtree(root)


def as_user(lab: Lab, name: str) -> Node:
    """A node whose commands run as :data:`USER`."""
    become = ("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups")
    keep = (f"--inh-caps={CAPABILITY}", f"--ambient-caps={CAPABILITY}")
    if shutil.which("setpriv") is None or subprocess.run([*become, *keep, "true"], check=False).returncode:
        pytest.skip("setpriv cannot keep a capability here")
    node = lab.node(name, prefix=(*lab.prefix, *become, *keep))
    node.base.chmod(0o755)
    give(USER, *node.base.rglob("*"), node.base)
    return node


def give(user: int, *paths: Path) -> None:
    for path in paths:
        os.chown(path, user, user, follow_symlinks=False)


def image(path: Path, pattern: str, owner: int) -> Path:
    made = create(path, MIB)
    draw(made, pattern)
    give(owner, made)
    return made


def test_of_a_directory_that_all_may_write_to_only_ones_own_files_are_shared(lab: Lab) -> None:
    alice = as_user(lab, "alice")
    common = alice.base / "common"
    common.mkdir()
    common.chmod(0o1777)
    name = lab.name("debian")
    mine = image(common / f"{name}.qcow2", "M", USER)
    image(common / f"{name}.raw", "X", OTHER)
    private = image(common / ".private.qcow2", "P", USER)
    private.chmod(0o600)
    bait = common / "bait.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", private, "-F", "qcow2", bait)
    give(OTHER, bait)
    roots = image(common / "roots.raw", "R", 0)
    share = alice.share(common)
    assert [(item["name"], item["version"]) for item in share.document()["shared"]] == [(name, 1)]
    for left_out in (f"{name}.raw", "bait.qcow2", "roots.raw"):
        assert left_out in share.stderr
    share.stop()
    # Where only root may write, root's count; what is named always does.
    kept = alice.base / "kept"
    kept.mkdir()
    masters = image(kept / "kept.raw", "K", 0)
    share = alice.share(kept, roots)
    assert {item["path"] for item in share.document()["shared"]} == {str(masters), str(roots)}
    assert str(mine) not in share.stdout
    # The header of another's overlay is not believed, and what it names is not read.
    own = alice.place / "own.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", bait, "-F", "qcow2", own)
    give(USER, own)
    assert f"user {OTHER}" in alice.fails(NOT_ALLOWED, "id", own)["why"]


def test_masters_of_their_directorys_owner_are_found_and_others_are_not(lab: Lab) -> None:
    teacher, alice = lab.node("teacher"), as_user(lab, "alice")
    name = lab.name("lab")
    master = image(teacher.place / f"{name}.raw", "M", 0)
    overlay = teacher.place / f"{name}-vm.qcow2"
    teacher.json("new", overlay, "--master", master)
    draw(overlay, "-V")
    share = teacher.share(overlay)
    for owner, found in ((OTHER, False), (OTHER, True), (USER, True)):
        masters = alice.base / f"masters-{owner}-{found}"
        masters.mkdir()
        copy = Path(shutil.copy(master, masters / "copy.raw"))
        give(OTHER if not found else owner, masters)
        give(owner, copy)
        if not found:
            masters.chmod(0o777)
        place = alice.base / f"to-{owner}-{found}"
        plan = alice.json(
            "fetch", f"{name}-vm", "--peer", share.peer, "--masters", masters, "--to", place, "--dry-run"
        )
        assert len(plan["plan"]) == (1 if found else 2), plan


def test_a_file_that_is_replaced_as_soon_as_it_has_its_name_is_not_recorded(lab: Lab) -> None:
    alice, bob = lab.node("alice"), lab.node("bob")
    name = lab.name("web")
    image(alice.place / f"{name}.raw", "M", 0)
    share = alice.share(alice.place)
    result = bob.start_module("tests.e2e.swapping", "fetch", name, "--peer", share.peer, "--json").wait()
    assert result.code == IN_USE, result.stderr
    assert "replaced" in result.error["what"]
    path = bob.place / f"{name}.raw"
    assert path.read_bytes().startswith(b"w")
    assert name not in bob.run("ls", "--json").stdout
    bob.fails(NOT_FOUND, "verify", path)
    bob.fails(NOT_FOUND, "new", "vm.qcow2", "--master", name)
    # The same with what is made here.
    master = image(bob.place / "master.raw", "N", 0)
    made = bob.start_module("tests.e2e.swapping", "new", "vm.qcow2", "--master", str(master), "--json").wait()
    assert made.code == IN_USE, made.stderr
    bob.fails(BAD_IMAGE, "verify", bob.place / "vm.qcow2")
