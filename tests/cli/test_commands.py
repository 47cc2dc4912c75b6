"""The list of commands, which is written without importing them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from overlaysync.cli.commands import ELSEWHERE, ENTRIES, load
from overlaysync.cli.main import run
from overlaysync.trust.team_files import keep_team
from overlaysync.trust.teams import new_team


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


@pytest.mark.parametrize("group", [name for name in ENTRIES if getattr(load(name), "commands", None)])
def test_the_lines_of_a_group_are_not_cut(group: str, capfd: pytest.CaptureFixture[str]) -> None:
    """A sentence that is cut can say the opposite: "remove it; settings, images and copies..."."""
    with pytest.raises(SystemExit):
        run([group, "--help"])
    assert "...\n" not in capfd.readouterr().out.split("Commands:")[1]


def test_help_of_what_is_no_command(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(["help", "team", "jion"])
    assert ended.value.code == 2 and "no command 'team jion'" in capfd.readouterr().err


def options() -> list[tuple[str, Any]]:
    """All options of all commands, each with the words of its command."""
    found = []
    waiting = [(name, load(name)) for name in ENTRIES]
    while waiting:
        name, command = waiting.pop()
        waiting += [(f"{name} {word}", below) for word, below in getattr(command, "commands", {}).items()]
        found += [(name, param) for param in command.params if param.param_type_name == "option"]
    return found


def test_an_option_says_in_words_what_it_takes() -> None:
    for name, option in options():
        if not option.is_flag and option.name != "help":
            metavar = option.metavar or ""
            assert metavar and "<" not in metavar and metavar not in {"INTEGER", "FLOAT", "TEXT"}, name


BOUNDED = [("ls", "--wait"), ("share", "--port"), ("sync", "--wait")]
NUMBERS = [*BOUNDED, ("share", "--recheck"), ("fetch", "--seed")]
WRONG = [(*option, value) for option in NUMBERS for value in ("five", "-1", "nan")]


@pytest.mark.parametrize(("command", "option", "value"), WRONG + [(*option, "1e99") for option in BOUNDED])
def test_a_wrong_number_is_named_with_what_it_may_be(
    capsys: pytest.CaptureFixture[str], command: str, option: str, value: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        run([command, "x", option, value])
    assert ended.value.code == 2
    error = " ".join(capsys.readouterr().err.split())
    assert option in error and f"{value} is not a" in error and "number" in error


def test_the_help_of_a_port_says_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(["share", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "--port PORT Listen on this port; 0 takes any free port (default: 29450" in shown


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("name", ["x.vmdk", "x.VDI", "x.vhdx", "x.raw"])
def test_a_new_overlay_is_not_called_like_something_else(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str
) -> None:
    master = tmp_path / "debian.raw"
    master.write_bytes(bytes(510) + b"\x55\xaa")
    path = tmp_path / name
    with pytest.raises(SystemExit) as ended:
        run(["new", str(path), "--master", str(master)])
    assert ended.value.code == 2 and not path.exists()
    assert "qcow2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "near"),
    [
        (["shar"], "share"),
        (["help", "shar"], "share"),
        (["team", "jion"], "join"),
        (["share", "--tem", "x"], "--team"),
        (["keep", "redd"], "red"),
        (["team", "show", "redd"], "red"),
        (["sync", "redd/"], "red"),
        (["archive", "check", "labb"], "lab"),
        (["pull", "web"], "fetch"),
        (["versoin"], "verify"),
        (["verify", "webb"], "web"),
        (["id", "./webb.raw"], "web.raw"),
        (["new", "x.qcow2", "--master", "webb.raw"], "web.raw"),
    ],
)
def test_what_was_mistyped_is_guessed(
    home: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    near: str,
) -> None:
    keep_team(home / "teams", new_team("red"))
    (tmp_path / "disk").mkdir()
    with pytest.raises(SystemExit):
        run(["archive", "add", "lab", f"file://{tmp_path}/disk"])
    monkeypatch.chdir(tmp_path)
    Path("web.raw").write_bytes(bytes(510) + b"\x55\xaa")
    with pytest.raises(SystemExit):
        run(["id", "web.raw"])
    with pytest.raises(SystemExit) as stopped:
        run(words)
    assert stopped.value.code in (2, 3)
    assert f"did you mean '{near}'?" in capsys.readouterr().err.lower()


def test_an_option_without_its_value_leads_to_the_help_of_its_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(["ls", "--peer"])
    assert stopped.value.code == 2 and "try: overlaysync ls --help" in capsys.readouterr().err


def test_each_word_of_another_program_leads_to_a_command_that_there_is() -> None:
    for told in ELSEWHERE.values():
        for name in told.split("' or '"):
            assert name.startswith("--") or name.split()[0] in ENTRIES
    assert not ELSEWHERE.keys() & ENTRIES.keys()
