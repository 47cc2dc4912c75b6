"""Collecting: the images in the directories that a user names, and what is left out of them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch

from overlaysync.formats.folders import Folder, Found
from overlaysync.formats.recognition import ending_of


@dataclass(frozen=True, slots=True)
class Rules:
    """What of a directory is taken.

    Attributes:
        recursive: whether its subdirectories are looked into as well.
        exclude: patterns of file names, or of paths below the directory, that are left out.
    """

    recursive: bool = False
    exclude: tuple[str, ...] = ()


def collect(directory: Folder, rules: Rules) -> Iterator[Found]:
    """Yield the image files in ``directory``; links are not followed."""

    def enter(below: str) -> bool:
        return rules.recursive and not excluded(below, rules.exclude)

    for found in directory.images(enter):
        if not excluded(found.below, rules.exclude):
            yield found


def excluded(below: str, patterns: Sequence[str]) -> bool:
    """Whether a pattern fits the file's name, or its path below the directory that was named."""
    return any(fnmatch(os.path.basename(below), item) or fnmatch(below, item) for item in patterns)


def images_below(directory: Folder) -> int:
    """Return how many image files lie in the subdirectories of ``directory``."""
    return sum(os.sep in found.below for found in collect(directory, Rules(recursive=True)))


def links_in(directory: Folder) -> list[str]:
    """Return the names of links in ``directory`` that are named like images; nothing is known of them."""
    return [name for name in directory.links() if ending_of(name)]
