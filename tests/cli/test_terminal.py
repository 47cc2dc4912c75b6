"""Tables on a terminal: they fit it, no word is cut, and colour has a meaning."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from overlaysync.cli.output import Output, Settings
from overlaysync.cli.tables import Fail, Table, Warn
from overlaysync.cli.terminal import table_lines

ROWS = [
    ("router:2", "overlay", "b3:0123456789abcdef", "12 MiB", "", "“the new firewall rules”", Warn("forked")),
    ("web-server:10", "master", "b3:fedcba9876543210", "3 GiB", "", "", ""),
]  # fmt: skip
WORDS = st.lists(st.text("abc-教", min_size=1, max_size=14), max_size=5).map(" ".join)


def test_with_room_it_is_as_on_a_pipe() -> None:
    for indent in (0, 2):
        table = Table(ROWS, indent)
        assert table_lines(table, 120, color=False) == table.lines()


def test_with_less_room_words_are_wrapped_in_their_column() -> None:
    assert table_lines(Table(ROWS), 80, color=False) == [
        "router:2       overlay  b3:0123456789abcdef  12 MiB  “the new firewall    forked",
        "                                                     rules”",
        "web-server:10  master   b3:fedcba9876543210  3 GiB",
    ]


def test_with_hardly_any_room_the_cells_are_below_one_another() -> None:
    assert table_lines(Table(ROWS), 40, color=False) == [
        "router:2",
        "  overlay  b3:0123456789abcdef  12 MiB",
        "  “the new firewall rules”  forked",
        "web-server:10",
        "  master  b3:fedcba9876543210  3 GiB",
    ]


@given(
    st.integers(1, 6).flatmap(
        lambda columns: st.lists(st.tuples(*[WORDS] * columns), min_size=1, max_size=4)
    ),
    st.integers(16, 200),
    st.sampled_from([0, 2]),
)
def test_nothing_is_lost_and_only_a_long_word_is_wider(
    rows: list[tuple[str, ...]], width: int, indent: int
) -> None:
    shown = table_lines(Table(rows, indent), width, color=False)
    said = sorted(word for row in rows for text in row for word in text.split())
    assert sorted(word for line in shown for word in line.split()) == said
    longest = max(map(cell_len, said), default=0)
    assert all(cell_len(line) <= max(width, indent + 2 + longest) for line in shown)


def test_colour_marks_what_asks_for_attention_and_what_does_not_work() -> None:
    table = Table([("✔ clock", "fine", ""), ("! key", Warn("forked"), Fail("is mute"))])
    first, second = table_lines(table, 80, color=True)
    assert first.startswith("\x1b[32m✔\x1b[0m clock") and "fine" in first
    assert (
        second.startswith("\x1b[33m!\x1b[0m") and "\x1b[33mforked" in second and "\x1b[31mis mute" in second
    )
    assert "\x1b" not in "".join(table_lines(table, 80, color=False))


def test_foreign_text_has_no_sequences() -> None:
    (line,) = table_lines(Table([("a\x1b[31m", "[red]b[/red] :smile:")]), 80, color=True)
    assert line == "a?[31m  [red]b[/red] :smile:"


def test_a_pipe_gets_the_plain_form(capsys: pytest.CaptureFixture[str]) -> None:
    Output(Settings()).result({}, "head", Table(ROWS), Table([]))
    assert capsys.readouterr().out.splitlines() == ["head", *Table(ROWS).lines()]


@pytest.mark.parametrize(
    "words", [["--help"], ["ls", "--help"], ["tree"], ["ls", "--local"], ["--json", "tree"]]
)
def test_without_a_terminal_nothing_that_draws_is_imported(
    words: list[str], tmp_path: os.PathLike[str]
) -> None:
    code = (
        "import sys; from overlaysync.cli.main import run\n"
        "try: run(sys.argv[1:])\n"
        "finally: sys.stderr.write(' '.join(name for name in sys.modules if name.split('.')[0] == 'rich'))"
    )
    environment = {**os.environ, "OVERLAYSYNC_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code, *words], env=environment, capture_output=True, text=True, check=True
    )
    assert "rich" not in done.stderr.split()
