"""Where the service is installed: a user's own, or the machine-wide one; and what systemd says of it."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from overlaysync.cli.config import SERVICE, read_tables
from overlaysync.cli.service_settings import ServiceSettings, add_settings, convert_settings
from overlaysync.cli.service_units import ACCOUNT, NAME, STATE, system_unit, user_unit
from overlaysync.errors import NotAllowedError, OverlaysyncError, UsageError, WouldDestroyError
from overlaysync.installed import program_words
from overlaysync.store.files import replace_file, translate
from overlaysync.store.home import Home

_HANDED_ON = ("OVERLAYSYNC_HOME", "OVERLAYSYNC_PEERS", "OVERLAYSYNC_USER")
_HANDED_ON_XDG = ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME")
_LINGER = Path("/var/lib/systemd/linger")
_SHIPPED = Path("/lib/systemd/system") / NAME
"""Where the Debian package puts the unit."""
_START_S = 20.0
_ASKED = ("LoadState", "ActiveState", "SubState", "UnitFileState", "StatusText", "MainPID", "NRestarts")


@dataclass(frozen=True, slots=True)
class Site:
    """One place where the service can be installed.

    Attributes:
        unit: its unit file.
        text: what that holds.
        settings: the config file with the table ``[service]``.
        home: the directories of the node.
        system: whether it is the machine's service.
        shipped: the same unit as a package may have installed it.
    """

    unit: Path
    text: str
    settings: Path
    home: Home
    system: bool = False
    shipped: Path | None = None

    @property
    def systemctl(self) -> tuple[str, ...]:
        """Return the command that speaks to the right systemd."""
        return ("systemctl",) if self.system else ("systemctl", "--user")

    @property
    def needs_root(self) -> bool:
        """Whether this user may not install it."""
        return self.system and self.unit.is_relative_to("/etc") and os.geteuid() != 0

    @property
    def is_shipped(self) -> bool:
        """Whether a package has installed the unit, so that none has to be written."""
        return self.shipped is not None and _content(self.shipped) == self.text.encode()

    def start(self) -> None:
        """Let systemd start the service now and later.

        Raises:
            OverlaysyncError: systemd does not run, or the service does not start.
        """
        self._tell("daemon-reload")
        self._tell("enable", NAME)
        self._tell("restart", NAME)

    def advice(self) -> list[str]:
        """Return what else has to be known."""
        if self.system:
            ways = f"sudo -u {ACCOUNT} overlaysync team join TEAM"
            return [
                f"it runs as the user {ACCOUNT}, who needs the right to read the images",
                f"teams: {ways}",
            ]
        if (_LINGER / pwd.getpwuid(os.getuid()).pw_name).exists():
            return []
        return ["it ends when you log out; to let it stay: loginctl enable-linger"]

    def _tell(self, *words: str) -> None:
        typed = " ".join((*self.systemctl, *words))
        try:
            done = _run([*self.systemctl, *words], _START_S)
        except subprocess.TimeoutExpired:
            return  # it still reads the images
        if done.returncode:
            journal = "journalctl " + ("" if self.system else "--user ") + f"-u {NAME} -n 20"
            by_hand = (
                f"sudo -u {ACCOUNT} overlaysync service run" if self.system else "overlaysync service run"
            )
            absent = any(word in done.stderr for word in ("bus", "booted", "not installed"))
            raise OverlaysyncError(
                "The files of the service are written, but it was not started",
                why=" ".join(done.stderr.split()) or f"'{typed}' failed",
                hint=f"until systemd runs here: {by_hand}" if absent else journal,
            )


@dataclass(slots=True)
class Installed:
    """What an installation did."""

    site: Site
    written: list[Path] = field(default_factory=list)
    unchanged: list[Path] = field(default_factory=list)

    @property
    def unit(self) -> Path:
        return self.site.shipped if self.site.is_shipped and self.site.shipped else self.site.unit

    @property
    def settings(self) -> Path:
        return self.site.settings


@dataclass(frozen=True, slots=True)
class Found:
    """What is known of the service."""

    unit: Path | None
    settings: ServiceSettings
    systemd: Mapping[str, str]
    problem: str

    def fields(self) -> dict[str, Any]:
        """Return the JSON form."""
        said = self.systemd
        return {
            "installed": self.unit is not None,
            "unit": str(self.unit) if self.unit else None,
            "state": said.get("ActiveState"),
            "enabled": said.get("UnitFileState") == "enabled" if said else None,
            "status": said.get("StatusText", ""),
            "pid": int(said.get("MainPID", "0")) or None,
            "restarts": int(said.get("NRestarts") or "0"),
            "problem": self.problem,
            "settings": msgspec.to_builtins(self.settings),
        }

    def lines(self, good: Callable[[str], str]) -> list[str]:
        """Return the same for people."""
        if self.unit is None:
            return ["the service is not installed", "  to install it: overlaysync service install PATH"]
        state = self.systemd.get("ActiveState", "")
        word = {"active": good("running"), "": f"installed; {self.problem}"}.get(
            state, f"{state or 'unknown'}"
        )
        lines = [word, f"  unit      {self.unit}"]
        shown = (
            ("status", self.systemd.get("StatusText", "")),
            ("shares", ", ".join(self.settings.share)),
            ("with team", self.settings.team),
            ("keeps", ", ".join(self.settings.keep)),
            ("pushes to", ", ".join(self.settings.push)),
        )
        return lines + [f"  {name:<9} {value}" for name, value in shown if value]


def user_site(environment: Mapping[str, str]) -> Site:
    """Return the place of this user's service."""
    home = Home.from_environment(environment)
    base = environment.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    own = "OVERLAYSYNC_HOME" in environment
    names = _HANDED_ON if own else (*_HANDED_ON, *_HANDED_ON_XDG)
    handed_on = {name: environment[name] for name in names if environment.get(name)}
    unit = Path(base, "systemd", "user", NAME)
    return Site(unit, user_unit(_program(), handed_on), home.config / "config.toml", home)


