"""Counts of what a run has tried, one JSON file a test, in the directory that OVERLAYSYNC_COUNTS names.

What stands there has happened in that run; a page on how the project is tested can be made of it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

# Read now: tests take such variables out of the environment.
_DIRECTORY = os.environ.get("OVERLAYSYNC_COUNTS", "")


def record_counts(name: str, **counts: Any) -> None:
    """Write the counts of the test ``name`` (letters, digits, ``-``); nowhere when nobody asked for them."""
    if not _DIRECTORY:
        return
    directory = Path(_DIRECTORY)
    directory.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"test": name} | counts, indent=2, sort_keys=True)
    (directory / f"{name}.json").write_text(f"{text}\n")
