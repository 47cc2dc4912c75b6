"""Collections: everything that some references mean, found and brought here one after the other.

What cannot be had of several things is a refusal beside the rest, never the end of the rest. Left out: how
one thing is fetched (:mod:`overlaysync.node.fetching`), and what a command prints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from time import monotonic

from overlaysync.errors import BaseImageError, OverlaysyncError, Refusal, VerificationError
from overlaysync.model.reference import Reference
from overlaysync.node.fetch_types import Fetched
from overlaysync.node.fetching import Fetch
from overlaysync.ops.choice import Choice
from overlaysync.ops.plan import Step
from overlaysync.ops.replacement import Verdict

Planned = Callable[[Sequence[Step], Verdict | None], None]
"""Is told of the steps of one thing, and of the verdict on its place."""


@dataclass(frozen=True, slots=True)
class Brought:
    """One thing that is here now, or would be.

    Attributes:
        choice: what was meant.
        plan: its steps, with the verdict on the place of what was asked for.
        fetched: what was made or found, the wanted image last; nothing of a dry run.
    """

    choice: Choice
    plan: tuple[tuple[Step, Verdict | None], ...]
    fetched: tuple[Fetched, ...]


@dataclass(slots=True)
class Collection:
    """Finds and brings what references mean.

    Attributes:
        fetch: does one thing.
        dry_run: only plan.
        planned: told of the steps before they are done, and of the verdict on the place of what was asked
            for; unless that is here already.
        refusals: what could not be had so far, and why.
        first_uses: manifest ids whose names became their publisher's.
    """

    fetch: Fetch
    dry_run: bool = False
    planned: Planned = lambda _, __: None
    refusals: list[Refusal] = field(default_factory=list)
    first_uses: set[bytes] = field(default_factory=set)
    _began: float | None = None

    async def find(self, references: Sequence[Reference]) -> list[Choice]:
        """Return what the references mean, each thing once; what of it cannot be had is refused.

        Raises:
            OverlaysyncError: there is only one reference, and nothing of it can be had.
        """
        found: dict[bytes, Choice] = {}
        for reference in references:
            try:
                for choice in await self._find(reference):
                    found.setdefault(choice.manifest.id, choice)
            except OverlaysyncError as error:
                if len(references) == 1:
                    raise
                self.refusals.append(Refusal(str(reference), error))
        return list(found.values())

    async def bring(self, choice: Choice) -> Brought | None:
        """Bring one thing here; None when it is refused."""
        try:
            return await self.bring_one(choice)
        except OverlaysyncError as error:
            self.refusals.append(Refusal(choice.manifest.header.full_name, error))
            return None

    async def bring_one(self, choice: Choice) -> Brought:
        """Bring one thing here, as its first publisher describes it that tells the truth.

        Raises:
            OverlaysyncError: it cannot be had, or its place is taken.
            InUseError: a VM uses it, and no machine within reach gives it out.
        """
        claims = self.fetch.claims(choice)
        for claim in claims:
            try:
                steps = await self.fetch.plan(claim, choice)
                verdict = await self.fetch.judge(steps, choice)
                if verdict is None or verdict.known is None:
                    self.fetch.require_holders(steps)
                    self.planned(steps, verdict)
                if claim is choice.listing and self.fetch.accept(choice, dry_run=self.dry_run):
                    self.first_uses.add(choice.manifest.id)
                fetched = [] if self.dry_run else await self.fetch.run(steps, choice)
                return Brought(choice, tuple(_with_verdict(steps, verdict)), tuple(fetched))
            except (VerificationError, BaseImageError) as error:
                if claim is claims[-1]:
                    raise
                self.fetch.observer.note(str(error))
        raise AssertionError("there is at least one claim")

    async def _find(self, reference: Reference) -> list[Choice]:
        found = await self.fetch.find(reference, wait_s=self._left_s())
        self.refusals += found.refusals
        return [*found.choices]

    def _left_s(self) -> float:
        """Return how long to look: everything is looked for at the same time, however much is named."""
        now = monotonic()
        if self._began is None:
            self._began = now
        return max(0.0, self.fetch.options.wait_s - (now - self._began))


def _with_verdict(steps: Sequence[Step], verdict: Verdict | None) -> Iterator[tuple[Step, Verdict | None]]:
    for step in steps:
        yield step, verdict if step is steps[-1] else None
