"""Part files: writing, resuming, publishing, what is refused, and what goes wrong with disks."""

import ctypes
import errno
import os
import resource
import stat
import struct
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from overlaysync.errors import (
    InUseError,
    NoSpaceError,
    NotAllowedError,
    NotFoundError,
    OverlaysyncError,
    WouldDestroyError,
)
from overlaysync.store import files
from overlaysync.store.direct import aligned_buffer
from overlaysync.store.journal import Journal
from overlaysync.store.partial import CHECKPOINT_BYTES, PartFile, journal_path
from overlaysync.store.target import Place, entry_at
from overlaysync.units import KIB, MIB

pytestmark = [
    pytest.mark.holds("R3"),
    pytest.mark.holds("R5"),
    pytest.mark.red_without("R5", "the last rename replaces an existing file"),
]

KEY = b"k" * 32
SIZE = 4 * MIB


@pytest.fixture
def journals(tmp_path):
    (tmp_path / "journals").mkdir()
    return tmp_path / "journals"


@pytest.fixture
def target(tmp_path):
    (tmp_path / "images").mkdir()
    return tmp_path / "images" / "vm.qcow2"


@pytest.fixture
def start(target, journals):
    """Opens the part file of ``target``."""
    opened = []

    def start(key=KEY, size=SIZE, data_bytes=SIZE, reserve=0, path=target):
        part = PartFile.open(
            path, key=key, size=size, data_bytes=data_bytes, journal_dir=journals, reserve=reserve
        )
        opened.append(part)
        return part

    yield start
    for part in opened:
        part.close()


def names(directory):
    return sorted(os.listdir(directory))


# -- the good way ------------------------------------------------------------------------------------


def test_nothing_is_visible_before_it_is_published(start, target):
    part = start()
    assert names(target.parent) == [".vm.qcow2.part"]
    assert (part.target, part.path) == (target, target.parent / ".vm.qcow2.part")
    assert stat.S_IMODE(part.path.stat().st_mode) == 0o600
    assert part.path.stat().st_size == SIZE
    assert part.claimed == []


def test_publishing_gives_it_its_name_and_leaves_nothing_else(start, target, journals):
    part = start()
    part.pwrite(100, [b"abc", bytearray(b"de"), memoryview(b"f")])
    assert part.pread(99, 8) == b"\0abcdef\0"
    part.publish(mode=0o444)
    content = target.read_bytes()
    assert len(content) == SIZE and content[100:106] == b"abcdef" and not any(content[106:])
    assert stat.S_IMODE(target.stat().st_mode) == 0o444
    assert names(target.parent) == ["vm.qcow2"]
    assert names(journals) == []


@pytest.mark.parametrize(("mask", "mode"), [(0o077, 0o400), (0o022, 0o444), (0, 0o444)])
def test_who_may_read_it_is_for_the_umask_to_say(start, target, mask, mode):
    before = os.umask(mask)
    try:
        start().publish(mode=0o444)
    finally:
        os.umask(before)
    assert stat.S_IMODE(target.stat().st_mode) == mode


def test_an_empty_file_can_be_published(start, target):
    start(size=0, data_bytes=0).publish()
    assert target.read_bytes() == b""


def test_threads_write_anywhere(start, target):
    part = start()
    blocks = {index * 64 * KIB: bytes([index + 1]) * 64 * KIB for index in range(64)}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda item: part.pwrite(item[0], [item[1]]), reversed(blocks.items())))
    part.publish()
    assert target.read_bytes() == b"".join(blocks.values())


def test_more_buffers_than_the_kernel_takes_at_once(start, target):
    part = start()
    part.pwrite(1, [bytes([n % 256]) for n in range(3000)])
    assert part.pread(1, 3000) == bytes(n % 256 for n in range(3000))


