"""Defaults of options that the user sets: in the config file and in the environment.

``config.toml`` may have a table for each command with its options, such as ``[fetch]`` and ``masters =
"~/masters"``; the variable of the same option is OVERLAYSYNC_FETCH_MASTERS. What is typed overrides the
environment, and the environment overrides the file.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from overlaysync.errors import NotAllowedError, UsageError
from overlaysync.model.names import meant
from overlaysync.store.home import Home

MAX_SIZE = 1 << 20
SERVICE = "service"
"""The table that is no command's options: :mod:`overlaysync.cli.service_settings` reads it."""


def load_defaults(command: str, options: Mapping[str, bool], commands: Collection[str]) -> dict[str, Any]:
    """Return the values that the user has set for options of a command.

    Args:
        command: its name.
        options: the options it has, as a user writes them there, and whether each may be given several times.
        commands: the names of all commands.

    Raises:
        UsageError: the config file is not TOML, or names what does not exist.
        NotAllowedError: it may not be read.
    """
    home = Home.from_environment(os.environ)
    path = home.config / "config.toml"
    tables = read_tables(path, home)
    for name, table in tables.items():
        if name not in commands or not isinstance(table, dict):
            raise no_such(path, "", name, "command", commands)
    if command == SERVICE:
        return {}
    for name in set(tables.get(command, ())) - set(options):
        raise no_such(path, command, name, "option", options)
    defaults = {name: _value(value, options[name]) for name, value in tables.get(command, {}).items()}
    for option, several in options.items():
        value = os.environ.get(f"OVERLAYSYNC_{command}_{option}".upper())
        if value:
            defaults[option] = value.split() if several else value
    return defaults


def read_tables(path: Path, home: Home) -> dict[str, Any]:
    """Return what the config file holds; nothing when there is none.

    Raises:
        UsageError: it is not TOML.
        NotAllowedError: it may not be read.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_SIZE)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except PermissionError:
        raise NotAllowedError(
            f"Cannot read the settings, {path}",
            why="permission denied",
            hint=f"chmod u+rwX '{home.root}' '{home.config}', or set OVERLAYSYNC_HOME to one of yours",
        ) from None
    try:
        return tomllib.loads(content.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{path} is not a TOML file", why=str(error), hint="correct it there, or move the file away"
        ) from None


def no_such(path: Path, table: str, name: str, kind: str, known: Collection[str]) -> UsageError:
    """Return the error for a setting that there is not.

    Args:
        path: the config file.
        table: where in it the setting stands; "" for the table itself.
        name: the setting.
        kind: what there is none of.
        known: those that there are.
    """
    why = "; ".join(filter(None, (f"there is no such {kind}", meant(name, known))))
    hint = f"choose from: {', '.join(sorted(known))}"
    return UsageError(f"{path} sets '{name}'" + (f" for {table}" if table else ""), why=why, hint=hint)


def _value(value: Any, several: bool) -> Any:
    """Return a value as if it were typed: paths may begin with ``~``, and one may stand for several."""
    values = value if isinstance(value, list) else [value]
    expanded = [os.path.expanduser(each) if isinstance(each, str) else each for each in values]
    return expanded if several or isinstance(value, list) else expanded[0]
