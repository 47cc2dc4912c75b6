"""The JSON documents of the commands for machines, teams, trust, keys and the service."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, UnsetType

from overlaysync.cli.documents_parts import Distrusted, Document, Error, KeptKey, Publisher, Trusted


class ServiceDocument(Document, frozen=True, kw_only=True):
    """Of service run, when it is ready."""

    node: str
    port: int
    interfaces: str
    shared: list[str]
    keeps: list[str]
    pushes: list[str]


class InstalledDocument(Document, frozen=True, kw_only=True):
    """Of service install."""

    unit: str
    settings: str
    written: list[str]
    started: bool
    undo: str


class ServiceStatusDocument(Document, frozen=True, kw_only=True):
    """Of service status."""

    installed: bool
    unit: str | None
    state: str | None
    enabled: bool | None
    status: str
    pid: int | None
    restarts: int
    problem: str
    settings: dict[str, Any]


class RemovedDocument(Document, frozen=True, kw_only=True):
    """Of service remove."""

    removed: list[str]
    settings: str


class PeerRow(Document, frozen=True, kw_only=True):
    """A machine within reach."""

    node: str
    id: str
    address: str
    images: int
    in_use: int
    problem: str


class PeersDocument(Document, frozen=True, kw_only=True):
    """Of peers."""

    peers: list[PeerRow]
    error: Error | UnsetType = UNSET


class ServedPage(Document, frozen=True, kw_only=True):
    """The web page of a share that runs; the link has its token."""

    address: str
    port: int
    link: str


class PageDocument(Document, frozen=True, kw_only=True):
    """Of page."""

    pages: list[ServedPage]


class NameBefore(Document, frozen=True, kw_only=True):
    """To which publisher a name belonged."""

    name: str
    team: str
    publisher: str


class TrustsDocument(Document, frozen=True, kw_only=True):
    """Of trust without a publisher."""

    trusted: list[Trusted]
    distrusted: list[Distrusted]


class TrustDocument(Document, frozen=True, kw_only=True):
    """Of trust for a publisher."""

    trusted: Trusted
    before: list[NameBefore]
    was_distrusted: bool


class UntrustDocument(Document, frozen=True, kw_only=True):
    """Of untrust."""

    untrusted: Trusted


class DistrustDocument(Document, frozen=True, kw_only=True):
    """Of distrust."""

    distrusted: Distrusted
    before: Publisher


class TeamCreatedDocument(Document, frozen=True, kw_only=True):
    """Of team create."""

    team: str
    code: str
    tag: str


class TeamJoinedDocument(Document, frozen=True, kw_only=True):
    """Of team join."""

    team: str
    tag: str
    new: bool


class Held(Document, frozen=True, kw_only=True):
    """What a member has."""

    name: str
    version: int
    kind: str


class MemberRow(Document, frozen=True, kw_only=True):
    """A member of a team."""

    node: str
    id: str
    you: bool
    seen_at: str | None
    masters: int
    overlays: int
    holds: list[Held]


class TeamRow(Document, frozen=True, kw_only=True):
    """A team."""

    team: str
    tag: str
    since: str
    members: list[MemberRow]


class TeamsDocument(Document, frozen=True, kw_only=True):
    """Of team show."""

    teams: list[TeamRow]


class TeamLeftDocument(Document, frozen=True, kw_only=True):
    """Of team leave."""

    team: str
    own: list[str]
    others: list[str]
    elsewhere: list[str]
    left: bool


class KeyDocument(Document, frozen=True, kw_only=True):
    """Of key show."""

    fingerprint: str
    label: str
    path: str
    hardware: list[str]
    anywhere: bool
    former: list[KeptKey]


class NewKeyDocument(Document, frozen=True, kw_only=True):
    """Of key new and key restore."""

    fingerprint: str
    former: KeptKey | None


class CheckRow(Document, frozen=True, kw_only=True):
    """One check of the doctor."""

    name: str
    state: str
    meaning: str
    advice: str


class DoctorDocument(Document, frozen=True, kw_only=True):
    """Of doctor."""

    checks: list[CheckRow]
    exit_code: int


class VersionDocument(Document, frozen=True, kw_only=True):
    """Of --version."""

    version: str


MACHINE_DOCUMENTS: dict[str, tuple[type[Any], ...]] = {
    "--version": (VersionDocument,),
    "distrust": (DistrustDocument,),
    "doctor": (DoctorDocument,),
    "key new": (NewKeyDocument,),
    "key restore": (NewKeyDocument,),
    "key show": (KeyDocument,),
    "page": (PageDocument,),
    "peers": (PeersDocument,),
    "service install": (InstalledDocument,),
    "service remove": (RemovedDocument,),
    "service run": (ServiceDocument,),
    "service status": (ServiceStatusDocument,),
    "team create": (TeamCreatedDocument,),
    "team join": (TeamJoinedDocument,),
    "team leave": (TeamLeftDocument,),
    "team show": (TeamsDocument,),
    "trust": (TrustsDocument, TrustDocument),
    "untrust": (UntrustDocument,),
}
