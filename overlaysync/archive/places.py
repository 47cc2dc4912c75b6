"""The archives of a home: their names and URLs, in one small JSON file.

The file holds no secret, but says where things are, so it is for its owner alone (0600).
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec

from overlaysync.archive.location import Location, parse_location
from overlaysync.errors import NotAllowedError, NotFoundError, OverlaysyncError, UsageError, WouldDestroyError
from overlaysync.model.names import check_name, meant, printable
from overlaysync.store.files import translate
from overlaysync.trust.secret_files import read_secret, replace_secret
from overlaysync.units import KIB

MAX_PLACES = 64

_FILE = "archives.json"
_LIMIT = 128 * KIB


def has_places(config: Path) -> bool:
    """Whether the home's directory ``config`` has a list of archives; it may be empty, or damaged."""
    return (config / _FILE).exists()


def load_places(config: Path) -> dict[str, Location]:
    """Return the archives that the home's directory ``config`` lists, by name.

    Raises:
        NotAllowedError: the list is damaged, or cannot be read.
    """
    path = config / _FILE
    try:
        data = read_secret(path, "list of archives", _LIMIT)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise _unusable(path, error) from error
    try:
        urls = msgspec.json.decode(data, type=dict[str, str])
        return {check_name(name): parse_location(urls[name]) for name in sorted(urls)}
    except (msgspec.DecodeError, UnicodeDecodeError, UsageError) as error:
        why = error.what if isinstance(error, UsageError) else "it is not what overlaysync wrote"
        raise NotAllowedError(
            f"Cannot use the list of archives {path}",
            why=why,
            hint=f"move it away, and add them again: mv '{path}' '{path}.old'",
        ) from None


def add_place(config: Path, name: str, location: Location) -> bool:
    """Add an archive; False when it is there already.

    Raises:
        UsageError: it cannot have this name, or there are too many.
        WouldDestroyError: another one has the name.
        NotAllowedError: the list cannot be changed.
    """
    check_name(name, "name for an archive")
    with _changing(config):
        places = load_places(config)
        if name in places:
            if places[name] == location:
                return False
            raise WouldDestroyError(
                f"There is already an archive '{name}'",
                why=f"it is {places[name]}",
                hint=f"choose another name, or first: overlaysync archive rm {name}",
            )
        if len(places) >= MAX_PLACES:
            raise UsageError(
                f"A machine has at most {MAX_PLACES} archives", hint="overlaysync archive rm NAME"
            )
        _write(config, places | {name: location})
    return True


def remove_place(config: Path, name: str) -> Location:
    """Take an archive off the list, and return where it is; what it holds stays.

    Raises:
        NotFoundError: there is none of that name.
        NotAllowedError: the list cannot be changed.
    """
    with _changing(config):
        places = load_places(config)
        location = find_place(places, name)
        _write(config, {other: places[other] for other in places if other != name})
    return location


def find_place(places: Mapping[str, Location], name: str) -> Location:
    """Return the archive of that name.

    Raises:
        NotFoundError: there is none.
    """
    if name not in places:
        raise NotFoundError(
            f"There is no archive '{printable(name)}'", why=meant(name, places), hint="overlaysync archive ls"
        )
    return places[name]


def _write(config: Path, places: Mapping[str, Location]) -> None:
    path = config / _FILE
    try:
        replace_secret(path, msgspec.json.encode({name: str(places[name]) for name in sorted(places)}))
    except OSError as error:
        raise _unusable(path, error) from error


@contextmanager
def _changing(config: Path) -> Iterator[None]:
    """Keep other commands from changing the list meanwhile."""
    try:
        descriptor = os.open(config, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _unusable(config, error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _unusable(path: Path, error: OSError) -> OverlaysyncError:
    return translate(error, f"Cannot use the list of archives {path}", hint=f"ls -ld '{path}'")
