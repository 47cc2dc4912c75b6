"""The library: what this node knows of the images on its own disks.

Answers come from the catalog while an image's fingerprint, and that of every file below it, is unchanged;
otherwise the image is hashed. Reading takes QEMU's read lock, so a file that a VM writes to is never hashed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from overlaysync.errors import BaseImageError, ImageError, InUseError, OverlaysyncError
from overlaysync.formats.chain import Chain, is_own
from overlaysync.formats.files import leads_to
from overlaysync.formats.image import Format, Geometry, Image
from overlaysync.formats.locks import hold_read_lock
from overlaysync.formats.recognition import Vouched
from overlaysync.model.digest import Kind, format_id, short_id
from overlaysync.model.fingerprint import Fingerprint
from overlaysync.model.names import one_field
from overlaysync.model.pages import LoadPage, PageList
from overlaysync.ops.expected import Basis, Expected, expected_at, pledged_at
from overlaysync.ops.hashing import Progress, combine, hash_disk, hash_layer
from overlaysync.ops.local import LocalSource
from overlaysync.store.catalog import Catalog
from overlaysync.store.doubts import Doubt
from overlaysync.store.images import ImageRow

_KEEP_PAGES = 64


@dataclass(frozen=True, slots=True)
class Known:
    """An image whose content is known.

    Attributes:
        path: real path.
        geometry: of the file.
        disk: digests of what the guest sees.
        layer: digests of what an overlay adds; None for a master.
        parent: the image below, None for a master.
        files: fingerprints of the image and all below it, as they were when it was examined.
        notes: what a rebuilt image would not carry over, and what was noted of the file here.
        base: path of the image that an overlay was read over, where that is not the one its header names.
    """

    path: str
    geometry: Geometry
    disk: PageList
    layer: PageList | None
    parent: Known | None
    files: tuple[Fingerprint, ...] = ()
    notes: tuple[str, ...] = ()
    base: str | None = None

    @property
    def content(self) -> PageList:
        """What a manifest of this image describes."""
        return self.layer or self.disk

    @property
    def lineage(self) -> Iterator[Known]:
        """This image and those below it, top first."""
        image: Known | None = self
        while image is not None:
            yield image
            image = image.parent


class Library:
    """Images of this machine, looked at through ``catalog``."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self.load_page: LoadPage = catalog.pages.load_page
        self._vouched = vouched_by(catalog)

    def open(
        self,
        path: str | os.PathLike[str],
        format: Format | None = None,
        *,
        base: str | None = None,
        file: int | None = None,
    ) -> Chain:
        """Open the image at ``path`` and all below it; see :meth:`Chain.open`.

        A file that the catalog has as an image of a format is taken for one again, and one that was named
        before is believed again.
        """
        return Chain.open(
            os.fspath(path), format, self._vouched, base=base, file=file, followed=self._is_followed
        )

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
        fresh: bool = False,
        accept_master: bool = False,
        file: int | None = None,
    ) -> Known:
        """Return what is in the image at ``path``, hashed when it is not known yet.

        Args:
            path: may be a symlink.
            now: seconds since 1970.
            format: what it must be; None to look.
            progress: told of the bytes hashed.
            fresh: hash it whatever is known, and leave what is known as it is.
            accept_master: take an overlay's master for its own, whatever is known of it.
            file: a descriptor of the file, found at the real path ``path``, which is closed in the end; None
                to open it by its name.

        Raises:
            ImageError: it cannot be read.
            BaseImageError: a backing file is missing, or is not the master that the overlay was made on.
            InUseError: a VM writes to it, or it changed while it was read.
        """
        with self.open_quiet(path, format, file=file) as chain:
            return self._examine(chain, now, progress, fresh, accept_master)

    def examine_chain(
        self, chain: Chain, *, now: float, progress: Progress | None = None, accept_master: bool = False
    ) -> Known:
        """Return what is in an image that is open, as :meth:`examine`; the caller holds the locks."""
        return self._examine(chain, now, progress, False, accept_master)

    def expected(self, path: str | os.PathLike[str]) -> Expected | None:
        """Return what the file at ``path`` must hold; None when nothing is known of it."""
        return expected_at(self.catalog, os.path.realpath(path))

    def check_as_published(self, known: Known) -> None:
        """Refuse to put anything on a master that is not what it was published as, or made with.

        Raises:
            BaseImageError: it holds something else.
        """
        expected = self.expected(known.path)
        if expected is None or expected.basis is Basis.READ:
            return
        if expected.ids & {known.content.id, known.disk.id}:
            return
        same = next((row.path for row in self.holders(expected.disk) if row.path != known.path), None)
        here = f"{same} still has the original disk; " if same else ""
        raise BaseImageError(
            f"{known.path} is not {expected.words}",
            why=f"it was {format_id(expected.content)}, and now holds {format_id(known.content.id)}",
            hint=f"{here}to heal it: overlaysync verify --repair '{known.path}'; "
            f"if it was changed on purpose: overlaysync share '{known.path}', as a new version, "
            "or the same command with --accept-master",
        )

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

    def published_contents(self, path: str) -> set[bytes]:
        """Return the contents and disks that the file at a real path held when last fetched or published."""
        held = self.catalog.held.at(path)
        rows = map(self.catalog.manifests.find, held.manifests if held else ())
        return {id for row in rows if row for id in (row.content, row.result) if id}

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
        for pages in filter(None, (known.disk, known.layer)):
            self.catalog.pages.keep_list(pages)

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
            self.check_master(chain, parent)
        known = None if fresh else self.cached(chain, parent)
        if known is None:
            known = self.hash_chain(chain, parent, progress)
            if not fresh:
                self._keep(chain, known.disk, known.layer, now)
        elif progress:
            progress(chain.virtual_size)
        return known

    def check_master(self, chain: Chain, parent: Known) -> None:
        """Refuse a master with other content than the overlay was made on: a guest would see a mixture.

        What the overlay was made on is known once it was fetched, published, made or hashed here. Of one that
        is new here, the master must be as it was fetched, published or made.

        Raises:
            BaseImageError: it is another.
        """
        row = self._row_of(chain)
        if row is not None and row.parent:
            wanted, ids = row.parent, {row.parent}
        else:
            expected = pledged_at(self.catalog, parent.path)
            if expected is None:
                return
            wanted, ids = expected.content, expected.ids
        if not {parent.disk.id, parent.content.id} & ids:
            raise self.other_master(chain.top.real_path, parent, wanted, empty=is_blank(chain.top))

    def _row_of(self, chain: Chain) -> ImageRow | None:
        """Return what is known of the top file, written to or not.

        Or of the file that was moved here as it was.
        """
        file = chain.fingerprints()[0]
        row = self.catalog.images.at(chain.top.real_path)
        if row is not None and row.fingerprint[:2] == file[:2]:
            return row
        # A moved file keeps the time of its last write; only its inode's number may be another file's by now.
        return next((row for row in self.catalog.images.all() if row.fingerprint[:4] == file[:4]), None)

    def other_master(self, path: str, parent: Known, wanted: bytes, *, empty: bool = False) -> BaseImageError:
        """Return the error for an overlay whose master has other content; says where the right one is.

        One that is ``empty`` fits any master, so that the right one must be named.
        """
        here = next((row.path for row in self.holders(wanted) if row.path != parent.path), None)
        manifests = self.catalog.manifests.matching(content=wanted)
        called = f" ({manifests[0].title}, by {one_field(manifests[0].label)})" if manifests else ""
        # Another version that was put there is no damage: healing would put the older one in its place.
        another = self.catalog.manifests.matching(content=parent.content.id)
        if not here and not another and wanted in self.published_contents(parent.path):
            hint = f"overlaysync verify --repair '{parent.path}'"
        else:
            where = f"its master is here as {here}" if here else "its master will be fetched"
            named = f" --master '{here or short_id(wanted)}'" if empty else ""
            hint = f"overlaysync adopt '{path}'{named} ({where})"
        mixed = "what the guest sees would be a mixture of both"
        if empty:
            mixed = "nothing is in the overlay itself; after a qemu-img commit its work is in that file"
        return BaseImageError(
            f"{path} does not stand on its master any more",
            why=f"it was made on {format_id(wanted)}{called}, and {parent.path} now holds "
            f"{format_id(parent.disk.id)}: {mixed}",
            hint=f"{hint}; or, if the master was changed on purpose: the same command with --accept-master",
        )

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
                disk = hash_disk(chain, keeper.keep, progress)
            else:
                layer = layer or hash_layer(chain, parent.disk.id, keeper.keep, progress)
                keeper.flush()
                disk = combine(parent.disk, layer, self.load_page, chain, keeper.keep)
        except ImageError:
            _check_unchanged(chain, before)  # what was cut off or written over meanwhile is no damage
            raise
        keeper.flush()
        _check_unchanged(chain, before)
        path, geometry = chain.top.real_path, chain.top.geometry
        return Known(path, geometry, disk, layer, parent, before, self._notes(chain, layer or disk))

    def doubt_about(self, path: str, file: Fingerprint, content: bytes) -> Doubt | None:
        """Return what was noted of a file, or of its content elsewhere, for want of a proof.

        A guess that was published is still a guess: only a version from before it counts against that.
        """
        doubt = self.catalog.doubts.about(path, file)
        if doubt is not None:
            return doubt
        doubt = self.catalog.doubts.by_content().get(content)
        if doubt is None or any(
            is_before(row.created, doubt) for row in self.catalog.manifests.matching(content=content)
        ):
            return None
        return doubt

    def _notes(self, chain: Chain, content: PageList) -> tuple[str, ...]:
        """Return the remarks on the top image, by its header and by a note of this file or its content."""
        noted = self.doubt_about(chain.top.real_path, chain.fingerprints()[0], content.id)
        return (*chain.top.notes, noted.text) if noted else chain.top.notes

    def _spread_doubt(self, path: str, file: Fingerprint, content: bytes) -> None:
        """Carry the doubt about a file over to what a guest has made of it since."""
        doubt = self.catalog.doubts.about(path, file)
        if doubt is not None and (doubt.path, doubt.file, doubt.content) != (path, file, content):
            self.catalog.doubts.note(replace(doubt, path=path, file=file, content=content))

    def _keep(self, chain: Chain, disk: PageList, layer: PageList | None, now: float) -> ImageRow:
        self.catalog.pages.keep_list(disk)
        if layer is not None:
            self.catalog.pages.keep_list(layer)
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
        self._spread_doubt(row.path, row.fingerprint, row.layer or row.disk)
        return row


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


class PageKeeper:
    """Keeps pages in the catalog, many to a transaction."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._pages: dict[bytes, bytes] = {}

    def keep(self, digest: bytes, body: bytes) -> None:
        self._pages[digest] = body
        if len(self._pages) >= _KEEP_PAGES:
            self.flush()

    def flush(self) -> None:
        if self._pages:
            self._catalog.pages.keep_pages(self._pages)
            self._pages = {}


def is_before(created: str, doubt: Doubt) -> bool:
    """Return whether a version was made (ISO 8601 UTC) before a content was guessed: then it may prove it."""
    return created < doubt.at


def is_blank(image: Image) -> bool:
    """Return whether nothing is written to the image itself."""
    extents = image.extents(0, image.virtual_size)
    return all(extent.kind is Kind.UNALLOCATED for extent in extents)


def is_as_hashed(row: ImageRow) -> bool:
    """Return whether the file itself is as it was hashed, whatever became of its master."""
    try:
        return Fingerprint.of(os.stat(row.path)) == row.fingerprint
    except OSError:
        return False


def is_read_only(path: str) -> bool:
    """Whether nobody has permission to write to the file."""
    return not os.stat(path).st_mode & 0o222
