"""The tree command: what it shows of real files, and what it does to files in its way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from overlaysync.node.node import Node
from overlaysync.node.observer import Silent
from overlaysync.node.sharing import Share
from overlaysync.ops.pictures.svg import SVG_START
from overlaysync.units import CHUNK, MIB

pytestmark = [pytest.mark.usefixtures("home"), pytest.mark.slow]


def overlaysync(*words: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "overlaysync", *map(str, words)], capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def entries() -> list[dict[str, Any]]:
    tree: list[dict[str, Any]] = json.loads(overlaysync("tree", "--json").stdout)["tree"]
    return tree


@pytest.fixture
def vm(tmp_path: Path) -> Path:
    """An overlay on a raw master, both known to this home."""
    master = tmp_path / "debian.raw"
    with open(master, "wb") as file:
        file.truncate(MIB)
        file.write(b"debian" * CHUNK)
    path = tmp_path / "vm.qcow2"
    overlaysync("new", path, "--master", master)
    return path


def test_a_new_home_has_an_empty_tree() -> None:
    done = overlaysync("tree")
    assert done.stdout == ""
    assert "no image is known yet" in done.stderr
    assert entries() == []


def test_an_overlay_is_shown_under_its_master(vm: Path) -> None:
    master, overlay = overlaysync("tree").stdout.splitlines()
    assert master.startswith("■ debian ")
    assert master.endswith(f"384 KiB of 1 MiB  {vm.with_name('debian.raw')}")
    assert overlay.startswith(" └─▢ vm ")
    assert "  +0 B  " in overlay and overlay.endswith(str(vm))
    below, above = entries()
    assert (below["kind"], above["kind"]) == ("master", "overlay")
    assert below["layer"] is None
    assert above["parent"] == above["stands_on"] == below["disk"]
    assert [copy["path"] for copy in above["copies"]] == [str(vm)]
    assert above["copies"][0]["verified_at"].endswith("Z")


def test_what_changed_is_said_and_what_is_gone_is_not_shown(vm: Path) -> None:
    os.truncate(vm.with_name("debian.raw"), 2 * MIB)
    first, second = overlaysync("tree").stdout.splitlines()
    assert "written to since it was hashed" in first
    assert "its master was written to or replaced" in second and "hashed" not in second
    vm.with_name("debian.raw").unlink()
    missing, overlay = entries()
    assert missing["kind"] == "missing"
    assert overlay["stands_on"] == missing["disk"]
    vm.unlink()
    assert entries() == []


def test_a_version_that_is_not_here_any_more_is_shown_only_with_all(vm: Path) -> None:
    node = Node.open(os.environ)
    share = Share(node, [str(vm)], None, Silent())
    share.publish_all()
    share.close()
    node.close()
    vm.unlink()
    done = overlaysync("tree")
    (master,) = done.stdout.splitlines()
    assert master.startswith("■ debian") and "1 version" in done.stderr and "tree --all" in done.stderr
    assert [item["name"] for item in entries()] == ["debian"]
    _, overlay = overlaysync("tree", "--all").stdout.splitlines()
    assert "vm:1" in overlay and overlay.endswith("not here")


# -- the drawing -------------------------------------------------------------------------------------


def test_a_drawing_is_written_and_written_again(vm: Path, tmp_path: Path) -> None:
    svg = tmp_path / "family.svg"
    document = json.loads(overlaysync("tree", "--svg", svg, "--json").stdout)
    assert document["svg"] == str(svg)
    first = svg.read_text()
    assert first.startswith(SVG_START)
    assert "vm" in "".join(ElementTree.fromstring(first).itertext())
    vm.unlink()
    overlaysync("tree", "--svg", svg)
    assert svg.read_text() != first
    assert [path.name for path in tmp_path.glob("*family*")] == ["family.svg"]


def test_a_foreign_file_is_replaced_only_when_that_is_said(tmp_path: Path) -> None:
    svg = tmp_path / "notes.svg"
    svg.write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    done = overlaysync("tree", "--svg", svg, code=9)
    assert "--replace" in done.stderr
    assert svg.read_text() == '<svg xmlns="http://www.w3.org/2000/svg"/>'
    overlaysync("tree", "--svg", svg, "--replace")
    assert svg.read_text().startswith(SVG_START)


@pytest.mark.parametrize("replace", [[], ["--replace"]])
def test_an_image_is_never_replaced(vm: Path, tmp_path: Path, replace: list[str]) -> None:
    stray, named, disk = tmp_path / "stray.svg", tmp_path / "notes.img", tmp_path / "disk"
    stray.write_bytes(vm.read_bytes())
    named.write_text("called like an image")
    disk.write_bytes(bytes(510) + b"\x55\xaa")
    for path in (vm, vm.with_name("debian.raw"), stray, named, disk):
        before = path.read_bytes()
        done = overlaysync("tree", "--svg", path, *replace, code=9)
        assert path.read_bytes() == before and "--replace" not in done.stderr


@pytest.mark.parametrize("replace", [[], ["--replace"]])
def test_what_is_no_file_is_never_replaced(tmp_path: Path, replace: list[str]) -> None:
    directory, fifo = tmp_path / "directory.svg", tmp_path / "fifo.svg"
    directory.mkdir()
    os.mkfifo(fifo)
    for path in (directory, fifo):
        overlaysync("tree", "--svg", path, *replace, code=9)
    assert directory.is_dir()
    assert fifo.is_fifo()


def test_a_link_is_followed_and_stays(tmp_path: Path) -> None:
    link = tmp_path / "link.svg"
    link.symlink_to(tmp_path / "real.svg")
    overlaysync("tree", "--svg", link)
    assert link.is_symlink()
    assert (tmp_path / "real.svg").read_text().startswith(SVG_START)


def test_a_directory_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    overlaysync("tree", "--svg", tmp_path / "nowhere" / "tree.svg", code=3)


# -- other formats, and the life of a master ---------------------------------------------------------


def test_one_command_writes_every_format_and_writes_them_again(vm: Path, tmp_path: Path) -> None:
    files = {kind: tmp_path / f"family.{kind}" for kind in ("svg", "png", "odg")}
    words = [word for kind, path in files.items() for word in (f"--{kind}", path)]
    for _ in range(2):
        document = json.loads(overlaysync("tree", *words, "--json").stdout)
        assert {kind: document[kind] for kind in files} == {kind: str(path) for kind, path in files.items()}
    assert files["png"].read_bytes().startswith(b"\x89PNG")
    assert files["odg"].read_bytes().startswith(b"PK")


@pytest.mark.parametrize("kind", ["png", "odg"])
def test_an_image_is_replaced_by_no_format(vm: Path, kind: str) -> None:
    before = vm.read_bytes()
    done = overlaysync("tree", f"--{kind}", vm, "--replace", code=9)
    assert vm.read_bytes() == before and f"--{kind}" in done.stderr


def test_the_life_is_drawn_of_what_is_here_or_of_an_example(vm: Path, tmp_path: Path) -> None:
    svg = tmp_path / "life.svg"
    done = overlaysync("tree", "--life", "--svg", svg, "--lang", "fr")
    assert "life of debian" in done.stdout
    texts = "".join(ElementTree.fromstring(svg.read_text()).itertext())
    assert "La vie d’un master" in texts and "debian" in texts and "vm" in texts
    overlaysync("tree", "--life", "--example", "--svg", svg)
    assert "The life of a master" in svg.read_text()


def test_a_life_without_overlays_is_not_found_and_leaves_no_file(tmp_path: Path) -> None:
    done = overlaysync("tree", "--life", "--svg", tmp_path / "life.svg", code=3)
    assert "--example" in done.stderr and not list(tmp_path.glob("*.svg"))


@pytest.mark.parametrize(
    "words",
    [
        ["--example", "--svg", "a.svg"],
        ["--life"],
        ["--svg", "a", "--odg", "a"],
        ["--svg", "a", "--lang", "xx"],
    ],
)
def test_options_that_say_nothing_together_are_refused(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "try: " in overlaysync("tree", *words, code=2).stderr
    assert not {"a", "a.svg"}.intersection(path.name for path in tmp_path.iterdir())
