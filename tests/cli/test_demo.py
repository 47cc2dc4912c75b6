"""The demo, whole: two real nodes, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from overlaysync.units import MIB

pytestmark = [pytest.mark.lan, pytest.mark.usefixtures("home")]


def start(directory: Path, *words: str) -> subprocess.Popen[str]:
    """Start the demo with its files below ``directory``."""
    return subprocess.Popen(
        [sys.executable, "-m", "overlaysync", "demo", *words],
        env=os.environ | {"TMPDIR": str(directory)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def processes_of(directory: Path) -> list[str]:
    """Processes whose home is below ``directory``."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            environment = (process / "environ").read_bytes()
        except OSError:
            continue
        if (
            process.name.isdigit()
            and f"OVERLAYSYNC_HOME={directory}/overlaysync-demo".encode() in environment
        ):
            found.append(process.name)
    return found


def test_the_whole_demo(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    process = start(place, "--json")
    stdout, stderr = process.communicate()
    assert process.returncode == 0, stdout + stderr
    document = json.loads(stdout)
    master, overlay, promoted = (document[name] for name in ("master", "overlay", "promoted"))
    assert overlay["disk"] == promoted["disk"] != master["disk"]
    assert master["data_size"] == 48 * MIB
    assert overlay["data_size"] == 6 * MIB
    for fetched in (master, overlay):
        # Less travels where this machine is so busy that its link counts as slow, and data are compressed.
        assert 0 < fetched["wire"] <= 1.01 * fetched["data_size"] + 128 * 1024
    assert document["seconds"] < 60
    assert document["directory"] is None
    verbs = [command.split()[1] for command in document["commands"]]
    assert list(dict.fromkeys(verbs)) == ["new", "share", "fetch", "id", "promote", "tree"]
    assert list(place.iterdir()) == []
    assert processes_of(place) == []


def test_two_demos_do_not_take_each_others_images(tmp_path: Path) -> None:
    both = [start(tmp_path, "--json") for _ in range(2)]
    for process in both:
        stdout, stderr = process.communicate()
        assert process.returncode == 0, stdout + stderr


def test_an_interrupted_demo_cleans_up_as_well(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    process = start(place)
    assert process.stdout is not None
    for line in process.stdout:
        if "overlaysync fetch" in line:
            break
    assert processes_of(place)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate()
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert list(place.iterdir()) == []
    assert processes_of(place) == []
