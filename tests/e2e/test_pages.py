"""The pages for people say what really happens: their commands are typed, and print what the pages show."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from tests.e2e.pages import Step, fits, run_page, steps_of

ROOT = Path(__file__).parents[2]


@pytest.mark.qemu
@pytest.mark.lan
@pytest.mark.slow
@pytest.mark.parametrize(
    "page", ["README.md", "docs/tutorial.md", "docs/teacher.md", "docs/team.md", "docs/howto.md"]
)
def test_a_page_can_be_typed(page: str, tmp_path: Path) -> None:
    assert run_page(ROOT / page, tmp_path) > 10


@pytest.mark.drill
@pytest.mark.guest
@pytest.mark.qemu
@pytest.mark.lan
@pytest.mark.slow
def test_the_exercise_can_be_typed(tmp_path: Path) -> None:
    assert run_page(ROOT / "docs" / "exercise.md", tmp_path) > 10


@pytest.mark.qemu
@pytest.mark.lan
@pytest.mark.slow
def test_the_sessions_that_it_was_made_for(tmp_path: Path) -> None:
    assert run_page(Path(__file__).with_name("flows.md"), tmp_path) > 5


@pytest.mark.parametrize("indent", ["", "   "])
def test_a_page_is_read_as_steps(indent: str) -> None:
    block = "```console\nann@host$ ls     # what is here\nweb\n\nben$ id\n```\n"
    text = f"a$ not in a block\n{textwrap.indent(block, indent)}<!-- run: ann: true -->\n<!-- cut: ben -->"
    assert list(steps_of(text)) == [
        Step("ann", "ls", 3, ("web", "")),
        Step("ben", "id", 6, ()),
        Step("ann", "true", 8, None),
        Step("ben", "", 9, None, "cut"),
    ]


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (["b3:0123 5 MiB of pl@bob-abc234"], ["b3:4567  12.5 KiB  of pl@host0-xyz765"]),
        (["first", "…"], ["first", "second", "third"]),
        (["…", "last"], ["first", "last"]),
        (["at …, done"], ["at a place, done"]),
    ],
)
def test_what_may_differ(said: list[str], shown: list[str]) -> None:
    assert fits(said, shown) is not None


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (["web:1 fetched"], ["db:1 fetched"]),
        (["first"], ["first", "second"]),
        (["first", "second"], ["first"]),
        (["…", "gone"], ["first"]),
        (["5 MiB of anybody"], ["5 MiB"]),
    ],
)
def test_what_may_not(said: list[str], shown: list[str]) -> None:
    assert fits(said, shown) is None
