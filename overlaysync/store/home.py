"""Where a node keeps its own things, and whether that place is on a network file system.

Images are not here; they stay where their owner keeps them. Nothing is created before :meth:`Home.prepare`.
Source: XDG Base Directory Specification; proc(5) for mountinfo.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from platformdirs.unix import Unix

from overlaysync.errors import NotAllowedError
from overlaysync.store.files import translate

MOUNTINFO = Path("/proc/self/mountinfo")

_NETWORK = frozenset(
    (
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "9p",
        "virtiofs",
        "afs",
        "ceph",
        "lustre",
        "gfs2",
        "ocfs2",
        "fuse",
    )
)
_ESCAPE = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Home:
    """The directories of one node.

    Attributes:
        root: state: the node key, the catalog, journals.
        config: what the user sets.
        data: what lasts and may be large; None for the same place as the state.
    """

    root: Path
    config: Path
    data: Path | None = None

    @classmethod
    def from_environment(cls, env: Mapping[str, str]) -> Home:
        """Return the directories: ``$OVERLAYSYNC_HOME`` for everything, or this user's XDG directories.

        Raises:
            NotAllowedError: this user has no home directory.
        """
        own = env.get("OVERLAYSYNC_HOME")
        if own:
            root = Path(own).absolute()
            return cls(root, root / "config")
        try:
            user = Unix("overlaysync", appauthor=False)
            return cls(user.user_state_path, user.user_config_path, user.user_data_path)
        except RuntimeError as error:
            raise NotAllowedError(
                "Cannot find your home directory",
                why=str(error),
                hint="export OVERLAYSYNC_HOME=DIR, a directory of your own",
            ) from None

    @property
    def node_key(self) -> Path:
        return self.root / "node.key"

    @property
    def hardware(self) -> Path:
        return self.root / "node.hardware"

    @property
    def catalog(self) -> Path:
        return self.root / "catalog.sqlite"

    @property
    def journals(self) -> Path:
        return self.root / "journals"

    @property
    def vault(self) -> Path:
        """The vault of this node; it is made when something is stored."""
        return (self.data or self.root) / "vault"

    @property
    def drills(self) -> Path:
        """Where drills restore to; each removes its directory when it ends."""
        return (self.data or self.root) / "drills"

    @property
    def keeping(self) -> Path:
        return self.root / "keeping.json"

    @property
    def page_token(self) -> Path:
        return self.root / "page.token"

    @property
    def teams(self) -> Path:
        return self.root / "teams"

    @property
    def on_network(self) -> str:
        """The file system type (``nfs4``) when the state is on a network or FUSE one, else ``""``.

        Such homes work, but slower, and one of them must not be used by nodes on two hosts.
        """
        kind = mount_type(MOUNTINFO.read_bytes(), os.path.realpath(os.fsencode(self.root)))
        return kind if kind in _NETWORK or kind.startswith("fuse.") else ""

    def prepare(self) -> Home:
        """Make the directories that are missing, for the owner alone (0700).

        Raises:
            NotAllowedError: one cannot be made, or others could change what is in it.
        """
        for directory in (self.root, self.journals, self.config):
            try:
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                _check_private(directory)
            except OSError as error:
                hint = "set OVERLAYSYNC_HOME to a directory of your own"
                raise translate(error, f"Cannot use the directory {directory}", hint=hint) from error
        return self


def mount_type(mountinfo: bytes, path: bytes) -> str:
    """Return the type of the file system that holds ``path`` (absolute, no symlinks), ``""`` when unknown."""
    best, found = b"", ""
    for line in mountinfo.splitlines():
        fields, separator, source = line.partition(b" - ")
        columns = fields.split(b" ")
        if not separator or len(columns) < 5:
            continue
        point = _ESCAPE.sub(lambda match: bytes([int(match[1], 8) & 0xFF]), columns[4])
        inside = path == point or path.startswith(point.rstrip(b"/") + b"/")
        # Of two mounts on one point the later one is on top.
        if inside and len(point) >= len(best):
            best, found = point, os.fsdecode(source.split(b" ")[0])
    return found


def _check_private(directory: Path) -> None:
    status = directory.stat()
    if status.st_uid not in (os.geteuid(), 0):
        raise NotAllowedError(
            f"The directory {directory} belongs to another user",
            hint="set OVERLAYSYNC_HOME to a directory of your own",
        )
    if stat.S_IMODE(status.st_mode) & 0o022:
        raise NotAllowedError(
            f"Others may write to {directory}, where secrets are kept", hint=f"chmod 700 {directory}"
        )
