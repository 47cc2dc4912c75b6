"""A directory in which VMs are looked for: what lies in it, by kind, and its companions, opened with care.

Nothing in it is reached through a link, and what another user could have put there is left out, by the rules
of :mod:`overlaysync.formats.folders` and :mod:`overlaysync.formats.ownership`. A file that the user named
itself is trusted.
"""

from __future__ import annotations

import errno
import os
import re
import shlex
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property

from overlaysync.errors import NotFoundError, OverlaysyncError, UsageError
from overlaysync.formats.alone import OPENED, not_alone
from overlaysync.formats.chain import backing_path
from overlaysync.formats.detect import open_image
from overlaysync.formats.files import open_named, pread_some
from overlaysync.formats.folders import Folder, Found
from overlaysync.formats.locks import in_use_for_writing
from overlaysync.formats.recognition import ending_of
from overlaysync.model.companions import CAPS
from overlaysync.ops.vms.vm import PERMALL, Missed, Part, over_cap

FileId = tuple[int, int]
"""Device and inode of a file: its identity, whatever its name."""

_SEED = re.compile(r"(?:^|.*[-_.])(?:seed|cidata|cloud-init)(?:[-_.].*)?\.(?:img|iso|raw)", re.IGNORECASE)
_VARS = re.compile(r".*VARS.*\.fd|.*_VARS\.(?:qcow2|raw|img)|.*-vars\.fd")

_KINDS = (
    (stat.S_ISREG, "file"),
    (stat.S_ISDIR, "directory"),
    (stat.S_ISLNK, "link"),
    (stat.S_ISSOCK, "socket"),
    (stat.S_ISFIFO, "FIFO"),
)


def is_seed(name: str) -> bool:
    """Whether a file is named like the seed of cloud-init."""
    return bool(_SEED.fullmatch(name))


def is_vars(name: str) -> bool:
    """Whether a file is named like the variables of a UEFI firmware."""
    return bool(_VARS.fullmatch(name))


def is_image_name(name: str) -> bool:
    """Whether a file that is listed as an image is named like a disk, and not like a companion."""
    return not (is_seed(name) or is_vars(name))


@dataclass(frozen=True, slots=True)
class Image:
    """An image whose header has been read.

    Attributes:
        path: its real path.
        id: of the file.
        backing: of the file that its header names; None when there is none, or it is not there.
        overlay: whether its header names one.
        read_only: whether nobody may write to it.
    """

    path: str
    id: FileId
    backing: FileId | None
    overlay: bool
    read_only: bool


def examine(found: Found) -> Image:
    """Return what an image's header says.

    Raises:
        OverlaysyncError: it is no image, damaged, or must not be taken.
        OSError: a directory on the way is not there any more.
    """
    file = found.open()
    # While a VM writes to it, its tables may be in the middle of a change.
    with open_image(found.path, file=file, tables=not in_use_for_writing(file)) as image:
        status = os.fstat(image.fd)
        below: FileId | None = None
        if image.backing is not None:
            with suppress(OverlaysyncError, OSError):
                below = id_of(os.stat(backing_path(image.path, image.backing)))
        overlay = image.backing is not None
    return Image(found.path, id_of(status), below, overlay, not stat.S_IMODE(status.st_mode) & 0o222)


def id_of(status: os.stat_result) -> FileId:
    """Return the identity of a file."""
    return (status.st_dev, status.st_ino)


