"""Masters: whether one is what the overlays on it were made on, and what it was published as."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from overlaysync.errors import BaseImageError
from overlaysync.formats.chain import Chain
from overlaysync.model.digest import format_id, short_id
from overlaysync.model.names import one_field
from overlaysync.ops.expected import Basis, expected_at, pledged_at, published_contents
from overlaysync.ops.known import Known, is_blank
from overlaysync.store.catalog import Catalog
from overlaysync.store.images import ImageRow


class Masters:
    """Judges masters by what the catalog says of them.

    Args:
        catalog: what is known.
        holders: finds the images here whose guest sees a disk.
    """

    def __init__(self, catalog: Catalog, holders: Callable[[bytes], Iterator[ImageRow]]) -> None:
        self._catalog = catalog
        self._holders = holders

    def check_as_published(self, known: Known) -> None:
        """Refuse to put anything on a master that is not what it was published as, or made with.

        Raises:
            BaseImageError: it holds something else.
        """
        expected = expected_at(self._catalog, known.path)
        if expected is None or expected.basis is Basis.READ:
            return
        if expected.ids & {known.content.id, known.disk.id}:
            return
        same = next((row.path for row in self._holders(expected.disk) if row.path != known.path), None)
        here = f"{same} still has the original disk; " if same else ""
        raise BaseImageError(
            f"{known.path} is not {expected.words}",
            why=f"it was {format_id(expected.content)}, and now holds {format_id(known.content.id)}",
            hint=f"{here}to heal it: overlaysync verify --repair '{known.path}'; "
            f"if it was changed on purpose: overlaysync share '{known.path}', as a new version, "
            "or the same command with --accept-master",
        )

    def check_below(self, chain: Chain, parent: Known) -> None:
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
            expected = pledged_at(self._catalog, parent.path)
            if expected is None:
                return
            wanted, ids = expected.content, expected.ids
        if not {parent.disk.id, parent.content.id} & ids:
            raise self._another(chain.top.real_path, parent, wanted, empty=is_blank(chain.top))

    def _row_of(self, chain: Chain) -> ImageRow | None:
        """Return what is known of the top file, written to or not.

        Or of the file that was moved here as it was.
        """
        file = chain.fingerprints()[0]
        row = self._catalog.images.at(chain.top.real_path)
        if row is not None and row.fingerprint[:2] == file[:2]:
            return row
        # A moved file keeps the time of its last write; only its inode's number may be another file's by now.
        return self._catalog.images.last_of(file)

    def _another(self, path: str, parent: Known, wanted: bytes, *, empty: bool = False) -> BaseImageError:
        """Return the error for an overlay whose master has other content; says where the right one is.

        One that is ``empty`` fits any master, so that the right one must be named.
        """
        here = next((row.path for row in self._holders(wanted) if row.path != parent.path), None)
        manifests = self._catalog.manifests.matching(content=wanted)
        called = f" ({manifests[0].title}, by {one_field(manifests[0].label)})" if manifests else ""
        # Another version that was put there is no damage: healing would put the older one in its place.
        another = self._catalog.manifests.matching(content=parent.content.id)
        if not here and not another and wanted in published_contents(self._catalog, parent.path):
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
