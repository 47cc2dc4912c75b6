"""The paths of images that are written: named by what they are, with the ending of their format."""

from __future__ import annotations

import os

from overlaysync.errors import UsageError
from overlaysync.formats.image import Format
from overlaysync.formats.recognition import ending_of, fits_ending
from overlaysync.model.names import check_name


def image_path(directory: str, name: str, format: Format) -> str:
    """Return where an image goes that the user calls ``name``, with its ending or without.

    Raises:
        UsageError: it is no name, or has another format's ending.
    """
    check_ending(check_name(name), format)
    return os.path.join(directory, name if ending_of(name) else f"{name}.{format.value}")


def check_ending(path: str, format: Format) -> None:
    """Refuse to give an image of ``format`` a name that images of another format have.

    Raises:
        UsageError: ``path`` has such an ending.
    """
    if fits_ending(path, format):
        return
    called, ending = os.path.splitext(os.path.basename(path))
    raise UsageError(
        f"The image is {format.value}, so its name cannot end in {ending}",
        hint=f"call it {called}.{format.value}, or ask for another format with --format, "
        "where the command has that option",
    )
