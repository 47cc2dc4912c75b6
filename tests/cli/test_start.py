"""What a command imports before it begins: only what it uses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

WITHOUT = "id new promote rebase discard verify settle tree team key save diff forget vault archive"
"""Commands that do without the network."""
LATER = "history status ls show peers trust untrust distrust"
"""Commands that import the network when they look around: what they are asked for may be here."""

_NETWORK = '{"aiohttp", "zeroconf", "cryptography.x509"} & sys.modules.keys()'
_LOADED = f"""
import sys
from overlaysync.cli.commands import load
for command in sys.argv[1:]:
    load(command)
    if found := {_NETWORK}:
        print(command, "imports", *sorted(found))
        break
"""
_RUN = f"""
import sys
from overlaysync.cli.main import run
try:
    run(sys.argv[1:])
finally:
    print("network:", *sorted({_NETWORK}), file=sys.stderr)
"""


def python(script: str, *words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script, *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


def test_the_network_is_imported_when_it_is_used() -> None:
    done = python(_LOADED, *WITHOUT.split(), *LATER.split())
    assert (done.returncode, done.stderr) == (0, "")
    assert not done.stdout, (
        f"{done.stdout.strip()} before the network is used. Let overlaysync.node.session open it, and import"
        " under TYPE_CHECKING what only annotations need. To see which module it is: python -X importtime -c"
        f" 'from overlaysync.cli.commands import load; load(\"{done.stdout.split()[0]}\")'"
    )


@pytest.mark.slow
@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    "words",
    [
        "history web --local",
        "status --local",
        "ls --local",
        "show web.raw",
        "trust",
        "diff red:1",
        "vault check",
    ],
)
def test_what_is_answered_here_never_imports_the_network(words: str, tmp_path: Path) -> None:
    (tmp_path / "web.raw").write_bytes(bytes(512))
    done = python(_RUN, *words.split(), cwd=tmp_path)
    assert done.stderr.splitlines()[-1] == "network:", done.stderr


def test_a_fetch_without_archives_imports_nothing_of_vaults() -> None:
    done = python("import sys, overlaysync.cli.fetch; print(*sys.modules)")
    modules = [name for name in done.stdout.split() if name.startswith("overlaysync.")]
    assert "overlaysync.node.fetching" in modules
    assert not [
        name for name in modules if name.startswith(("overlaysync.ops.recovery", "overlaysync.ops.drill"))
    ]
    assert not {"overlaysync.archive.bucket", "overlaysync.vault.contents"} & set(modules)
