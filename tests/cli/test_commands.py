"""The list of commands, which is written without importing them."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from overlaysync.cli.commands import ENTRIES, load
from overlaysync.cli.main import run


@pytest.mark.parametrize("name", ENTRIES)
def test_the_line_of_a_command_is_the_first_of_its_help(name: str) -> None:
    command: Any = load(name)
    assert command.help.splitlines()[0] == ENTRIES[name].help
    assert len(ENTRIES[name].help) < 60, "one line on a terminal of 80 columns"


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    "words", [["--help"], ["help", "ls"], ["--version"], ["key", "show"], ["tree", "--json"]]
)
@pytest.mark.parametrize("unbuffered", [[], ["-u"]])
def test_what_reads_the_result_may_close_the_pipe(words: list[str], unbuffered: list[str]) -> None:
    """As of a program that SIGPIPE ends: that is no mistake, and there is nothing to say."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, *unbuffered, "-m", "overlaysync", *words]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("words", [["--help"], [], ["fetc"], ["--version"]])
@pytest.mark.slow
def test_no_command_is_imported_for_the_list_of_commands(words: list[str]) -> None:
    script = (
        "import sys\n"
        "from overlaysync.cli.main import run\n"
        "try: run(sys.argv[1:])\n"
        "finally: print(sorted(sys.modules), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=False)
    assert "overlaysync.cli.commands" in done.stderr
    for module in (
        "asyncio",
        "numpy",
        "aiohttp",
        "zeroconf",
        "overlaysync.cli.fetch",
        "overlaysync.node.node",
    ):
        assert f"'{module}'" not in done.stderr, module
    if words == ["fetc"]:
        assert done.returncode == 2 and "Did you mean 'fetch'" in done.stderr
    else:
        assert done.returncode == 0 and done.stdout.startswith(("Usage", "overlaysync "))


@pytest.mark.parametrize("words", [["team"], ["help", "team"], ["team", "--help"]])
def test_a_group_alone_shows_its_help(words: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(words)
    shown, complaints = capfd.readouterr()
    assert ended.value.code == 0 and not complaints
    assert shown.startswith("Usage: overlaysync team") and "join" in shown


def test_help_of_what_is_no_command(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(["help", "team", "jion"])
    assert ended.value.code == 2 and "no command 'team jion'" in capfd.readouterr().err
