"""The config file: defaults for the options of commands.

``config.toml`` has a table per command with its options, such as ``[fetch]`` and ``masters = "~/masters"``.
Flags win over the environment (``OVERLAYSYNC_FETCH_MASTERS``), that over the file, that over the defaults.
"""

from __future__ import annotations

import os
import tomllib
from typing import Any

from overlaysync.errors import UsageError
from overlaysync.store.home import Home

MAX_SIZE = 1 << 20


def load_defaults(commands: dict[str, set[str]]) -> dict[str, dict[str, Any]]:
    """Command → option → value, from the user's config file; empty when there is none.

    Args:
        commands: the options that each command has.

    Raises:
        UsageError: the file is not TOML, or names what does not exist.
    """
    path = Home.from_environment(os.environ).config / "config.toml"
    try:
        with path.open("rb") as file:
            tables = tomllib.loads(file.read(MAX_SIZE).decode("utf-8"))
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not a TOML file", why=str(error)) from None
    for command, options in tables.items():
        if command not in commands or not isinstance(options, dict):
            raise UsageError(f"{path} has a table for '{command}'", why="there is no such command")
        unknown = sorted(set(options) - commands[command])
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
