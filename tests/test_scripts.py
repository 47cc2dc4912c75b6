"""The scripts of the repository: what they say when the environment cannot be made."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
RETRY = (
    "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError('<pip._vendor.urllib3"
    ".connection.HTTPSConnection object at 0x7f>: Failed to establish a new connection')': /simple/aiohttp/\n"
)
TRACEBACK = 'Traceback (most recent call last):\n  File "pip/base_command.py", line 1, in run\n    raise\n'
NO_VERSION = "ERROR: No matching distribution found for aiohttp==3.14.5\n"


def said(tmp_path: Path, log: str) -> str:
    """What is printed when pip has failed with that log."""
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "install.log").write_text(log)
    script = f'root="$1"; . {ROOT}/scripts/venv.sh; install_failed "pip could not install its parts"'
    done = subprocess.run(
        ["sh", "-euc", script, "sh", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    return done.stderr


@pytest.mark.parametrize(
    "log",
    [
        RETRY * 5 + NO_VERSION,
        RETRY + f"ERROR: Exception:\n{TRACEBACK}pip._vendor.urllib3.exceptions.ReadTimeoutError: timed out\n",
    ],
)
def test_without_a_network_that_is_said_without_a_traceback(tmp_path: Path, log: str) -> None:
    shown = said(tmp_path, log)
    assert "The package index cannot be reached" in shown and "the same command again" in shown
    assert "Traceback" not in shown and "File" not in shown
    assert len(shown.splitlines()) <= 5 and all(len(line) <= 210 for line in shown.splitlines())


def test_another_error_is_shown_with_where_the_rest_is(tmp_path: Path) -> None:
    shown = said(tmp_path, f"Collecting aiohttp\n{NO_VERSION}")
    assert NO_VERSION in shown and "install.log" in shown and "cannot be reached" not in shown
