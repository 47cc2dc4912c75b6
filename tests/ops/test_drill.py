"""What a drill decides: probes, the QEMU command, verdicts, the timeline."""

from __future__ import annotations

import pytest

from overlaysync.errors import UsageError
from overlaysync.ops.drill.advice import Facts, advice_of, losses_of
from overlaysync.ops.drill.machine import Channels, Machine, isolation_of, qemu_command
from overlaysync.ops.drill.probes import Probe, ProbeKind, parse_probes
from overlaysync.ops.drill.report import Report, Span, Targets, VmReport
from overlaysync.ops.drill.timeline import ALL, WIDTH, timeline_of
from overlaysync.ops.drill.verdict import duration, judge

NO_TARGETS = Targets()


def vm(name: str, verdict: str = "passed", *, back: float | None = 10.0, rpo: float = 60.0) -> VmReport:
    good = verdict in ("passed", "not-tested")
    return VmReport(
        name=name,
        verdict=verdict,  # type: ignore[arg-type]
        why="" if good else "the disk is gone",
        exit_code=0 if good else 5,
        back_s=back if good else None,
        rpo_s=rpo,
    )


@pytest.mark.parametrize(
    ("text", "kind", "value", "ports"),
    [
        ("tcp:22", ProbeKind.TCP, "22", (22,)),
        ("serial:login: $", ProbeKind.SERIAL, "login: $", ()),
        ("agent", ProbeKind.AGENT, "", ()),
        ("curl http://$OVERLAYSYNC_ADDRESS", ProbeKind.COMMAND, None, (22, 80, 443)),
    ],
)
def test_a_probe_is_read(text: str, kind: ProbeKind, value: str | None, ports: tuple[int, ...]) -> None:
    probe = parse_probes([text]).of("web")
    assert probe == Probe(kind, text if value is None else value)
    assert probe.ports == ports


def test_a_vm_can_have_a_probe_of_its_own() -> None:
    probes = parse_probes(["web=tcp:80", "serial:ok", "db=a=b test"])
    assert [str(probes.of(name)) for name in ("web", "db", "mail")] == ["tcp:80", "a=b test", "serial:ok"]
    assert parse_probes([]).of("web").kind is ProbeKind.NONE


@pytest.mark.parametrize("texts", [["tcp:0"], ["tcp:99999"], ["tcp:ssh"], ["serial:("], ["serial:"], [" "]])
def test_a_probe_that_means_nothing_is_refused(texts: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        parse_probes(texts)
    assert caught.value.hint


@pytest.mark.parametrize("texts", [["agent", "tcp:22"], ["web=agent", "web=tcp:22"]])
def test_two_probes_for_one_vm_are_refused(texts: list[str]) -> None:
    with pytest.raises(UsageError, match="twice"):
        parse_probes(texts)


def test_a_guest_is_cut_off_unless_a_probe_needs_a_port() -> None:
    alone = qemu_command(Machine("web", ("disk0.qcow2",)), Channels(3, 4, 5))
    assert alone[alone.index("-nic") + 1] == "none" and "-netdev" not in alone
    asked = Machine("web", ("disk0.qcow2",), ports=(22,))
    words = qemu_command(asked, Channels(3, 4, 5))
    (network,) = [word for word in words if word.startswith("user,")]
    assert "restrict=on" in network and "hostfwd=tcp:127.0.0.1:0-:22" in network
    assert "no network card" in isolation_of(Machine("web", ())) and "22" in isolation_of(asked)
    for command in (alone, words):
        assert command[command.index("-sandbox") + 1].startswith("on,")
        assert "-S" in command and "-nodefaults" in command and "-no-user-config" in command


@pytest.mark.parametrize(
    ("vms", "targets", "verdict", "code"),
    [
        ([vm("a"), vm("b")], NO_TARGETS, "passed", 0),
        ([vm("a"), vm("b")], Targets(rto_s=10, rpo_s=60), "passed", 0),
        ([vm("a"), vm("b", back=10.1)], Targets(rto_s=10), "failed", 12),
        ([vm("a"), vm("b", rpo=61)], Targets(rpo_s=60), "failed", 12),
        ([vm("a"), vm("b", "failed")], NO_TARGETS, "partial", 5),
        ([vm("a", "failed"), vm("b", "timed-out")], NO_TARGETS, "failed", 5),
        ([vm("a", "timed-out")], NO_TARGETS, "timed-out", 5),
        ([vm("a"), vm("b", "not-tested")], NO_TARGETS, "not-tested", 0),
        ([], NO_TARGETS, "failed", 3),
    ],
)
def test_the_verdict(vms: list[VmReport], targets: Targets, verdict: str, code: int) -> None:
    found = judge(vms, targets, problem="nobody has it", exit_code=3)
    assert (found.verdict, found.exit_code) == (verdict, code)
    assert found.why or verdict == "passed"


def test_rto_is_the_last_vm_and_rpo_the_worst() -> None:
    found = judge([vm("a", back=3, rpo=100), vm("b", back=9, rpo=5)], NO_TARGETS)
    assert (found.rto_s, found.rpo_s) == (9, 100)
    found = judge([vm("a"), vm("b", "failed")], NO_TARGETS)
    assert (found.rto_s, found.rpo_s) == (None, None), "what did not come back has no time"


def test_what_is_said_of_several_vms_is_said_once() -> None:
    vms = [vm("a"), vm("b"), vm("c", "failed")]
    facts = Facts(team="red", never=("d",), booted=True)
    assert losses_of(vms, facts) == (
        "a, b: what was done in the 1 min 00 s before the drill",
        "c: all of it, as things are now (the disk is gone)",
        "d: all of it: it is in no state",
    )
    assert any("overlaysync save --team red" in one for one in advice_of(vms, facts, judge(vms, NO_TARGETS)))


def test_the_timeline_is_to_scale() -> None:
    report = Report(
        team="red",
        started="2026-11-29T10:00:00Z",
        by="a@b",
        node="x",
        program="0",
        targets=Targets(rto_s=50),
        verdict="passed",
        took_s=40,
        rto_s=40,
        spans=(
            Span(phase="discover", start_s=0, end_s=10),
            Span(phase="boot", vm="web", start_s=20, end_s=40),
        ),
        vms=(vm("web", back=40),),
    )
    found = timeline_of(report)
    assert [lane.name for lane in found.lanes] == [ALL, "web"]
    assert found.target == pytest.approx(WIDTH)
    assert found.lanes[0].bars[0].width == pytest.approx(WIDTH / 5)
    assert found.lanes[1].bars[0].x == pytest.approx(WIDTH * 2 / 5)
    assert found.lanes[1].back == pytest.approx(WIDTH * 4 / 5)
    assert [tick.label for tick in found.ticks][:2] == ["0 s", "10 s"]
    assert found.phases == ("discover", "boot")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.04, "0.0 s"),
        (9.96, "10.0 s"),
        (42, "42 s"),
        (185, "3 min 05 s"),
        (7800, "2 h 10 min"),
        (273600, "3 days 4 h"),
    ],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words
