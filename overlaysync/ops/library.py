"""The library: what this node knows of the images on its own disks.

Answers come from the catalog while an image's fingerprint, and that of every file below it, is unchanged;
otherwise the image is hashed. Reading takes QEMU's read lock, so a file that a VM writes to is never hashed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from overlaysync.errors import BaseImageError, ImageError, InUseError, OverlaysyncError
from overlaysync.formats.chain import Chain
from overlaysync.formats.files import leads_to
from overlaysync.formats.image import Format
from overlaysync.formats.locks import hold_read_lock
from overlaysync.formats.reading import Access, ReadOnce, is_own
from overlaysync.formats.recognition import Vouched
from overlaysync.model.fingerprint import Fingerprint
from overlaysync.model.pages import LoadPage, PageList
from overlaysync.ops.doubts import doubt_about, spread_doubt
from overlaysync.ops.expected import Expected, expected_at
from overlaysync.ops.hashing import Progress, combine, hash_disk, hash_layer
from overlaysync.ops.known import Known
from overlaysync.ops.local import LocalSource
from overlaysync.ops.masters import Masters
from overlaysync.ops.page_keeper import PageKeeper
from overlaysync.ops.quicker import Spent
from overlaysync.store.catalog import Catalog
from overlaysync.store.images import ImageRow


class Library:
    """Images of this machine, looked at through ``catalog``; ``masters`` judges what overlays stand on.

    With ``spent`` each image is hashed in the way that takes this machine less time.
    """

    def __init__(self, catalog: Catalog, spent: Spent | None = None) -> None:
        self.catalog = catalog
        self.spent = spent
        self.load_page: LoadPage = catalog.pages.load_page
        self.masters = Masters(catalog, self.holders)
        self._access = Access(vouched_by(catalog), self._is_followed, ReadOnce())

    def open(
        self,
        path: str | os.PathLike[str],
        format: Format | None = None,
        *,
        base: str | None = None,
        file: int | None = None,
        running: bool = False,
    ) -> Chain:
        """Open the image at ``path`` and all below it; see :meth:`Chain.open`.

        A file that the catalog has as an image of a format is taken for one again, and one that was named
        before is believed again.
        """
        access = replace(self._access, running=running)
        return Chain.open(os.fspath(path), format, access, base=base, file=file)

    @contextmanager
    def open_quiet(
        self,
        path: str | os.PathLike[str],
        format: Format | None = None,
        *,
        base: str | None = None,
        file: int | None = None,
    ) -> Iterator[Chain]:
        """Open the chain at ``path``, with locks held that keep QEMU from writing to any image of it.

        Raises:
            InUseError: a VM already writes to one.
        """
        with self.open(path, format, base=base, file=file) as chain:
            for image in chain.images:
                hold_read_lock(image.fd, path=image.path)
            yield chain

    @contextmanager
    def open_known(self, known: Known) -> Iterator[Chain]:
        """Open an image as it was examined, over the same base, with the locks of :meth:`open_quiet`."""
        with self.open_quiet(known.path, known.geometry.format, base=known.base) as chain:
            yield chain

    def guest_size(self, path: str | os.PathLike[str], format: Format | None = None) -> int:
        """Return the guest bytes of an image and all below it: the work of hashing it."""
        with self.open(path, format) as chain:
            return sum(image.virtual_size for image in chain.images)

    def examine(
        self,
        path: str | os.PathLike[str],
        *,
        now: float,
        format: Format | None = None,
        progress: Progress | None = None,
        accept_master: bool = False,
        file: int | None = None,
    ) -> Known:
        """Return what is in the image at ``path``, hashed when it is not known yet.

        Args:
            path: may be a symlink.
            now: seconds since 1970.
            format: what it must be; None to look.
            progress: told of the bytes hashed.
            accept_master: take an overlay's master for its own, whatever is known of it.
            file: a descriptor of the file, found at the real path ``path``, which is closed in the end; None
                to open it by its name.

        Raises:
            ImageError: it cannot be read.
            BaseImageError: a backing file is missing, or is not the master that the overlay was made on.
            InUseError: a VM writes to it, or it changed while it was read.
        """
        with self.open_quiet(path, format, file=file) as chain:
            return self._examine(chain, now, progress, False, accept_master)

    def examine_anew(
        self,
        path: str | os.PathLike[str],
        *,
        now: float,
        format: Format | None = None,
        progress: Progress | None = None,
        accept_master: bool = False,
    ) -> Known:
        """Hash the image at ``path`` whatever is known, and leave what is known as it is.

        Takes and raises what :meth:`examine` does.
        """
        with self.open_quiet(path, format) as chain:
            return self._examine(chain, now, progress, True, accept_master)

    def examine_chain(
        self, chain: Chain, *, now: float, progress: Progress | None = None, accept_master: bool = False
    ) -> Known:
        """Return what is in an image that is open, as :meth:`examine`; the caller holds the locks."""
        return self._examine(chain, now, progress, False, accept_master)

    def expected(self, path: str | os.PathLike[str]) -> Expected | None:
        """Return what the file at ``path`` must hold; None when nothing is known of it."""
        return expected_at(self.catalog, os.path.realpath(path))

    def examine_over(
        self,
        path: str | os.PathLike[str],
        base: Known,
        *,
        layer: PageList | None = None,
        progress: Progress | None = None,
    ) -> Known:
        """Hash the overlay at ``path`` over ``base`` instead of the image that its header names.

        Nothing is kept of the file itself: nobody can open it like that by its name.

        Args:
            path: may be a symlink.
            base: what to read it over.
            layer: the overlay's layer on ``base``, when its pages are known already.
            progress: told of the bytes hashed.

        Raises:
            ImageError: it cannot be read, or is no overlay.
            BaseImageError: the base has changed since it was examined.
            InUseError: a VM writes to it, or it changed while it was read.
        """
        with self.open_quiet(path, base=base.path) as chain:
            if chain.fingerprints()[1:] != base.files:
                raise BaseImageError(
                    f"{base.path} has changed since it was verified",
                    hint="start again when nothing writes to it",
                )
            return replace(self.hash_chain(chain, base, progress, layer), base=base.path)

    def known(self, path: str | os.PathLike[str]) -> ImageRow | None:
        """Return the catalog's row of ``path`` if it still fits the files, without hashing anything."""
        row = self.catalog.images.at(os.path.realpath(path))
        if row is None:
            return None
        try:
            with self.open(row.path, Format(row.format)) as chain:
                return row if chain.fingerprints() == row.chain else None
        except (OverlaysyncError, OSError):
            return None

    def holders(self, disk: bytes) -> Iterator[ImageRow]:
        """Images here whose guest sees ``disk``, masters first, as far as their files are unchanged."""
        rows = self.catalog.images.with_disk(disk)
        for row in sorted(rows, key=lambda row: row.layer is not None):
            if self.known(row.path):
                yield row

    @contextmanager
    def source(self, row: ImageRow, *, layer: bool) -> Iterator[LocalSource | None]:
        """Open the image of ``row`` as a local source of its disk or layer; yield None if that fails."""
        pages = self.catalog.pages.load_list(row.layer if layer and row.layer else row.disk)
        if pages is None or not os.path.exists(row.path):
            yield None
            return
        try:
            chain = self.open(row.path, Format(row.format))
        except (OverlaysyncError, OSError):
            yield None
            return
        with chain:
            yield LocalSource(chain, pages)

    def remember(
        self, path: str, format: Format, content: PageList, disk: PageList, *, file: int, now: float
    ) -> Known:
        """Note what was just written and verified on the way, and return what is known of it.

        Args:
            path: the real path that the file was given.
            format: its format.
            content, disk: what it holds.
            file: a descriptor of the file that was written, which is closed here: what has this name by now
                may be another.
            now: seconds since 1970.

        Raises:
            InUseError: the name leads to another file.
        """
        with self.open_quiet(path, format, file=file) as chain:
            if not leads_to(path, chain.top.fd):
                raise InUseError(
                    f"{path} was moved or replaced as soon as it was written",
                    hint="find out which program did that, and repeat the command",
                )
            self._keep(chain, disk, content if content.is_layer else None, now)
            return self._examine(chain, now, None, False, False)

    def keep_content(self, known: Known) -> None:
        """Keep the page lists of an image, whose pages are kept."""
        self._keep_lists(known.disk, known.layer)

    def confirm(self, known: Known, *, now: float) -> None:
        """Note that what is known was read again; unless the files have changed since."""
        with self.open_quiet(known.path, known.geometry.format) as chain:
            if chain.fingerprints() == known.files:
                self._keep(chain, known.disk, known.layer, now)

    def _is_followed(self, path: str, file: os.stat_result) -> bool:
        """Whether the header of an overlay is believed: it is ours, or the user named that very file."""
        if is_own(path, file):
            return True
        row = self.catalog.images.at(path)
        same = row is not None and row.fingerprint[:2] == (file.st_dev, file.st_ino)
        return same and self.catalog.images.is_named(path)

    def _examine(
        self, chain: Chain, now: float, progress: Progress | None, fresh: bool, accept_master: bool
    ) -> Known:
        below = chain.parent()
        parent = self._examine(below, now, progress, fresh, accept_master) if below else None
        if parent is not None and not accept_master:
            self.masters.check_below(chain, parent)
        known = None if fresh else self.cached(chain, parent)
        if known is None:
            known = self.hash_chain(chain, parent, progress)
            if not fresh:
                self._keep(chain, known.disk, known.layer, now)
        elif progress:
            progress(chain.virtual_size)
        return known

    def cached(self, chain: Chain, parent: Known | None) -> Known | None:
        """Return what is known of the top image, if its file and what it stands on are the same.

        A master that was healed is another file: of the overlays on it, which it left alone, all stays known.
        """
        row = self.catalog.images.at(chain.top.real_path)
        files = chain.fingerprints()
        if row is None or row.chain[0] != files[0] or row.format != chain.top.geometry.format:
            return None
        disk = self.catalog.pages.load_list(row.disk)
        layer = self.catalog.pages.load_list(row.layer) if row.layer else None
        if disk is None or (layer.parent if layer else None) != (parent.disk.id if parent else None):
            return None
        if row.chain != files:
            self._keep(chain, disk, layer, row.verified_at)
        return Known(
            row.path, chain.top.geometry, disk, layer, parent, files, self._notes(chain, layer or disk)
        )

    def hash_chain(
        self, chain: Chain, parent: Known | None, progress: Progress | None, layer: PageList | None = None
    ) -> Known:
        """Return what is in an image that is open, read anew; its pages are kept, of the file nothing is.

        Args:
            chain: the image; the caller holds the locks.
            parent: what it stands on; None for a master.
            progress: told of the bytes hashed.
            layer: an overlay's layer, when its pages are known already.

        Raises:
            ImageError: it cannot be read.
            InUseError: it changed while it was read.
        """
        before = chain.fingerprints()
        keeper = PageKeeper(self.catalog)
        try:
            if parent is None:
                layer = None
                disk = hash_disk(chain, keeper.keep, progress, self.spent)
            else:
                layer = layer or hash_layer(chain, parent.disk.id, keeper.keep, progress, self.spent)
                keeper.flush()
                disk = combine(parent.disk, layer, self.load_page, chain, keeper.keep)
        except ImageError:
            _check_unchanged(chain, before)  # what was cut off or written over meanwhile is no damage
            raise
        keeper.flush()
        _check_unchanged(chain, before)
        path, geometry = chain.top.real_path, chain.top.geometry
        return Known(path, geometry, disk, layer, parent, before, self._notes(chain, layer or disk))

    def _notes(self, chain: Chain, content: PageList) -> tuple[str, ...]:
        """Return the remarks on the top image, by its header and by a note of this file or its content."""
        noted = doubt_about(self.catalog, chain.top.real_path, chain.fingerprints()[0], content.id)
        return (*chain.top.notes, noted.text) if noted else chain.top.notes

    def _keep(self, chain: Chain, disk: PageList, layer: PageList | None, now: float) -> ImageRow:
        self._keep_lists(disk, layer)
        row = ImageRow(
            path=chain.top.real_path,
            chain=chain.fingerprints(),
            format=chain.top.geometry.format,
            virtual_size=chain.virtual_size,
            disk=disk.id,
            layer=layer.id if layer else None,
            parent=layer.parent if layer else None,
            verified_at=now,
        )
        self.catalog.images.remember(row)
        spread_doubt(self.catalog, row.path, row.fingerprint, row.layer or row.disk)
        return row

    def _keep_lists(self, disk: PageList, layer: PageList | None) -> None:
        self.catalog.pages.keep_list(disk, like=layer.parent if layer else None)
        if layer is not None:
            self.catalog.pages.keep_list(layer)


def _check_unchanged(chain: Chain, before: tuple[Fingerprint, ...]) -> None:
    """Refuse a mixture of what the files of a chain held at different times.

    Raises:
        InUseError: one has changed.
    """
    for image, old, new in zip(chain.images, before, chain.fingerprints(), strict=True):
        if old != new:
            hint = "try again when nothing writes to it"
            raise InUseError(f"{image.path} changed while it was read", hint=hint)


def vouched_by(catalog: Catalog) -> Vouched:
    """Return a function that vouches for what the catalog has as an image of that format.

    The user has insisted on the format once, or the file looked like it then.
    """

    def vouched(path: str, format: Format) -> bool:
        row = catalog.images.at(os.path.realpath(path))
        return row is not None and row.format == format

    return vouched
