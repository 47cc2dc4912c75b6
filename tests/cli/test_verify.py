"""What verify says at its end: how many images of which kind, and the commands for the one that it names."""

from __future__ import annotations

import shlex
from types import SimpleNamespace
from typing import Any, cast

import pytest

from overlaysync.cli.output import Output, Settings
from overlaysync.cli.verify import Finding, How, refuse_to_lose, report
from overlaysync.errors import NotFoundError, Refusal, VerificationError, WouldDestroyError
from overlaysync.formats.image import Format
from overlaysync.ops.expected import Basis, Expected
from overlaysync.ops.verify import Damage, Verdict

HOW = How([], Format.QCOW2, repair=True, yes=False, accept_master=True, peers=("10.0.0.1:4000",))
PATH = "/vm/my web.qcow2"


def verdict(*, touched: bool, damaged: bool = True, basis: Basis = Basis.PUBLISHED) -> Verdict:
    expected = Expected(PATH, basis, bytes(32), None, cast(Any, None), "red/web:1")
    known = cast(Any, SimpleNamespace(notes=()))
    return Verdict(expected, touched, False, (Damage(0, 512),) if damaged else (), known)


def test_what_differs_and_what_could_not_be_verified_are_both_counted() -> None:
    findings = [
        Finding(verdict(touched=False, damaged=damaged), (), "", "", HOW) for damaged in (True, False, False)
    ]
    failed = [Refusal(name, NotFoundError("gone", hint="x")) for name in ("a", "b")]
    with pytest.raises(VerificationError) as caught:
        report(Output(Settings()), findings, failed)
    assert "1 of 5 images differ" in caught.value.what and "2 could not be verified" in caught.value.what


@pytest.mark.parametrize("basis", [Basis.PUBLISHED, Basis.READ])
def test_work_is_kept_before_it_is_lost_and_commands_are_for_the_one_file(basis: Basis) -> None:
    touched = verdict(touched=True, basis=basis)
    hints = []
    with pytest.raises(WouldDestroyError) as refused:
        refuse_to_lose(touched, "it is nowhere else", HOW)
    hints.append(refused.value.hint)
    with pytest.raises(VerificationError) as caught:
        report(Output(Settings()), [Finding(touched, (), "it is nowhere else", "", HOW)], [])
    hints.append(caught.value.hint)
    for hint in hints:
        keep, _, lose = hint.partition("; ")
        assert (f"overlaysync share {shlex.quote(PATH)}" in keep) == (basis is Basis.PUBLISHED)
        assert f"cp {shlex.quote(PATH)}" in keep
        words = shlex.split(lose.partition(": ")[2])
        assert words[:2] == ["overlaysync", "verify"] and {"--repair", "--yes", PATH} <= set(words)
        assert words[-5:] == ["--peer", "10.0.0.1:4000", "--accept-master", "--format", "qcow2"]


def test_rot_is_only_healed() -> None:
    rotted = Finding(verdict(touched=False), (), "", "", HOW)
    with pytest.raises(VerificationError) as caught:
        report(Output(Settings()), [rotted], [])
    assert "share" not in caught.value.hint and "--yes" not in caught.value.hint
