"""Sync: bring what is named to its newest version, once or for as long as it is watched.

Only what is absent is fetched, and only what is unchanged is moved forward. Forks, local work and what cannot
be had are refusals, and their files stay as they are. What is watched is passed on by a replica. Left out:
what is printed.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from overlaysync.errors import OverlaysyncError, Refusal, UsageError
from overlaysync.model.fingerprint import Fingerprint
from overlaysync.model.reference import Reference
from overlaysync.node.collection import Brought, Collection, Planned
from overlaysync.node.fetch_types import Fetched, Options
from overlaysync.node.fetching import Fetch
from overlaysync.ops.again import Again
from overlaysync.ops.choice import Choice
from overlaysync.ops.replacement import Rules

RULES = Rules(replace=True, forward_only=True)
"""What sync may replace."""

POLL_S = 5.0
"""How often peers are asked whose changes are not announced, and files are looked at."""

_AGAIN_WAIT_S = 0.5
"""How long a later round waits for what is not within reach: the next one comes soon."""


def check_followable(reference: Reference, again: Again) -> None:
    """Refuse what has no newest version.

    Raises:
        UsageError: it is an id or names a version.
    """
    if reference.id_prefix is not None or reference.version is not None:
        name = "NAME" if reference.id_prefix is not None else str(replace(reference, version=None))
        newest = again.about(name).sync()
        raise UsageError(
            f"'{reference}' names one version, but sync always brings the newest",
            hint=f"{again.about(str(reference)).fetch()}; or, for the newest: {newest}",
        )


@dataclass(frozen=True, slots=True)
class Round:
    """How everything that is named stands.

    Attributes:
        brought: what is at its newest version here.
        refusals: what is not, and why.
    """

    brought: tuple[Brought, ...]
    refusals: tuple[Refusal, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """What is different from the round before.

    Attributes:
        fetched: an image that was fetched or moved forward, or is at its newest version again; else None.
        refusal: why something is not at its newest version; else None.
    """

    fetched: Fetched | None = None
    refusal: Refusal | None = None


@dataclass(slots=True)
class Sync:
    """Brings what ``references`` mean to its newest version, again and again.

    Attributes:
        fetch: does one thing.
        references: what is named.
        looked: called after the first search.
        planned: told of the steps of each thing, in the first round.
        last: how everything stood after the last round.
    """

    fetch: Fetch
    references: Sequence[Reference]
    looked: Callable[[], None] = lambda: None
    planned: Planned = lambda _, __: None
    last: Round = field(default_factory=lambda: Round((), ()))
    _settled: dict[str, tuple[Brought, Fingerprint]] = field(default_factory=dict)
    _asked: float = 0.0

    async def first(self) -> Round:
        """Bring everything, and return how it stands."""
        collection = Collection(self.fetch, planned=self.planned)
        self.last = await self._round(collection, self.looked)
        self.fetch.options = replace(self.fetch.options, wait_s=_AGAIN_WAIT_S)
        return self.last

    async def again(self) -> list[Change]:
        """Bring what has changed since the last round, and return what is different now."""
        before, self.last = self.last, await self._round(Collection(self.fetch))
        return [*_forward(before, self.last), *_refused(before, self.last)]

    async def news(self) -> None:
        """Wait until something may have changed: a peer was heard of, or it is time to look."""
        reach, loop = self.fetch.reach, asyncio.get_running_loop()
        await reach.changes(wait_s=POLL_S)
        if loop.time() >= self._asked + POLL_S:
            reach.polling.ask_again()
            self._asked = loop.time()

    async def _round(self, collection: Collection, looked: Callable[[], None] = lambda: None) -> Round:
        choices: list[Choice] = []
        try:
            choices = await collection.find(self.references)
        except OverlaysyncError as error:
            collection.refusals.append(Refusal(str(self.references[0]), error))
        looked()
        brought = [one for choice in choices if (one := await self._bring(collection, choice)) is not None]
        return Round(tuple(brought), tuple(collection.refusals))

    async def _bring(self, collection: Collection, choice: Choice) -> Brought | None:
        """Bring one thing, unless it is here and its file is as it was."""
        name = choice.manifest.header.full_name
        settled = self._settled.pop(name, None)
        if settled is not None:
            brought, file = settled
            same = brought.choice.manifest.id == choice.manifest.id
            if same and _fingerprint(brought.fetched[-1].known.path) == file:
                self._settled[name] = settled
                return brought
        done = await collection.bring(choice)
        if done is not None and done.fetched:
            known = done.fetched[-1].known
            if known.files:
                self._settled[name] = (done, known.files[0])
        return done


def sync_options(
    to: str, masters: Sequence[str], *, exclude: Sequence[str], wait_s: float, again: Again
) -> Options:
    """Return the options of a fetch that only moves forward."""
    return Options(
        to=to,
        masters=tuple(masters),
        rules=RULES,
        wait_s=wait_s,
        all_known=True,
        exclude=tuple(exclude),
        again=again,
    )


def _forward(before: Round, now: Round) -> list[Change]:
    """Return what came, and what is no longer refused."""
    known = {one.choice.manifest.id: one for one in before.brought}
    changes = []
    for one in now.brought:
        if known.get(one.choice.manifest.id) is not one:
            changes += [Change(fetched=fetched) for fetched in one.fetched if not fetched.already]
            if one.fetched[-1].already:
                changes.append(Change(fetched=one.fetched[-1]))
    return changes


def _refused(before: Round, now: Round) -> list[Change]:
    """Return what is refused and was not, or for another reason."""
    known = {(one.name, str(one.error)) for one in before.refusals}
    return [Change(refusal=one) for one in now.refusals if (one.name, str(one.error)) not in known]


def _fingerprint(path: str) -> Fingerprint | None:
    try:
        return Fingerprint.of(os.stat(path))
    except OSError:
        return None