def test_short_writes_are_continued(start, monkeypatch):
    part = start()
    real = os.pwritev
    monkeypatch.setattr(os, "pwritev", lambda fd, views, at: real(fd, [bytes(views[0])[:3]], at))
    part.pwrite(10, [b"", b"abcdefgh", b"ij", b"", b"k"])
    assert part.pread(10, 12) == b"abcdefghijk\0"


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (SIZE, 1), (SIZE - 1, 2)])
def test_writing_outside_the_file_is_our_bug(start, offset, length):
    with pytest.raises(ValueError, match="in a file of"):
        start().pwrite(offset, [bytes(length)])


@pytest.mark.parametrize("bad", ["/", "x/.."])
def test_a_target_has_a_name(start, bad):
    with pytest.raises(ValueError, match="does not name a file"):
        start(path=bad)


def test_a_closed_file_takes_nothing(start):
    part = start()
    part.close()
    part.close()
    with pytest.raises(ValueError, match="closed"):
        part.pwrite(0, [b"x"])
    part.abandon()
    assert part.path.exists()


def test_without_a_directory_it_says_so(start, target):
    with pytest.raises(NotFoundError):
        start(path=target.parent / "none" / "vm.qcow2")


# -- resuming ----------------------------------------------------------------------------------------


def leave(start, *runs, **options):
    """A first run that wrote ``runs`` of 64 KiB slots, checkpointed and went away."""
    with closing(start(**options)) as part:
        for first, count in runs:
            part.pwrite(first * 64 * KIB, [b"x" * 64 * KIB] * count)
            part.note(first, count)
        part.checkpoint()


def test_a_second_run_goes_on(start, target):
    leave(start, (3, 2), (10, 1), (5, 1))
    part = start()
    assert part.claimed == [(3, 3), (10, 1)]
    assert part.pread(3 * 64 * KIB, 3 * 64 * KIB) == b"x" * 3 * 64 * KIB
    part.note(0, 1)
    part.checkpoint()
    part.close()
    assert start().claimed == [(0, 1), (3, 3), (10, 1)]


def test_what_was_not_checkpointed_is_not_claimed(start):
    with closing(start()) as part:
        part.pwrite(0, [b"x"])
        part.note(0, 1)
    part = start()
    assert part.pread(0, 1) == b"x" and part.claimed == []


def test_another_plan_begins_anew(start):
    leave(start, (0, 4))
    part = start(key=b"other".ljust(32))
    assert part.claimed == []
    assert part.pread(0, 64 * KIB) == bytes(64 * KIB)


def test_without_its_journal_it_begins_anew(start, target, journals):
    leave(start, (0, 4))
    journal_path(journals, target).unlink()
    part = start()
    assert part.claimed == [] and part.pread(0, 10) == bytes(10)


def test_a_journal_without_its_file_claims_nothing(start, target):
    leave(start, (0, 4))
    (target.parent / ".vm.qcow2.part").unlink()
    (target.parent / "other").touch()  # so that the inode number is not used again
    part = start()
    assert part.pread(0, 64 * KIB) == bytes(64 * KIB)
    part.close()
    assert start().claimed == []


def test_a_file_cut_short_begins_anew(start, target):
    leave(start, (0, 64))
    os.truncate(target.parent / ".vm.qcow2.part", 100)
    part = start()
    assert part.path.stat().st_size == SIZE
    assert part.claimed == [] and part.pread(0, 100) == bytes(100)


def test_a_left_journal_does_not_speak_for_a_new_file_with_the_old_inode(start, target, journals):
    leave(start, (0, 4))
    part = target.with_name(".vm.qcow2.part")
    # As if published, the journal left by a crash, the target deleted, its inode given to a new part file.
    os.truncate(part, 0)
    assert journal_path(journals, target).exists()
    assert start().claimed == []


def test_one_journal_per_target_however_it_is_written(start, target, tmp_path):
    leave(start, (0, 1))
    (tmp_path / "link").symlink_to(target.parent)
    assert start(path=tmp_path / "link" / "vm.qcow2").claimed == [(0, 1)]


