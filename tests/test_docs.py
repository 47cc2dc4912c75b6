"""The documentation holds together: links lead somewhere, commands exist, pictures are up to date."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from overlaysync.cli.commands import ENTRIES, load

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)
GUIDES = [DOCS / f"{name}.md" for name in ("tutorial", "teacher", "team", "howto", "comparison")]
TRANSLATED = ("tutorial", "teacher", "team", "exercise")

_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} +(.+)$", re.MULTILINE)
_BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub and MyST make them."""
    text = _BLOCK.sub("", page.read_text(encoding="utf-8"))
    plain = [
        re.sub(r"[`*]|\]\([^)]*\)|\[", "", heading).strip().lower() for heading in _HEADING.findall(text)
    ]
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name
)
def test_links_within_the_documentation_lead_somewhere(page: Path) -> None:
    for target in _LINK.findall(_BLOCK.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"https?://|mailto:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), f"{page.name} links to {target}"
        assert not anchor or path.suffix != ".md" or anchor in anchors(path), f"{page.name} links to {target}"


def test_the_table_of_contents_lists_every_page() -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    listed = {
        line for block in re.findall(r"```{toctree}\n(.*?)```", index, re.DOTALL) for line in block.split()
    }
    assert {page.stem for page in DOCS.glob("*.md")} - {"index"} <= listed


def commands(page: Path) -> Iterator[list[str]]:
    """Every command of overlaysync in the page's blocks."""
    for _, block in _BLOCK.findall(page.read_text(encoding="utf-8")):
        for line in block.splitlines():
            typed = re.sub(r"^\w+(@\w+)?\$ ", "", line.strip())
            if typed.startswith("overlaysync "):
                yield shlex.split(typed, comments=True)[1:]


@pytest.mark.parametrize("page", [*GUIDES, *PAGES], ids=lambda page: page.stem)
def test_every_command_that_is_shown_exists_with_its_options(page: Path) -> None:
    for words in commands(page):
        if words[0] in ("--install-completion", "--show-completion", "--version"):
            continue
        name = next((word for word in words if not word.startswith("-")), "help")
        assert name in ENTRIES, words
        command = load(name)
        for word in words[1:]:  # of a command with others below it
            command = getattr(command, "commands", {}).get(word, command)
        known = {option for param in command.params for option in (*param.opts, *param.secondary_opts)}
        known |= {"--json", "--quiet", "-q", "--no-color", "--help", "-h"}
        used = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        assert used <= known, f"{words}: {used - known}"


@pytest.mark.parametrize("name", TRANSLATED)
def test_a_translation_shows_the_same_sessions(name: str) -> None:
    english, french = (
        _BLOCK.findall((DOCS / folder / f"{name}.md").read_text(encoding="utf-8")) for folder in ("", "fr")
    )
    assert french == english


def test_pictures_are_as_the_script_draws_them() -> None:
    code = "import scripts.pictures as p, json; print(json.dumps(dict(p.pictures())))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    drawn = json.loads(done.stdout)
    assert {path.name: path.read_text(encoding="utf-8") for path in (DOCS / "pictures").iterdir()} == drawn
