"""Defaults of options that the user sets: in the config file and in the environment.

``config.toml`` has a table per command with its options, such as ``[fetch]`` and ``masters = "~/masters"``;
the variable of the same option is OVERLAYSYNC_FETCH_MASTERS. Flags win over the environment, that over the
file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, TypeAlias

from overlaysync.errors import NotAllowedError, UsageError
from overlaysync.store.home import Home

MAX_SIZE = 1 << 20

Options: TypeAlias = Mapping[str, Mapping[str, bool]]
"""Command → option → whether it may be given several times."""


def load_defaults(commands: Options) -> dict[str, dict[str, Any]]:
    """Command → option → value, as the user has set them.

    Raises:
        UsageError: the config file is not TOML, or names what does not exist.
        NotAllowedError: it may not be read.
    """
    defaults = _from_file(commands)
    for command, options in commands.items():
        for option, several in options.items():
            value = os.environ.get(f"OVERLAYSYNC_{command}_{option}".upper())
            if value:
                defaults.setdefault(command, {})[option] = value.split() if several else value
    return defaults


def _from_file(commands: Options) -> dict[str, dict[str, Any]]:
    home = Home.from_environment(os.environ)
    path = home.config / "config.toml"
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
    import tomllib

    try:
        tables = tomllib.loads(content.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{path} is not a TOML file", why=str(error), hint="correct it there, or move the file away"
        ) from None
    for command, options in tables.items():
        if command not in commands or not isinstance(options, dict):
            raise UsageError(
                f"{path} sets '{command}'",
                why="there is no such command",
                hint=f"choose from: {', '.join(sorted(commands))}",
            )
        unknown = sorted(set(options) - set(commands[command]))
        if unknown:
            raise UsageError(
                f"{path} sets '{unknown[0]}' for {command}",
                why="there is no such option",
                hint=f"choose from: {', '.join(sorted(commands[command]))}",
            )
    return {
        command: {name: _expanded(value) for name, value in options.items()}
        for command, options in tables.items()
    }


def _expanded(value: Any) -> Any:
    """Paths may begin with ``~``, as in a shell."""
    return os.path.expanduser(value) if isinstance(value, str) else value
