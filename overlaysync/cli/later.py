"""Imports modules when they are used: those of the network are slow to import, and few commands need them."""

from __future__ import annotations

import importlib
from typing import Any

from overlaysync.node.importing import importing


def later(name: str) -> Any:
    """Return the module of that name below :mod:`overlaysync`, imported now if it was not before."""
    with importing():
        return importlib.import_module(f"overlaysync.{name}")
