"""A vault in a directory: what is stored is there, whole, after any end; nothing else counts as an object."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlaysync.errors import DecodeError, NoSpaceError, NotFoundError, OverlaysyncError, VerificationError
from overlaysync.units import MIB
from overlaysync.vault.directory import DirectoryObjects
from overlaysync.vault.objects import (
    LIMITS,
    Kind,
    Named,
    Stored,
    get_whole,
    hash_of,
    head_name,
    object_name,
    parse_name,
)

TAG = "5f" * 16
DATA = b"some bytes of a pack"
NAME = object_name(TAG, Kind.PACK, hash_of(DATA))


@pytest.fixture
def objects(tmp_path: Path) -> DirectoryObjects:
    return DirectoryObjects(tmp_path / "a" / "vault")


# -- names -------------------------------------------------------------------------------------------


@given(st.binary(min_size=32, max_size=32), st.sampled_from([Kind.PACK, Kind.INDEX, Kind.STATE]))
def test_a_name_is_read_as_it_was_written(hash: bytes, kind: Kind) -> None:
    assert parse_name(object_name(TAG, kind, hash)) == Named(TAG, kind, hash)


@given(st.binary(min_size=32, max_size=32), st.integers(0, 10**12 - 1))
def test_the_name_of_a_head_is_read_as_it_was_written(node: bytes, counter: int) -> None:
    assert parse_name(head_name(TAG, node, counter)) == Named(TAG, Kind.HEAD, node, counter)


@pytest.mark.holds("N10")
@pytest.mark.parametrize(
    "name",
    [
        "",
        "/",
        NAME + "/",
        "/" + NAME,
        NAME.upper(),
        NAME[:-1],
        NAME + "0",
        NAME + "\n",
        f"../{NAME}",
        NAME.replace("packs", "."),
        NAME.replace("packs", "other"),
        NAME.replace("packs", "heads"),
        f"{TAG}/packs/../packs/{'0' * 64}",
        head_name(TAG, bytes(32), 1)[:-1],
        head_name(TAG, bytes(32), 1).replace("0001", "-001"),
        head_name(TAG, bytes(32), 1).replace("0001", "٠٠٠١"),
        f"{TAG}/{NAME}",
    ],
)
def test_what_is_no_name(name: str) -> None:
    assert parse_name(name) is None


@given(st.text(st.one_of(st.sampled_from("0af./packsheditx"), st.characters()), max_size=140))
def test_any_text_is_a_name_or_none(name: str) -> None:
    assert parse_name(name) is None or (parse_name(name) and name.count("/") in (2, 3) and "." not in name)


# -- storing and reading -------------------------------------------------------------------------------


def test_what_is_stored_is_read_in_ranges(objects: DirectoryObjects) -> None:
    assert objects.put(NAME, DATA)
    assert not objects.put(NAME, DATA)
    assert objects.get(NAME) == get_whole(objects, NAME) == DATA
    assert objects.size(NAME) == len(DATA)
    assert objects.get(NAME, 5, 5) == DATA[5:10]
    assert objects.get(NAME, 15, 99) == DATA[15:]
    assert objects.get(NAME, 99, 5) == objects.get(NAME, 99) == objects.get(NAME, 3, 0) == b""
    assert objects.get(NAME, 0, 1 << 60) == DATA
    assert list(objects.list("")) == list(objects.list(f"{TAG}/packs/")) == [Stored(NAME, len(DATA))]


def test_what_is_not_there(objects: DirectoryObjects) -> None:
    assert objects.size(NAME) is None
    assert list(objects.list("")) == []
    assert objects.delete(NAME)
    with pytest.raises(NotFoundError):
        objects.get(NAME)


def test_what_was_removed_is_gone(objects: DirectoryObjects) -> None:
    objects.put(NAME, DATA)
    assert objects.delete(NAME)
    assert objects.size(NAME) is None and list(objects.list("")) == []


def test_a_list_is_in_order_and_of_objects_only(objects: DirectoryObjects) -> None:
    names = [head_name(TAG, bytes([node]) * 32, counter) for node in (2, 1) for counter in (12, 2)]
    for name in [NAME, *names]:
        objects.put(name, b"x")
    inside = objects.root / TAG / "packs"
    (inside / ".new-1").write_bytes(b"x")
    (inside / "notes.txt").write_bytes(b"x")
    (inside / ("0" * 64)).mkdir()
    (inside / ("1" * 64)).symlink_to("/etc/passwd")
    (objects.root / ".lock").write_bytes(b"")
    (objects.root / ("6" * 32)).symlink_to(objects.root / TAG)
    assert [one.name for one in objects.list("")] == sorted([*names, NAME])
    assert [one.name for one in objects.list(f"{TAG}/heads/")] == sorted(names)


@pytest.mark.holds("N11")
def test_no_link_is_followed(objects: DirectoryObjects, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(DATA)
    path = objects.root / NAME
    path.parent.mkdir(parents=True)
    path.symlink_to(secret)
    with pytest.raises(OverlaysyncError):
        objects.get(NAME)


@pytest.mark.holds("D6")
@pytest.mark.red_without("D6", "a place lists whatever lies in its directories, however deep it is")
@pytest.mark.parametrize(
    "where", ["x", f"{TAG}/x", f"{TAG}/packs/x", f"{TAG}/heads/x", f"{TAG}/heads/{'ab' * 32}/x"]
)
def test_what_others_put_there_is_not_looked_into(objects: DirectoryObjects, where: str) -> None:
    """Whoever may write to an archive can make directories deeper than any program can follow."""
    objects.put(NAME, DATA)
    (objects.root / where).mkdir(parents=True)
    at = os.open(objects.root / where, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("x", dir_fd=at)
        inner = os.open("x", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = inner
    os.close(at)
    try:
        assert [*objects.list("")] == [(NAME, len(DATA))]
        assert objects.drop_temporaries() == 0
    finally:  # Python cannot remove them
        subprocess.run(["rm", "-r", objects.root / where], check=True)


def test_a_pipe_in_the_place_of_an_object_does_not_hang(objects: DirectoryObjects) -> None:
    path = objects.root / NAME
    path.parent.mkdir(parents=True)
    os.mkfifo(path)
    with pytest.raises((OverlaysyncError, NotFoundError)):
        get_whole(objects, NAME)


def test_files_are_for_their_owner_alone(objects: DirectoryObjects) -> None:
    objects.put(NAME, DATA)
    path = objects.root / NAME
    modes = {one.stat().st_mode & 0o777 for one in (path, path.parent, path.parent.parent, objects.root)}
    assert modes == {0o600, 0o700}


# -- damage ------------------------------------------------------------------------------------------


@pytest.mark.holds("R6")
@pytest.mark.parametrize("wrong", [b"", DATA[:-1], DATA + b"x", b"S" + DATA[1:]])
def test_other_bytes_under_a_name_are_named_and_give_way(objects: DirectoryObjects, wrong: bytes) -> None:
    objects.put(NAME, DATA)
    (objects.root / NAME).write_bytes(wrong)
    with pytest.raises(VerificationError, match=NAME):
        get_whole(objects, NAME)
    assert objects.put(NAME, DATA)
    assert get_whole(objects, NAME) == DATA


def test_too_large_an_object_is_not_read_whole(objects: DirectoryObjects) -> None:
    name = NAME.replace("packs", "states")
    path = objects.root / name
    path.parent.mkdir(parents=True)
    with open(path, "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(VerificationError, match=str(LIMITS[Kind.STATE])):
        get_whole(objects, name)


def test_a_name_that_is_none_is_refused() -> None:
    with pytest.raises(DecodeError, match="not the name"):
        get_whole(DirectoryObjects(Path("/nowhere")), "../x\x1b")


# -- ends --------------------------------------------------------------------------------------------

_KILLED = """
import os, signal, sys
from pathlib import Path
from overlaysync.vault.directory import DirectoryObjects
real, calls = getattr(os, sys.argv[3]), 0
def killed(*args, **more):
    os.kill(os.getpid(), signal.SIGKILL)
