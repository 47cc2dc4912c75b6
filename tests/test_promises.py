"""scripts/promises.py writes the markers on tests into a page, and refuses those that mean nothing."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "promises.py"
PAGE = """before
<!-- promises: written by scripts/promises.py, do not edit -->
<!-- end of promises -->
between
<!-- changes: written by scripts/promises.py, do not edit -->
<!-- end of changes -->
after
"""
TESTS = """import pytest

pytestmark = [pytest.mark.slow, pytest.mark.holds("R1")]

def helper(): ...

@pytest.mark.holds("R2")
@pytest.mark.red_without("R2", "nothing is compared")
async def test_it(): ...

@pytest.mark.red_without("R2", "nothing is compared")
def test_more(): ...
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("scripts", "tests", "docs"):
        (tmp_path / name).mkdir()
    shutil.copy(SCRIPT, tmp_path / "scripts")
    (tmp_path / "tests" / "promises.toml").write_text('R1 = "One."\nR2 = "Two."\n')
    (tmp_path / "tests" / "test_a.py").write_text(TESTS)
    (tmp_path / "docs" / "how-it-is-tested.md").write_text(PAGE)
    return tmp_path


def run(tree: Path, *words: str) -> tuple[int, str]:
    command = [sys.executable, str(tree / "scripts" / "promises.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_the_page_lists_what_the_tests_are_marked_with(tree: Path) -> None:
    page = tree / "docs" / "how-it-is-tested.md"
    status, said = run(tree, "--check")
    assert (status, page.read_text()) == (1, PAGE) and "is not what the markers say" in said
    assert run(tree) == run(tree, "--check") == (0, "")
    assert [line for line in page.read_text().splitlines() if line and line[0] not in "<"] == [
        "before",
        "| id | promise | tests | changes |",
        "|---|---|---|---|",
        "| R1 | One. | `tests/test_a.py` | — |",
        "| R2 | Two. | `tests/test_a.py::test_it` | 1 |",
        "between",
        "| id | the change | tests that failed |",
        "|---|---|---|",
        "| R2 | nothing is compared | `tests/test_a.py::test_it`, `tests/test_a.py::test_more` |",
        "after",
    ]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('holds("R1")', 'holds("R3")', "tests/test_a.py: holds names R3"),
        ('red_without("R2"', 'red_without("R3"', "::test_it: red_without names R3"),
        ('@pytest.mark.holds("R2")\n', "", "no test holds R2"),
        (
            'red_without("R2", "nothing is compared")',
            'red_without("R2")',
            "::test_it: red_without is misplaced",
        ),
        ('holds("R2")', 'holds(promise="R2")', "::test_it: holds is misplaced"),
        ("def helper()", '@pytest.mark.holds("R1")\ndef helper()', "test_a.py, line 5: holds is misplaced"),
        ("test_it", "test_that", "how-it-is-tested.md is not what the markers say"),
    ],
)
def test_a_wrong_marker_is_named(tree: Path, old: str, new: str, said: str) -> None:
    assert run(tree) == (0, "")
    (tree / "tests" / "test_a.py").write_text(TESTS.replace(old, new, 1))
    status, text = run(tree, "--check")
    assert status == 1 and said in text


def test_a_page_without_its_marks_is_left_alone(tree: Path) -> None:
    page = tree / "docs" / "how-it-is-tested.md"
    page.write_text("before\n")
    status, said = run(tree)
    assert status == 1 and "the section 'promises' is not between its two marks" in said
    assert page.read_text() == "before\n"
