"""Opening an archive by its URL."""

from __future__ import annotations

import os
from pathlib import Path

from overlaysync.archive.bucket import BucketObjects
from overlaysync.archive.location import Location
from overlaysync.errors import NotFoundError
from overlaysync.vault.directory import DirectoryObjects
from overlaysync.vault.objects import Objects


def open_place(location: Location) -> Objects:
    """Return the objects of an archive; see :class:`BucketObjects` for the errors.

    A directory needs no further package. Nothing is asked of a store yet.
    """
    if location.scheme == "file":
        # Made anew, it would lie on another disk than the one that is meant.
        if not os.path.isdir(location.path):
            raise NotFoundError(
                f"The archive {location} is not there",
                why="there is no such directory",
                hint=f"connect the disk, or make the directory: mkdir '{location.path}'",
            )
        return DirectoryObjects(Path(location.path))
    return BucketObjects(location)