def system_site(root: Path = Path("/")) -> Site:
    """Return the place of the machine's service; below ``root``, for a machine that is being made."""
    below = root / STATE.lstrip("/")
    home = Home(
        below / ".local/state/overlaysync", below / ".config/overlaysync", below / ".local/share/overlaysync"
    )
    return Site(
        unit=root / "etc/systemd/system" / NAME,
        text=system_unit(_program()),
        settings=root / "etc/overlaysync/config.toml",
        home=home,
        system=True,
        shipped=root / _SHIPPED.relative_to("/"),
    )


def install_site(site: Site, wanted: Mapping[str, Any]) -> Installed:
    """Write the unit, and the settings if there are none yet.

    Raises:
        UsageError: it is not said what the service is to do, or the settings that are there cannot be used.
        WouldDestroyError: there are settings already, which say something else.
        NotAllowedError: only root may do that.
    """
    if site.needs_root:
        raise NotAllowedError(
            "Only root can install the machine-wide service", hint="the same command with sudo"
        )
    table = read_tables(site.settings, site.home).get(SERVICE)
    if table is None and not wanted:
        raise UsageError(
            "The service would have nothing to do",
            why="nothing was named that it could share or keep, and there are no settings yet",
            hint="overlaysync service install PATH, or: overlaysync service install --keep TEAM",
        )
    if table is not None:
        convert_settings(site.settings, table)
    if table is not None and wanted and dict(table) != dict(wanted):
        raise WouldDestroyError(
            f"{site.settings} has a table [{SERVICE}] already",
            hint="change it there, and then: overlaysync service install"
            + (" --system" if site.system else ""),
        )
    done = Installed(site)
    try:
        _make_places(site)
        if table is None:
            add_settings(site.settings, wanted)
            done.written.append(site.settings)
        if site.system:
            with _opened(site.settings) as file:
                os.fchmod(file, 0o644)
        if not site.is_shipped:
            (done.unchanged if _content(site.unit) == site.text.encode() else done.written).append(site.unit)
            site.unit.parent.mkdir(parents=True, exist_ok=True)
            replace_file(site.unit, site.text.encode())
            site.unit.chmod(0o644)
    except OSError as error:
        raise translate(error, f"Cannot install {site.unit}", directory=str(site.unit.parent)) from error
    return done


