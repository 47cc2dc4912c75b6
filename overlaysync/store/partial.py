"""The file that is being written: ``.NAME.part`` beside its target, until it is whole.

Its bytes go to their final place in any order and from several threads; the journal says which slots are on
disk; :meth:`PartFile.publish` gives the finished file its name. What a caller must do: write only verified
bytes, hash again what :attr:`PartFile.claimed` says, call :meth:`PartFile.checkpoint` when
:meth:`PartFile.should_checkpoint` says so. Left out: what a slot is, and where it lies in the file.

After a failed write or sync nothing is claimed or published any more ("retrying fsync is not OK" on Linux):
the caller closes the file, and the next run goes on from the last checkpoint.
"""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import TypeAlias

from blake3 import blake3

from overlaysync.errors import InUseError, OverlaysyncError, WouldDestroyError
from overlaysync.store.clone import Cloner
from overlaysync.store.direct import DirectFile
from overlaysync.store.files import allocated, rename_new, sync_directory, translate, umask, write_all_at
from overlaysync.store.journal import KEY_SIZE, Journal, JournalHeader, Run, merge_runs
from overlaysync.store.pack import PackFile
from overlaysync.store.space import RESERVE, check_free_room, reserve_blocks
from overlaysync.store.target import Entry, Place, open_locked, part_path
from overlaysync.units import MIB

CHECKPOINT_BYTES = 64 * MIB
CHECKPOINT_AGE_S = 5.0

Buffer: TypeAlias = bytes | bytearray | memoryview


