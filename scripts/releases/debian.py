"""The Debian package: an environment of its own below /opt, made there in a clean Debian.

Debian's own packages of the parts are too old, so the package has all of them, as wheels pinned by hash, and
needs only the Python of the distribution for which it was made.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import stat
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path

from releases import chroot, manuals, packages, wheels
from releases.source import ReleaseError, Source, run

PREFIX = "/opt/overlaysync"
_FILES = Path(__file__).resolve().parent / "debian_files"
_KEPT = ("overlaysync", "python", "python3")
"""What stays of bin/ in the environment."""

_CONTROL = """\
Package: overlaysync
Version: {version}
Architecture: amd64
Maintainer: {maintainer}
Installed-Size: {size}
Depends: python3 (>= 3.11), python3 (<< 3.12), libc6 (>= 2.28)
Recommends: qemu-utils, swtpm
Section: net
Priority: optional
Description: share QEMU images between the machines of a lab
 overlaysync shares QEMU master images and overlays on a local network, without
 a server. It finds the machines that hold an image, fetches what is missing
 from all of them at once, and verifies each piece before it is written. Teams
 can save whole VMs and restore them on other machines.
"""


def build(source: Source, target: Path) -> list[Path]:
    """Return the package.

    Raises:
        ReleaseError: this user may not make a chroot, or a tool is missing.
    """
    scratch = source.root.parent / "deb"
    scratch.mkdir()
    wheel, _ = packages.build(source, scratch)
    found = wheels.download(source, scratch / "wheels", minor=chroot.PYTHON_MINOR)
    tree = scratch / "tree"
    with chroot.new(scratch / "debian") as debian:
        _make_environment(debian, source, wheel, found)
        tree.mkdir()
        (tree / "opt").mkdir()
        run(["cp", "-a", debian.root / PREFIX.lstrip("/"), tree / "opt"])
    _add_files(tree, source)
    _control(tree, source)
    done = target / f"overlaysync_{source.version}_debian12_amd64.deb"
    run(["dpkg-deb", "--root-owner-group", "-Zxz", "-z2", "--build", tree, done], env=source.environment)
    judge(done)
    return [done]


def judge(package: Path) -> None:
    """Let lintian judge a package.

    Raises:
        ReleaseError: it has found an error that no override explains.
    """
    flags = ["--allow-root"] if os.geteuid() == 0 else []
    print(run(["lintian", *flags, "--fail-on", "error", "--tag-display-limit", "4", package]), end="")


def _make_environment(debian: chroot.Chroot, source: Source, wheel: Path, found: Path) -> None:
    """Make the environment inside the chroot, without a network."""
    inside = debian.root / "tmp" / "parts"
    shutil.copytree(found, inside)
    shutil.copy(wheel, inside)
    shutil.copy(source.root / "scripts" / "requirements-run.txt", inside / "lock.txt")
    pip = [f"{PREFIX}/bin/python3", "-m", "pip", "install", "--no-index", "--no-compile", "--no-cache-dir"]
    pip += ["--only-binary", ":all:", "--disable-pip-version-check", "--root-user-action=ignore", "--quiet"]
    debian.run(["python3", "-m", "venv", PREFIX], source)
    locked = ["--require-hashes", "--find-links", "/tmp/parts", "-r", "/tmp/parts/lock.txt"]
    debian.run([*pip, *locked], source)
    debian.run([*pip, "--no-deps", f"/tmp/parts/{wheel.name}"], source)
    debian.run([f"{PREFIX}/bin/python3", "-m", "pip", "check"], source)
    debian.run(
        [f"{PREFIX}/bin/python3", "-m", "pip", "uninstall", "--yes", "-q", "pip", "setuptools"], source
    )
    place = debian.root / PREFIX.lstrip("/")
    for file in (place / "bin").iterdir():
        if file.name not in _KEPT:
            file.unlink()
    for cache in sorted(place.rglob("__pycache__")):
        shutil.rmtree(cache)
    _tidy(place)
    # Never compared with the time of the source: all files have the time of the commit.
    compiled = ["-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", f"{PREFIX}/lib"]
    debian.run([f"{PREFIX}/bin/python3", *compiled], source)
    debian.run([f"{PREFIX}/bin/overlaysync", "--version"], source)


def _tidy(place: Path) -> None:
    """Remove what only differs by how it was installed, and rights that nobody needs."""
    for file in sorted(place.rglob("direct_url.json")):
        file.unlink()
    program = place / "bin" / "overlaysync"
    program.write_text(
        program.read_text().replace(f"#!{PREFIX}/bin/python3\n", f"#!{PREFIX}/bin/python3 -I\n")
    )
    for file in place.rglob("*"):
        if file.is_symlink():
            continue
        needs_x = file.is_dir() or file.parent == place / "bin"
        file.chmod(0o755 if needs_x else 0o644)


# -- what is beside it -------------------------------------------------------------------------------


def _add_files(tree: Path, source: Source) -> None:
    from overlaysync.cli import shells
    from overlaysync.cli.service_units import NAME, system_unit

    share = tree / "usr" / "share"
    (tree / "usr" / "bin").mkdir(parents=True)
    (tree / "usr" / "bin" / "overlaysync").symlink_to(f"{PREFIX}/bin/overlaysync")
    manuals.write(share / "man" / "man1", source.version, source.epoch)
    for shell, place in (
        ("bash", "bash-completion/completions/overlaysync"),
        ("zsh", "zsh/vendor-completions/_overlaysync"),
        ("fish", "fish/vendor_completions.d/overlaysync.fish"),
    ):
        _put(share / place, shells.script(shell).lstrip() + "\n")
    _put(tree / "lib" / "systemd" / "system" / NAME, system_unit(["/usr/bin/overlaysync"]))
    documents = share / "doc" / "overlaysync"
    _put(documents / "copyright", _copyright(tree))
    at = format_datetime(datetime.fromtimestamp(source.epoch, UTC))
    entry = f"overlaysync ({source.version}) stable; urgency=medium\n\n  * See CHANGELOG.md.\n\n -- "
    change = gzip.compress(f"{entry}{source.maintainer}  {at}\n".encode(), 9, mtime=0)
    _put(documents / "changelog.gz", change)
    _put(
        documents / "CHANGELOG.md.gz", gzip.compress((source.root / "CHANGELOG.md").read_bytes(), 9, mtime=0)
    )
    _put(share / "lintian" / "overrides" / "overlaysync", (_FILES / "lintian-overrides").read_text())


def _copyright(tree: Path) -> str:
    """Return the licence of the program, and where those of its parts are."""
    parts = sorted(
        path.name.split("-")[0] for path in tree.glob("opt/overlaysync/lib/*/site-packages/*.dist-info")
    )
    return (_FILES / "copyright").read_text() + "".join(f" {name}\n" for name in parts)


def _control(tree: Path, source: Source) -> None:
    """Write the package's own files, last: they have the sums of all others."""
    files = sorted(path for path in tree.rglob("*") if path.is_file() and not path.is_symlink())
    size = sum(path.stat().st_size for path in files) // 1024
    sums = "".join(
        f"{hashlib.md5(path.read_bytes()).hexdigest()}  {path.relative_to(tree)}\n" for path in files
    )
    control = _CONTROL.format(version=source.version, maintainer=source.maintainer, size=size)
    _put(tree / "DEBIAN" / "control", control)
    _put(tree / "DEBIAN" / "md5sums", sums)
    for script in ("postinst", "prerm", "postrm"):
        _put(tree / "DEBIAN" / script, (_FILES / script).read_text())
        (tree / "DEBIAN" / script).chmod(0o755)
    for path in tree.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)


def _put(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path.chmod(stat.S_IRUSR | stat.S_IWUSR | stat.S_IRGRP | stat.S_IROTH)


def try_out(files: Sequence[Path]) -> None:
    """Install the package in a new Debian, and use it there.

    Raises:
        ReleaseError: there is no package, or something does not work.
    """
    from releases import trial

    if not files:
        raise ReleaseError("--try needs the .deb, and none was built")
    trial.run_trial(files[0])
