"""Publish: describe an image and everything below it in signed manifests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Protocol

import msgspec

from overlaysync.errors import NotAllowedError, UsageError
from overlaysync.formats.image import WRITTEN, Format, copied_as
from overlaysync.model.companions import CompanionFile
from overlaysync.model.datamap import DataMap
from overlaysync.model.digest import Kind, format_id, kinds_of
from overlaysync.model.history import History
from overlaysync.model.manifest import MAX_FOLLOWS, MAX_VERSION, Header
from overlaysync.model.names import check_name
from overlaysync.model.pages import LoadPage, PageList
from overlaysync.model.pin import Pin
from overlaysync.ops.again import PUBLIC, ShareAgain
from overlaysync.ops.audience import Audiences, Origin, stem
from overlaysync.ops.known import Known
from overlaysync.ops.library import Library
from overlaysync.ops.manifest_rows import manifest_row
from overlaysync.store.held import Held
from overlaysync.store.manifests import ManifestRow
from overlaysync.trust.envelope import Manifest, open_envelope, sign_header
from overlaysync.trust.keys import NodeKey
from overlaysync.trust.teams import Team
from overlaysync.units import CHUNK

_NO_TEAMS: Mapping[str, Team] = MappingProxyType({})
_NO_NAMES: Mapping[str, str] = MappingProxyType({})
_PLAIN = ShareAgain()
_OPENED = 4096
"""Manifests remembered: each of a large share is needed several times, and all others in between."""


class Companions(Protocol):
    """Gives the companions of an image."""

    def __call__(self, image: str, *, public: bool) -> tuple[CompanionFile, ...]:
        """Return those of the image at a real path; ``public``: without what is secret."""
        ...


def _no_companions(image: str, *, public: bool) -> tuple[CompanionFile, ...]:  # noqa: ARG001 - see Companions
    return ()


@dataclass(frozen=True, slots=True)
class Edition:
    """What is said of versions that are published together.

    Attributes:
        created: ISO 8601 UTC.
        note, continues: of the topmost, as for :meth:`Publisher.publish`.
        again: the command that errors print.
    """

    created: str
    note: str = ""
    continues: bool = False
    again: ShareAgain = _PLAIN


class Publisher:
    """Makes manifests in the name of one node.

    Args:
        library: where images and manifests are known.
        key: signs.
        label: ``user@host-abc234``, for people.
        teams: those the node is in, by name.
        companions: gives the companions of the image at a path, for everybody or for a team.
    """

    def __init__(
        self,
        library: Library,
        key: NodeKey,
        label: str,
        teams: Mapping[str, Team] = _NO_TEAMS,
        companions: Companions = _no_companions,
    ) -> None:
        self._library = library
        self._key = key
        self._label = label
        self._teams = teams
        self._companions = companions
        self._opened: Callable[[bytes], Manifest] = lru_cache(_OPENED)(open_envelope)
        self._audiences = Audiences(library.catalog, self._belongs)

    def publish(
        self,
        known: Known,
        *,
        team: str | None,
        created: str,
        name: str | None = None,
        note: str = "",
        continues: bool = False,
    ) -> Manifest:
        """Return the manifest of ``known``: the one its file holds, or a new version that follows it.

        When this node signed it, a public name that belongs to no publisher here yet becomes its own.

        Args:
            known: the image.
            team: whom it is for, "" for everybody; None keeps the audience that the file or its content
                already has, and what is new is for those who have the image below.
            created: ISO 8601 UTC.
            name: instead of the one the file was published under, or its stem.
            note: what the user says of this version.
            continues: whether a file that held nothing yet is the next version of what another file holds
                under this name.

        Raises:
            NotAllowedError: this node is not in the team.
        """
        name = check_name(name or self.name_of(known.path))
        team = self.audience(known, name) if team is None else team
        manifest = self._manifest(known, team, name, created, note, continues)
        header, key = manifest.header, self._key.public
        if manifest.publisher == key and not header.team:
            pin = Pin("", header.name, key, created, label=self._label)
            self._library.catalog.pins.pin_first(pin)
        return manifest

    def name_of(self, path: str) -> str:
        """Return the name a file is published under: what it was published under before, else its stem."""
        held = self._library.catalog.held.at(path)
        return held.name if held else stem(path)

    def publish_lineage(
        self,
        known: Known,
        *,
        team: str | None,
        edition: Edition,
        names: Mapping[str, str] = _NO_NAMES,
    ) -> list[tuple[Known, Manifest]]:
        """Return the manifests of ``known`` and of all images below it, top first.

        An image below keeps a manifest that is known for its content, whatever its name; its name is not
        pinned to this node, since nobody asked to publish it.

        Args:
            known: the image that was asked for.
            team: as for :meth:`publish`.
            edition: what is said of the new versions.
            names: by path, where a file is to be called other than by :meth:`name_of`.

        Raises:
            NotAllowedError: this node is not in the team, or the team cannot get an image below.
        """
        created, again = edition.created, edition.again
        name = names.get(known.path) or self.name_of(known.path)
        team = self.audience(known, name, again) if team is None else team
        below = [
            (image, self._below(known, image, team, created, names.get(image.path), again))
            for image in reversed(list(known.lineage)[1:])
        ]
        for image, manifest in below:
            if manifest.header.team not in ("", team):
                raise self._out_of_reach(known, image, team, manifest.header.team, again)
        note, continues = edition.note, edition.continues
        top = self.publish(known, team=team, created=created, name=name, note=note, continues=continues)
        return [(known, top), *reversed(below)]

    def passed_on(self, known: Known, team: str | None) -> Manifest | None:
        """Return the manifest that an image nobody asked for is passed on with; None when there is none.

        One that ``team`` can see comes first; None stands for any team.
        """
        manifests = self._mine(self._library.catalog.manifests.matching(content=known.content.id))
        if not manifests:
            return None
        return min(manifests, key=lambda manifest: manifest.header.team not in ("", team))

    def held_version(self, known: Known, team: str | None) -> Manifest | None:
        """Return the version that a file holds and passes on; None when it would be published anew.

        ``team`` is whom it is to be for; None for whom it was.
        """
        held = self._library.catalog.held.at(known.path)
        if held is None or team not in (None, held.team):
            return None
        found = map(self._library.catalog.manifests.find, held.manifests)
        rows = [row for row in found if row and (row.team, row.name) == (held.team, held.name)]
        rows = [row for row in rows if self._belongs(row)]
        unchanged = rows and all(row.content == known.content.id for row in rows)
        return self._opened(rows[0].envelope) if unchanged else None

    def _below(
        self, known: Known, image: Known, team: str, created: str, name: str | None, again: ShareAgain
    ) -> Manifest:
        """Return the manifest of an image that ``known`` stands on.

        Raises:
            NotAllowedError: it was for another team so far, and the user has not named it now.
        """
        manifest = self.passed_on(image, team)
        if manifest is not None:
            return manifest
        name = check_name(name or self.name_of(image.path))
        owner = self.known_audience(image)
        if owner and (owner != team or self._audiences.left_team(image, name)):
            raise self._out_of_reach(known, image, team, owner, again)
        return self._manifest(image, team, name, created, "", False)

    def _out_of_reach(
        self, known: Known, image: Known, team: str, owner: str, again: ShareAgain
    ) -> NotAllowedError:
        whom = f"team '{team}'" if team else "everybody"
        audience = ("--team", team) if team else PUBLIC
        both = f"share both: {again.share(image.path, known.path, audience=audience)}"
        if not team and owner in self._teams:
            theirs = again.share(known.path, audience=("--team", owner))
            both = f"with that team: {theirs}; or, to make public what is the team's, {both}"
        return NotAllowedError(
            f"Cannot share {known.path} with {whom}",
            why=f"its master {image.path} is shared with team '{owner}' only, or holds data of that team",
            hint=both,
        )

    def _manifest(
        self, known: Known, team: str, name: str, created: str, note: str, continues: bool
    ) -> Manifest:
        if team and team not in self._teams:
            raise NotAllowedError(
                f"Cannot publish for team '{check_name(team, 'team')}'",
                why="this machine is not in that team",
                hint=f"overlaysync team join {team}",
            )
        header = self._header(known, name, team, created, note)
        likeness = self._likeness(known)
        history = History(self._library.catalog.manifests.versions(team, name))

        def of_mine(rows: Sequence[ManifestRow]) -> list[ManifestRow]:
            """Return the newest first, and of several publishers' this node's own."""
            return sorted(
                (row for row in rows if self._belongs(row)),
                key=lambda row: (row.publisher != self._key.public, -row.version),
            )

        def decide(held: Sequence[ManifestRow], same: Sequence[ManifestRow]) -> ManifestRow:
            held = [row for row in held if self._belongs(row)]
            if held:
                if all(row.content == known.content.id for row in held) and self._has_all(held[0], header):
                    return held[0]
                before = {row.id for row in held} | history.before(*(row.id for row in held))
                if moved_here := of_mine(
                    [row for row in same if row.id not in before and self._has_all(row, header)]
                ):
                    return moved_here[0]
                first = max(held, key=lambda row: likeness.get(row.id, 0))
                others = sorted(row.id.hex() for row in held[:MAX_FOLLOWS] if row.id != first.id)
                follows = (first.id.hex(), *others[: MAX_FOLLOWS - 1])
                version = _next(name, max(row.version for row in held))
                return self._sign(msgspec.structs.replace(header, version=version, follows=follows))
            # Another copy of what is known.
            copies = of_mine([row for row in same if self._has_all(row, header)])
            return copies[0] if copies else self._sign(header)

        as_held = Held(known.path, team, name, (), known.files[0])
        row = self._library.catalog.publish(as_held, known.content.id, decide, continues=continues)
        return self._opened(row.envelope)

    def _likeness(self, known: Known) -> dict[bytes, int]:
        """Return how many units an image has in common with each version that its file holds.

        After a fork was settled a file holds both sides, and the user may have written either of them to it.
        """
        catalog = self._library.catalog
        noted = catalog.held.at(known.path)
        if noted is None or len(noted.manifests) < 2:
            return {}
        rows = [row for row in map(catalog.manifests.find, noted.manifests) if row]
        lists = [(row.id, catalog.pages.load_list(row.content)) for row in rows]
        load = self._library.load_page
        return {id: units_alike(known.content, other, load) for id, other in lists if other}

    def _sign(self, header: Header) -> ManifestRow:
        return manifest_row(sign_header(header, self._key, self._teams.get(header.team)))

    def _belongs(self, row: ManifestRow) -> bool:
        return self._opened(row.envelope).belongs(self._teams)

    def _mine(self, rows: Iterable[ManifestRow]) -> list[Manifest]:
        """Those that this node may see, newest first."""
        opened = (self._opened(row.envelope) for row in rows)
        return [manifest for manifest in opened if manifest.belongs(self._teams)]

    def _has_all(self, row: ManifestRow, header: Header) -> bool:
        """Whether a version has all companions that the image has now; more it may have.

        Who fetched an image and has lost a companion since still passes on that version.
        """
        theirs = {(one.role, one.digest) for one in self._opened(row.envelope).header.companions}
        return all((one.role, one.digest) in theirs for one in header.companions)

    def audience(self, known: Known, name: str, again: ShareAgain = _PLAIN) -> str:
        """Return whom an image is for when the user does not say.

        Raises:
            NotAllowedError: it, or its master, was for a team that this machine has left; or it holds a
                team's data, and whom it is for is for the user to say.
        """
        return self._audiences.choose(known, name, self.name_of, again)

    def known_audience(self, known: Known) -> str | None:
        """Return whom an image was for so far: a team, "" for everybody, None when nothing is known of it."""
        return self._audiences.known(known, self.name_of(known.path))

    def origin(self, known: Known) -> Origin | None:
        """Return whom an image was for so far, or whose data it holds; None when nothing is known of it."""
        return self._audiences.origin(known, self.name_of(known.path))

    def _header(self, known: Known, name: str, team: str, created: str, note: str) -> Header:
        """Return the header of a first version."""
        content = known.content
        layer = known.layer is not None
        compression = None if layer else known.geometry.compression
        return Header(
            kind="layer" if layer else "disk",
            team=team,
            name=name,
            version=1,
            id=format_id(content.id),
            virtual_size=content.virtual_size,
            unit=content.unit,
            data_size=DataMap(content, self._library.load_page).size,
            list_size=len(content.encode()),
            parent=format_id(content.parent) if content.parent else "",
            parent_name=self.name_of(known.parent.path) if known.parent else "",
            result=format_id(known.disk.id),
            format=copied_as(known.geometry.format).value,
            cluster_size=rebuilt_cluster_size(known),
            compression="" if compression is None else str(compression),
            compressed_size=0 if compression is None else known.files[0].size,
            created=created,
            by=self._label,
            note=note,
            companions=self._companions(known.path, public=not team),
        )


def _next(name: str, version: int) -> int:
    """Return the number of a version that follows one with that number.

    Raises:
        UsageError: there is no higher number.
    """
    if version >= MAX_VERSION:
        raise UsageError(
            f"There is no next version of '{name}'",
            why=f"{MAX_VERSION} is the highest number that a version can have",
            hint="publish the file under another name: share --as NAME",
        )
    return version + 1


def rebuilt_cluster_size(known: Known) -> int:
    """Return the cluster size of a faithful copy: the sender's, or the granule where it has subclusters."""
    geometry = known.geometry
    if geometry.format is Format.RAW or geometry.format not in WRITTEN:
        return CHUNK
    if geometry.subcluster_size < geometry.cluster_size:
        return known.content.unit if known.layer else geometry.cluster_size
    return geometry.cluster_size


def units_alike(left: PageList, right: PageList, load: LoadPage) -> int:
    """Return how many units of data two contents have in common at the same place."""
    if left.unit != right.unit:
        return 0
    count = 0
    for index in set(left.indices) & set(right.indices):
        ours, theirs = left.load(index, load), right.load(index, load)
        length = min(len(ours), len(theirs))
        same = (ours[:length] == theirs[:length]).all(axis=1) & (kinds_of(ours[:length]) == Kind.DATA)
        count += int(same.sum())
    return count
