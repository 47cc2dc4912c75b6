"""Checks of this machine: its clock, the node's home with its catalog and its vault, and QEMU."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import time

from overlaysync.errors import OverlaysyncError, VerificationError
from overlaysync.node.checks import Check
from overlaysync.node.disk_checks import CLOCK_S, check_file_times, check_space, tried
from overlaysync.ops.recovery.caring import lacking_objects
from overlaysync.ops.recovery.cleaning import listed
from overlaysync.ops.recovery.vaults import space_of
from overlaysync.store.catalog import Catalog
from overlaysync.store.faultlog import FaultCount
from overlaysync.store.home import Home
from overlaysync.trust.team_files import load_teams
from overlaysync.units import format_size
from overlaysync.vault.directory import DirectoryObjects

_QEMU_S = 10.0

_FIRST_YEAR = 2025

_HOME_SPACE = (64 << 20, 1 << 30)

_CHECKED_CATALOG = 256 << 20
"""Bytes of the largest catalog that is read through."""

_SHOWN = 5
"""Kinds of unexpected errors that are listed."""


def check_running_clock(passed: float, monotonic: float) -> Check:
    """Return whether the clock is right, and ran as evenly as the monotonic one while it was watched."""
    year = time.gmtime().tm_year
    advice = "set it: timedatectl set-ntp true"
    if year < _FIRST_YEAR:
        return Check("clock", "fail", f"says it is {year}; what is published carries that date", advice)
    if abs(passed - monotonic) > CLOCK_S:
        return Check("clock", "warn", f"jumped by {passed - monotonic:.1f} s while it was watched", advice)
    return Check("clock", "ok", f"{time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime())} UTC, running evenly")


def check_home() -> list[Check]:
    """Return the home: may it be used, where does it lie, are catalog and vault whole, is there room."""

    home = Home.from_environment(os.environ)
    try:
        home.prepare()
    except OverlaysyncError as error:
        return [Check("home", "fail", str(error), error.hint, error.exit_code)]
    checks = [Check("home", "ok", f"{home.root}, on a local disk")]
    if home.on_network:
        meaning = f"{home.root} is on {home.on_network}: slower, and two machines must not use it at once"
        checks = [Check("home", "warn", meaning, "set OVERLAYSYNC_HOME to a directory on a local disk")]
    return [
        *checks,
        *_check_catalog(home),
        _check_vault(home),
        tried("file times", check_file_times, str(home.root)),
        check_space("space at home", str(home.root), *_HOME_SPACE),
    ]


def _check_catalog(home: Home) -> list[Check]:

    try:
        catalog = Catalog.open(home)
        faults = catalog.faults.all()
        catalog.close()
        size = home.catalog.stat().st_size
        problem = "ok"
        if size <= _CHECKED_CATALOG:
            connection = sqlite3.connect(home.catalog)
            (problem,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            connection.close()
    except OverlaysyncError as error:
        return [Check("catalog", "fail", str(error), error.hint, error.exit_code)]
    except (OSError, sqlite3.Error) as error:
        problem, faults = str(error), []
    if problem != "ok":
        advice = (
            f"stop overlaysync and move {home.catalog} away; no image is lost, only what is known of them"
        )
        return [Check("catalog", "fail", problem, advice)]
    whole = Check("catalog", "ok", f"SQLite {sqlite3.sqlite_version}, {format_size(size)}")
    return [whole, _check_faults(faults)]


def _check_faults(faults: list[FaultCount]) -> Check:
    """Return what peers have made go wrong in a way that no code foresaw."""
    if not faults:
        return Check("faults", "ok", "no peer has caused an unexpected error")
    total = sum(fault.count for fault in faults)
    listed = "; ".join(f"{fault.kind} ({fault.count} ×, last {fault.last_at})" for fault in faults[:_SHOWN])
    more = f"; and {len(faults) - _SHOWN} more kinds" if len(faults) > _SHOWN else ""
    meaning = f"peers have caused {total} unexpected errors: {listed}{more}"
    return Check("faults", "warn", meaning, "report them: each is a bug in overlaysync or in a library")


def _check_vault(home: Home) -> Check:
    """Return whether everything is in the vault that its states need; little of it is read."""
    if not home.vault.is_dir():
        return Check("vault", "ok", "no VM was saved here, and no copy is kept for others")
    objects = DirectoryObjects(home.vault)
    try:
        names, damaged = listed(objects)
        lacking = [*lacking_objects(objects, keep_notes=True), *(damage.name for damage in damaged)]
        if not lacking:
            return Check("vault", "ok", f"{len(names)} objects, all that its states need")
        teams = load_teams(home.teams).values()
    except OverlaysyncError as error:
        return Check("vault", "fail", str(error), error.hint, error.exit_code)
    hit = [team.name for team in teams if any(name.startswith(space_of(team).tag) for name in lacking)]
    # A round of "keep" mends the whole vault, whichever team it is for.
    name = next(iter(hit), None) or next((team.name for team in teams), None)
    advice = f"overlaysync keep {name} --once" if name else "to see which: overlaysync vault check"
    meaning = f"{len(lacking)} of {len(names)} objects are missing or damaged"
    return Check("vault", "fail", meaning, advice, VerificationError.exit_code)


def check_qemu() -> Check:
    """Return whether VMs can run here on what overlaysync writes."""
    program = shutil.which("qemu-img")
    if program is None:
        meaning = "qemu-img is not installed: images can be shared and promoted, but no VM runs on them here"
        return Check("qemu", "warn", meaning, "sudo apt install qemu-utils qemu-system-x86")
    try:
        text = subprocess.run(
            [program, "--help"], capture_output=True, text=True, timeout=_QEMU_S, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        return Check("qemu", "warn", f"{program} does not run: {error}", "install qemu-utils again")
    known = next(
        (
            line.split(":", 1)[1].split()
            for line in text.splitlines()
            if line.startswith("Supported formats:")
        ),
        [],
    )
    lacking = [format for format in ("raw", "qcow2", "qed") if format not in known]
    version = text.partition("\n")[0]
    if lacking:
        advice = f"fetch overlays with --format qcow2; QEMU here cannot open {' and '.join(lacking)}"
        return Check("qemu", "warn", f"{version}, without {', '.join(lacking)}", advice)
    return Check("qemu", "ok", f"{version}, with raw, qcow2 and qed")
