"""Progress and audience: the rate of late, who gave what, who is last; on a terminal, in lines, in JSON."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from functools import partial
from typing import Any

import pytest
from rich.cells import cell_len

from overlaysync.cli import streams
from overlaysync.cli.output import Output, Settings
from overlaysync.cli.progress import Audience, Progress, format_time
from overlaysync.units import MIB

Captured = pytest.CaptureFixture[str]


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("time.monotonic", made)
    monkeypatch.setattr("overlaysync.cli.output.Progress", partial(Progress, clock=made))
    return made


def lines(capsys: Captured) -> list[str]:
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()


def documents(capsys: Captured) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines(capsys)]


class Terminal(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return 2

    def shown(self) -> str:
        """What has been written since the last time."""
        text = self.getvalue()
        self.seek(0)
        self.truncate()
        return text


@contextmanager
def on_a_terminal(columns: int = 100) -> Iterator[Terminal]:
    """Standard error is one."""
    with pytest.MonkeyPatch.context() as patch, redirect_stderr(Terminal()) as terminal:
        patch.setattr(streams, "get_terminal_size", lambda _: os.terminal_size((columns, 24)))
        yield terminal


# -- progress ----------------------------------------------------------------------------------------


def test_a_line_every_three_seconds(capsys: Captured) -> None:
    clock = Clock()
    progress = Progress("router", 100 * MIB, False, clock)
    for _ in range(14):
        clock.now += 0.5
        progress.advance(MIB)
    assert lines(capsys) == [
        "router: 94 MiB missing of 100 MiB  2 MiB/s  0:47 left",
        "router: 88 MiB missing of 100 MiB  2 MiB/s  0:44 left",
    ]


def test_the_rate_is_that_of_the_last_seconds(capsys: Captured) -> None:
    clock = Clock()
    progress = Progress("router", 1000 * MIB, True, clock)
    for rate in (50, 1):
        for _ in range(12):
            clock.now += 1
            progress.advance(rate * MIB)
    rates = [document["rate"] / MIB for document in documents(capsys)]
    assert rates[:4] == [50] * 4
    assert rates[4] < 50
    assert rates[-2:] == [1, 1]


def test_a_pause_shows_in_the_rate_and_in_the_time_left(capsys: Captured) -> None:
    clock = Clock()
    progress = Progress("router", 100 * MIB, False, clock)
    clock.now += 3
    progress.advance(30 * MIB)
    clock.now += 60
    progress.advance(MIB)
    first, second = lines(capsys)
    assert first == "router: 70 MiB missing of 100 MiB  10 MiB/s  0:07 left"
    rate = re.search(r"  ([\d.]+) KiB/s  (\d+):\d\d:\d\d left", second)
    assert rate
    assert 17 <= float(rate[1]) < 18
    assert int(rate[2]) == 1


def test_without_a_rate_no_time_is_promised(capsys: Captured) -> None:
    clock = Clock()
    progress = Progress("router", 100 * MIB, False, clock)
    clock.now += 3
    progress.advance(0)
    assert lines(capsys) == ["router: 100 MiB missing of 100 MiB  0 B/s"]


def test_sources_and_their_shares(capsys: Captured) -> None:
    clock = Clock()
    progress = Progress("router", 100 * MIB, False, clock)
    progress.advance(10 * MIB)  # was here before: nobody's
    for label, size in (("a", 5), ("b", 20), ("c", 1), ("d", 1), ("e", 3), ("b", 20)):
        progress.advance(size * MIB, label)
    clock.now += 3
    progress.advance(0)
    (shown,) = lines(capsys)
    assert shown.endswith("  from b 80 %, a 10 %, e 6 % and 2 more")
    assert "40 MiB missing" in shown


def test_sources_as_json(capsys: Captured) -> None:
    clock = Clock()
    progress = Progress("router", 100, True, clock)
    progress.advance(7)
    clock.now += 3
    progress.advance(0)
    progress.advance(5, "a")
    progress.advance(6, "b")
    clock.now += 3
    progress.advance(1, "a")
    first, second = documents(capsys)
    router = {"progress": "router", "total": 100, "stalled": 0.0}
    assert first == router | {"done": 7, "rate": 2}
    assert second == router | {"done": 19, "rate": 3, "sources": {"a": 6, "b": 6}}


def test_a_stall_has_a_name_and_no_time_left_and_ends_with_the_next_bytes(
    capsys: Captured, clock: Clock
) -> None:
    for as_json in (False, True):
        output = Output(Settings(json=as_json))
        output.begin("router", 100 * MIB)
        idle = 0.0
        for second in range(20):
            clock.now += 0.5
            idle = 0.0 if second < 6 else idle + 0.5
            if not idle:
                output.advance(MIB, "pl@bob\nforged")
            output.fetching(["pl@bob\nforged", "etu@oscar"], idle)
        output.end()
        if as_json:
            first, *stalled = documents(capsys)
            assert (first["stalled"], first["rate"]) == (0, 2 * MIB)
            assert [(one["stalled"], one["rate"]) for one in stalled] == [(2, 0), (5, 0)]
            assert stalled[0]["waiting_for"] == ["pl@bob?forged", "etu@oscar"]
        else:
            assert lines(capsys) == [
                "router: 94 MiB missing of 100 MiB  2 MiB/s  0:47 left  from pl@bob?forged",
                "router: 94 MiB missing of 100 MiB  stalled: waiting for pl@bob?forged, etu@oscar for 2 s",
                "router: 94 MiB missing of 100 MiB  stalled: waiting for pl@bob?forged, etu@oscar for 5 s",
            ]


def test_a_stall_on_a_terminal_is_counted_on_and_goes_away() -> None:
    with on_a_terminal() as terminal:
        clock = Clock()
        progress = Progress("router", 100 * MIB, False, clock)
        clock.now += 1
        progress.advance(50 * MIB, "pl@bob")
        terminal.shown()
        for stalled_s in (3.2, 4.2):
            clock.now += 1
            progress.waiting(["pl@bob"], stalled_s)
            shown = terminal.shown()
            assert f"stalled: waiting for pl@bob for {int(stalled_s)} s" in shown
            assert "left" not in shown and "/s" not in shown
        clock.now += 1
        progress.advance(25 * MIB, "pl@bob")
        shown = terminal.shown()
        assert "stalled" not in shown and "left" in shown


def test_more_than_everything_is_everything(capsys: Captured) -> None:
    clock = Clock()
    progress = Progress("router", 100, True, clock)
    clock.now += 3
    progress.advance(150)  # the last unit is counted whole
    assert documents(capsys)[0]["done"] == 100


def test_a_bar_on_a_terminal() -> None:
    with on_a_terminal() as terminal:
        clock = Clock()
        progress = Progress("router", 100 * MIB, False, clock)
        clock.now += 0.0625
        progress.advance(MIB)
        assert terminal.shown() == ""
        clock.now += 0.0625
        progress.advance(49 * MIB, "pl@bob-with-a-long-label" * 3)
        shown = terminal.shown()
        assert shown.startswith(f"\r\x1b[K  router  [{'━' * 11}{' ' * 11}]  50 MiB missing of 100 MiB")
        assert len(shown.removeprefix("\r\x1b[K")) <= 99
        progress.clear()
        assert terminal.shown() == "\r\x1b[K"
        progress.clear()
        assert terminal.shown() == ""


def bar(width: int) -> str:
    """A quarter of it is done."""
    halves = (width - 2) * 2 // 4
    return f"[{('━' * (halves // 2) + '╸' * (halves % 2)).ljust(width - 2)}]"


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (140, f"  router  {bar(21)}  300 MiB missing of 400 MiB  100 MiB/s  0:03 left"
              "  from pl@bob-j2rueu 70 %, etu1@oscar-w34xyz 20 %, c 10 %"),
        (130, f"  router  {bar(11)}  300 MiB missing of 400 MiB  100 MiB/s  0:03 left"
              "  from pl@bob-j2rueu 70 %, etu1@oscar-w34xyz 20 %, c 10 %"),
        (100, f"  router  {bar(13)}  300 MiB missing  100 MiB/s  0:03 left"
              "  from pl@bob-j2rueu 70 % and 2 more"),
        (80, f"  router  {bar(15)}  300 MiB missing  100 MiB/s  0:03 left  from 3 nodes"),
        (0, f"  router  {bar(15)}  300 MiB missing  100 MiB/s  0:03 left  from 3 nodes"),
        (60, "  router  300 MiB missing  100 MiB/s  0:03 left"),
        (46, "  ro…  300 MiB missing  100 MiB/s  0:03 left"),
        (42, "  300 MiB missing  100 MiB/s  0:03 left"),
        (40, "  router  25 %  100 MiB/s  0:03 left"),
        (36, "  rou…  25 %  100 MiB/s  0:03 left"),
    ],
)  # fmt: skip
def test_on_narrow_terminals_less_is_said_and_no_figure_is_cut(columns: int, expected: str) -> None:
    with on_a_terminal(columns) as terminal:
        clock = Clock()
        progress = Progress("router", 400 * MIB, False, clock)
        progress.advance(70 * MIB, "pl@bob-j2rueu")
        progress.advance(20 * MIB, "etu1@oscar-w34xyz")
        clock.now += 1
        progress.advance(10 * MIB, "c")
        assert terminal.shown().removeprefix("\r\x1b[K") == expected


def test_wide_characters_take_two_columns() -> None:
    for columns in range(40, 140):
        with on_a_terminal(columns) as terminal:
            clock = Clock()
            progress = Progress("ルーター", 400 * MIB, False, clock)
            clock.now += 1
            progress.advance(10 * MIB, "先生@教室")
            assert cell_len(terminal.shown().removeprefix("\r\x1b[K")) <= columns - 2


def test_a_stalled_bar_has_another_colour_and_all_is_as_wide() -> None:
    with on_a_terminal() as terminal:
        clock = Clock()
        progress = Progress("router", 100 * MIB, False, clock, color=True)
        clock.now += 1
        progress.advance(50 * MIB)
        assert f"\x1b[32m{'━' * 12}" in terminal.shown()
        clock.now += 1
        progress.waiting(["pl@bob"], 3.2)
        assert f"\x1b[33m{'━' * 12}" in terminal.shown()


def test_a_line_that_a_narrower_terminal_has_broken_is_taken_away_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("XTERM_VERSION", raising=False)
    clock = Clock()
    with on_a_terminal(100) as terminal:
        progress = Progress("router", 100 * MIB, False, clock)
        clock.now += 1
        progress.advance(MIB, "pl@bob")
        drawn = cell_len(terminal.shown().removeprefix("\r\x1b[K"))
        assert 80 < drawn <= 98
    with on_a_terminal(40) as terminal:
        clock.now += 1
        progress.advance(MIB, "pl@bob")
        assert terminal.shown().startswith("\r\x1b[2A\x1b[J  98 MiB missing")
        clock.now += 1
        progress.advance(MIB, "pl@bob")
        assert terminal.shown().startswith("\r\x1b[K  97 MiB missing")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00"),
        (0.9, "0:00"),
        (59, "0:59"),
        (60, "1:00"),
        (3599, "59:59"),
        (3600, "1:00:00"),
        (90061, "25:01:01"),
    ],
)
def test_times(seconds: float, text: str) -> None:
    assert format_time(seconds) == text


# -- audience ----------------------------------------------------------------------------------------


NONE: list[tuple[str, float]] = []


def test_how_many_are_done_and_who_is_last(clock: Clock, capsys: Captured) -> None:
    fetching = [("a", 0.9), ("b", 0.125), ("c", 0.5), ("d", 0.999), ("e", 0.3)]
    Audience(False).show("router:1", MIB, 2, 7, fetching)
    assert lines(capsys) == ["  router:1: 2 of 7 done  b 12 %, e 30 %, c 50 %, 2 more"]


def test_who_has_gone_is_counted(clock: Clock, capsys: Captured) -> None:
    audience = Audience(False)
    audience.show("router:1", MIB, 2, 4, [("b", 0.5)])
    audience.show("web:1", MIB, 2, 4, NONE)
    audience.show("db:1", MIB, 4, 4, NONE)
    assert lines(capsys) == [
        "  router:1: 2 of 4 done  b 50 %, 1 gone",
        "  web:1: 2 of 4 done  2 gone",
        "  db:1: 4 of 4 done",
    ]


def test_the_audience_as_json(clock: Clock, capsys: Captured) -> None:
    Audience(True).show("router:1", MIB, 2, 4, [("b", 0.5), ("a", 0.33333)])
    (shown,) = documents(capsys)
    assert shown == {"serving": "router:1", "done": 2, "joined": 4, "clients": {"a": 0.333, "b": 0.5}}
    assert list(shown["clients"]) == ["a", "b"]


@pytest.mark.parametrize("as_json", [False, True])
def test_only_what_is_new_is_said_and_that_not_too_often(
    clock: Clock, capsys: Captured, as_json: bool
) -> None:
    audience = Audience(as_json)
    audience.show("router:1", MIB, 0, 1, [("b", 0.1)])
    clock.now += 1
    audience.show("router:1", MIB, 0, 1, [("b", 0.2)])  # a moment ago something was said
    clock.now += 3
    audience.show("router:1", MIB, 0, 1, [("b", 0.3)])
    clock.now += 30
    audience.show("router:1", MIB, 0, 1, [("b", 0.3)])  # nothing new
    clock.now += 0.1
    audience.show("web:1", MIB, 0, 1, [("b", 0.1)])  # something else
    clock.now += 0.1
    audience.show("web:1", MIB, 1, 1, NONE)  # the end is said at once, and once
    audience.show("web:1", MIB, 1, 1, NONE)
    shown = lines(capsys)
    assert len(shown) == 4
    assert "1 of 1 done" in shown[-1] or '"done": 1, "joined": 1' in shown[-1]


def test_on_a_terminal_each_has_a_line_with_a_rate_and_the_end_stays(clock: Clock) -> None:
    with on_a_terminal(60) as terminal:
        audience = Audience(False)
        audience.show("router:1", 100 * MIB, 1, 3, [("etu12@oscar", 0.1), ("b", 0.5)])
        assert terminal.shown() == (
            "\r\x1b[K  router:1  1 of 3 done  0 B/s\n"
            "    etu12@oscar  [██                    ]   10 %  0 B/s\n"
            "    b            [███████████           ]   50 %  0 B/s"
        ).replace("█", "━")
        clock.now += 2
        audience.show("router:1", 100 * MIB, 2, 3, [("etu12@oscar", 0.5)])
        shown = terminal.shown()
        assert shown.startswith("\r\x1b[2A\x1b[J") and "50 %  20 MiB/s" in shown and "1 of" not in shown
        audience.show("router:1", 100 * MIB, 3, 3, NONE)
        assert terminal.shown() == "\r\x1b[1A\x1b[J  router:1: 3 of 3 done\n\r\x1b[K"[:-4]
        audience.clear()
        assert terminal.shown() == ""


@pytest.mark.parametrize("columns", [24, 40, 60, 200])
def test_a_room_fits_its_terminal_and_counts_whom_it_has_no_line_for(clock: Clock, columns: int) -> None:
    fetching = [(f"student-with-a-long-name-{at}@教室", at / 50) for at in range(50)]
    with on_a_terminal(columns) as terminal:
        for image in ("router:1", "web:1", "db:1"):
            Audience(False).show(image, MIB, 0, 60, fetching)
            drawn = terminal.shown().removeprefix("\r\x1b[K").split("\n")
            assert len(drawn) <= 22 and max(map(cell_len, drawn)) <= columns - 2
            assert "0 %" in drawn[1] and "more" in drawn[-1]


def test_several_images_are_drawn_together_and_one_that_is_done_leaves(clock: Clock) -> None:
    with on_a_terminal(80) as terminal:
        audience = Audience(False)
        audience.show("router:1", MIB, 0, 1, [("a", 0.1)])
        audience.show("web:1", MIB, 0, 1, [("b", 0.2)])
        assert "router:1" in (shown := terminal.shown().rpartition("\x1b[J")[2]) and "web:1" in shown
        audience.show("router:1", MIB, 1, 1, NONE)
        shown = terminal.shown()
        assert "  router:1: 1 of 1 done\n" in shown
        assert "router" not in shown.rpartition("done\n")[2] and "web:1" in shown.rpartition("done\n")[2]


# -- the output of a command -------------------------------------------------------------------------


def work(output: Output, clock: Clock) -> None:
    output.begin("router", 100)
    clock.now += 10
    output.advance(50, "pl@bob")
    output.end()
    output.serving("router:1", MIB, 1, 2, [("pl@bob", 0.5)])
    output.note("a note")


@pytest.mark.parametrize("as_json", [False, True])
def test_nothing_with_quiet(clock: Clock, capsys: Captured, as_json: bool) -> None:
    work(Output(Settings(json=as_json, quiet=True)), clock)
    assert lines(capsys) == []


def test_everything_without_quiet(clock: Clock, capsys: Captured) -> None:
    work(Output(Settings()), clock)
    assert lines(capsys) == [
        "router: 50 B missing of 100 B  5 B/s  0:10 left  from pl@bob",
        "  router:1: 1 of 2 done  pl@bob 50 %",
        "a note",
    ]


def test_labels_of_strangers_do_not_reach_the_terminal(clock: Clock, capsys: Captured) -> None:
    output = Output(Settings())
    output.serving("ro\x1b[31muter", MIB, 0, 1, [("pl\x1b]0;x\x07", 0.5)])
    output.begin("x\x1b[2J", 10)
    clock.now += 10
    output.advance(5, "pl\x1b[31m")
    shown = capsys.readouterr().err
    assert "pl?]0;x?" in shown
    assert "from pl?[31m" in shown
    assert "\x1b" not in shown


def test_while_something_is_fetched_the_audience_waits(clock: Clock, capsys: Captured) -> None:
    output = Output(Settings())
    output.begin("router", 100)
    output.serving("router:1", MIB, 0, 1, [("pl@bob", 0.5)])
    assert lines(capsys) == []
    output.end()
    output.serving("router:1", MIB, 0, 1, [("pl@bob", 0.5)])
    assert len(lines(capsys)) == 1
