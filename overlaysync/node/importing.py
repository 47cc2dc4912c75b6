"""Importing modules while the program runs."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """Collect no garbage while modules are imported, and never look for any in what they made.

    What an import makes stays: to look through it again and again for garbage takes a tenth of the time.
    Where all modules were here already, nothing is left out of later collections: that would be a leak.
    """
    collects, before = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > before:
            gc.freeze()
        if collects:
            gc.enable()
