"""The teams of a home: one file each, ``NAME.team``, JSON, for its owner alone."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

import msgspec

from overlaysync.errors import NotAllowedError, NotFoundError, UsageError, WouldDestroyError
from overlaysync.model.names import is_name, meant, printable
from overlaysync.trust.secret_files import make_secret, read_secret, remove_secret
from overlaysync.trust.teams import MAX_TEAMS, TEAM_KEY_SIZE, Team

_SUFFIX = ".team"
_LIMIT = 1024


class _TeamJson(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    key: str
    since: str


def load_teams(directory: Path) -> Mapping[str, Team]:
    """Return the teams in ``directory``, by name.

    Raises:
        NotAllowedError: others may read a key, or a file is none.
    """
    teams = {}
    try:
        for entry in sorted(os.listdir(directory)):
            name = entry.removesuffix(_SUFFIX)
            if entry.endswith(_SUFFIX) and is_name(name):
                teams[name] = _load(directory / entry, name)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise _unusable(directory, error) from error
    return MappingProxyType(teams)


def keep_team(directory: Path, team: Team) -> bool:
    """Join ``team``; False when this node is in it already.

    Raises:
        WouldDestroyError: it is in another team of that name.
        UsageError: it is in too many.
        NotAllowedError: the key cannot be kept.
    """
    teams = load_teams(directory)
    if team.name in teams:
        if teams[team.name] == team:
            return False
        raise _known(team.name)
    if len(teams) >= MAX_TEAMS:
        raise UsageError(f"A machine is in at most {MAX_TEAMS} teams", hint="overlaysync team leave NAME")
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        make_secret(
            directory / f"{team.name}{_SUFFIX}", msgspec.json.encode(_TeamJson(team.key.hex(), team.since))
        )
    except FileExistsError:
        raise _known(team.name) from None
    except OSError as error:
        raise _unusable(directory, error) from error
    return True


def forget_team(directory: Path, name: str) -> None:
    """Leave a team.

    Raises:
        NotFoundError: this node is not in it.
        NotAllowedError: the key cannot be removed.
    """
    try:
        if not is_name(name):
            raise FileNotFoundError
        remove_secret(directory / f"{name}{_SUFFIX}")
    except FileNotFoundError:
        raise not_in_team(name) from None
    except OSError as error:
        raise _unusable(directory, error) from error


def not_in_team(name: str, teams: Iterable[str] = ()) -> NotFoundError:
    """Return the error for a team that this node is not in; it is in ``teams``."""
    return NotFoundError(
        f"This machine is not in a team '{printable(name)}'",
        why=meant(name, teams),
        hint="overlaysync team show",
    )


def _load(path: Path, name: str) -> Team:
    data = read_secret(path, "team key", _LIMIT)
    try:
        fields = msgspec.json.decode(data, type=_TeamJson)
        key = bytes.fromhex(fields.key)
    except ValueError:
        key = b""
    if len(key) != TEAM_KEY_SIZE:
        raise NotAllowedError(
            f"{path} is not a team key", hint=f"move it away, and join again: overlaysync team join {name}"
        )
    return Team(name, key, printable(fields.since, 40))


def _known(name: str) -> WouldDestroyError:
    return WouldDestroyError(
        f"This machine is already in a team '{name}'",
        hint=f"overlaysync team leave {name}, or choose another name",
    )


def _unusable(directory: Path, error: OSError) -> NotAllowedError:
    return NotAllowedError(
        f"Cannot use the team keys in {directory}",
        why=error.strerror or str(error),
        hint=f"ls -ld '{directory}'; or set OVERLAYSYNC_HOME to a directory of your own",
    )
