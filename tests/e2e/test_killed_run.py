"""Tests that are killed leave no process behind: it would slow down, or disturb, the tests that run next."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from tests.e2e.nodes import until

_TESTS = """
import sys
from pathlib import Path
from tests.e2e.forks import Forks
from tests.e2e.nodes import Lab
with Forks() as forks, Lab(Path(sys.argv[1]), forks=forks) as lab:
    forked, started = lab.node("alice"), lab.node("bob", prefix=("env",))
    for node in (forked, started):
        (node.place / "disk.raw").write_bytes(bytes(65536))
        node.share(node.place, "--peer", "127.0.0.1:1")
    print("both share", flush=True)
    input()
"""


def test_what_nodes_run_ends_with_the_tests_that_are_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _TESTS, str(tmp_path)]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        cwd=Path(__file__).parents[2],
    ) as tests:
        assert tests.stdout is not None and tests.stdout.readline() == b"both share\n"
        assert len(_running_in(tmp_path)) >= 2
        os.kill(tests.pid, signal.SIGKILL)
        until(lambda: not _running_in(tmp_path), within_s=10, what="the end of all that they had started")


def _running_in(directory: Path) -> list[int]:
    """The processes that work in a directory."""
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            if os.readlink(f"/proc/{entry}/cwd").startswith(str(directory)):
                found.append(int(entry))
    return found
