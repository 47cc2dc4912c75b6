"""What a check of a vault or an archive found, as it is printed."""

from __future__ import annotations

from typing import Any

from overlaysync.cli.output import Output
from overlaysync.ops.recovery.checking import Checked
from overlaysync.units import format_size


def checked_lines(output: Output, found: Checked) -> list[str]:
    """Return a line for each damaged object, or one that says that there is none."""
    if found.damaged:
        return [f"{one.name}  {one.why}" for one in found.damaged]
    read = format_size(found.read)
    return [output.good(f"{found.objects} objects, {read} read; none is missing or damaged")]


def checked_fields(found: Checked) -> dict[str, Any]:
    """Return the JSON form of what was found."""
    return {
        "objects": found.objects,
        "read": found.read,
        "damaged": [{"name": one.name, "why": one.why} for one in found.damaged],
        "states": list(found.hit),
    }
