"""The report of a drill: what was pretended, how long what took, what came back, and what that means.

A report is made once and never changed. Its JSON form is documented in docs/recovery.md, "The report".
Times within a drill are seconds since its start, by a clock that never goes back.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

Verdict: TypeAlias = Literal["passed", "partial", "failed", "timed-out", "not-tested"]
Phase: TypeAlias = Literal["discover", "plan", "fetch", "rebuild", "boot"]
Booted: TypeAlias = Literal["no", "kvm", "tcg"]

PHASES: tuple[Phase, ...] = ("discover", "plan", "fetch", "rebuild", "boot")
"""What is fetched and what is rebuilt is verified in the same breath, so that has no phase of its own."""


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """A phase of the drill.

    Attributes:
        phase: which.
        vm: of which VM; "" for all together.
        start_s, end_s: since the start of the drill.
    """

    phase: Phase
    vm: str = ""
    start_s: float
    end_s: float


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """Where data came from.

    Attributes:
        label: of the machine or archive.
        bytes: that it gave.
        wrong: objects that it had and that were something else.
        problem: why it was left alone; "" for nothing.
    """

    label: str
    bytes: int
    wrong: int = 0
    problem: str = ""


class DiskReport(msgspec.Struct, frozen=True, kw_only=True):
    """A disk that came back.

    Attributes:
        file: its name.
        format: of the file.
        virtual_size: bytes that the guest sees.
        disk: the id of what the guest sees.
        manifest: id of what was published, which its publisher signed.
        publisher: node id of the publisher.
        masters: names of what it stands on.
    """

    file: str
    format: str
    virtual_size: int
    disk: str
    manifest: str
    publisher: str
    masters: tuple[str, ...] = ()


class LeftOutReport(msgspec.Struct, frozen=True, kw_only=True):
    """A file of a VM that was not in its state, and why."""

    file: str
    why: str


class BootReport(msgspec.Struct, frozen=True, kw_only=True):
    """How a VM booted.

    Attributes:
        command: what started it.
        probe: what was asked to find out that it is ready.
        verdict: ``passed``: the probe answered; ``not-tested``: there was no probe.
        evidence: what the probe said, or why it was given up.
        limit_s: how long it was waited for.
        power_on_s: when the VM was switched on, since the start of the drill.
        ready_s: when it was ready, since the start; None where it was not, or was not asked.
        took_s: seconds from power-on until it was ready or given up.
        attempts: how often it was asked.
        console: the last lines of its serial port.
        screenshot: PNG of its screen, base64; "" where there was none.
    """

    command: str
    probe: str
    verdict: Verdict
    evidence: str
    limit_s: float
    power_on_s: float
    ready_s: float | None = None
    took_s: float
    attempts: int = 0
    console: tuple[str, ...] = ()
    screenshot: str = ""


class VmReport(msgspec.Struct, frozen=True, kw_only=True):
    """How one VM fared.

    Attributes:
        name: of the VM.
        verdict: how it ended.
        why: the reason, for people.
        exit_code: of the error that it failed with; 0 for none.
        state: number of the state that it came from; 0 where there is none.
        state_id: its id.
        note: what was said of the state.
        saved_by: label of the machine that saved it.
        signed_by: node id of the key that signed it.
        at: the moment that its disks show, ISO 8601 UTC.
        rpo_s: seconds between that moment and the start of the drill.
        consistency: ``off``, ``crash`` or ``fs``.
        held_at: labels of the places that list the state.
        back_s: when it was back: ready, or rebuilt where it was not booted; since the start of the drill.
        disks, companions, left_out: its files.
        start: the line that starts it after a real restore.
        changed: whether this machine has it with changes that are in no state; None where it is not here.
        boot: how it booted; None where it did not.
    """

    name: str
    verdict: Verdict
    why: str = ""
    exit_code: int = 0
    state: int = 0
    state_id: str = ""
    note: str = ""
    saved_by: str = ""
    signed_by: str = ""
    at: str = ""
    rpo_s: float | None = None
    consistency: str = ""
    held_at: tuple[str, ...] = ()
    back_s: float | None = None
    disks: tuple[DiskReport, ...] = ()
    companions: tuple[str, ...] = ()
    left_out: tuple[LeftOutReport, ...] = ()
    start: str = ""
    changed: bool | None = None
    boot: BootReport | None = None


class Earlier(msgspec.Struct, frozen=True, kw_only=True):
    """An earlier drill of the team, from its signed record."""

    started: str
    by: str
    verdict: Verdict
    lost: tuple[str, ...] = ()
    rto_s: float | None = None
    rpo_s: float | None = None
    booted: Booted = "no"


class Targets(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for, in seconds; None for nothing."""

    rto_s: float | None = None
    rpo_s: float | None = None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A drill.

    Attributes:
        v: version of this form, 1.
        team: whose VMs.
        started: when, ISO 8601 UTC.
        by: label of the machine that ran it.
        node: its node id, whose key signed the record of this drill in the vault.
        program, qemu: versions; of QEMU "" where nothing was booted.
        lost: what was pretended to be lost, as it was typed.
        lost_places: labels of the machines and archives that this meant, and that were not asked.
        booted: whether and how VMs were booted.
        targets: what was asked for.
        verdict: how it ended.
        why: the reasons, for people.
        exit_code: of the command.
        took_s: seconds from the start to the end of the drill.
        rto_s: seconds until the last VM was back; None where one was not.
        rpo_s: of the VM that falls back furthest; None where a VM did not come back.
        spans: the phases.
        sources: where data came from.
        vms: the VMs.
        would_be_lost: what a real loss would have cost, a sentence each.
        advice: what to improve, a sentence each.
        isolation: what guests could reach, a sentence each.
        earlier: earlier drills, the newest first.
    """

    v: Literal[1] = 1
    team: str
    started: str
    by: str
    node: str
    program: str
    qemu: str = ""
    lost: tuple[str, ...] = ()
    lost_places: tuple[str, ...] = ()
    booted: Booted = "no"
    targets: Targets
    verdict: Verdict
    why: tuple[str, ...] = ()
    exit_code: int = 0
    took_s: float
    rto_s: float | None = None
    rpo_s: float | None = None
    spans: tuple[Span, ...] = ()
    sources: tuple[Source, ...] = ()
    vms: tuple[VmReport, ...] = ()
    would_be_lost: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()
    isolation: tuple[str, ...] = ()
    earlier: tuple[Earlier, ...] = ()


def report_json(report: Report) -> bytes:
    """Return the report as it is stored: indented JSON."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"
