"""Which backing files an overlay is read through, and what is said where its header is wrong."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from overlaysync.errors import ImageError, NotAllowedError
from overlaysync.formats.chain import Chain, reachable
from overlaysync.formats.image import Format
from overlaysync.formats.reading import Access, ReadOnce
from overlaysync.formats.recognition import always
from overlaysync.model.digest import Kind
from overlaysync.units import CHUNK, MIB
from tests.images import Op, apply, convert, create, draw, format_of, patch, run

pytestmark = [pytest.mark.qemu, pytest.mark.holds("C3")]

OVERLAYS = ("qcow2", "qed")


def overlay_on(path: Path, base: Path, declared: str | None) -> Path:
    """An overlay whose header says that its base has the format ``declared``, or, with None, nothing of it.

    QEMU writes no silent qcow2 header any more, as it did before 6.1: the extension with the format gets an
    unknown number, which is passed over. In QED there is a mark for raw, and nothing for other formats.
    """
    words = ["-b", base.name, "-F", declared or "qcow2"]
    run("qemu-img", "create", "-q", "-u", "-f", format_of(path), *words, path, "4M")
    if declared is None and format_of(path) == "qcow2":
        patch(path, path.read_bytes().index(b"\xe2\x79\x2a\xca"), b"none")
    return path


@pytest.mark.parametrize("format", OVERLAYS)
@pytest.mark.parametrize("declared", ["raw", None])
@pytest.mark.parametrize("name", ["shadow", "notes.txt", "odd.raw"])
def test_a_file_that_looks_like_no_disk_is_not_read_through(
    tmp_path: Path, format: str, declared: str | None, name: str
) -> None:
    base = tmp_path / name
    base.write_bytes(b"root:secret\n" * 100)
    overlay = overlay_on(tmp_path / f"vm.{format}", base, declared)

    with pytest.raises(NotAllowedError) as caught:
        Chain.open(str(overlay))

    assert str(base) in caught.value.what and str(overlay) in caught.value.what
    assert f"overlaysync id --format raw {base}" in caught.value.hint
    with Chain.open(str(overlay), None, Access(always)) as chain:
        assert chain.images[1].geometry.format is Format.RAW
    with Chain.open(str(overlay), None, Access(lambda path, format: path == str(base))):
        pass


@pytest.mark.parametrize("format", OVERLAYS)
def test_a_disk_is_read_through_whatever_its_name(tmp_path: Path, format: str) -> None:
    base = tmp_path / "master"
    base.write_bytes((bytes(510) + b"\x55\xaa").ljust(MIB, b"m"))
    for declared in ("raw", None):
        with Chain.open(str(overlay_on(tmp_path / f"vm.{format}", base, declared))) as chain:
            assert chain.images[1].virtual_size == MIB


@pytest.mark.parametrize("format", OVERLAYS)
def test_a_name_that_says_otherwise_counts_only_where_the_header_is_silent(
    tmp_path: Path, format: str
) -> None:
    base = tmp_path / "master.qcow2"
    base.write_bytes((bytes(510) + b"\x55\xaa").ljust(MIB, b"m"))
    with Chain.open(str(overlay_on(tmp_path / f"said.{format}", base, "raw"))) as chain:
        assert chain.images[1].geometry.format is Format.RAW
    silent = overlay_on(tmp_path / f"silent.{format}", base, None)
    with pytest.raises(NotAllowedError, match="named like a qcow2 image"):
        Chain.open(str(silent))


@pytest.mark.parametrize("format", OVERLAYS)
@pytest.mark.parametrize("foreign", sorted({"vmdk", "vdi", "vpc", "vhdx"} - set(Format)))
def test_a_foreign_header_in_a_backing_file_is_refused(tmp_path: Path, format: str, foreign: str) -> None:
    """With or without a declared format: QEMU itself would follow the header where it probes."""
    base = tmp_path / "master.raw"
    run("qemu-img", "create", "-q", "-f", foreign, base, "4M")
    if foreign == "vpc":  # a dynamic VHD begins with a copy of its footer
        assert base.read_bytes().startswith(b"conectix")
    for declared in ("raw", None):
        with pytest.raises(ImageError, match=r"it is a (VMDK|VHDX?|VDI) image, not") as caught:
            Chain.open(str(overlay_on(tmp_path / f"vm.{format}", base, declared)))
        assert "not a raw one" in caught.value.reason and caught.value.path == str(base)


@pytest.mark.parametrize("format", OVERLAYS)
@pytest.mark.parametrize("real", ["raw", "qcow2", "qed"])
def test_a_header_that_is_silent_is_probed_as_qemu_does(tmp_path: Path, format: str, real: str) -> None:
    base = create(tmp_path / f"base.{real}", 4 * MIB)
    draw(base, "AB")
    base.rename(tmp_path / "base.img")
    overlay = overlay_on(tmp_path / f"vm.{format}", tmp_path / "base.img", None)
    with Chain.open(str(overlay)) as chain:
        assert chain.images[1].geometry.format == real
        data = bytearray(chain.virtual_size)
        chain.read_into(0, memoryview(data))
    assert data == convert(overlay, tmp_path / "seen.raw").read_bytes()


@pytest.mark.parametrize(
    ("format", "real", "declared"),
    [
        ("qcow2", "raw", "qcow2"),
        ("qcow2", "raw", "qed"),
        ("qcow2", "qcow2", "raw"),
        ("qcow2", "qed", "qcow2"),
        ("qed", "qcow2", "raw"),
        ("qed", "qed", "raw"),
    ],
)
def test_a_wrong_header_is_named_and_the_command_that_mends_it_does(
    tmp_path: Path, format: str, real: str, declared: str
) -> None:
    base = create(tmp_path / f"the base.{real}", 4 * MIB)
    overlay = overlay_on(tmp_path / f"the vm.{format}", base, declared)

    with pytest.raises(ImageError) as caught:
        Chain.open(str(overlay))

    assert caught.value.path == str(overlay)
    assert f"backing file {base} is {declared}" in caught.value.reason
    assert (f"it is {real}" if real != "raw" else "does not begin like one") in caught.value.reason
    run(*shlex.split(caught.value.hint))
    with Chain.open(str(overlay)) as chain:
        assert chain.images[1].geometry.format == real


def test_no_command_mends_an_overlay_whose_backing_file_is_no_image(tmp_path: Path) -> None:
    base = tmp_path / "base.qcow2"
    overlay = overlay_on(tmp_path / "vm.qcow2", base, "qcow2")
    for content in (b"<html>", b"KDMV" + bytes(1020)):
        base.write_bytes(content)
        with pytest.raises(ImageError) as caught:
            Chain.open(str(overlay))
        assert caught.value.path == str(overlay) and str(base) in caught.value.reason
        assert "rebase" not in caught.value.hint and str(base) in caught.value.hint


@pytest.mark.parametrize(("name", "declared"), [("base", "raw"), ("base.qcow2", None), ("base.img", "qcow2")])
def test_an_overlay_stands_on_its_backing_file_also_where_that_is_refused(
    tmp_path: Path, name: str, declared: str | None
) -> None:
    base = tmp_path / name
    base.write_bytes(b"x" * 1000)
    overlay = overlay_on(tmp_path / "vm.qcow2", base, declared)
    assert [below.inode for below in reachable(str(overlay))[1:]] == [base.stat().st_ino]


def test_tables_below_are_read_anew_when_the_file_has_changed(tmp_path: Path) -> None:
    base = tmp_path / "base.qcow2"
    create(base, 4 * MIB)
    access = Access(below=ReadOnce())
    overlay = overlay_on(tmp_path / "vm.qcow2", base, "qcow2")

    def kinds() -> list[Kind]:
        with Chain.open(str(overlay), None, access) as chain:
            return [extent.kind for extent in chain.images[1].extents(0, chain.images[1].virtual_size)]

    assert kinds() == kinds() == [Kind.UNALLOCATED]
    apply(base, [Op("write", 0, CHUNK, 7)])
    assert kinds() == kinds() == [Kind.DATA, Kind.UNALLOCATED]
    base.rename(tmp_path / "other.qcow2")
    create(base, 4 * MIB)
    assert kinds() == [Kind.UNALLOCATED]
