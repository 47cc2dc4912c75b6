"""The settings: a table for each command, whose options have the names that are typed."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from overlaysync.cli.commands import ENTRIES, load, options_of
from overlaysync.cli.config import load_defaults
from overlaysync.errors import UsageError

_PAGE = (Path(__file__).parents[2] / "docs" / "commands.md").read_text(encoding="utf-8")
_SEVERAL = {"masters": True, "limit_rate": False, "as": False}


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OVERLAYSYNC_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", "/home/ann")
    (tmp_path / "config").mkdir()
    return tmp_path / "config" / "config.toml"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ('masters = "~/masters"', {"masters": ["/home/ann/masters"]}),
        ('masters = ["~/one", "/two"]', {"masters": ["/home/ann/one", "/two"]}),
        ('limit_rate = "20M"', {"limit_rate": "20M"}),
        ('as = "web"', {"as": "web"}),
    ],
)
def test_a_setting_is_what_would_be_typed(settings: Path, written: str, meant: dict[str, object]) -> None:
    settings.write_text(f"[fetch]\n{written}\n")
    assert load_defaults("fetch", _SEVERAL, ENTRIES) == meant


def test_the_environment_overrides_the_file(settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.write_text('[fetch]\nmasters = "/one"\nlimit_rate = "20M"\n')
    monkeypatch.setenv("OVERLAYSYNC_FETCH_MASTERS", "/two /three")
    defaults = load_defaults("fetch", _SEVERAL, ENTRIES)
    assert defaults == {"masters": ["/two", "/three"], "limit_rate": "20M"}


def test_an_option_that_there_is_not_is_named_with_those_that_there_are(settings: Path) -> None:
    settings.write_text('[fetch]\nmaster = "/one"\n')
    with pytest.raises(UsageError, match=r"sets .master. for fetch"):
        load_defaults("fetch", _SEVERAL, ENTRIES)


def test_the_settings_of_the_page_are_taken(settings: Path) -> None:
    (block,) = re.findall(r"```toml\n(.+?)```", _PAGE, re.DOTALL)
    settings.write_text(block)
    for command, table in tomllib.loads(block).items():
        options = options_of(load(command))
        assert set(table) <= set(options)
        several = {name: bool(option.multiple) for name, option in options.items()}
        for name, value in load_defaults(command, several, ENTRIES).items():
            assert isinstance(value, list) == several[name]


@pytest.mark.parametrize("command", sorted(ENTRIES))
def test_each_option_has_the_name_that_is_typed(command: str) -> None:
    options = options_of(load(command))
    for name, option in options.items():
        assert f"--{name.replace('_', '-')}" in option.opts
    assert len(options) == sum(param.param_type_name == "option" for param in load(command).params)
