"""Save VMs that run, again and again: of one that runs all week, little is lost as well.

Only VMs that were saved on this machine before are looked at, and only while they run: what was written to
one that is powered off is for its owner to save.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from contextlib import suppress

from overlaysync.errors import OverlaysyncError, StoppedError
from overlaysync.model.stop import Stop
from overlaysync.net.faults import Faults
from overlaysync.node.capturing import running_disks
from overlaysync.node.clock import SYSTEM, Clock
from overlaysync.node.node import Node
from overlaysync.node.observer import Observer, Silent
from overlaysync.node.saving import Save
from overlaysync.node.vault_lock import WAIT_S
from overlaysync.ops.recovery.vaults import TeamVault
from overlaysync.ops.vms.find import survey
from overlaysync.ops.vms.vm import Vm
from overlaysync.store.keeping import load_keeping
from overlaysync.trust.teams import Team
from overlaysync.units import format_size
from overlaysync.vault.directory import DirectoryObjects

_LOOK_S = 5.0
_RETRY_S = 30.0
"""How long the next try waits, whether the last one went well or not."""


class LiveSaves:
    """Saves running VMs of the teams that are kept so.

    Args:
        node: saves.
        observer: is told what was saved, and what could not be.
        faults: unexpected exceptions go there.
        clock: tells the time.
    """

    def __init__(self, node: Node, observer: Observer, faults: Faults, *, clock: Clock = SYSTEM) -> None:
        self._node = node
        self._observer = observer
        self._faults = faults
        self._clock = clock
        self._again: dict[str, float] = {}
        """When each team is looked at again."""
        self._told: set[str] = set()
        self._stop = Stop()

    async def run(self) -> None:
        """Save for ever; when it is cancelled, what is under way is broken off and cleaned up first."""
        try:
            while True:
                work = asyncio.create_task(asyncio.to_thread(self._round))
                try:
                    await asyncio.shield(work)
                except asyncio.CancelledError:
                    self._stop.wanted = True
                    await asyncio.gather(work, return_exceptions=True)
                    raise
                except Exception as error:  # the next round must come all the same
                    self._faults.count(error, "saving running VMs")
                await asyncio.sleep(_LOOK_S)
        finally:
            self._stop.wanted = True

    def round(self) -> int:
        """Save what is due; returns how many states were made."""
        saved = 0
        for name, kept in load_keeping(self._node.home.keeping).teams.items():
            team = self._node.teams.get(name)
            if kept.live and team is not None and self._clock.ticks() >= self._again.get(name, 0.0):
                saved += self._save(team, kept.live)
        return saved

    def _round(self) -> None:
        with suppress(StoppedError):
            self.round()

    def _save(self, team: Team, interval_s: int) -> int:
        self._again[team.name] = self._clock.ticks() + _LOOK_S
        vms = self._due(team, self._clock.timestamp(ago_s=interval_s))
        if not vms:
            return 0
        self._again[team.name] = self._clock.ticks() + _RETRY_S
        work = Save(self._node, team, _Stopping(self._stop), "", wait_s=WAIT_S)
        try:
            saved = work.run(vms)
        except OverlaysyncError as error:
            self._tell_once(f"Cannot save {', '.join(vm.name for vm in vms)} while running: {error}")
            return 0
        state = saved.state.state
        names = ", ".join(vm.name for vm in state.vms)
        self._observer.note(
            f"Saved {state.team}:{state.number} of {names} while running, {format_size(saved.stored)} stored"
        )
        return 1

    def _due(self, team: Team, before: str) -> list[Vm]:
        """Return the running VMs that this machine has saved for the team, but not since that time."""
        vault = TeamVault(DirectoryObjects(self._node.home.vault), team)
        key = self._node.key.public
        saved: dict[str, str] = {}
        for state in vault.known_states(key):
            for one in state.state.vms if state.node == key else ():
                saved[one.name] = max(one.at, saved.get(one.name, ""))
        due = {name for name, at in saved.items() if at <= before}
        if not due:
            return []
        held = {row.path for row in self._node.catalog.held.all() if row.team == team.name}
        found: dict[str, Vm] = {}
        for directory in sorted({os.path.dirname(path) for path in held}):
            for vm in self._in(directory):
                if vm.name in due and any(disk.path in held for disk in vm.disks) and running_disks([vm]):
                    found.setdefault(vm.name, vm)
        return list(found.values())

    def _in(self, directory: str) -> Sequence[Vm]:
        try:
            return survey([directory]).vms
        except (OverlaysyncError, OSError) as error:
            if os.path.isdir(directory):
                self._tell_once(f"Cannot look for running VMs in {directory}: {error}")
            return ()

    def _tell_once(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._observer.note(text)


class _Stopping(Silent):
    """Shows nothing, and breaks off what is under way when it is to stop."""

    def __init__(self, stop: Stop) -> None:
        self._stop = stop

    def begin(self, what: str, total: int, done: int = 0) -> None:
        self._stop(0)

    def advance(self, size: int, source: str = "") -> None:
        self._stop(size)
