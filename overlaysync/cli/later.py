"""Imports modules when they are used: those of the network are slow to import, and few commands need them."""

from __future__ import annotations

import gc
import importlib
from typing import Any


def later(name: str) -> Any:
    """Return the module of that name below :mod:`overlaysync`, imported now if it was not before."""
    # What an import makes stays: to look through it for garbage again and again takes a tenth of the time.
    collects = gc.isenabled()
    gc.disable()
    try:
        return importlib.import_module(f"overlaysync.{name}")
    finally:
        if collects:
            gc.enable()
