"""The table ``[service]`` of config.toml: what the service shares, keeps and pushes."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from overlaysync.cli.config import SERVICE, no_such, read_tables
from overlaysync.errors import UsageError
from overlaysync.model.names import printable
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


def load_settings(environment: Mapping[str, str]) -> ServiceSettings:
    """Return what the config file says; nothing where there is no table ``[service]``.

    Raises:
        UsageError: it says what cannot be.
    """
    home = Home.from_environment(environment)
    path = home.config / "config.toml"
    table = read_tables(path, home).get(SERVICE, {})
    known = ServiceSettings.__struct_fields__
    for name in table if isinstance(table, dict) else ():
        if name not in known:
            raise no_such(path, SERVICE, name, "setting", known)
    try:
        settings = msgspec.convert(table, ServiceSettings)
        _check(settings)
    except (msgspec.ValidationError, ValueError) as error:
        raise UsageError(
            f"{path} cannot be used: [{SERVICE}]", why=str(error), hint="correct it in that file"
        ) from None
    return settings


def _check(settings: ServiceSettings) -> None:
    if not 0 <= (settings.port or 0) <= 65535:
        raise ValueError("port is not a number from 0 to 65535")
    if settings.push_hours <= 0 or settings.recheck < 0:
        raise ValueError("push_hours and recheck are numbers above 0")
    relative = [path for path in settings.paths if not os.path.isabs(path)]
    if relative:
        raise ValueError(f"share has '{relative[0]}', which is not an absolute path")


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
