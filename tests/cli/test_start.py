"""What a command imports before it begins: only what it uses."""

from __future__ import annotations

import subprocess
import sys

import pytest

_IMPORTED = """
import sys
from overlaysync.cli.commands import load
load(sys.argv[1])
print(*({"aiohttp", "zeroconf", "cryptography.x509"} & sys.modules.keys()))
"""


def imported(command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", _IMPORTED, command], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.mark.parametrize(
    "command", ["id", "new", "promote", "rebase", "discard", "verify", "settle", "tree", "team", "key"]
)
def test_what_stays_on_this_machine_imports_nothing_of_the_network(command: str) -> None:
    assert imported(command) == ""


@pytest.mark.parametrize("command", ["ls", "show", "history", "peers", "trust"])
def test_what_only_looks_around_imports_no_server(command: str) -> None:
    assert imported(command) == "zeroconf"
