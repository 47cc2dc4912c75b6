"""Gathering: what ``share`` takes from the paths that the user named, each file opened once and looked at.

What cannot be shared is said once, and tried again when it has changed. Leaves out publishing and serving.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from overlaysync.errors import ImageError, InUseError, NotAllowedError, NotFoundError, OverlaysyncError
from overlaysync.formats.chain import Chain
from overlaysync.formats.files import leads_to, may_read
from overlaysync.formats.folders import Folder, Found
from overlaysync.formats.image import Format
from overlaysync.formats.locks import hold_read_lock, release
from overlaysync.model.fingerprint import Fingerprint
from overlaysync.node.capturing import Means
from overlaysync.node.node import Node, now
from overlaysync.node.observer import Observer
from overlaysync.ops.again import ShareAgain
from overlaysync.ops.backing import check_meant
from overlaysync.ops.collecting import Rules, collect, images_below, links_in
from overlaysync.ops.known import Known
from overlaysync.store.files import translate


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the user said of the images to be shared.

    Attributes:
        name: what the one image is called; "" for its own name.
        note: what is said of the versions that are published.
        collecting: what of directories is taken.
        format: what the named images are, whatever their names and contents suggest; None to look.
        accept_master: whether an overlay's master is taken for its own, whatever is known of it.
        confirm: called with the names of images that would become public and were a team's; raises to refuse.
        again: the command that errors print.
        live: how images that VMs write to are captured; None to leave them alone.
    """

    name: str = ""
    note: str = ""
    collecting: Rules = field(default_factory=Rules)
    format: Format | None = None
    accept_master: bool = False
    confirm: Callable[[Sequence[str]], None] = lambda names: None
    again: ShareAgain = field(default_factory=ShareAgain)
    live: Means | None = None


@dataclass(frozen=True, slots=True)
class Looked:
    """An image that was looked at.

    Attributes:
        known: what is in it.
        chain: the files that were read, still open and without locks; the receiver closes them.
    """

    known: Known
    chain: Chain


