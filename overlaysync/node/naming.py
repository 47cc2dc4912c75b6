"""Names for the images of a share: given by the user, noted, or made of the files' own names."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass

from overlaysync.errors import (
    AmbiguousError,
)
from overlaysync.formats.folders import Found
from overlaysync.model.names import check_name
from overlaysync.node.gathering import Wishes
from overlaysync.node.node import Node
from overlaysync.node.observer import Observer
from overlaysync.ops.audience import stem
from overlaysync.ops.expected import published_contents
from overlaysync.ops.known import Known
from overlaysync.ops.naming import Candidate, assign_names


@dataclass(frozen=True, slots=True)
class Naming:
    """Names the images of one share.

    Attributes:
        node: knows what names there are.
        wishes: what the user said.
        team: whom the share is for: a team, "" for everybody, None for the audience that each had so far.
        observer: is told of names that surprise.
    """

    node: Node
    wishes: Wishes
    team: str | None
    observer: Observer

    def names(
        self,
        known: Mapping[str, Known],
        found: Mapping[str, Found],
        team: str | None,
        *,
        shared: Iterable[Known],
        left_out: Container[str],
    ) -> dict[str, str]:
        """Return the name of each image to be published, and of all that they stand on.

        Args:
            known: the images, by path.
            found: how they were found.
            team: whom they are for, as for the share.
            shared: what is shared already.
            left_out: paths of what was found and is not shared.
        """
        present = {image.path: image for image in shared}
        images = {image.path: image for top in (*present.values(), *known.values()) for image in top.lineage}
        in_folder = Counter(
            item.folder for path, item in found.items() if item.folder and path not in left_out
        )
        candidates = []
        for path, image in images.items():
            asked, folder = path in found, found[path].folder if path in found else ""
            noted = self.node.catalog.held.at(path)
            passed_on = None if asked else self.node.publisher.passed_on(image, team)
            candidates.append(
                Candidate(
                    path=path,
                    content=image.content.id,
                    asked=asked,
                    folder=folder,
                    alone=in_folder[folder] == 1,
                    below=tuple(below.path for below in list(image.lineage)[1:]),
                    given=self._given(path, found),
                    noted=noted.name if noted else "",
                    fixed=passed_on.header.name if passed_on else "",
                    passed=self.node.publisher.held_version(image, team) is not None,
                )
            )
        names = assign_names(candidates, self._taken(images), again=self.wishes.again)
        for candidate in candidates:
            name = names[candidate.path]
            if candidate.asked and name not in (stem(candidate.path), candidate.given, candidate.noted):
                self.observer.note(f"  {candidate.path} is called '{name}'")
        return names

    def _given(self, path: str, found: Mapping[str, Found]) -> str:
        """Return the name that the user gave, which fits one image only."""
        if not self.wishes.name or path not in found:
            return ""
        if len(found) > 1:
            raise AmbiguousError(
                "--as names one image, and several are to be shared",
                candidates=tuple(found),
                hint=self.wishes.again.share("PATH"),
            )
        return check_name(self.wishes.name)

    def _taken(self, images: Mapping[str, Known]) -> dict[str, str]:
        """Names of other files of this node, and their paths; copies of what is to be shared do not count."""
        contents = {image.content.id for image in images.values()}
        return {
            held.name: held.path
            for held in self.node.catalog.held.all()
            if held.path not in images
            and (self.team is None or held.team == self.team)
            and os.path.exists(held.path)
            and not contents & published_contents(self.node.catalog, held.path)
        }
