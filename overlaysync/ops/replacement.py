"""Replacement: may an offered version take the place of what is at its path? Decided before a transfer.

A fast-forward may, when the user says ``--replace``. Unpublished work, a fork and an unknown file may only be
lost on purpose, with ``--discard-changes``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

from overlaysync.errors import BaseImageError, InUseError, OverlaysyncError, WouldDestroyError
from overlaysync.formats.files import open_regular
from overlaysync.formats.locks import in_use_for_writing, writer_of
from overlaysync.model.fingerprint import Fingerprint
from overlaysync.model.names import one_field
from overlaysync.ops.again import Again
from overlaysync.ops.discard import check_unneeded
from overlaysync.ops.known import Known
from overlaysync.ops.library import Library
from overlaysync.ops.loss import would_be_lost
from overlaysync.ops.trust_messages import age, who
from overlaysync.ops.versions import Standing, State, compare
from overlaysync.store.manifests import ManifestRow
from overlaysync.store.target import Entry, entry_at
from overlaysync.trust.envelope import Manifest, open_envelope
from overlaysync.units import format_size

REPLACED = {State.BEHIND, State.FORKED, State.CHANGED, State.UNKNOWN}


@dataclass(frozen=True, slots=True)
class Rules:
    """What the user allows.

    Attributes:
        replace: whether a file may be replaced by a version that follows it.
        discard_changes: whether it may be replaced by any other, and what only it holds be lost.
        forward_only: whether nothing else is replaced, no link and no file of unknown origin.
    """

    replace: bool = False
    discard_changes: bool = False
    forward_only: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to happen at a path.

    Attributes:
        known: the image that is there, when it stays as it is: already here.
        standing: how what is there stands to what is offered; None when nothing is there.
        file: fingerprint of the file that is to be replaced, as it was when it was judged.
        entry: what had the name before it was judged, when that is to be replaced: a link, or a file.
        lost: what would be lost with that file, as :func:`would_be_lost`; "" for nothing.
    """

    known: Known | None = None
    standing: Standing | None = None
    file: Fingerprint | None = None
    entry: Entry | None = None
    lost: str = ""

    @property
    def replaces(self) -> str:
        """What the offered takes the place of, and who else has it, for people; "" for nothing to speak of.

        That a version takes the place of one that it follows goes without saying, unless something is lost.
        """
        if self.known is not None or (self.file is None and not self.lost):
            return ""
        state = self.standing.state if self.standing else State.UNKNOWN
        if state is State.BEHIND and not self.lost:
            return ""
        names = _names(self.standing.held) if self.standing else ""
        if state is State.CHANGED:
            what = f"what was written here since {names}"
        else:
            what = names or "another file"
        side = ", your side of the fork" if state is State.FORKED else ""
        return f"{what}{side} ({self.lost or 'another machine or file is known to have it'})"

    @property
    def superseded(self) -> tuple[bytes, ...]:
        """Ids of the versions that the offered one is chosen over: the next version follows both."""
        forked = self.standing is not None and self.standing.state in (State.FORKED, State.CHANGED)
        return tuple(row.id for row in self.standing.held) if self.standing and forked else ()


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be put at a path, and for whom.

    Attributes:
        offered: what is offered.
        rules: what the user allows.
        own: this node's public key.
        now: seconds since 1970.
        brought: whether it is there for something else to stand on: then nothing is replaced.
        command: the command for what was asked for; None for the offered by its name.
    """

    offered: Manifest
    rules: Rules
    own: bytes
    now: float
    brought: bool = False
    command: Again | None = None

    @property
    def again(self) -> Again:
        """The command for what was asked for."""
        return self.command or Again(self.offered.header.full_name)


def judge(library: Library, path: str, asked: Asked) -> Verdict:
    """Compare what is at ``path`` with what is offered for it.

    Args:
        library: knows the images here.
        path: where the image is to be.
        asked: what is to be put there.

    Raises:
        WouldDestroyError: it may not be replaced.
        InUseError: a VM has it open, and it is not what is offered.
        BaseImageError: it cannot be compared, because its own master is missing or another.
    """
    entry = entry_at(path)
    if entry is None:
        return Verdict()
    offered, rules, brought, again = asked.offered, asked.rules, asked.brought, asked.again
    header = offered.header
    elsewhere = (
        f"to put it beside: {again.fetch('--masters', 'DIR') if brought else again.fetch('--as', 'NAME')}"
    )
    if os.path.islink(path):
        return _judge_link(library, path, replace(asked, rules=Rules()) if brought else asked, entry)
    try:
        known = library.examine(path, now=asked.now)
    except InUseError:
        raise
    except OverlaysyncError as error:
        if rules.discard_changes and not brought:
            check_unneeded(path, library.catalog)
            lost = f"what it holds cannot be compared with other files: {error}"
            return Verdict(standing=Standing(State.UNKNOWN), entry=entry, lost=lost)
        if isinstance(error, BaseImageError):
            raise  # for :func:`judge_stray`, where the right one is here
        raise WouldDestroyError(
            f"{path} exists and cannot be read as an image",
            why=str(error),
            hint=elsewhere if brought else f"{elsewhere}; to lose it: {again.fetch('--discard-changes')}",
        ) from error
    standing = compare(library.catalog, known.path, known.content.id, offered)
    if standing.state in (State.SAME, State.NEWER):
        return Verdict(known, standing)
    if brought:
        raise WouldDestroyError(
            f"{path} exists and is not {header.full_name}:{header.version}", hint=elsewhere
        )
    check_unneeded(path, library.catalog, instead=again.fetch("--as", "NAME"))
    lost = would_be_lost(library, known, own=asked.own, offered=offered)
    if not rules.discard_changes:
        _refuse(known, standing, asked, lost)
    return Verdict(standing=standing, file=known.files[0], entry=entry, lost=lost)


def check_still(path: str, judged: Fingerprint | None) -> None:
    """Refuse to replace a file that was written to while what replaces it was transferred.

    Args:
        path: the file.
        judged: its fingerprint when it was judged; None when nothing in it counts.

    Raises:
        WouldDestroyError: it was written to since.
        InUseError: a VM has it open.
    """
    if judged is None or not os.path.lexists(path):
        return
    fd = open_regular(path)
    try:
        if in_use_for_writing(fd):
            who = writer_of(fd) or "another program"
            raise InUseError(f"{path} is open for writing", why=f"by {who}", hint="shut the VM down first")
        if Fingerprint.of(os.fstat(fd)) != judged:
            raise WouldDestroyError(
                f"{path} was written to while its replacement was transferred",
                hint="the same command again: what was transferred is kept",
            )
    finally:
        os.close(fd)


def judge_stray(library: Library, path: str, asked: Asked, astray: BaseImageError, base: Known) -> Verdict:
    """Judge an overlay that :func:`judge` cannot compare, by what it holds over ``base``.

    One that holds a version as it was published loses nothing when it is written anew, on the right master.

    Args:
        library, path, asked: as for :func:`judge`.
        astray: the error for its own master, which is missing or another.
        base: the image that the offered is to stand on.

    Raises:
        BaseImageError: the user does not allow that, or it holds something else.
        WouldDestroyError, InUseError: it may not be replaced.
    """
    entry = entry_at(path)
    try:
        known = library.examine_over(path, base)
    except BaseImageError:
        raise astray from None
    standing = compare(library.catalog, os.path.realpath(path), known.content.id, asked.offered)
    if standing.state not in (State.SAME, State.BEHIND):
        raise astray
    same = standing.state is State.SAME
    lost = would_be_lost(library, known, own=asked.own, keeping=same, offered=asked.offered)
    if lost and not asked.rules.discard_changes:
        raise astray
    check_unneeded(path, library.catalog)
    if not asked.rules.replace and not asked.rules.discard_changes:
        raise BaseImageError(
            str(astray), why=astray.why, hint=f"to put it on {base.path}: {asked.again.fetch('--replace')}"
        )
    return Verdict(standing=standing, file=known.files[0], entry=entry, lost=lost)


def _judge_link(library: Library, path: str, asked: Asked, entry: Entry) -> Verdict:
    """Return whether a link may be replaced: what it leads to stays where it is."""
    try:
        known = library.examine(path, now=asked.now)
        if known.content.id == asked.offered.header.content_id:
            return Verdict(known, Standing(State.SAME))
    except OverlaysyncError:
        pass  # a relative backing name, say, that leads nowhere from here
    if (asked.rules.replace and not asked.rules.forward_only) or asked.rules.discard_changes:
        return Verdict(standing=Standing(State.UNKNOWN), entry=entry)
    raise WouldDestroyError(
        f"{path} is a link to {os.path.realpath(path)}",
        why=f"it cannot be used there as {asked.offered.header.full_name}:{asked.offered.header.version}",
        hint=f"{asked.again.fetch('--replace')}, which replaces the link and leaves the other file alone",
    )


def _refuse(known: Known, standing: Standing, asked: Asked, lost: str) -> None:
    """Raise what speaks against replacing the file, unless nothing does."""
    rules, again, header = asked.rules, asked.again, asked.offered.header
    new = f"{header.full_name}:{header.version}"
    match standing.state:
        case State.BEHIND if not rules.replace:
            old = _names(standing.held)
            raise WouldDestroyError(
                f"{known.path} holds {old}, and {new} follows it",
                hint=f"to take the newer version: {again.fetch('--replace')}",
            )
        case State.CHANGED:
            raise WouldDestroyError(
                f"{known.path} holds work that was never published",
                why=f"it has been written to since it held {_names(standing.held)}",
                hint=f"to keep it: overlaysync share '{known.path}'; "
                f"to have both: {again.fetch('--as', 'NAME')}; "
                f"to lose it: {again.fetch('--discard-changes')}",
            )
        case State.FORKED:
            raise _fork(known, standing, asked, lost)
    why = lost
    if why and standing.state is State.BEHIND:
        why = f"it holds {_names(standing.held)}, which {new} follows: {lost}"
    if why or not rules.replace or (rules.forward_only and standing.state is not State.BEHIND):
        away = "to lose it" if why else "to replace it"
        option = "--discard-changes" if why else "--replace"
        raise WouldDestroyError(
            f"{known.path} exists and is not {new}",
            why=why,
            hint=f"to have both: {again.fetch('--as', 'NAME')}; {away}: {again.fetch(option)}",
        )


def _fork(known: Known, standing: Standing, asked: Asked, lost: str) -> WouldDestroyError:
    """Both sides of a fork, what they have in common, and what it costs to take the other.

    Outside teams what another publisher calls by the same name is something else, and no other side.
    """
    offered, again, mine = asked.offered, asked.again, next(iter(standing.held))
    name = offered.header.full_name
    stranger = not offered.header.team and mine.publisher != offered.publisher
    common = (
        f"their last common version is {standing.common.title}"
        if standing.common
        else "no common version of theirs is known on this machine"
    )
    return WouldDestroyError(
        f"{known.path} and the '{name}' that is offered come from different publishers"
        if stranger
        else f"'{name}' is forked: neither version follows the other",
        why=f"here    {_side(open_envelope(mine.envelope), asked.now)}\n"
        f"{f'          {lost}{chr(10)}' if lost else ''}"
        f"  there   {_side(offered, asked.now)}\n  {common}",
        hint=f"to have both: {again.fetch('--as', 'NAME')}; "
        f"to take theirs instead of {known.path}{', which is then lost' if lost else ''}: "
        f"{again.fetch('--discard-changes')}",
    )


def _side(manifest: Manifest, now: float) -> str:
    header = manifest.header
    note = f"  “{one_field(header.note)}”" if header.note else ""
    return (
        f"{header.full_name}:{header.version}  {format_size(header.data_size)}  by "
        f"{who(manifest.publisher, header.by)} on {header.created}{age(header.created, now)}{note}"
    )


def _names(rows: Sequence[ManifestRow]) -> str:
    return " and ".join(row.title for row in rows)