@dataclass(slots=True)
class Gathering:
    """The images that the paths of one ``share`` mean.

    Args:
        node: hashes.
        paths: images and directories, as the user named them. Where they lead is settled when they are first
            looked at: whoever could swap them later would choose what is shared.
        wishes: what of directories is taken, and how.
        observer: is told what happens.
        advance: is told of the bytes hashed, and may end that.
        list_used: is given the path of an image in use, and returns whether it is listed without its data.

    Attributes:
        left_out: why an image is not shared, by real path.
    """

    node: Node
    paths: Sequence[str]
    wishes: Wishes
    observer: Observer
    advance: Callable[[int], None]
    list_used: Callable[[str], bool]
    left_out: dict[str, OverlaysyncError] = field(default_factory=dict)
    _folders: dict[str, Folder] = field(default_factory=dict)
    _files: dict[str, str] = field(default_factory=dict)
    _seen: dict[str, Fingerprint] = field(default_factory=dict)
    _tried: dict[str, Fingerprint] = field(default_factory=dict)
    _busy: set[str] = field(default_factory=set)

    def close(self) -> None:
        """Close the directories."""
        for folder in self._folders.values():
            folder.close()
        self._folders = {}

    def collect(self, *, all_named: bool) -> dict[str, Found]:
        """Return the images by their real paths.

        Args:
            all_named: whether named files are there even if they do not exist, to be refused.

        Raises:
            NotAllowedError: a directory may not be read.
        """
        found: dict[str, Found] = {}
        for path in self.paths:
            if self._is_folder(path):
                folder = self._folders[path]
                if leads_to(folder.path, folder.fd):
                    for item in collect(folder, self.wishes.collecting):
                        found.setdefault(item.path, item)
                continue
            real = self._files.setdefault(path, os.path.realpath(path))
            if all_named or os.path.lexists(real):
                found[real] = Found(real)  # named, also when it lies in a directory that was
        return found

    def look(self, found: Found, *, insist: bool) -> Looked | None:
        """Return what is in an image; None for one that cannot be shared, which is said once.

        Args:
            found: the image.
            insist: whether the reason is raised instead of said.
        """
        path = found.path
        present = fingerprint_at(path)
        if present is not None:
            self._tried[path] = present
        try:
            looked = self._examine(found)
        except InUseError as error:
            self._tried.pop(path, None)  # it may come free without being written
            if self.list_used(path):
                return None
            error.hint += "; to share what it has written so far: "
            error.hint += self.wishes.again.share(path, more=("--live",))
            if insist:
                raise
            if path not in self._busy:
                self.leave_out(path, error)
            self._busy.add(path)
            return None
        except OverlaysyncError as error:
            if insist:
                raise
            self.leave_out(path, error)
            return None
        except OSError as error:
            self.leave_out(path, translate(error, f"Cannot read {path}", hint=may_read(path)))
            return None
        self._busy.discard(path)
        if found.top is None:
            self.node.catalog.images.mark_named(path)
        return looked

    def leave_out(self, path: str, error: OverlaysyncError) -> None:
        """Note that an image is not shared, and why."""
        self.left_out[path] = error
        self.observer.note(f"left out: {error}")

    def is_news(self, path: str) -> bool:
        """Return whether a file has come or changed since it was looked at, and looked the same twice."""
        present, before = fingerprint_at(path), self._seen.get(path)
        if present is None:
            return False
        self._seen[path] = present
        return present == before and self._tried.get(path) != present

    def is_tried(self, path: str) -> bool:
        """Return whether a file was looked at as it is now."""
        tried = self._tried.get(path)
        return tried is not None and tried == fingerprint_at(path)

    def forget(self, path: str) -> None:
        """Look at a file afresh, as if it had never been there."""
        self._seen.pop(path, None)
        self._tried.pop(path, None)

    def tell_left_out(self, shared: int) -> None:
        """Say what of the directories was not taken, beside that many images that are shared."""
        for path, folder in self._folders.items():
            below = 0 if self.wishes.collecting.recursive else images_below(folder)
            if below and shared:
                count = "1 image lies" if below == 1 else f"{below} images lie"
                self.observer.note(f"  {count} in subdirectories of {path}: share -r takes them as well")
            links = links_in(folder)
            if links:
                self.observer.note(f"  links left out of {path}: {', '.join(links)} (name one to share it)")
        if self.left_out:
            total = len(self.left_out) + shared
            are = "is" if len(self.left_out) == 1 else "are"
            self.observer.note(f"  {len(self.left_out)} of {total} images {are} not shared")

    def nothing_found(self) -> NotFoundError:
        """Return the error for paths in which there is no image at all."""
        below = sum(map(images_below, self._folders.values()))
        named = ", ".join(self.paths)
        if below and not self.wishes.collecting.recursive:
            return NotFoundError(
                f"There is no image in {named} itself",
                why=f"its subdirectories hold {below}",
                hint=self.wishes.again.share(*self.paths, more=("-r",)),
            )
        return NotFoundError(
            f"There is no image in {named}", hint="images are named *.qcow2, *.qed, *.raw or *.img"
        )

    def _is_folder(self, path: str) -> bool:
        """Whether it is a directory, which is open then; what a path was at first it stays."""
        if path in self._folders:
            return True
        if path in self._files or not os.path.isdir(path):
            return False
        if not os.access(path, os.R_OK | os.X_OK):
            raise NotAllowedError(f"Cannot read {path}", why="permission denied", hint=may_read(path))
        try:
            self._folders[path] = Folder.open(path)
        except OSError as error:
            raise translate(error, f"Cannot read {path}", hint=may_read(path)) from error
        return True

    def _examine(self, found: Found) -> Looked:
        """Hash an image, and check that it may be shared."""
        library = self.node.library
        try:
            chain = library.open(found.path, self.wishes.format, file=found.open())
        except ImageError:
            _check_unwritten(found.path)  # what a VM is writing may look damaged
            raise
        try:
            # Only while it is read: the owner of an overlay may start its VM afterwards.
            for image in chain.images:
                hold_read_lock(image.fd, path=image.path)
            size = sum(image.virtual_size for image in chain.images)
            self.observer.begin(f"hashing {os.path.basename(found.path)}", size)
            try:
                known = library.examine_chain(
                    chain, now=now(), progress=self.advance, accept_master=self.wishes.accept_master
                )
            finally:
                self.observer.end()
            for image in chain.images:
                release(image.fd)
            for note in known.notes:
                self.observer.note(f"{found.path}: {note}")
            _check_is_one(known)
            check_meant(known, self._named(), self.node.catalog, sharing=self.wishes.again)
        except BaseException:
            chain.close()
            raise
        return Looked(known, chain)

    def _named(self) -> list[str]:
        """Return the real paths of what the user named."""
        return [*self._files.values(), *(folder.path for folder in self._folders.values())]


def _check_unwritten(path: str) -> None:
    """Refuse an image that a VM writes to.

    Raises:
        InUseError: it is one.
    """
    with suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            hold_read_lock(fd, path=path)
        finally:
            os.close(fd)


def fingerprint_at(path: str) -> Fingerprint | None:
    """Return the fingerprint of what lies at a real path, None when that is nothing."""
    try:
        return Fingerprint.of(os.lstat(path))
    except OSError:
        return None


def _check_is_one(known: Known) -> None:
    """Refuse an empty disk: it is of no use.

    Raises:
        ImageError: it is one.
    """
    if not known.disk.virtual_size:
        raise ImageError("it is empty", path=known.path)
