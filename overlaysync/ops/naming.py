"""Naming: which name each image of a share is published under. Pure.

A name stands for one file of a node: two different images never share one, and images that stand on each
other are never numbered as versions of one another. Where that cannot be done without asking, nothing is
published.

Rules:
    1. A file keeps the name it was fetched or published under, and so does its next version.
    2. Else it is called like the file, without the ending; a file with a generic name in a folder that was
       named (``lab/vm01/disk.qcow2``), alone there, is called like the folder.
    3. Of two that would be called alike, the one that stands on the other keeps the name, and the other is
       called by its whole file name (``ubuntu.qcow2`` on ``ubuntu.img``).
    4. An image that is only brought along gives way to one that was asked for.
    5. What is passed on as it was published is in nobody's way: several versions of one thing, and several
       sides of a fork, have one name. Of two files of one thing that were both written to since, the one
       that is called like the thing keeps the name, and the other is called like its file.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from overlaysync.errors import AmbiguousError
from overlaysync.formats.recognition import is_generic
from overlaysync.model.digest import MIN_ID_DIGITS
from overlaysync.model.names import name_from
from overlaysync.ops.again import ShareAgain
from overlaysync.ops.audience import stem

_PLAIN = ShareAgain()


@dataclass(frozen=True, slots=True)
class Candidate:
    """An image that is to get a name.

    Attributes:
        path: real path.
        content: id of what a manifest of it describes.
        asked: whether the user asked for it (else it is brought along by one that stands on it).
        folder: the directory in which it was found; "" when the file itself was named.
        alone: whether it is the only image of that folder.
        below: real paths of the images it stands on.
        given: the name that the user gave; "" for none.
        noted: the name it was fetched or published under before; "" for none.
        fixed: the name in a manifest that an image nobody asked for is passed on with; "" for none.
        passed: whether it is passed on as the version of a noted name that it holds.
    """

    path: str
    content: bytes
    asked: bool = True
    folder: str = ""
    alone: bool = True
    below: tuple[str, ...] = ()
    given: str = ""
    noted: str = ""
    fixed: str = ""
    passed: bool = False

    @property
    def is_new(self) -> bool:
        """Whether it is published anew, and not passed on as it was."""
        return bool(self.given) or not (self.fixed or self.passed)

    @property
    def wish(self) -> str:
        """The name it would have if it were the only one."""
        own = stem(self.path)
        if self.given or self.fixed or self.noted:
            return self.given or self.fixed or self.noted
        if self.folder and self.alone and is_generic(own):
            return name_from(os.path.basename(self.folder))
        return own

    @property
    def is_free(self) -> bool:
        """Whether it may be called something else without a word of the user's."""
        return not (self.given or self.fixed or self.noted)


def assign_names(
    candidates: Iterable[Candidate], taken: Mapping[str, str], *, again: ShareAgain = _PLAIN
) -> dict[str, str]:
    """Return the name of each path.

    Args:
        candidates: all images to be published together.
        taken: names of other files of this node, and their paths.
        again: the command that publishes one of them for the same audience.

    Raises:
        AmbiguousError: two different images would have one name.
    """
    everything = {candidate.path: candidate for candidate in candidates}
    names = {path: candidate.wish for path, candidate in everything.items()}
    for alike in _alike(everything, names):
        for path in _giving_way(alike):
            names[path] = name_from(os.path.basename(path))
    for alike in _alike(everything, names):
        for candidate in alike:
            if candidate.is_free and not candidate.asked:
                names[candidate.path] = (
                    f"{names[candidate.path][:50]}-{candidate.content.hex()[:MIN_ID_DIGITS]}"
                )
    _name_by_folders(everything, names)
    for alike in _alike(everything, names):
        for path in _continuing_elsewhere(alike):
            names[path] = stem(path)
    for alike in _alike(everything, names):
        raise _collision(names[alike[0].path], alike, again)
    for path, name in names.items():
        candidate = everything[path]
        other = taken.get(name, path)
        if other != path and candidate.asked and candidate.is_free and other not in everything:
            raise _taken(name, other, path, again)
    return names


def _alike(everything: Mapping[str, Candidate], names: Mapping[str, str]) -> list[list[Candidate]]:
    """Return the groups of images that cannot have one name; copies of one image are no group."""
    groups: dict[str, list[Candidate]] = {}
    for path, name in names.items():
        groups.setdefault(name, []).append(everything[path])
    return [group for group in groups.values() if _clash(group)]


def _clash(group: Sequence[Candidate]) -> bool:
    """Whether two of one name would be published anew, or one that is no version of what is passed on."""
    new = [candidate for candidate in group if candidate.is_new]
    compared = group if any(candidate.is_free for candidate in new) else new
    return len({candidate.content for candidate in compared}) > 1


def _continuing_elsewhere(alike: Sequence[Candidate]) -> list[str]:
    """Those that go on from a version of a thing beside the file that is called like the thing."""
    going_on = [one for one in alike if one.is_new and not one.given and one.noted]
    elsewhere = [one.path for one in going_on if stem(one.path) != one.noted]
    return elsewhere if len(elsewhere) < len(going_on) else []


def _giving_way(alike: Sequence[Candidate]) -> list[str]:
    """Those of one name that another of them stands on."""
    below = {path for candidate in alike for path in candidate.below}
    return [candidate.path for candidate in alike if candidate.path in below and candidate.is_free]


def _name_by_folders(everything: Mapping[str, Candidate], names: dict[str, str]) -> None:
    """Call files that have one generic name by their folders."""
    for alike in _alike(everything, names):
        if all(item.is_free and is_generic(stem(item.path)) for item in alike):
            for item in alike:
                folder = os.path.basename(os.path.dirname(item.path))
                names[item.path] = name_from(folder if item.alone else f"{folder}-{stem(item.path)}")


def _collision(name: str, alike: Sequence[Candidate], again: ShareAgain) -> AmbiguousError:
    # One that is passed on keeps its name, whatever the user says of others.
    path = min(alike, key=lambda one: (not one.is_new, not one.is_free)).path
    return AmbiguousError(
        f"{len(alike)} different images would be called '{name}'",
        candidates=tuple(candidate.path for candidate in alike),
        hint=f"give one another name: {again.share(path, name='NAME')}",
    )


def _taken(name: str, other: str, path: str, again: ShareAgain) -> AmbiguousError:
    return AmbiguousError(
        f"Another image on this machine is already named '{name}'",
        candidates=(other, path),
        hint=f"{again.share(path, name='NAME')}; or, if it is the next version of the other: "
        f"{again.share(path, name=name)}",
    )
