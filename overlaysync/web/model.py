"""What the page shows at one moment, as values: taken from the node once, rendered in any language.

Everything is bounded, since peers list as much as they like; text of theirs is made safe to print where it is
taken over, and escaped where it is rendered.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Image:
    """A row of the lineage.

    Attributes:
        key: tells it from all others, in addresses and ids of the page.
        kind: ``master``, ``overlay`` or ``missing``.
        title: name and version.
        short: short form of its id.
        size: bytes of data; None where that is not known.
        guides: one letter a level: ``p`` (a line passes), ``t`` (branch), ``e`` (last branch), a blank.
        carries: whether a row below stands on it.
        on: title of what it stands on.
        paths: files here.
        shared: whether this node shares it.
        team: whose it is; "" for everybody.
        machines: how many other machines serve it.
        holders: labels of their nodes.
        in_use: labels of nodes where a VM uses it; "" for this one.
        verified_at: when its bytes were last read, seconds since 1970; None where it is not here.
        changed: what became of the file since: ``""``, ``changed`` or ``master``.
        promoted: key and title of the master that was made of it.
        reference: what a command calls it; "" where no command can.
    """

    key: str
    kind: str
    title: str
    short: str
    size: int | None
    guides: str
    carries: bool
    on: str
    paths: tuple[str, ...]
    shared: bool
    team: str
    machines: int
    holders: tuple[str, ...]
    in_use: tuple[str, ...]
    verified_at: float | None
    changed: str
    promoted: tuple[str, str] | None
    reference: str

    @property
    def here(self) -> bool:
        return bool(self.paths)


@dataclass(frozen=True, slots=True)
class Machine:
    """A node within reach.

    Attributes:
        key: tells it from all others.
        label: its label, safe to print.
        own: whether it is this node.
        address: where it answers.
        masters, overlays, in_use: how much it lists.
        problem: why it could not be asked; "" when it was.
        keeps: teams of which it has copies.
    """

    key: str
    label: str
    own: bool
    address: str
    masters: int
    overlays: int
    in_use: int
    problem: str
    keeps: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Receiver:
    """A node that fetches something here: its label, and how much of it it has (0 to 1)."""

    label: str
    held: float


@dataclass(frozen=True, slots=True)
class Transfer:
    """Something that is being fetched, from here or to here.

    Attributes:
        key: tells it from all others.
        what: its name and version.
        incoming: whether it comes here.
        done: bytes that are here; of what is given the bytes sent.
        total: bytes of all of it.
        rate: bytes per second.
        cells: of each of equal parts of it, how much is here or was given (``0`` to ``9``).
        copies: of each part, how many others have it (``0`` to ``9``); "" where that is not known.
        sources: labels of those who give.
        receivers: those who fetch.
        finished: how many have all of it by now.
        stalled_s: for so long nothing has come.
    """

    key: str
    what: str
    incoming: bool
    done: int
    total: int
    rate: int
    cells: str
    copies: str
    sources: tuple[str, ...] = ()
    receivers: tuple[Receiver, ...] = ()
    finished: int = 0
    stalled_s: float = 0.0
    task: str = ""
    """Key of the task that fetches it."""


@dataclass(frozen=True, slots=True)
class Vm:
    """How a VM of a team stands.

    Attributes:
        name: of the VM.
        states: the numbers of its newest states; several are a fork.
        at: the moment that they show, ISO 8601 UTC.
        changed: whether a disk here was written to since; None where the VM is not here.
        copies: on how many machines it is.
        holders: label and when it was proven (ISO 8601 UTC; "" for this machine) of each.
        lacking: whether these are too few.
        lost_with: label of the only machine that has it.
    """

    name: str
    states: tuple[int, ...]
    at: str
    changed: bool | None
    copies: int
    holders: tuple[tuple[str, str, str], ...]
    lacking: bool
    lost_with: str


@dataclass(frozen=True, slots=True)
class Drill:
    """A drill of a team, by its signed record.

    Attributes:
        started: when, ISO 8601 UTC.
        by: label of the node that ran it.
        verdict: how it ended: see :class:`overlaysync.vault.drill.DrillRecord`.
        lost: what was pretended to be lost.
        ready, vms: how many VMs came back, of how many.
        rto_s: seconds until the last VM was back; None where one was not.
        rpo_s: seconds that the VMs went back at most; None where nothing came back.
    """

    started: str
    by: str
    verdict: str
    lost: tuple[str, ...]
    ready: int
    vms: int
    rto_s: float | None
    rpo_s: float | None


@dataclass(frozen=True, slots=True)
class Kept:
    """How this node keeps a team: on so many machines, in so many bytes here (0 for no limit)."""

    copies: int
    budget: int


@dataclass(frozen=True, slots=True)
class Gap:
    """VMs of a team that lack as many copies as each other.

    Attributes:
        vms: their names.
        copies: on how many machines they are; 0 for what was never saved.
        lost_with: label of the only machine that has them.
    """

    vms: tuple[str, ...]
    copies: int
    lost_with: str


@dataclass(frozen=True, slots=True)
class TeamView:
    """How a team stands: see :class:`overlaysync.node.status.TeamStatus`.

    Attributes:
        drill: its last drill; None for none.
        passed: its last drill that passed; None for none.
        kept: how this node keeps it; None where it does not.
    """

    name: str
    vms: tuple[Vm, ...]
    never: tuple[str, ...]
    needed: int
    machines: int
    problems: tuple[str, ...]
    drill: Drill | None = None
    passed: Drill | None = None
    kept: Kept | None = None

    @property
    def lacking(self) -> tuple[Vm, ...]:
        return tuple(vm for vm in self.vms if vm.lacking)

    @property
    def gaps(self) -> tuple[Gap, ...]:
        """What is in danger, in as few lines as there are things to say about it."""
        found: dict[tuple[int, str], list[str]] = {}
        for vm in self.lacking:
            found.setdefault((vm.copies, vm.lost_with), []).append(vm.name)
        gaps = [Gap(tuple(names), copies, lost_with) for (copies, lost_with), names in sorted(found.items())]
        return (*gaps, *([Gap(self.never, 0, "")] if self.never else []))

    @property
    def rpo_at(self) -> str:
        """The moment of the oldest state that one would be thrown back to; "" where nothing is safe."""
        safe = [vm.at for vm in self.vms if not vm.lacking]
        return min(safe) if safe else ""


@dataclass(frozen=True, slots=True)
class TaskView:
    """A command that the page runs or has run.

    Attributes:
        key: tells it from all others.
        action: what was asked for.
        command: as it can be typed, safe to print.
        begun, ended: seconds since 1970; None while it runs.
        code: its exit code; None where it has none.
        printed: how many lines it has printed.
        last: the last of them.
        about: name of the image or team that it is about.
    """

    key: str
    action: str
    command: str
    begun: float
    ended: float | None
    code: int | None
    printed: int
    last: str
    about: str = ""

    @property
    def state(self) -> str:
        """``running``, ``done``, ``stopped`` or ``failed``."""
        if self.ended is None:
            return "running"
        return {0: "done", 130: "stopped"}.get(-1 if self.code is None else self.code, "failed")


@dataclass(frozen=True, slots=True)
class Health:
    """The node in short.

    Attributes:
        label: of this node.
        where: interfaces that it is announced on; "" for none.
        port: where it answers.
        free: bytes free where its first image is.
        given: bytes per second that it gives.
        taken: bytes per second that its tasks take.
        slow: the limit of what it gives in bytes per second; None for none.
    """

    label: str
    where: str
    port: int
    free: int
    given: int
    taken: int
    slow: int | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that the page shows.

    Attributes:
        at: when it was taken, seconds since 1970.
        health: the node in short.
        images: rows in drawing order; as many as are shown.
        hidden: how many more there are.
        machines: this one first.
        transfers: what comes, then what is given.
        teams: by name.
        tasks: the newest first.
    """

    at: float
    health: Health
    images: tuple[Image, ...]
    hidden: int
    machines: tuple[Machine, ...]
    transfers: tuple[Transfer, ...]
    teams: tuple[TeamView, ...]
    tasks: tuple[TaskView, ...]

    @property
    def lacking(self) -> int:
        """How many VMs are not replicated as they should be, or were never saved."""
        return sum(len(team.lacking) + len(team.never) for team in self.teams)
