"""What a fetch is told, and what it gives."""

from __future__ import annotations

from dataclasses import dataclass, field

from overlaysync.errors import Refusal
from overlaysync.formats.image import Format
from overlaysync.node.download import TransferStats
from overlaysync.ops.again import Again
from overlaysync.ops.choice import Choice
from overlaysync.ops.collecting import excluded
from overlaysync.ops.filling import Filler
from overlaysync.ops.known import Known
from overlaysync.ops.replacement import Rules, Verdict
from overlaysync.ops.versions import State
from overlaysync.store.files import may_write
from overlaysync.trust.envelope import Manifest, open_envelope

_NOTHING_THERE = Verdict()


@dataclass(frozen=True, slots=True)
class Options:
    """How to fetch.

    Attributes:
        to: directory of what is fetched.
        masters: directories to find masters in; missing ones go to the first that can be written, else to
            ``to``.
        name: name of the file instead of the thing's.
        format: format instead of the sender's.
        rules: which files may be replaced.
        trusted_only: whether only publishers count that the user has said to trust.
        wait_s: how long to look for peers.
        all_known: whether of several things those are missed that a team is known to have.
        exclude: patterns of names that are left out of several things.
        again: what a command needs that fetches one of the things into the same places.
        companions: whether the small files come too that a VM needs beside the image.
        fillers: where data is taken from after the images here and before peers, one after the other.
        archives: whether what no peer has is taken from the archives of this node.
    """

    to: str = "."
    masters: tuple[str, ...] = ()
    name: str | None = None
    format: Format | None = None
    rules: Rules = field(default_factory=Rules)
    trusted_only: bool = False
    wait_s: float = 4.0
    all_known: bool = False
    exclude: tuple[str, ...] = ()
    again: Again = field(default_factory=Again)
    companions: bool = True
    fillers: tuple[Filler, ...] = ()
    archives: bool = False

    @property
    def directories(self) -> list[str]:
        """Where images here are looked for."""
        return list(dict.fromkeys([*self.masters, self.to]))

    @property
    def masters_place(self) -> str:
        """Where a missing master goes."""
        return next((path for path in self.masters if may_write(path)), self.to)

    def leaves_out(self, name: str) -> bool:
        """Whether a thing is left out; ``name`` is that of the team, if it is a team's, and its own."""
        return excluded(name, self.exclude)


@dataclass(frozen=True, slots=True)
class Found:
    """What a reference means: what can be had, and what cannot."""

    choices: tuple[Choice, ...]
    refusals: tuple[Refusal, ...] = ()


@dataclass(frozen=True, slots=True)
class Fetched:
    """One image that is now here.

    Attributes:
        manifest: what it is.
        known: the image.
        already: whether it was here before.
        transfer: where its bytes came from.
        verdict: how what was there stood to it.
    """

    manifest: Manifest
    known: Known
    already: bool
    transfer: TransferStats
    verdict: Verdict = _NOTHING_THERE

    @property
    def here(self) -> Manifest:
        """What the file holds: what was asked for, or a version here that follows it."""
        standing = self.verdict.standing
        if self.already and standing is not None and standing.state is State.NEWER:
            return open_envelope(standing.held[0].envelope)
        return self.manifest