def _make_places(site: Site) -> None:
    """Make the directories; for the machine's service the account and its home as well."""
    if not site.system:
        site.home.prepare()
        return
    state, settings = site.home.config.parents[1], site.settings.parent
    owner = (-1, -1)
    if state == Path(STATE):
        _make_account()
        account = pwd.getpwnam(ACCOUNT)
        owner = account.pw_uid, account.pw_gid
    settings.mkdir(mode=0o755, parents=True, exist_ok=True)
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    # What the account may write to it may have filled with links: root follows none of them.
    with _opened(settings) as there, _opened(state) as home:
        with suppress(FileExistsError):
            os.mkdir(site.home.config.parent.name, 0o700, dir_fd=home)
        with _opened(site.home.config.parent.name, home) as config:
            with suppress(FileExistsError):
                os.symlink(settings, site.home.config.name, dir_fd=config)
            for directory in (home, config, there):
                os.fchown(directory, *owner)
        os.fchmod(home, 0o700)


@contextmanager
def _opened(path: Path | str, inside: int | None = None) -> Iterator[int]:
    """Yield a descriptor of a directory, or of a file; links are not followed."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=inside)
    try:
        yield fd
    finally:
        os.close(fd)


def _make_account() -> None:
    try:
        pwd.getpwnam(ACCOUNT)
        return
    except KeyError:
        pass
    words = ["useradd", "--system", "--user-group", "--home-dir", STATE, "--shell", "/usr/sbin/nologin"]
    done = _run([*words, "--comment", "overlaysync service", ACCOUNT], None)
    if done.returncode:
        raise OverlaysyncError(
            f"Cannot make the user {ACCOUNT}",
            why=" ".join(done.stderr.split()),
            hint=f"make it by hand, and repeat: {' '.join(words)} {ACCOUNT}",
        )


def site_status(site: Site) -> Found:
    """Return what is known of the service there."""
    unit = next((path for path in (site.unit, site.shipped) if path is not None and path.exists()), None)
    table = read_tables(site.settings, site.home).get(SERVICE, {})
    said, problem = _ask(site)
    return Found(unit, convert_settings(site.settings, table), said, problem)


def remove_site(site: Site) -> list[Path]:
    """Stop the service and remove its unit; returns what was removed.

    Raises:
        NotAllowedError: only root may do that.
    """
    if site.needs_root:
        raise NotAllowedError("Only root can remove the machine-wide service", hint="use sudo")
    present = [path for path in (site.unit,) if path.exists()]
    if present or site.is_shipped:
        _run([*site.systemctl, "disable", "--now", NAME], None)
    for path in present:
        try:
            path.unlink()
        except OSError as error:
            raise translate(error, f"Cannot remove {path}") from error
    if present:
        _run([*site.systemctl, "daemon-reload"], None)
    return present


def _ask(site: Site) -> tuple[dict[str, str], str]:
    """Return what systemd says of the unit, or why it says nothing."""
    done = _run([*site.systemctl, "show", NAME, *(f"--property={name}" for name in _ASKED)], _START_S)
    if done.returncode:
        return {}, "systemd did not answer: " + " ".join(done.stderr.split())
    return dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line), ""


def _run(words: Sequence[str], timeout_s: float | None) -> subprocess.CompletedProcess[str]:
    """Run a tool of the system; one that is not installed fails like any other."""
    try:
        return subprocess.run(
            words, capture_output=True, text=True, check=False, timeout=timeout_s, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError:
        return subprocess.CompletedProcess(words, 127, "", f"{words[0]} is not installed")


def _program() -> list[str]:
    """Return the words that run this program as it was called, wherever they are typed."""
    called = os.environ.get("PEX") or shutil.which(sys.argv[0]) or ""
    if called and os.access(called, os.X_OK) and Path(called).name != "__main__.py":
        return [os.path.abspath(called)]
    return program_words()


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
