"""The promise of a publisher: which disk an overlay makes on its master."""

from __future__ import annotations

from dataclasses import dataclass

from overlaysync.errors import VerificationError
from overlaysync.model.digest import short_id
from overlaysync.model.pages import PageList
from overlaysync.ops.hashing import Progress, combine
from overlaysync.ops.known import Known
from overlaysync.ops.library import Library
from overlaysync.ops.page_keeper import PageKeeper
from overlaysync.ops.plan import Step


@dataclass(frozen=True, slots=True)
class PromisedDisk:
    """Holds a finished overlay to the disk that its publisher promised.

    Attributes:
        library: opens it, and keeps the page list of its disk.
        step: what was made.
        pages: its layer.
        base: what it stands on.
        path: of the finished file.
        progress: may end the work with an exception.
    """

    library: Library
    step: Step
    pages: PageList
    base: Known
    path: str
    progress: Progress

    def __call__(self, file: int) -> None:
        """Every byte is as the layer has it; here the disk that it makes is compared.

        Raises:
            VerificationError: it is another, or what it stands on has rotted.
        """
        library, header = self.library, self.step.header
        keeper = PageKeeper(library.catalog)
        with library.open(self.path, self.step.format, file=file) as chain:
            disk = combine(self.base.disk, self.pages, library.load_page, chain, keeper.keep, self.progress)
        keeper.flush()
        if disk.id != header.result_id:
            raise VerificationError(
                f"Cannot fetch '{header.name}'",
                why=f"on its master it gives {short_id(disk.id)}, "
                f"but its publisher promised {short_id(header.result_id)}",
                hint=f"overlaysync verify '{self.base.path}'; "
                "if it is good, ask its publisher to share it again",
            )
        library.catalog.pages.keep_list(disk, like=self.base.disk.id)