def test_abandoning_leaves_nothing(start, target, journals):
    leave(start, (0, 1))
    start().abandon()
    assert names(target.parent) == [] and names(journals) == []


# -- checkpoints -------------------------------------------------------------------------------------


def test_a_checkpoint_is_due_after_five_seconds_of_waiting(start):
    part = start()
    assert not part.should_checkpoint(100.0)
    part.note(0, 1)
    assert not part.should_checkpoint(200.0)
    assert not part.should_checkpoint(204.9)
    assert part.should_checkpoint(205.0)
    part.checkpoint()
    assert not part.should_checkpoint(300.0)
    part.note(1, 1)
    assert not part.should_checkpoint(300.0)


def test_a_checkpoint_is_due_after_64_mib(start):
    part = start(size=CHECKPOINT_BYTES, data_bytes=0)
    data = bytes(CHECKPOINT_BYTES // 2)
    part.pwrite(0, [data])
    part.note(0, 1)
    assert not part.should_checkpoint(0.0)
    part.pwrite(len(data), [data])
    part.note(1, 1)
    assert part.should_checkpoint(0.0)


def test_claims_follow_the_data_to_disk(start, monkeypatch):
    part = start()
    part.pwrite(0, [b"x"])
    part.note(0, 1)
    order = []

    def spy(name, call):
        def spied(*arguments):
            order.append(name)
            return call(*arguments)

        return spied

    monkeypatch.setattr(os, "fdatasync", spy("data", os.fdatasync))
    monkeypatch.setattr(Journal, "append", spy("claims", Journal.append))
    part.checkpoint()
    assert order == ["data", "claims"]


def test_slots_noted_during_a_checkpoint_wait_for_the_next(start, monkeypatch):
    part = start()
    part.note(0, 1)
    real = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda fd: (part.note(7, 1), real(fd)))
    part.checkpoint()
    monkeypatch.undo()
    part.close()
    assert start().claimed == [(0, 1)]


# -- publishing --------------------------------------------------------------------------------------


def no_flags(*_):
    return errno.EINVAL


@pytest.fixture(params=["renameat2", "link"])
def rename_way(request, monkeypatch):
    """Both ways of renaming without clobber."""
    if request.param == "link":
        monkeypatch.setattr(files, "_renameat2", no_flags)


@pytest.mark.usefixtures("rename_way")
def test_an_existing_target_is_never_replaced_unasked(start, target):
    part = start()
    target.write_text("precious")
    with pytest.raises(WouldDestroyError, match="exists"):
        part.publish()
    assert target.read_text() == "precious"
    assert part.path.exists()
    part.publish(replaces=entry_at(target))
    assert target.stat().st_size == SIZE
    assert names(target.parent) == ["vm.qcow2"]


@pytest.mark.usefixtures("rename_way")
@pytest.mark.parametrize("kind", ["dangling symlink", "directory"])
def test_other_things_of_that_name_are_kept_too(start, target, kind):
    part = start()
    if kind == "directory":
        target.mkdir()
    else:
        target.symlink_to("nowhere")
    with pytest.raises(WouldDestroyError):
        part.publish()
    assert target.is_symlink() or target.is_dir()


@pytest.mark.usefixtures("rename_way")
def test_a_file_that_another_has_put_in_the_place_is_not_replaced(start, target):
    target.write_text("may go")
    judged = entry_at(target)
    part = start()
    target.rename(target.with_name("kept"))
    target.write_text("precious")
    with pytest.raises(WouldDestroyError, match="not the file that was to be replaced"):
        part.publish(replaces=judged)
    assert target.read_text() == "precious" and part.path.exists()


