"""What several JSON documents have in common."""

from __future__ import annotations

import msgspec


class Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An object with these fields and no others."""


class Error(Document, frozen=True, kw_only=True):
    """What went wrong."""

    what: str
    why: str
    hint: str
    candidates: list[str]
    exit_code: int


class Refusal(Error, frozen=True, kw_only=True):
    """One of several things that could not be had."""

    name: str


class ErrorDocument(Document, frozen=True, kw_only=True):
    """Of a command that failed and has no other result."""

    error: Error


class Image(Document, frozen=True, kw_only=True):
    """An image on this machine; what is not published has null for all that a publisher says."""

    name: str
    team: str
    path: str
    format: str
    virtual_size: int
    disk: str
    layer: str | None
    parent: str | None
    publisher: str | None
    version: int | None
    manifest: str | None
    follows: list[str]
    created: str | None
    note: str
    fork: bool
    trusted: str | None
    trusted_since: str | None


class UsedAt(Document, frozen=True, kw_only=True):
    """A machine on which a VM writes something."""

    node: str
    address: str
    since: str | None


class Listing(Document, frozen=True, kw_only=True):
    """An image as machines list it."""

    name: str
    team: str
    version: int
    manifest: str
    follows: list[str]
    fork: bool
    format: str
    virtual_size: int
    data_size: int
    disk: str
    layer: str | None
    parent: str | None
    publisher: str
    trusted: str | None
    trusted_since: str | None
    by: str
    created: str
    note: str
    peers: list[str]
    nodes: list[str]
    machines: int
    in_use: bool
    in_use_at: list[UsedAt]


class TrustedName(Document, frozen=True, kw_only=True):
    """A name, and how its publisher is trusted for it."""

    name: str
    team: str
    trusted: str
    trusted_since: str | None


class Publisher(Document, frozen=True, kw_only=True):
    """A publisher, and how it is trusted."""

    publisher: str
    by: str
    trusted: str
    trusted_since: str | None
    all_names: bool
    names: list[TrustedName]


class Trusted(Publisher, frozen=True, kw_only=True):
    """One that is trusted."""


class Distrusted(Document, frozen=True, kw_only=True):
    """A publisher that is distrusted."""

    publisher: str
    by: str
    distrusted_since: str


class KeptKey(Document, frozen=True, kw_only=True):
    """A former key of this machine."""

    fingerprint: str
    path: str
