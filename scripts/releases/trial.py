"""Try the Debian package: install it in a new Debian with nothing but the base, use it, and remove it."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from releases import chroot
from releases.source import ReleaseError

_APT = ("apt-get", "-q", "-y", "-o", "Dpkg::Use-Pty=0")
_SIZE = 8 << 20
_WAIT_S = 60.0


def run_trial(package: Path) -> None:
    """Install the package, look at it, share an image from one node to another, and purge it.

    Raises:
        ReleaseError: something does not work.
    """
    with tempfile.TemporaryDirectory(prefix="overlaysync-trial-") as scratch:
        with chroot.new(Path(scratch, "debian"), python=False) as debian:
            shutil.copy("/etc/resolv.conf", debian.root / "etc" / "resolv.conf")
            shutil.copy(package, debian.root / "tmp" / package.name)
            debian.run([*_APT, "update"])
            debian.run([*_APT, "install", "--no-install-recommends", f"/tmp/{package.name}"])
            _say(debian.run(["overlaysync", "--version"]).strip())
            _look(debian)
            _share_and_fetch(debian)
            debian.run([*_APT, "purge", "overlaysync"])
            left = [
                path for path in ("opt/overlaysync", "usr/bin/overlaysync") if (debian.root / path).exists()
            ]
            if left:
                raise ReleaseError(f"purged, and still there: {', '.join(left)}")
            _say("purged, and nothing of it is left")


def _look(debian: chroot.Chroot) -> None:
    image = debian.root / "tmp" / "disk.raw"
    image.write_bytes(hashlib.sha256(b"disk").digest() * (_SIZE // 32))
    debian.run(["overlaysync", "service", "status"])
    identified = debian.run(["overlaysync", "id", "--format", "raw", "/tmp/disk.raw"])
    _say(f"id: {identified.strip().splitlines()[0]}")
    listed = debian.run(["dpkg", "-L", "overlaysync"]).splitlines()
    wanted = (
        "/usr/share/man/man1/overlaysync-share.1.gz",
        "/usr/share/bash-completion/completions/overlaysync",
        "/lib/systemd/system/overlaysync.service",
    )
    missing = [path for path in wanted if path not in listed]
    if missing:
        raise ReleaseError(f"not in the package: {', '.join(missing)}")


def _share_and_fetch(debian: chroot.Chroot) -> None:
    """Share an image in one process, and fetch it in another."""
    words = ["chroot", str(debian.root), "env", "OVERLAYSYNC_HOME=/tmp/a", "overlaysync", "share", "--json"]
    words += ["--format", "raw", "--as", "trial", "--port", "0", "/tmp/disk.raw"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as share:
        try:
            port = _document(share)["port"]
            fetch = ["env", "OVERLAYSYNC_HOME=/tmp/b", "overlaysync", "fetch", "trial", "--to", "/tmp/there"]
            begun = time.monotonic()
            debian.run(["mkdir", "-p", "/tmp/there"])
            debian.run([*fetch, "--peer", f"127.0.0.1:{port}"])
            took = time.monotonic() - begun
        finally:
            share.terminate()
    there = next((debian.root / "tmp" / "there").iterdir())
    if there.read_bytes() != (debian.root / "tmp" / "disk.raw").read_bytes():
        raise ReleaseError(f"what was fetched, {there}, is not what was shared")
    _say(f"shared and fetched {_SIZE >> 20} MiB between two processes in {took:.1f} s")


def _document(share: subprocess.Popen[str]) -> Any:
    """Return what the share prints first.

    Raises:
        ReleaseError: it ended instead, or took too long.
    """
    assert share.stdout is not None and share.stderr is not None
    text, deadline = "", time.monotonic() + _WAIT_S
    while time.monotonic() < deadline:
        line = share.stdout.readline()
        if not line:
            raise ReleaseError(f"the share ended: {share.stderr.read()}")
        text += line
        try:
            return json.loads(text)
        except ValueError:
            continue
    raise ReleaseError("the share did not begin")


def _say(text: str) -> None:
    print(f"release: tried: {text}")
