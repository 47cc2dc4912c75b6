"""What every test can use: an isolated home, and markers whose tools may be missing.

A test whose marker needs a tool that is not installed is left out and counted aloud at the end of the run.
With CI=true in the environment it fails instead: continuous integration never leaves a test out.
"""

from __future__ import annotations

import glob
import os
import shutil
import signal
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests import own_network

# marker → the commands (or patterns of files) that its tests need, and the Debian packages that hold them,
# or our script
TOOLS = {
    "qemu": (
        ("qemu-img", "qemu-io", "qemu-nbd", "qemu-storage-daemon", "qemu-system-x86_64"),
        "qemu-utils qemu-system-common qemu-system-x86",
    ),
    "guest": (
        ("qemu-system-x86_64", "busybox", "qemu-ga", "/boot/vmlinuz-*-cloud-amd64"),
        "qemu-system-x86 busybox-static qemu-guest-agent linux-image-cloud-amd64",
    ),
    "drill": (
        (
            *("syslinux", "mcopy", "mkfs.vfat", "objcopy", "swtpm", "swtpm_setup"),
            *("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/lib/systemd/boot/efi/linuxx64.efi.stub"),
        ),
        "syslinux mtools dosfstools binutils swtpm swtpm-tools ovmf systemd-boot-efi",
    ),
    "libvirt": (
        ("libvirtd", "virsh", "qemu-system-x86_64"),
        "libvirt-daemon-system libvirt-clients qemu-system-x86",
    ),
    "browser": (("chromium",), "chromium"),
    "lan": (("ip", "tc"), "iproute2"),
    "release": (("man", "ssh-keygen"), "man-db openssh-client"),
    "systemd": (("systemd-analyze",), "systemd"),
    "strace": (("strace",), "strace"),
    "swift": (("swift-proxy-server", "swift-object-server"), "scripts/swift"),
    "reflink": (("mkfs.xfs", "mkfs.btrfs", "filefrag"), "xfsprogs btrfs-progs e2fsprogs"),
}

# Where tools are looked for, beside $PATH.
PLACES = ("/usr/sbin", "/sbin", str(Path(__file__).parent.parent / ".venv-swift" / "bin"))

E2E = Path(__file__).parent / "e2e"

# How many tests were left out for want of a tool, by marker; the controller of parallel workers gets theirs.
LEFT_OUT = pytest.StashKey[Counter[str]]()

# Under nohup, in a service, and in the background of a script these are ignored, and so they would be by the
# commands that are tried.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _own_signals() -> Iterator[None]:
    """What a command that runs in this process does about Ctrl-C ends with its test."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


# Deadlines measure the neighbours on a busy machine; what CI finds must be found again by the next run.
hypothesis.settings.register_profile("local", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)


def in_ci() -> bool:
    return os.environ.get("CI") == "true"


def missing_tools(marker: str) -> list[str]:
    """The commands that tests with this marker call and that are not installed."""
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), *PLACES))
    commands, _ = TOOLS[marker]
    return [command for command in commands if not (glob.glob(command) or shutil.which(command, path=path))]


def why_left_out(marker: str) -> str:
    _, packages = TOOLS[marker]
    install = packages if packages.startswith("scripts/") else f"sudo apt install {packages}"
    return f"not installed: {', '.join(missing_tools(marker))}. Type: {install}"


def lacking_marker(item: pytest.Item, lacking: Iterable[str]) -> str | None:
    return next((marker for marker in lacking if item.get_closest_marker(marker) is not None), None)


def pytest_configure(config: pytest.Config) -> None:
    # Where it is set, every command that a test starts would compile the whole program again.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    config.stash[LEFT_OUT] = Counter()
    if not missing_tools("lan") and not config.option.collectonly:
        own_network.enter()
    hypothesis.settings.load_profile("ci" if in_ci() else "local")


def pytest_itemcollected(item: pytest.Item) -> None:
    # Whatever runs real commands takes longer than a moment; one thin path is enough for the short loop.
    if item.path.parent == E2E and item.path.name != "test_smoke.py":
        item.add_marker("slow")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    lacking = [marker for marker in TOOLS if missing_tools(marker)]
    if in_ci() or not lacking:
        return
    kept, dropped = [], []
    for item in items:
        marker = lacking_marker(item, lacking)
        if marker is None:
            kept.append(item)
        else:
            dropped.append(item)
            config.stash[LEFT_OUT][marker] += 1
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = kept


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    marker = lacking_marker(item, TOOLS)
    if marker is not None and in_ci() and missing_tools(marker):
        pytest.fail(f"CI=true, and this test is marked {marker}: {why_left_out(marker)}", pytrace=False)


def pytest_sessionfinish(session: pytest.Session) -> None:
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        left_out = session.config.stash[LEFT_OUT]
        output["left_out"] = dict(left_out)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    # Every worker collects everything, so each has the full count: the largest is the truth, not the sum.
    config: pytest.Config = node.config
    theirs: dict[str, int] = getattr(node, "workeroutput", {}).get("left_out", {})
    config.stash[LEFT_OUT] = config.stash[LEFT_OUT] | Counter(theirs)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for marker, count in config.stash[LEFT_OUT].items():
        line = f"LEFT OUT: {count} tests marked {marker}. Why: {why_left_out(marker)}"
        terminalreporter.write_sep("!", line, red=True, bold=True)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty $OVERLAYSYNC_HOME, and nothing of the real user's: no HOME, no XDG directory, no setting."""
    for name in tuple(os.environ):
        if name.startswith("OVERLAYSYNC_"):
            monkeypatch.delenv(name)
    user = tmp_path / "user"
    places = {
        "HOME": user,
        "XDG_CACHE_HOME": user / ".cache",
        "XDG_CONFIG_HOME": user / ".config",
        "XDG_DATA_HOME": user / ".local" / "share",
        "XDG_RUNTIME_DIR": user / "run",
        "XDG_STATE_HOME": user / ".local" / "state",
        "OVERLAYSYNC_HOME": tmp_path / "overlaysync-home",
    }
    for name, place in places.items():
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        monkeypatch.setenv(name, str(place))
    return places["OVERLAYSYNC_HOME"]