@pytest.mark.red_without("R5", "a file is replaced, whatever has taken its name by then")
def test_a_directory_that_was_swapped_for_a_link_leads_to_no_file_of_another(start, target, tmp_path):
    target.write_text("may go")
    judged = entry_at(target)
    precious = tmp_path / "elsewhere" / target.name
    precious.parent.mkdir()
    precious.write_text("precious")
    target.parent.rename(tmp_path / "moved")
    target.parent.symlink_to(precious.parent)
    with pytest.raises(WouldDestroyError, match="not the file that was to be replaced"):
        start().publish(replaces=judged)
    assert precious.read_text() == "precious"


def test_replacing_a_symlink_does_not_follow_it(start, target, tmp_path):
    (tmp_path / "precious").write_text("precious")
    target.symlink_to(tmp_path / "precious")
    start().publish(replaces=entry_at(target))
    assert not target.is_symlink()
    assert (tmp_path / "precious").read_text() == "precious"


@pytest.mark.usefixtures("rename_way")
@pytest.mark.slow
def test_of_many_renames_to_one_name_one_wins(tmp_path):
    directory = os.open(tmp_path, os.O_RDONLY)
    ready = threading.Barrier(8)

    def race(name):
        ready.wait()
        try:
            files.rename_new(directory, name, "target")
        except FileExistsError:
            return None
        return name

    for _ in range(50):
        racers = [f"part{n}" for n in range(8)]
        for name in racers:
            (tmp_path / name).write_text(name)
        with ThreadPoolExecutor(8) as pool:
            winners = [name for name in pool.map(race, racers) if name]
        assert winners == [(tmp_path / "target").read_text()]
        assert len(names(tmp_path)) == 8
        (tmp_path / "target").unlink()
    os.close(directory)


