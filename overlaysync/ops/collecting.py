"""Collecting: the images in the directories that a user names, and what is left out of them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch

from overlaysync.formats.recognition import ending_of
from overlaysync.ops.library import image_files


@dataclass(frozen=True, slots=True)
class Rules:
    """What of a directory is taken.

    Attributes:
        recursive: whether its subdirectories are looked into as well.
        exclude: patterns of file names, or of paths below the directory, that are left out.
    """

    recursive: bool = False
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Collected:
    """An image file and the directory it was found in."""

    path: str
    folder: str


def collect(directory: str, rules: Rules) -> Iterator[Collected]:
    """Yield the image files in ``directory``, in order of their paths; links are not followed."""
    for folder in _folders(directory, rules):
        for path in image_files([folder]):
            if not excluded(path, directory, rules.exclude):
                yield Collected(path, folder)


def excluded(path: str, directory: str, patterns: Sequence[str]) -> bool:
    """Whether a pattern fits the file's name, or its path below ``directory``."""
    below = os.path.relpath(path, directory)
    return any(fnmatch(os.path.basename(path), item) or fnmatch(below, item) for item in patterns)


def images_below(directory: str) -> int:
    """Return how many image files lie in the subdirectories of ``directory``."""
    deep = Rules(recursive=True)
    return sum(item.folder != directory for item in collect(directory, deep))


def _folders(directory: str, rules: Rules) -> Iterator[str]:
    yield directory
    if not rules.recursive:
        return
    for root, folders, _ in os.walk(directory):
        paths = [os.path.join(root, name) for name in sorted(folders) if not name.startswith(".")]
        kept = [path for path in paths if not excluded(path, directory, rules.exclude)]
        folders[:] = map(os.path.basename, kept)
        yield from kept


def links_in(directory: str) -> list[str]:
    """Return the names of links in ``directory`` that are named like images; nothing is known of them."""
    try:
        with os.scandir(directory) as entries:
            return sorted(entry.name for entry in entries if entry.is_symlink() and ending_of(entry.name))
    except OSError:
        return []
