"""What this node keeps for its teams and for others: a small file in its home, ``keeping.json``."""

from __future__ import annotations

from pathlib import Path

import msgspec

from overlaysync.errors import NotAllowedError
from overlaysync.store.files import replace_file, translate

_LIMIT = 64 * 1024


class KeptTeam(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a team's states are kept.

    Attributes:
        copies: on so many machines they are to be, this one included.
        budget: bytes that they may take here; 0 for no limit.
        live: after so many seconds, VMs that were saved here are saved again if they run; 0 for never.
    """

    copies: int = 3
    budget: int = 0
    live: int = 0


class Keeping(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is kept.

    Attributes:
        teams: by name.
        others: bytes that may be taken, sealed, by what belongs to others; 0 for nothing.
    """

    teams: dict[str, KeptTeam] = {}
    others: int = 0


def load_keeping(path: Path) -> Keeping:
    """Return what the file says; nothing where there is none.

    Raises:
        NotAllowedError: it cannot be read, or is damaged.
    """
    try:
        with open(path, "rb") as file:
            return msgspec.json.decode(file.read(_LIMIT), type=Keeping)
    except FileNotFoundError:
        return Keeping()
    except OSError as error:
        raise translate(error, f"Cannot read {path}") from error
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise NotAllowedError(
            f"{path} is damaged", hint="move it away, and say again what is kept: overlaysync keep TEAM"
        ) from None


def save_keeping(path: Path, keeping: Keeping) -> None:
    """Write the file anew; it is the old one or the new one, whatever happens meanwhile.

    Raises:
        OverlaysyncError: it cannot be written.
    """
    try:
        replace_file(path, msgspec.json.encode(keeping))
    except OSError as error:
        raise translate(error, f"Cannot write {path}", directory=str(path.parent)) from error