def test_a_crash_between_link_and_unlink_is_tidied_up(start, target, monkeypatch):
    monkeypatch.setattr(files, "_renameat2", no_flags)
    part = start()
    part.pwrite(0, [b"whole"])

    def crash(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", crash)
        with pytest.raises(KeyboardInterrupt):
            part.publish()
    part.close()
    assert names(target.parent) == [".vm.qcow2.part", "vm.qcow2"]
    assert start().pread(0, 5) == bytes(5)
    assert target.read_bytes()[:5] == b"whole"


@pytest.mark.red_without("R8", "a part file that something has replaced is published")
def test_a_part_file_that_was_replaced_is_not_published(start, target):
    part = start()
    part.path.unlink()
    part.path.write_text("evil")
    with pytest.raises(InUseError, match="moved or replaced"):
        part.publish(replaces=entry_at(target))
    assert not target.exists()
    part.abandon()
    assert part.path.read_text() == "evil"


# -- what lies there ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["symlink", "dangling", "hardlink", "fifo", "directory", "foreign"])
def test_what_is_no_plain_file_of_ours_is_refused_and_left(start, target, tmp_path, kind):
    leave(start, (0, 1))
    part = target.with_name(".vm.qcow2.part")
    part.unlink()
    precious = tmp_path / "precious"
    precious.write_text("precious")
    if kind == "symlink":
        part.symlink_to(precious)
    elif kind == "dangling":
        part.symlink_to(tmp_path / "made-by-us")
    elif kind == "hardlink":
        part.hardlink_to(precious)
    elif kind == "fifo":
        os.mkfifo(part)
    elif kind == "directory":
        part.mkdir()
    elif os.geteuid() == 0:
        part.touch()
        os.chown(part, 12345, 12345)
    else:
        pytest.skip("only root can give a file away")
    with pytest.raises(NotAllowedError, match="not a plain file of your own"):
        start()
    assert precious.read_text() == "precious"
    assert not (tmp_path / "made-by-us").exists()
    assert os.path.lexists(part)


def test_a_plain_file_in_the_way_is_reused_empty_and_private(start, target):
    part = target.with_name(".vm.qcow2.part")
    part.write_text("left by something else")
    part.chmod(0o666)
    opened = start()
    assert opened.claimed == [] and opened.pread(0, 22) == bytes(22)
    assert stat.S_IMODE(part.stat().st_mode) == 0o600


# -- company -----------------------------------------------------------------------------------------


def test_one_writer_per_target(start):
    part = start()
    with pytest.raises(InUseError, match="Another overlaysync is writing"):
        start()
    part.close()
    start()


def test_the_loser_leaves_the_winner_alone(start):
    part = start()
    part.pwrite(0, [b"mine"])
    with pytest.raises(InUseError):
        start(key=b"other".ljust(32))
    assert part.pread(0, 4) == b"mine"


COMPETITOR = """
import sys
from pathlib import Path
from overlaysync.errors import InUseError
from overlaysync.store.partial import PartFile
from overlaysync.store.target import Place, entry_at
target, journals, me = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
won = 0
for turn in range(60):
    try:
        part = PartFile.open(
            target, key=bytes([me]) * 32, size=65536, data_bytes=65536, journal_dir=journals, reserve=0
        )
    except InUseError:
        continue
    part.pwrite(0, [bytes([me]) * 65536])
    part.note(0, 1)
    part.checkpoint()
    if turn % 3 == 0:
        part.close()
    elif turn % 3 == 1:
        part.abandon()
    else:
        part.publish(replaces=entry_at(target))
        won += 1
print(won)
"""


QUICKER = """
import sys
from pathlib import Path
from overlaysync.store.partial import PartFile
target, journals = map(Path, sys.argv[1:])
part = target.with_name(f".{target.name}.part")
part.write_bytes(b"whole" * 1000)

def publish(event, arguments):
    if event == "fcntl.flock" and not target.exists():
        part.rename(target)

sys.addaudithook(publish)
PartFile.open(target, key=bytes(32), size=5000, data_bytes=5000, journal_dir=journals, reserve=0).close()
"""


@pytest.mark.holds("R8")
@pytest.mark.red_without("R8", "a file that was published between open and lock counts as the part file")
@pytest.mark.slow
def test_what_is_published_between_open_and_lock_is_not_written_to(target, journals):
    subprocess.run([sys.executable, "-c", QUICKER, str(target), str(journals)], check=True)
    assert target.read_bytes() == b"whole" * 1000
    assert names(target.parent) == [".vm.qcow2.part", "vm.qcow2"]


@pytest.mark.slow
def test_processes_that_fight_over_a_target_do_no_damage(target, journals):
    command = [sys.executable, "-c", COMPETITOR, str(target), str(journals)]
    fighters = [subprocess.Popen([*command, str(n)], stdout=subprocess.PIPE, text=True) for n in range(1, 7)]
    outputs = [fighter.communicate()[0] for fighter in fighters]
    assert [fighter.returncode for fighter in fighters] == [0] * 6
    assert sum(map(int, outputs)) > 0
    content = target.read_bytes()
    assert content == content[:1] * 65536
    assert set(names(target.parent)) <= {"vm.qcow2", ".vm.qcow2.part"}


@pytest.mark.parametrize("begun_anew", [False, True])
def test_what_is_published_between_two_looks_is_no_second_name(target, begun_anew):
    """Another process publishes its part file after we have seen that, and before we see the target."""
    part = target.with_name(".vm.qcow2.part")
    part.write_bytes(b"whole")
    with closing(Place.of(target)) as place:
        status = place.status()
        part.rename(target)
        if begun_anew:
            part.write_bytes(b"of a third process")
        assert status is not None and place.finish_link(status), "to be looked at again"
    assert target.read_bytes() == b"whole" and part.exists() == begun_anew


# -- written anew ------------------------------------------------------------------------------------


def test_a_pack_file_gets_the_name_and_both_others_go(start, target, journals):
    part = start()
    part.pwrite(0, [b"p" * SIZE])
    pack = part.begin_pack(10, reserve=0)
    pack.write([(4096, b"a" * 10), (4106, b"b"), (0, b"head")])
    pack.end(8192)
    reader = pack.open_reader()
    part.publish(mode=0o444, pack=pack)
    assert names(target.parent) == ["vm.qcow2"] and names(journals) == []
    expected = b"head".ljust(4096, b"\0") + (b"a" * 10 + b"b").ljust(4096, b"\0")
    assert target.read_bytes() == expected == os.pread(reader, 9000, 0)
    assert stat.S_IMODE(target.stat().st_mode) == 0o444
    os.close(reader)


def test_a_pack_file_that_was_left_is_removed(start, target):
    start().close()
    left = target.with_name(".vm.qcow2.pack")
    left.write_bytes(b"half")
    start().close()
    assert names(target.parent) == [".vm.qcow2.part"]


def test_what_is_no_pack_file_of_ours_is_left_alone(start, target):
    other = target.with_name("other")
    other.write_bytes(b"kept")
    target.with_name(".vm.qcow2.pack").symlink_to(other)
    with pytest.raises(NotAllowedError, match="in the way"):
        start()
    assert other.read_bytes() == b"kept"
    assert names(target.parent) == [".vm.qcow2.pack", "other"]


def test_a_pack_file_that_was_swapped_gets_no_name(start, target):
    part = start()
    pack = part.begin_pack(10, reserve=0)
    path = target.with_name(".vm.qcow2.pack")
    path.unlink()
    path.write_bytes(b"other")
    with pytest.raises(InUseError):
        part.publish(pack=pack)
    pack.drop()
    assert path.read_bytes() == b"other" and not target.exists()


def test_only_the_part_file_about_a_key_is_discarded(start, target, journals):
    part = start()
    part.note(0, 1)
    part.checkpoint()
    with pytest.raises(InUseError):
        PartFile.discard(target, key=KEY, journal_dir=journals)
    part.close()
    PartFile.discard(target, key=b"o" * 32, journal_dir=journals)
    assert names(target.parent) == [".vm.qcow2.part"] and len(names(journals)) == 1
    PartFile.discard(target, key=KEY, journal_dir=journals)
    PartFile.discard(target, key=KEY, journal_dir=journals)
    assert names(target.parent) == [] and names(journals) == []


# -- space -------------------------------------------------------------------------------------------


def test_what_cannot_fit_is_refused_at_once(start, target, journals):
    # More than the whole disk: what is free may grow while we look.
    disk = os.statvfs(target.parent)
    huge = disk.f_blocks * disk.f_frsize + 1
    with pytest.raises(NoSpaceError, match="are needed") as caught:
        start(size=huge, data_bytes=huge)
    assert caught.value.hint.startswith("free ")
    assert names(target.parent) == [] and names(journals) == []


def test_the_reserve_stays_free(start, target):
    disk = os.statvfs(target.parent)
    with pytest.raises(NoSpaceError):
        start(reserve=disk.f_blocks * disk.f_frsize)


def test_a_finished_file_needs_no_more_room(start):
    leave(start, (0, 64))
    assert start(reserve=1 << 60).claimed == [(0, 64)]


def test_refusing_for_space_keeps_an_earlier_run(start):
    leave(start, (0, 1), data_bytes=64 * KIB)
    with pytest.raises(NoSpaceError):
        start(reserve=1 << 60)
    assert start().claimed == [(0, 1)]


def test_blocks_are_reserved_for_dense_files_only(start, target):
    assert start().path.stat().st_blocks * 512 >= SIZE
    sparse = start(size=1 << 40, data_bytes=SIZE, path=target.with_name("sparse.raw"))
    assert sparse.path.stat().st_size == 1 << 40
    assert sparse.path.stat().st_blocks == 0


def test_a_file_larger_than_allowed_is_a_clear_error(start, target, journals):
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, old[1]))
    try:
        with pytest.raises(NoSpaceError, match="File too large"):
            start(data_bytes=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert names(target.parent) == [] and names(journals) == []


FILL = """
import os, sys
from pathlib import Path
from overlaysync.errors import NoSpaceError
from overlaysync.store.partial import PartFile
disk, journals, size = Path(sys.argv[1]), Path(sys.argv[2]), 6 << 20

def start(data_bytes):
    return PartFile.open(
        disk / "vm.raw", key=b"k" * 32, size=size, data_bytes=data_bytes, journal_dir=journals, reserve=0
    )

(disk / "precious").write_bytes(b"p" * (4 << 20))
try:
    start(size)
    raise SystemExit("took what does not fit")
except NoSpaceError:
    assert os.listdir(disk) == ["precious"]

part = start(0)  # a sparse file that turns out fuller than promised
block, written = b"x" * (1 << 18), 0
try:
    while True:
        part.pwrite(written * len(block), [block])
        part.note(written, 1)
        written += 1
        if written == 8:
            part.checkpoint()
except NoSpaceError as error:
    assert "free some space" in error.hint
for action in (part.checkpoint, part.publish, lambda: part.pwrite(0, [b"x"])):
    try:
        action()
        raise SystemExit("went on after a failed write")
    except NoSpaceError:
        pass
part.close()
assert (disk / "precious").read_bytes() == b"p" * (4 << 20)
assert sorted(os.listdir(disk)) == [".vm.raw.part", "precious"]

(disk / "precious").unlink()
part = start(size)
assert part.claimed == [(0, 8)]
assert part.pread(0, 8 << 18) == b"x" * (8 << 18)
for slot in range(8, size >> 18):
    part.pwrite(slot << 18, [block])
part.publish()
assert (disk / "vm.raw").read_bytes() == b"x" * size
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
@pytest.mark.slow
def test_a_disk_that_is_full_harms_nothing(tmp_path, journals):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = 'mount -t tmpfs -o size=8m tmpfs "$1" && shift && exec "$@"'
    command = [sys.executable, "-c", FILL, str(disk), str(journals)]
    result = subprocess.run(
        ["unshare", "-m", "sh", "-c", mount, "sh", str(disk), *command],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr


# -- failing disks -----------------------------------------------------------------------------------


def failing_with(code):
    def fail(*_):
        raise OSError(code, os.strerror(code))

    return fail


@pytest.mark.parametrize(
    ("call", "code"), [("pwritev", errno.EIO), ("fdatasync", errno.EIO), ("fsync", errno.EDQUOT)]
)
def test_a_failed_write_or_sync_is_never_success_later(start, target, monkeypatch, call, code):
    leave(start, (0, 1))
    part = start()
    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing_with(code))
        with pytest.raises(OverlaysyncError) as caught:
            part.pwrite(64 * KIB, [b"y"])
            part.note(1, 1)
            part.checkpoint()
            part.publish()
    assert isinstance(caught.value, NoSpaceError) == (code == errno.EDQUOT)
    for action in (part.checkpoint, part.publish, lambda: part.pwrite(0, [b"y"])):
        part.note(1, 1)
        with pytest.raises(OverlaysyncError):
            action()
    part.close()
    assert not target.exists()
    assert (0, 1) in [(first, 1) for first, _ in start().claimed]


def test_a_failed_data_sync_claims_nothing(start, monkeypatch):
    part = start()
    part.pwrite(0, [b"y"])
    part.note(0, 1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", failing_with(errno.EIO))
        with pytest.raises(OverlaysyncError, match="Cannot write") as caught:
            part.checkpoint()
    assert "dmesg" in caught.value.hint
    part.close()
    assert start().claimed == []


def test_a_journal_that_finds_no_room_costs_its_claims_only(start, monkeypatch):
    leave(start, (0, 1))
    part = start()
    part.note(1, 1)

    def torn(fd, data):
        os.write(fd, data[:5])
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr("overlaysync.store.journal.write_all", torn)
        with pytest.raises(NoSpaceError):
            part.checkpoint()
    part.close()
    assert start().claimed == [(0, 1)]


def test_a_file_system_without_preallocation_is_fine(start, monkeypatch):
    class Libc:
        @staticmethod
        def fallocate64(*_):
            ctypes.set_errno(errno.EOPNOTSUPP)
            return -1

    monkeypatch.setattr(files, "_libc", Libc)
    start().publish()


def test_a_read_only_directory_is_a_clear_error(start):
    with pytest.raises((NotAllowedError, NotFoundError), match="Cannot write /proc"):
        start(path=Path("/proc/vm.qcow2"))


# -- sharing with other files ------------------------------------------------------------------------


@pytest.fixture
def source(tmp_path):
    """The descriptor of another file."""
    path = tmp_path / "source"
    path.write_bytes(b"s" * SIZE)
    with open(path, "rb") as file:
        yield file.fileno()


def sharing(fd, request, argument):
    """A file system that shares: it copies, so that the bytes are there."""
    source, offset, length, place = struct.unpack("=qQQQ", argument)
    os.pwrite(fd, os.pread(source, length, offset), place)


def test_what_is_shared_is_claimed_only_when_it_is_on_disk(start, source, monkeypatch):
    monkeypatch.setattr("fcntl.ioctl", sharing)
    part = start()
    assert part.clone(source, 0, 64 * KIB, 64 * KIB)
    buffer = memoryview(bytearray(64 * KIB))
    assert part.read_into(64 * KIB, buffer) == 64 * KIB
    assert buffer == b"s" * 64 * KIB
    part.note(1, 1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", failing_with(errno.EIO))
        with pytest.raises(OverlaysyncError):
            part.checkpoint()
    part.close()
    assert start().claimed == []


def test_shared_bytes_make_a_checkpoint_due(start, source, monkeypatch):
    monkeypatch.setattr("fcntl.ioctl", sharing)
    part = start(size=2 * CHECKPOINT_BYTES, data_bytes=0)
    monkeypatch.setattr("fcntl.ioctl", lambda *_: None)
    assert part.clone(source, 0, CHECKPOINT_BYTES, 0)
    part.note(0, 1)
    assert part.should_checkpoint(0.0)


def test_a_refused_clone_is_no_failed_write(start, source, target, monkeypatch):
    part = start()
    with monkeypatch.context() as patch:
        patch.setattr("fcntl.ioctl", failing_with(errno.ENOSPC))
        assert not part.clone(source, 0, 64 * KIB, 0)
    part.pwrite(0, [b"y"])
    part.note(0, 1)
    part.checkpoint()
    part.publish()
    assert target.read_bytes()[:1] == b"y"


def test_after_a_failed_write_nothing_is_shared(start, source, monkeypatch):
    part = start()
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", failing_with(errno.EIO))
        with pytest.raises(OverlaysyncError):
            part.pwrite(0, [b"y"])
    monkeypatch.setattr("fcntl.ioctl", sharing)
    with pytest.raises(OverlaysyncError):
        part.clone(source, 0, 64 * KIB, 0)


def test_a_clone_stays_inside_the_file(start, source):
    with pytest.raises(ValueError, match="in a file of"):
        start().clone(source, 0, SIZE, 4096)


def test_where_blocks_can_be_shared_none_are_reserved(start, monkeypatch):
    monkeypatch.setattr("fcntl.ioctl", lambda *_: None)
    assert start().path.stat().st_blocks == 0


def test_reading_ends_with_the_file(start):
    part = start(size=6 * MIB, data_bytes=0)
    part.pwrite(0, [b"x" * 6 * MIB])
    buffer = aligned_buffer(4 * MIB)
    assert part.read_into(4 * MIB, buffer) == 2 * MIB
    assert buffer[: 2 * MIB] == b"x" * 2 * MIB
