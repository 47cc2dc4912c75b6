"""What adds an optional part fits how the running program was installed."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest

from overlaysync import __version__, installed


@pytest.fixture
def prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The environment in which the program seems to run."""
    place = tmp_path / "the tools" / "overlaysync"
    place.mkdir(parents=True)
    monkeypatch.setattr(sys, "prefix", str(place))
    monkeypatch.setattr(installed, "parts_of", lambda extra: ("obstore<0.13,>=0.12.1",))
    return place


def test_pipx_puts_it_into_the_environment_of_the_program(prefix: Path) -> None:
    (prefix / "pipx_metadata.json").write_text("{}")
    assert installed.adding("archive") == "pipx inject overlaysync 'obstore<0.13,>=0.12.1'"


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ('{ name = "overlaysync", path = "/a b/o.whl" }', "'/a b/o.whl[archive]'"),
        ('{ name = "overlaysync", extras = ["live"], editable = "/src" }', "'/src[archive,live]'"),
        ('{ name = "overlaysync" }, { name = "qemu-qmp" }', "--with qemu-qmp 'overlaysync[archive]'"),
        ('{ name = "x", specifier = ">=1" }', "--with 'x>=1' 'overlaysync[archive]'"),
    ],
)
def test_uv_is_told_the_same_again_with_it(prefix: Path, told: str, words: str) -> None:
    (prefix / "uv-receipt.toml").write_text(f"[tool]\nrequirements = [{told}]\n")
    assert installed.adding("archive") == f"uv tool install {words}"


def test_a_receipt_that_cannot_be_read_does_no_harm(prefix: Path) -> None:
    (prefix / "uv-receipt.toml").write_text("tool = [")
    assert installed.adding("archive").endswith(" 'overlaysync[archive]'")


def test_a_single_file_and_the_debian_package_contain_all_parts(
    prefix: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (prefix / "PEX-INFO").write_text("{}")
    assert installed.adding("archive") == f"rm -r '{prefix}'"
    monkeypatch.setattr(sys, "prefix", str(installed.PACKAGED))
    assert installed.adding("live") == (
        f"sudo apt install --reinstall ./overlaysync_{__version__}_debian12_amd64.deb"
    )


def test_any_other_environment_is_added_to_with_its_own_python(
    prefix: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/venv/bin/python")
    assert installed.adding("archive") == "/venv/bin/python -m pip install 'obstore<0.13,>=0.12.1'"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)  # as uv makes environments
    assert installed.adding("archive") == "uv pip install --python /venv/bin/python 'obstore<0.13,>=0.12.1'"


@pytest.mark.parametrize(("extra", "part"), [("archive", "obstore"), ("live", "qemu"), ("pictures", "resvg")])
def test_the_parts_are_those_that_the_package_declares(extra: str, part: str) -> None:
    installed.parts_of.cache_clear()
    (only,) = installed.parts_of(extra)
    assert only.startswith(part)


def test_a_tree_that_was_not_installed_is_named_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise PackageNotFoundError(name)

    installed.parts_of.cache_clear()
    monkeypatch.setattr(installed, "requires", absent)
    assert installed.parts_of("live") == (f"{Path(installed.__file__).parents[1]}[live]",)
    installed.parts_of.cache_clear()


def test_the_program_starts_itself_without_a_look_into_the_current_directory(tmp_path: Path) -> None:
    (tmp_path / "overlaysync").mkdir()
    (tmp_path / "overlaysync" / "__main__.py").write_text("print('a trap')")
    words = [*installed.program_words(), "--version"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert __version__ in done.stdout


def test_an_isolated_program_starts_itself_isolated() -> None:
    # As the Debian package begins; -I leaves out PYTHONPATH, which may be needed here.
    place = str(Path(installed.__file__).parents[1])
    code = f"import sys; sys.path.insert(0, {place!r})\n"
    code += "from overlaysync.installed import python_words; print(python_words()[1])"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "-I\n"
