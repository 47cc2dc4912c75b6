"""Verdicts: what the VMs of a drill and its targets mean together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from overlaysync.errors import NotReplicatedError, VerificationError
from overlaysync.ops.drill.report import Targets, Verdict, VmReport

VERDICTS: dict[str, str] = {
    "passed": "passed",
    "partial": "partial",
    "failed": "failed",
    "timed-out": "timed out",
    "not-tested": "not tested",
}
"""Verdicts in words."""

_BACK = ("passed", "not-tested")
_NOT_READY = VerificationError.exit_code
_TARGET_MISSED = NotReplicatedError.exit_code


@dataclass(frozen=True, slots=True)
class Judgement:
    """How a drill ended.

    Attributes:
        verdict: in one word.
        why: reasons, for people.
        exit_code: of the command; 0 for a drill that did not fail.
        rto_s: seconds until the last VM was back; None where one was not.
        rpo_s: of the VM that falls back furthest; None where a VM did not come back.
    """

    verdict: Verdict
    why: tuple[str, ...]
    exit_code: int
    rto_s: float | None
    rpo_s: float | None


def judge(vms: Sequence[VmReport], targets: Targets, *, problem: str = "", exit_code: int = 0) -> Judgement:
    """Return how a drill ended.

    Args:
        vms: how each VM fared.
        targets: what was asked for.
        problem: what ended the drill before it began with VMs.
        exit_code: of that.
    """
    if not vms:
        return Judgement("failed", (problem or "no VM came back",), exit_code or 1, None, None)
    bad = [vm for vm in vms if vm.verdict not in _BACK]
    rto, rpo = _rto(vms), _rpo(vms)
    missed = _missed(rto, rpo, targets)
    why = (*(f"{vm.name}: {vm.why}" for vm in bad), *missed, *_untested(vms))
    code = next((vm.exit_code or _NOT_READY for vm in bad), _TARGET_MISSED if missed else 0)
    return Judgement(_verdict(vms, bad, missed), why, code, rto, rpo)


def _verdict(vms: Sequence[VmReport], bad: Sequence[VmReport], missed: Sequence[str]) -> Verdict:
    if bad and len(bad) < len(vms):
        return "partial"
    if bad:
        return "timed-out" if all(vm.verdict == "timed-out" for vm in bad) else "failed"
    if missed:
        return "failed"
    return "not-tested" if any(vm.verdict == "not-tested" for vm in vms) else "passed"


def _rto(vms: Sequence[VmReport]) -> float | None:
    """Return when the last VM was back; None where one was not."""
    back = [vm.back_s for vm in vms if vm.back_s is not None and vm.verdict in _BACK]
    return max(back) if len(back) == len(vms) else None


def _rpo(vms: Sequence[VmReport]) -> float | None:
    known = [vm.rpo_s for vm in vms if vm.rpo_s is not None and vm.verdict in _BACK]
    return max(known) if len(known) == len(vms) else None


def _missed(rto: float | None, rpo: float | None, targets: Targets) -> tuple[str, ...]:
    """Return the targets that were missed; a VM that never came back is told of by itself."""
    found = []
    for name, measured, target in (("RTO", rto, targets.rto_s), ("RPO", rpo, targets.rpo_s)):
        if measured is not None and target is not None and measured > target:
            found.append(f"{name} {duration(measured)} is more than the target of {duration(target)}")
    return tuple(found)


def _untested(vms: Sequence[VmReport]) -> tuple[str, ...]:
    names = [vm.name for vm in vms if vm.verdict == "not-tested"]
    return (f"booted, not verified: {', '.join(names)} (no --ready was given)",) if names else ()


def duration(seconds: float) -> str:
    """Return ``42 s``, ``3 min 05 s``, ``2 h 10 min`` or ``3 days 4 h``."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02d} min"
    return f"{hours // 24} days {hours % 24} h"