@dataclass(frozen=True)
class Place:
    """An open directory.

    Attributes:
        folder: the directory.
        trusted: real paths of the files that the user named: whose they are is not asked.
    """

    folder: Folder
    trusted: frozenset[str] = field(default=frozenset())

    @property
    def path(self) -> str:
        """Its real path."""
        return self.folder.path

    @cached_property
    def entries(self) -> dict[str, str]:
        """What is not hidden in it, by name: file, directory, link, socket, FIFO or device."""
        return dict(self.inside(""))

    def inside(self, below: str) -> Iterator[tuple[str, str]]:
        """Yield likewise what lies in a directory below; nothing where it cannot be read."""
        with suppress(OSError), self.folder.entered(below) as fd:
            for name in sorted(os.listdir(fd)):
                with suppress(OSError):
                    if name[:1] != ".":
                        yield name, _kind(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode)

    def join(self, below: str) -> str:
        """Return the path of a file in it."""
        return os.path.join(self.path, below)

    def find(self, below: str) -> Found:
        """Return an image in it, to be opened as one that was named or as one that was found."""
        path = self.join(below)
        return Found(path) if path in self.trusted else Found(path, self.folder, below)

    def companion(self, below: str, role: str, why: str, file: str = "") -> Part | Missed | None:
        """Return a companion if it is there, or why it is left out.

        Args:
            below: its path from here.
            role: what it is.
            why: why it belongs to the VM.
            file: its name in a state; by default the path from here.
        """
        try:
            fd = self.find(below).open()
        except NotFoundError:
            return None
        except OverlaysyncError as error:
            return Missed(self.join(below), error.why or error.what)
        except OSError as error:
            return None if error.errno == errno.ENOENT else Missed(self.join(below), _reason(error))
        try:
            reason = over_cap(role, os.fstat(fd).st_size) or _would_be_refused(role, fd, self.join(below))
        finally:
            os.close(fd)
        if reason:
            return Missed(self.join(below), reason)
        return Part(self.join(below), file or below, role, why)

    def tpm(self, directory: str, why: str, file: str = "") -> list[Part | Missed]:
        """Return the state of a TPM in a directory below, and what lies beside it and is left out."""
        state = self.companion(os.path.join(directory, PERMALL), "tpm", why, file)
        beside = [
            Missed(self.join(os.path.join(directory, name)), f"of a TPM, only {PERMALL} is saved")
            for name, _ in self.inside(directory)
            if name != PERMALL
        ]
        return [*([state] if state else []), *beside]

    def text(self, below: str) -> bytes | None:
        """Return a definition; None when it is not there.

        Raises:
            OverlaysyncError: it must not be taken, or is no definition by its size.
        """
        try:
            return read_text(self.find(below).open(), self.join(below))
        except NotFoundError:
            return None


def read_text(fd: int, path: str) -> bytes:
    """Return the content of an open definition, and close it.

    Raises:
        UsageError: it is larger than a definition can be.
    """
    try:
        size = os.fstat(fd).st_size
        reason = over_cap("definition", size)
        if reason:
            raise UsageError(
                f"{path} is not a definition of a VM",
                why=reason,
                hint=f"see what it is: file {shlex.quote(path)}",
            )
        return pread_some(fd, CAPS["definition"], 0, path=path)
    finally:
        os.close(fd)


def read_named(path: str) -> bytes:
    """Return the content of a definition that the user named.

    Raises:
        NotFoundError, NotAllowedError, ImageError: it is not there, or cannot be read.
        UsageError: it is larger than a definition can be.
    """
    return read_text(open_named(path)[0], path)


def sort_out(found: list[Part | Missed | None]) -> tuple[tuple[Part, ...], tuple[Missed, ...]]:
    """Return what is carried, and what is left out; each once."""
    parts = {one.path: one for one in found if isinstance(one, Part)}
    missed = dict.fromkeys(one for one in found if isinstance(one, Missed))
    return tuple(parts.values()), tuple(missed)


def stem_of(name: str) -> str:
    """Return the name of an image without its ending."""
    return name[: len(name) - len(ending_of(name))]


def _would_be_refused(role: str, fd: int, path: str) -> str:
    reason = not_alone(fd, path) if role in OPENED else ""
    return f"it is {reason}; companions that lead to other files are refused" if reason else ""


def _kind(mode: int) -> str:
    return next((kind for test, kind in _KINDS if test(mode)), "device")


def _reason(error: OSError) -> str:
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return "a directory on the way to it is a link or a file"
    return (error.strerror or "it cannot be opened").lower()
