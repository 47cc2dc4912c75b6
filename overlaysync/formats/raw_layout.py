"""The layout of a new raw image: every guest byte at its own offset, and nothing else.

Left out: backing files, which raw cannot have; what is not DATA is a hole and reads as zeros.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from overlaysync.errors import ImageError
from overlaysync.formats.layout import Layout, Target, check_target


class RawLayout(Layout):
    """A raw image. It does not depend on the unit map: slots are not looked at.

    Raises:
        ImageError: the target is out of bounds or has a backing file.
    """

    def __init__(self, target: Target) -> None:
        check_target(target)
        if target.backing_name is not None:
            raise ImageError("a raw image cannot have a backing file", hint="choose qed or qcow2")
        self.target = target
        self.file_size = target.virtual_size

    def locate(self, first_slot: int, units: NDArray[np.int64]) -> NDArray[np.int64]:
        if len(units) and not 0 <= units[0] <= units[-1] < self.target.unit_count:
            raise IndexError(f"units {units[0]}..{units[-1]} of {self.target.unit_count}")
        offsets: NDArray[np.int64] = units * self.target.unit
        return offsets

    def metadata(self) -> Iterator[tuple[int, bytes]]:
        yield from ()
