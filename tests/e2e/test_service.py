"""The running service: what systemd hears of it, what others get from it, and how it ends."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from overlaysync.store.keeping import KeptTeam, load_keeping
from overlaysync.units import MIB
from tests import images
from tests.e2e.disks import make_master
from tests.e2e.nodes import DONE, USAGE, Lab, Node, Share, until

pytestmark = pytest.mark.qemu


class Systemd:
    """Hears what a service says."""

    def __init__(self, path: Path) -> None:
        self._heard = ""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)

    def heard(self, words: str) -> bool:
        try:
            while True:
                self._heard += self._socket.recv(4096).decode() + "\n"
        except BlockingIOError:
            return words in self._heard

    def close(self) -> None:
        self._socket.close()


@contextmanager
def listening(path: Path) -> Iterator[Systemd]:
    systemd = Systemd(path)
    try:
        yield systemd
    finally:
        systemd.close()


def configured(node: Node, text: str) -> None:
    (node.home / "config").mkdir(mode=0o700, exist_ok=True)
    (node.home / "config" / "config.toml").write_text(f"[service]\n{text}\n")


def start(node: Node, channel: Path) -> Share:
    environment = {"NOTIFY_SOCKET": str(channel), "WATCHDOG_USEC": "1000000"}
    return node._start(Share, "service", "run", "--json", **environment)


def test_the_service_shares_and_keeps_what_its_settings_say(lab: Lab, tmp_path: Path) -> None:
    server, student = lab.node("server"), lab.node("student")
    team = lab.team("red", server)
    configured(server, f'share = ["{server.place}"]\nkeep = ["{team}"]\nlive = "15m"\nport = 0')
    with listening(tmp_path / "notify") as systemd:
        service = start(server, tmp_path / "notify")
        until(lambda: systemd.heard("READY=1"), what="a service that is ready")
        assert systemd.heard("STATUS=sharing 0 images")
        assert service.document()["keeps"] == [team]
        until(lambda: systemd.heard("WATCHDOG=1"), what="a sign of life")

        master = make_master(server.place / f"{lab.name('base')}.qcow2", size=2 * MIB)
        until(lambda: systemd.heard("STATUS=sharing 1 image on"), within_s=40, what="the image that came")
        student.fetch(master.stem, "--peer", service.peer)
        assert images.content(student.place / master.name) == images.content(master)
        # What is kept is what the keep command would keep, with its limits.
        assert load_keeping(server.home / "keeping.json").teams == {team: KeptTeam(live=900)}

        service.popen.send_signal(signal.SIGTERM)
        assert service.wait(within_s=20).code == DONE
        assert systemd.heard("STOPPING=1")


def test_a_service_that_cannot_do_what_it_should_ends_with_a_code_that_is_not_tried_again(lab: Lab) -> None:
    node = lab.node("server")
    assert "service install" in node.fails(USAGE, "service", "run")["hint"]
    configured(node, 'keep = ["nobody"]')
    assert "team join nobody" in node.fails(USAGE, "service", "run")["hint"]
    configured(node, 'shares = ["/srv"]')
    assert "did you mean 'share'" in node.fails(USAGE, "service", "run")["why"]