class PartFile:
    """An open part file, locked against other processes. Made by :meth:`open`.

    Attributes:
        target: real path of the finished file.
        path: of the part file.
        size: of the finished file in bytes.
        claimed: runs of slots that its journal claims, rising; to be hashed before they are believed.
    """

    def __init__(self, place: Place, fd: int, *, size: int, journal: Journal, claimed: list[Run]) -> None:
        self.target = place.target
        self.path = place.part
        self.size = size
        self.claimed = claimed
        self._place = place
        self._fd = fd
        self._journal = journal
        self._lock = Lock()
        self._checkpoint_lock = Lock()
        self._noted: list[Run] = []
        self._unsynced = 0
        self._waiting_since: float | None = None
        self._failure: OverlaysyncError | None = None
        self._direct = DirectFile(fd)
        self._cloner = Cloner(fd)

    @classmethod
    def open(
        cls,
        target: str | Path,
        *,
        key: bytes,
        size: int,
        data_bytes: int,
        journal_dir: Path,
        reserve: int = RESERVE,
    ) -> PartFile:
        """Return the part file for ``target``: an earlier one of the same ``key``, else an empty one.

        Args:
            target: path of the finished file; its directory must exist.
            key: 32 bytes that stand for manifest and layout.
            size: of the finished file in bytes.
            data_bytes: how many of these will be written; the others stay holes.
            journal_dir: where the journal lies.
            reserve: bytes that must stay free.

        Raises:
            InUseError: another process writes it.
            NoSpaceError: it will not fit.
            NotAllowedError: the directory is not writable, or what lies there is not a plain file of our own.
            NotFoundError: there is no such directory.
        """
        if len(key) != KEY_SIZE:
            raise ValueError(f"a key has {KEY_SIZE} bytes, not {len(key)}")
        with (
            _translated(f"Cannot write {target}", os.path.dirname(os.path.realpath(target))),
            contextlib.ExitStack() as undo,
        ):
            place = Place.of(target)
            undo.callback(place.close)
            fd = open_locked(place)
            undo.callback(os.close, fd)
            path = journal_path(journal_dir, place.target)
            status = os.fstat(fd)
            # A new file can have the inode of a finished one whose journal was left; but it has no size yet.
            known = status.st_size == size
            found = Journal.resume(path, key=key, inode=status.st_ino) if known else None
            if found is None:
                # What refers goes before what it refers to: no journal may claim slots of an emptied file.
                path.unlink(missing_ok=True)
                os.ftruncate(fd, 0)
                undo.callback(os.unlink, place.part.name, dir_fd=place.directory)
            else:
                undo.callback(found[0].close)
            place.drop_pack()
            missing = data_bytes - allocated(status) if found else data_bytes
            check_free_room(fd, place.target, missing=missing, reserve=reserve)
            os.ftruncate(fd, size)
            if missing > 0 and data_bytes >= size - size // 16:
                reserve_blocks(fd, size)
            if found is None:
                sync_directory(place.directory)
                journal = Journal.create(path, JournalHeader(key, status.st_ino, os.fsencode(place.target)))
            else:
                journal = found[0]
            undo.pop_all()
        return cls(place, fd, size=size, journal=journal, claimed=found[1] if found else [])

    # -- writing -------------------------------------------------------------------------------------

    def pwrite(self, offset: int, buffers: Sequence[Buffer]) -> None:
        """Write ``buffers`` one after the other at ``offset`` (bytes); thread-safe.

        Raises:
            NoSpaceError: the disk or a quota is full.
            OverlaysyncError: the disk failed. After either the file takes no more.
        """
        views = [memoryview(buffer).cast("B") for buffer in buffers]
        length = sum(map(len, views))
        self._check_range(offset, length)
        with self._failing():
            if len(views) == 1:
                done = self._direct.write(views[0], offset)
                views, offset = [views[0][done:]], offset + done
            write_all_at(self._fd, views, offset)
        with self._lock:
            self._unsynced += length

    @property
    def clones(self) -> bool:
        """Whether :meth:`clone` has shared anything."""
        return self._cloner.works

    def may_clone(self, source: int) -> bool:
        """Whether it is worth a try with the open file ``source``."""
        return self._cloner.may(source)

    def clone(self, source: int, source_offset: int, length: int, offset: int) -> bool:
        """Share a range of the open file ``source`` instead of writing its bytes; thread-safe.

        They are what ``source`` held at that moment, so verify what :meth:`read_into` then gives.

        Args:
            source: a descriptor.
            source_offset, length: the range in it, in bytes.
            offset: of the range in this file.

        Returns:
            Whether it was done. If not, which is no failure, the range holds anything until it is written.

        Raises:
            OverlaysyncError: an earlier write failed.
        """
        self._check_range(offset, length)
        with self._failing():
            done = self._cloner.clone(source, source_offset, length, offset)
        if done:
            with self._lock:
                self._unsynced += length
        return done

    def pread(self, offset: int, length: int) -> bytes:
        """``length`` bytes at ``offset``, fewer at the end of the file."""
        with _translated(f"Cannot read {self.path}"):
            return os.pread(self._fd, length, offset)

    def open_reader(self) -> int:
        """Return a descriptor of its own to read with, which outlives this object and holds no lock."""
        with _translated(f"Cannot read {self.path}"):
            return os.open(f"/proc/self/fd/{self._fd}", os.O_RDONLY | os.O_CLOEXEC)

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """Fill ``buffer`` from ``offset`` on, past the page cache if that can be; returns the bytes read.

        They are fewer at the end of the file only.

        Raises:
            OverlaysyncError: the disk failed.
        """
        with _translated(f"Cannot read {self.path}"):
            done = self._direct.read(buffer, offset)
            while done < len(buffer):
                count = os.preadv(self._fd, [buffer[done:]], offset + done)
                if not count:
                    break
                done += count
        return done

    def note(self, first_slot: int, count: int) -> None:
        """Slots that have been written, for the next checkpoint; thread-safe."""
        with self._lock:
            self._noted.append((first_slot, count))

    def should_checkpoint(self, now: float) -> bool:
        """Whether 64 MiB are unsynced, or noted slots have waited for 5 s.

        Args:
            now: seconds, of any clock that only goes forward.
        """
        with self._lock:
            if not self._noted:
                return False
            if self._waiting_since is None:
                self._waiting_since = now
            return self._unsynced >= CHECKPOINT_BYTES or now - self._waiting_since >= CHECKPOINT_AGE_S

    def checkpoint(self) -> None:
        """Bring noted slots to disk, then claim them in the journal. Writing may go on meanwhile.

        Raises:
            NoSpaceError: the file, or the journal, finds no room.
            OverlaysyncError: the disk failed. After either the file takes no more.
        """
        with self._checkpoint_lock:
            with self._lock:
                noted, self._noted = self._noted, []
                unsynced, self._unsynced = self._unsynced, 0
                self._waiting_since = None
            if not noted and not unsynced:
                return
            with self._failing():
                os.fdatasync(self._fd)
                if noted:
                    self._journal.append(merge_runs(noted))

    @staticmethod
    def discard(target: str | Path, *, key: bytes, journal_dir: Path) -> None:
        """Remove the part file about ``key`` that a run left which was killed when it had named a pack file.

        Nothing is done where there is none, or where it is about something else.

        Raises:
            InUseError: another process writes it.
        """
        if not os.path.lexists(part_path(Path(os.path.abspath(target)))):
            return
        with _translated(f"Cannot remove what is left of {target}"), contextlib.ExitStack() as undo:
            place = Place.of(target)
            undo.callback(place.close)
            fd = open_locked(place)
            undo.callback(os.close, fd)
            path = journal_path(journal_dir, place.target)
            found = Journal.resume(path, key=key, inode=os.fstat(fd).st_ino)
            if found is not None:
                os.unlink(place.part.name, dir_fd=place.directory)
                found[0].remove()

    # -- the end -------------------------------------------------------------------------------------

    def begin_pack(self, room: int, *, reserve: int = RESERVE) -> PackFile:
        """Begin a file that may get the name instead; ``room`` is how many bytes it will about have.

        Raises:
            NoSpaceError: it will not fit beside this one.
            NotAllowedError: what has its name is not a plain file of our own.
        """
        with _translated(f"Cannot write {self.target}", str(self.target.parent)):
            check_free_room(self._fd, self.target, missing=room, reserve=reserve)
            return PackFile(self._place)

    def publish(
        self, *, mode: int = 0o644, replaces: Entry | None = None, pack: PackFile | None = None
    ) -> None:
        """Give the finished file its name, durably, and close it. Its mode is less what the umask forbids.

        Where there is a pack file, that gets the name, and the part file is removed.

        Args:
            mode: of the file.
            replaces: what may be replaced, as it was when that was decided: a path may lead elsewhere since.
            pack: the same image, written anew.

        Raises:
            WouldDestroyError: something else has the name; the part file is kept.
            OverlaysyncError: the bytes could not be brought to disk.
        """
        with self._checkpoint_lock:
            with self._failing():
                finished = pack.fd if pack else self._fd
                with contextlib.suppress(PermissionError):  # FAT knows no modes
                    os.fchmod(finished, mode & ~umask())
                os.fsync(finished)
            with _translated(f"Cannot finish {self.target}", str(self.target.parent)):
                if not self._place.holds(self._fd) or (pack and not pack.holds()):
                    raise InUseError(
                        f"Cannot finish {self.target}",
                        why=f"{self.path} was moved or replaced",
                        hint="leave that file alone while it is written, and repeat the command",
                    )
                self._rename(self._place.pack if pack else self.path.name, replaces)
                os.fsync(self._place.directory)
                if pack:
                    # Not before the other name lasts: a crash must leave one of the two.
                    os.unlink(self.path.name, dir_fd=self._place.directory)
                    pack.close()
            with contextlib.suppress(OSError):  # a journal without its file is harmless
                self._journal.remove()
            self.close()

    def abandon(self) -> None:
        """Delete part file and journal, and close them; does nothing when it is closed."""
        if self._fd < 0:
            return
        with _translated(f"Cannot remove {self.path}"):
            self._journal.remove()
            if self._place.holds(self._fd):
                os.unlink(self.path.name, dir_fd=self._place.directory)
        self.close()

    def close(self) -> None:
        """Release the file; what was checkpointed is there for a later run. No thread may be writing."""
        if self._fd >= 0:
            self._journal.close()
            self._direct.close()
            os.close(self._fd)
            self._place.close()
            self._fd = -1

    def _check_range(self, offset: int, length: int) -> None:
        if not 0 <= offset <= self.size - length:
            raise ValueError(f"{length} bytes at {offset} in a file of {self.size}")

    def _rename(self, name: str, replaces: Entry | None) -> None:
        directory, target = self._place.directory, self.target.name
        present = self._place.entry() if replaces else None
        if present is not None:
            if present != replaces:
                raise WouldDestroyError(
                    f"{self.target} is not the file that was to be replaced",
                    why="another file has that name now",
                    hint=f"ls -l {shlex.quote(str(self.target.parent))}, and then the same command again",
                )
            os.rename(name, target, src_dir_fd=directory, dst_dir_fd=directory)
            return
        try:
            rename_new(directory, name, target)
        except FileExistsError as error:
            raise WouldDestroyError(
                f"{self.target} exists", hint="choose another name, or say --replace"
            ) from error

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """Refuse after a failure; remember it."""
        if self._failure is not None:
            raise self._failure
        if self._fd < 0:
            raise ValueError(f"{self.path} is closed")
        try:
            with _translated(f"Cannot write {self.path}"):
                yield
        except OverlaysyncError as error:
            self._failure = error
            raise


def journal_path(journal_dir: Path, target: Path) -> Path:
    """Where the journal of ``target`` (a real path) lies."""
    return journal_dir / f"{blake3(os.fsencode(target)).hexdigest()}.journal"


@contextmanager
def _translated(what: str, directory: str = "") -> Iterator[None]:
    """Translate errors; of a file that is made in ``directory``, when one is named."""
    try:
        yield
    except OSError as error:
        raise translate(error, what, directory=directory) from error
