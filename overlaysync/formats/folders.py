"""Folders: the images in directories, found by descriptor and opened once.

A directory that the user named is opened, and kept open; what is below it is reached from there, one name at
a time and without following links. So whatever is swapped meanwhile, a file that is opened is the one that is
judged (:mod:`overlaysync.formats.ownership`), lies below that directory, and is never opened again by name.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial

from overlaysync.errors import NotAllowedError
from overlaysync.formats.files import open_in
from overlaysync.formats.ownership import objection_to
from overlaysync.formats.recognition import is_listed

DEEPEST = 32
"""Levels of subdirectories that are looked into: each is entered from the top, one name after the other."""

_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def descended(fd: int, names: Iterable[str], *, make: bool = False) -> Iterator[int]:
    """Give a descriptor of the directory that names lead to, one after the other; none may be a link.

    Args:
        fd: the directory where they begin; it is closed.
        names: of directories.
        make: whether those that are missing are made.

    Raises:
        OSError: one is not there, is no directory, or must not be read.
    """
    try:
        for name in names:
            if make:
                with suppress(FileExistsError):
                    os.mkdir(name, 0o700, dir_fd=fd)
            inner = os.open(name, _FLAGS, dir_fd=fd)
            os.close(fd)
            fd = inner
        yield fd
    finally:
        os.close(fd)


@dataclass(frozen=True, slots=True)
class Folder:
    """An open directory that the user named.

    Attributes:
        path: its path without links, when it was opened.
        fd: its descriptor.
        masters: whether it was named as one of masters.
    """

    path: str
    fd: int
    masters: bool = False

    @classmethod
    def open(cls, path: str, *, masters: bool = False) -> Folder:
        """Open a directory; it may be a link.

        Raises:
            OSError: it cannot be opened.
        """
        real = os.path.realpath(path)
        return cls(real, os.open(real, _FLAGS), masters)

    def close(self) -> None:
        """Close the directory."""
        os.close(self.fd)

    def images(self, enter: Callable[[str], bool] = lambda _: False) -> Iterator[Found]:
        """Yield the files that count as images, in order of name, without links and hidden files.

        Args:
            enter: asked whether a directory below, by its path from here, is looked into as well; never asked
                about one that lies too deep.
        """
        waiting = [""]
        while waiting:
            below = waiting.pop()
            with suppress(OSError), self.entered(below) as fd:
                files, folders = _names(fd, below)
                for name in files:
                    if is_listed(name, partial(self._open, name)):
                        yield Found(os.path.join(self.path, name), self, name)
                if below.count(os.sep) + bool(below) < DEEPEST:
                    waiting += [name for name in reversed(folders) if enter(name)]

    def links(self) -> list[str]:
        """Return the names of the links in it."""
        with suppress(OSError), os.scandir(self.fd) as entries:
            return sorted(entry.name for entry in entries if entry.is_symlink())
        return []

    def open_image(self, below: str) -> int:
        """Open a file if it may be taken without being named, and return its descriptor.

        Args:
            below: its path from here.

        Raises:
            NotAllowedError: it is another user's, or others may write to it.
            ImageError, NotFoundError: it is not what it was when it was found.
            OSError: a directory on the way is not.
        """
        path = os.path.join(self.path, below)
        with self.entered(os.path.dirname(below)) as folder:
            file = open_in(folder, os.path.basename(below), path)
            reason = objection_to(os.fstat(file), os.fstat(folder), masters=self.masters)
        if reason:
            os.close(file)
            raise NotAllowedError(
                f"Not taking {path} from its directory",
                why=reason,
                hint=f"if you trust the users who can write it, name the file itself: '{path}'",
            )
        return file

    @contextmanager
    def entered(self, below: str) -> Iterator[int]:
        """Give a descriptor of a directory below; no name on the way may be a link.

        Raises:
            OSError: it is not there, is no directory, or must not be read.
        """
        with descended(os.dup(self.fd), filter(None, below.split(os.sep))) as fd:
            yield fd

    def _open(self, below: str) -> int:
        with self.entered(os.path.dirname(below)) as folder:
            return open_in(folder, os.path.basename(below), os.path.join(self.path, below))


@dataclass(frozen=True, slots=True)
class Found:
    """An image file that was found in a directory, or named.

    Attributes:
        path: its real path.
        top: the directory that was named; None when it was the file itself.
        below: its path from there.
    """

    path: str
    top: Folder | None = None
    below: str = ""

    @property
    def folder(self) -> str:
        """The path of the directory that it lies in; "" when it was named itself."""
        return os.path.dirname(self.path) if self.top else ""

    def open(self) -> int:
        """Open it, once: everything afterwards is to work on this descriptor.

        Raises:
            NotAllowedError: it must not be taken, or not be read.
            ImageError, NotFoundError: it is not what it was when it was found.
            OSError: a directory on the way is not.
        """
        return self.top.open_image(self.below) if self.top else open_in(None, self.path, self.path)


@contextmanager
def images_in(directories: Sequence[str]) -> Iterator[list[Found]]:
    """Give the files in directories of masters (not below them) that count as images, in order of name."""
    with ExitStack() as opened:
        found: list[Found] = []
        for directory in directories:
            with suppress(OSError):
                folder = Folder.open(directory, masters=True)
                opened.callback(folder.close)
                found += folder.images()
        yield found


def image_files(directories: Sequence[str]) -> list[str]:
    """Return the paths of such files, whoever's they are: to be spoken of, not to be read."""
    with images_in(directories) as found:
        return [item.path for item in found]


def _names(fd: int, below: str) -> tuple[list[str], list[str]]:
    """Return the files and directories in an open one, by their paths from the top, in order."""
    with os.scandir(fd) as entries:
        shown = sorted((entry for entry in entries if entry.name[:1] != "."), key=lambda entry: entry.name)
        files = [os.path.join(below, entry.name) for entry in shown if entry.is_file(follow_symlinks=False)]
        folders = [os.path.join(below, entry.name) for entry in shown if entry.is_dir(follow_symlinks=False)]
    return files, folders
