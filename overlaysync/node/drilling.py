"""Drill: a restore that is rehearsed, timed and reported, and leaves nothing behind.

It runs the same :class:`~overlaysync.node.restoring.Restore` as the command does, on a node of its own in a
scratch directory (:mod:`.rehearsal`), with some machines and archives pretended to be lost (:mod:`.lost`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Protocol

from msgspec.structs import replace as changed

from overlaysync import __version__
from overlaysync.errors import OverlaysyncError, Refusal, UsageError
from overlaysync.model.digest import format_id
from overlaysync.model.names import one_field
from overlaysync.node.archiving import archive_places
from overlaysync.node.booting import Booter, BootRules
from overlaysync.node.fetch_session import fetching
from overlaysync.node.fetching import Fetch
from overlaysync.node.lost import Lost
from overlaysync.node.network import Network
from overlaysync.node.node import Node, timestamp
from overlaysync.node.observer import Observer
from overlaysync.node.rehearsal import link_vault, rehearsing
from overlaysync.node.restore_plan import Restored, VmPlan
from overlaysync.node.restoring import Restore
from overlaysync.node.scratch import Scratch
from overlaysync.node.status import is_changed, never_saved
from overlaysync.node.vault_places import peer_places, vault_of
from overlaysync.ops.dates import moment
from overlaysync.ops.drill.advice import Facts, advice_of, losses_of
from overlaysync.ops.drill.machine import isolation_of
from overlaysync.ops.drill.report import (
    Booted,
    BootReport,
    DiskReport,
    Earlier,
    LeftOutReport,
    Phase,
    Report,
    Source,
    Span,
    Targets,
    VmReport,
)
from overlaysync.ops.drill.verdict import judge
from overlaysync.ops.recovery.choosing import Wish
from overlaysync.ops.recovery.gathering import Gathered
from overlaysync.ops.recovery.pulling import Place
from overlaysync.ops.recovery.vaults import space_of
from overlaysync.ops.vms.start import start_line
from overlaysync.trust.keys import node_id
from overlaysync.trust.teams import Team
from overlaysync.vault.directory import DirectoryObjects

OWN_VAULT = "this machine"


class Watcher(Protocol):
    """Is told how a drill goes on."""

    def began(self, phase: Phase, vm: str) -> None:
        """A phase has begun; ``vm`` is "" for all together."""

    def ended(self, phase: Phase, vm: str) -> None:
        """It has ended."""

    def back(self, vm: str, verdict: str) -> None:
        """A VM is back, or is not."""


@dataclass(frozen=True, slots=True)
class DrillRules:
    """What a drill does.

    Attributes:
        lost: what is pretended to be lost.
        targets: what was asked for.
        boot: how VMs are booted; None for not at all.
        masters: directories to look for masters in.
        wait_s: how long to look for machines.
    """

    lost: Lost
    targets: Targets
    boot: BootRules | None = None
    masters: Sequence[str] = ()
    wait_s: float = 4.0


@dataclass(slots=True)
class Drill:
    """One drill of one team.

    Attributes:
        node: runs it.
        wish: which VMs of which state.
        rules: how.
        observer: is told of the bytes.
        watcher: is told of the phases.
        network: how the network is used.
        scratch: where everything goes.
    """

    node: Node
    wish: Wish
    rules: DrillRules
    observer: Observer
    watcher: Watcher
    network: Network
    scratch: Scratch
    earlier: tuple[Earlier, ...] = ()
    _started: float = 0.0
    _at: str = ""
    _spans: list[Span] = field(default_factory=list)
    _vms: dict[str, VmReport] = field(default_factory=dict)
    _places: list[Place] = field(default_factory=list)
    _gathered: Gathered = field(default_factory=Gathered)
    _booter: Booter | None = None

    @property
    def team(self) -> Team:
        return self.node.teams[self.wish.team]

    def clock(self) -> float:
        """Return the seconds since the start."""
        return monotonic() - self._started

    async def run(self) -> Report:
        """Do it, and report; what goes wrong with the VMs is in the report.

        Raises:
            NotFoundError: there is no QEMU to boot with.
            UsageError: something unknown is named as lost.
        """
        if self.rules.boot is not None:
            self._booter = Booter(self.rules.boot, self.scratch.place / "boot", self.clock)
            await self._booter.prepare()
        self._started, self._at = monotonic(), timestamp()
        problem: OverlaysyncError | None = None
        own_lost = self.rules.lost.has_label(self.node.label)
        with rehearsing(self.node, self.scratch.place, forgets=own_lost) as other:
            try:
                await self._restore(other, own_lost=own_lost)
            except UsageError:
                raise
            except OverlaysyncError as error:
                problem = error
            return await asyncio.to_thread(self._report, problem)

    # -- the restore -----------------------------------------------------------------------------------

    async def _restore(self, other: Node, *, own_lost: bool) -> None:
        to, masters = self.scratch.make("vms"), self.scratch.make("masters")
        # Missing masters go into the first directory: a drill writes nowhere else.
        work = Restore(other, self.team, self.observer, str(to), (str(masters), *self.rules.masters))
        network = replace(self.network, lost=self.rules.lost)
        async with fetching(other, self.observer, network, work.options) as session:
            async with self._phase("discover"):
                work.use(await self._find(other, session.fetch, own_lost=own_lost))
                self._gathered = await asyncio.to_thread(work.gather)
                self._check_lost()
            async with self._phase("plan"):
                plans = await asyncio.to_thread(work.plan, self._gathered, self.wish, session.fetch)
                self._note_refusals(work.refusals)
            boots: list[asyncio.Task[None]] = []
            work.pulled = partial(self._pulled, self.clock())
            try:
                async with work.pulling(plans):
                    for plan in plans:
                        restored = await self._rebuild(work, plan, session.fetch)
                        if restored is not None:
                            boots.append(asyncio.create_task(self._boot(restored)))
                await asyncio.gather(*boots)
            finally:
                for task in boots:
                    task.cancel()
                await asyncio.gather(*boots, return_exceptions=True)

    def _pulled(self, start_s: float) -> None:
        """Note that all packs have come; disks are rebuilt meanwhile."""
        self._spans.append(Span(phase="fetch", start_s=start_s, end_s=self.clock()))

    async def _find(self, other: Node, fetch: Fetch, *, own_lost: bool) -> list[Place]:
        """Return the places that are left."""
        tag = space_of(self.team).tag
        lost = self.rules.lost
        places: list[Place] = []
        if not own_lost and not await asyncio.to_thread(link_vault, self.node, other, tag):
            places.append(Place(OWN_VAULT, DirectoryObjects(self.node.home.vault)))
        places += await peer_places(other, fetch.reach, tag, wait_s=self.rules.wait_s)
        for place in await asyncio.to_thread(archive_places, self.node):
            if not lost.has_archive(place.label.removeprefix("archive ")):
                places.append(place)
        self._places = places
        return places

    def _check_lost(self) -> None:
        """Refuse names of lost machines that nothing is known of: the drill would show nothing.

        Raises:
            UsageError: there is one.
        """
        tag = space_of(self.team).tag
        labels = {copy.label for copy in self.node.catalog.copies.seen(tag)}
        kept = vault_of(self.node, self.team).known_states(self.node.key.public)
        labels |= {state.state.by for state in (*self._gathered.states, *kept)}
        labels |= {place.label for place in self._places} | {self.node.label}
        unknown = self.rules.lost.unknown(sorted(labels), ())
        if unknown:
            known = ", ".join(sorted(filter(None, map(one_field, labels))))
            raise UsageError(
                f"No machine and no archive is known as '{one_field(unknown[0])}'",
                why=f"known are: {known}",
                hint="to list machines: overlaysync peers; to list archives: overlaysync archive ls",
            )

    async def _rebuild(self, work: Restore, plan: VmPlan, fetch: Fetch) -> Restored | None:
        name = plan.saving.vm.name
        try:
            async with self._phase("rebuild", name):
                restored = await work.bring(plan, fetch)
        except OverlaysyncError as error:
            self._vms[name] = replace_vm(self._described(plan), error)
            self.watcher.back(name, "failed")
            return None
        self._vms[name] = self._with_files(restored)
        if self._booter is None:
            self.watcher.back(name, "passed")
        return restored

    async def _boot(self, restored: Restored) -> None:
        if self._booter is None:
            return
        name = restored.plan.saving.vm.name
        vm = self._vms[name]
        self.watcher.began("boot", name)
        try:
            boot = await self._booter.boot(restored)
        except OverlaysyncError as error:
            self._vms[name] = replace_vm(vm, error)
            self.watcher.back(name, "failed")
            return
        end = boot.power_on_s + boot.took_s
        self._spans.append(Span(phase="boot", vm=name, start_s=boot.power_on_s, end_s=end))
        self._vms[name] = booted_vm(vm, boot)
        self.watcher.back(name, boot.verdict)

    @asynccontextmanager
    async def _phase(self, phase: Phase, vm: str = "") -> AsyncIterator[None]:
        start = self.clock()
        self.watcher.began(phase, vm)
        try:
            yield
        finally:
            self._spans.append(Span(phase=phase, vm=vm, start_s=start, end_s=self.clock()))
            self.watcher.ended(phase, vm)

    # -- the report ------------------------------------------------------------------------------------

    def _note_refusals(self, refusals: Sequence[Refusal]) -> None:
        for one in refusals:
            self._vms[one.name] = replace_vm(VmReport(name=one.name, verdict="failed"), one.error)
            self.watcher.back(one.name, "failed")

    def _described(self, plan: VmPlan) -> VmReport:
        """Return what is known of a VM before it is rebuilt."""
        saving, state = plan.saving, plan.saving.state
        vm = saving.vm
        then = moment(vm.at)
        started = moment(self._at)
        rpo = None if then is None or started is None else max(0.0, started - then)
        held = [row for row in self.node.catalog.held.all() if row.team == self.team.name]
        return VmReport(
            name=vm.name,
            verdict="passed",
            state=state.state.number,
            state_id=state.id.hex(),
            note=state.state.note,
            saved_by=state.state.by,
            signed_by=node_id(state.node),
            at=vm.at,
            rpo_s=rpo,
            consistency=vm.consistency,
            held_at=tuple(label or OWN_VAULT for label in self._gathered.at.get(state.id, ())),
            companions=tuple(one.file for one in vm.companions),
            left_out=tuple(LeftOutReport(file=one.file, why=one.why) for one in vm.left_out),
            start=start_line(vm, ""),
            changed=is_changed(vm, held),
        )

    def _with_files(self, restored: Restored) -> VmReport:
        disks = []
        for plan, top in zip(restored.plan.disks, restored.tops, strict=True):
            disks.append(
                DiskReport(
                    file=plan.disk.file,
                    format=top.known.geometry.format.value,
                    virtual_size=top.known.disk.virtual_size,
                    disk=format_id(top.known.disk.id),
                    manifest=plan.disk.manifest,
                    publisher=node_id(top.manifest.publisher),
                    masters=tuple(Path(image.path).name for image in list(top.known.lineage)[1:]),
                )
            )
            vm = self._described(restored.plan)
        return changed(vm, disks=tuple(disks), back_s=self.clock())

    def _report(self, problem: OverlaysyncError | None) -> Report:
        rules, booter = self.rules, self._booter
        vms = tuple(self._vms[name] for name in sorted(self._vms))
        judgement = judge(
            vms,
            rules.targets,
            problem=str(problem) if problem else "",
            exit_code=problem.exit_code if problem else 0,
        )
        facts = self._facts()
        booted: Booted = "no" if booter is None else ("kvm" if booter.kvm else "tcg")
        return Report(
            team=self.team.name,
            started=self._at,
            by=self.node.label,
            node=node_id(self.node.key.public),
            program=__version__,
            qemu=booter.qemu if booter else "",
            lost=tuple(rules.lost.names),
            lost_places=tuple(sorted(rules.lost.places)),
            booted=booted,
            targets=rules.targets,
            verdict=judgement.verdict,
            why=judgement.why,
            exit_code=judgement.exit_code,
            took_s=self.clock(),
            rto_s=judgement.rto_s,
            rpo_s=judgement.rpo_s,
            spans=tuple(sorted(self._spans, key=lambda span: (span.start_s, span.vm))),
            sources=tuple(_source(place) for place in self._places),
            vms=vms,
            would_be_lost=losses_of(vms, facts),
            advice=advice_of(vms, facts, judgement),
            isolation=tuple(isolation_of(machine) for machine in booter.machines.values()) if booter else (),
            earlier=self.earlier,
        )

    def _facts(self) -> Facts:
        states = self._gathered.states
        held = [row for row in self.node.catalog.held.all() if row.team == self.team.name]
        booter = self._booter
        return Facts(
            team=self.team.name,
            never=never_saved(self.node, held, states),
            stale=tuple(self._gathered.stale),
            damaged=len(self._gathered.damaged),
            places=len(self._places),
            emulated=booter is not None and not booter.kvm,
            why_emulated=booter.why_emulated if booter else "",
            booted=booter is not None,
        )


def replace_vm(vm: VmReport, error: OverlaysyncError) -> VmReport:
    """Return a VM that failed with an error."""
    return changed(vm, verdict="failed", why=str(error), exit_code=error.exit_code, back_s=None)


def booted_vm(vm: VmReport, boot: BootReport) -> VmReport:
    """Return a VM that was booted."""
    bad = boot.verdict in ("failed", "timed-out")
    back = None if bad else (boot.ready_s if boot.ready_s is not None else boot.power_on_s + boot.took_s)
    return changed(vm, verdict=boot.verdict, why=boot.evidence if bad else "", back_s=back, boot=boot)


def _source(place: Place) -> Source:
    return Source(label=place.label, bytes=place.pulled, wrong=len(set(place.wrong)), problem=place.problem)