setattr(os, sys.argv[3], killed)
DirectoryObjects(Path(sys.argv[1])).put(sys.argv[2], b"some bytes of a pack")
"""


@pytest.mark.holds("D3")
@pytest.mark.red_without("D3", "an object of a vault is written under its own name")
@pytest.mark.parametrize("call", ["write", "fsync", "rename"])
def test_a_writer_that_is_killed_leaves_no_object(objects: DirectoryObjects, call: str) -> None:
    (objects.root / NAME).parent.mkdir(parents=True)
    command = [sys.executable, "-c", _KILLED, str(objects.root), NAME, call]
    assert subprocess.run(command, check=False).returncode == -9
    assert list(objects.list("")) == [] and objects.size(NAME) is None
    assert objects.drop_temporaries() == 1
    assert [*objects.root.rglob(".new-*")] == []
    assert objects.put(NAME, DATA)


def test_a_full_disk_is_said_and_leaves_nothing(objects: DirectoryObjects) -> None:
    code = (
        "import resource, sys; from pathlib import Path;"
        "from overlaysync.errors import NoSpaceError;"
        "from overlaysync.vault.directory import DirectoryObjects;"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try: DirectoryObjects(Path(sys.argv[1])).put(sys.argv[2], bytes(8192))\n"
        f"except NoSpaceError as error: sys.exit({NoSpaceError.exit_code})"
    )
    done = subprocess.run([sys.executable, "-c", code, str(objects.root), NAME], check=False)
    assert done.returncode == NoSpaceError.exit_code
    assert [path for path in objects.root.rglob("*") if path.is_file()] == []


def test_a_large_object_is_written_in_full(objects: DirectoryObjects) -> None:
    data = os.urandom(20 * MIB)
    name = object_name(TAG, Kind.PACK, hash_of(data))
    objects.put(name, data)
    assert get_whole(objects, name) == data
