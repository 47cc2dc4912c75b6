"""The table ``[service]`` of config.toml: what the service shares, keeps and pushes."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from overlaysync.cli.common import parse_peers, parse_rate
from overlaysync.cli.config import SERVICE, no_such, read_tables
from overlaysync.cli.later import later
from overlaysync.errors import OverlaysyncError, UsageError
from overlaysync.model.names import check_name, printable
from overlaysync.store.files import replace_file, translate
from overlaysync.store.home import Home


class ServiceSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the service does.

    Attributes:
        share: images and directories of images.
        team: the team that they are shared with; "" for the audience that each had so far, which for a new
            image is every machine on the network.
        recursive: whether subdirectories are shared as well.
        exclude: patterns of files that are left out.
        keep: teams whose states are kept.
        live: how often VMs of these teams that run here are saved, as ``keep --live``; "" for as it was said.
        push: archives to which the states of these teams are pushed.
        push_hours: how often.
        peer, iface, port, limit_rate, recheck, page, page_port: as the options of ``share``.
    """

    share: tuple[str, ...] = ()
    team: str = ""
    recursive: bool = False
    exclude: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    live: str = ""
    push: tuple[str, ...] = ()
    push_hours: float = 6.0
    peer: tuple[str, ...] = ()
    iface: tuple[str, ...] = ()
    port: int | None = None
    limit_rate: str | None = None
    recheck: float = 7.0
    page: bool = True
    page_port: int = 0

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.share or self.keep or self.push)

    @property
    def paths(self) -> list[str]:
        """What is shared, with ``~`` as in a shell."""
        return [os.path.expanduser(path) for path in self.share]


EXAMPLES = {
    "share": '["~/masters", "/srv/images"]',
    "team": '"red"',
    "recursive": "true",
    "exclude": '["*.bak"]',
    "keep": '["red"]',
    "live": '"15m"',
    "push": '["lab"]',
    "push_hours": "6",
    "peer": '["192.0.2.1:29450"]',
    "iface": '["eth0"]',
    "port": "29450",
    "limit_rate": '"20M"',
    "recheck": "7",
    "page": "true",
    "page_port": "29460",
}
"""How each setting is written."""
_TYPES = {
    "array": "a list",
    "str": "a text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "object": "a table",
    "datetime": "a time",
    "date": "a date",
    "time": "a time",
}


def load_settings(environment: Mapping[str, str]) -> ServiceSettings:
    """Return what the config file says; nothing where there is no table ``[service]``.

    Raises:
        UsageError: it says what cannot be.
    """
    home = Home.from_environment(environment)
    path = home.config / "config.toml"
    return convert_settings(path, read_tables(path, home).get(SERVICE, {}))


def convert_settings(path: Path, table: Any) -> ServiceSettings:
    """Return what the table ``[service]`` of a config file says.

    Raises:
        UsageError: it says what cannot be; which setting, why, and how it is written.
    """
    known = ServiceSettings.__struct_fields__
    if not isinstance(table, dict):
        raise UsageError(
            f"{path} cannot be used: '{SERVICE}' is no table",
            hint=f"write [{SERVICE}], and its settings below it",
        )
    for name, value in table.items():
        if name not in known:
            raise no_such(path, SERVICE, name, "setting", known)
        try:
            one = msgspec.convert({name: value}, ServiceSettings)
            _check(name, getattr(one, name))
        except (msgspec.ValidationError, OverlaysyncError, ValueError) as error:
            why = _said(str(error)) if isinstance(error, msgspec.ValidationError) else str(error)
            raise UsageError(
                f"{path} cannot be used: '{name}' in [{SERVICE}]",
                why=why,
                hint=f"write it like this: {name} = {EXAMPLES[name]}",
            ) from None
    return msgspec.convert(table, ServiceSettings)


def _said(problem: str) -> str:
    """Return what msgspec finds wrong, in the words of TOML."""
    problem = problem.replace(" | null", "")
    for word, said in _TYPES.items():
        problem = problem.replace(f"`{word}`", said)
    found = re.fullmatch(r"Expected (?P<wanted>.+), got (?P<got>.+?)( - at .+)?", problem)
    if found is None:
        return problem
    inside = "in the list, " if "[" in (found[3] or "") else ""
    return f"{inside}{found['got']} where {found['wanted']} is expected"


def _check(name: str, value: Any) -> None:
    """Look at one setting as far as that can be done without a network.

    Raises:
        ValueError, OverlaysyncError: it cannot be.
    """
    match name:
        case "share":
            for path in map(os.path.expanduser, value):
                if not os.path.isabs(path):
                    raise ValueError(f"'{path}' is not an absolute path")
        case "port" | "page_port" if value is not None and not 0 <= value <= 65535:
            raise ValueError(f"{value} is not a number from 0 to 65535")
        case "push_hours" if not 0 < value < math.inf:
            raise ValueError(f"{value:g} is not a number above 0")
        case "recheck" if not 0 <= value < math.inf:
            raise ValueError(f"{value:g} is not a number of days")
        case "limit_rate":
            parse_rate(value)
        case "peer" if value:
            parse_peers(list(value))
        case "live" if value:
            later("cli.keep").parse_interval(value)
        case "keep":
            for team in value:
                check_name(team, "team's name")


def add_settings(path: Path, wanted: Mapping[str, Any]) -> None:
    """Add a table ``[service]`` to the config file, which has none; what is in the file stays.

    Raises:
        UsageError: a value is not UTF-8.
        OverlaysyncError: it cannot be written.
    """
    table = "".join(f"{name} = {_toml(value)}\n" for name, value in wanted.items())
    try:
        before = path.read_bytes() if path.exists() else b""
        gap = b"\n" if before and not before.endswith(b"\n\n") else b""
        gap = b"\n" + gap if before and not before.endswith(b"\n") else gap
        replace_file(path, before + gap + f"[{SERVICE}]\n{table}".encode())
    except OSError as error:
        raise translate(error, f"Cannot write {path}", directory=str(path.parent)) from error


def _toml(value: Any) -> str:
    """Return a value as TOML has it: like JSON, but without its pairs of surrogates.

    Raises:
        UsageError: it is not UTF-8.
    """
    text = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError(
            f"The settings cannot hold {printable(text)}",
            why="a name in it is not UTF-8",
            hint="rename that file or directory, or name the directory above it",
        ) from None
    return text
