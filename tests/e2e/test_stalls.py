"""A source that sends nothing more while its connections stay: what a cable that is cut looks like."""

from __future__ import annotations

import json
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from overlaysync.units import KIB, MIB
from tests.e2e import disks
from tests.e2e.nodes import DONE, Lab, Process, Share, until
from tests.e2e.terminals import Terminal

_SOON_S = 6.0
"""Three seconds, and what a machine with much to do may add."""


def progress_of(fetch: Process) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in fetch.stderr.splitlines() if line.endswith("}")]
    return [line for line in lines if "progress" in line]


def start(lab: Lab) -> tuple[Share, tuple[str, ...]]:
    """A share, and the words of a fetch from it that takes eight seconds."""
    alice = lab.node("alice")
    share = alice.share(disks.make_master(alice.place / f"{lab.name('disk')}.raw", size=4 * MIB))
    return share, ("fetch", lab.name("disk"), "--peer", share.peer, "--limit-rate", "512K")


def test_a_stall_is_called_one_and_names_the_source(lab: Lab) -> None:
    share, words = start(lab)
    fetch = lab.node("bob").start(*words, "--json")
    until(lambda: [line for line in progress_of(fetch) if line["done"]], what="the first bytes")

    share.popen.send_signal(signal.SIGSTOP)
    stopped = time.monotonic()
    until(lambda: [line for line in progress_of(fetch) if line["stalled"]], what="a stall")
    assert time.monotonic() - stopped < _SOON_S
    until(lambda: progress_of(fetch)[-1]["stalled"] > 4, what="a stall that goes on")
    last = progress_of(fetch)[-1]
    assert last["waiting_for"] == [share.document()["node"]]
    assert last["rate"] == 0

    share.popen.send_signal(signal.SIGCONT)
    result = fetch.wait()
    assert result.code == DONE
    assert progress_of(fetch)[-1]["stalled"] == 0


def test_ls_waits_for_the_answer_of_a_machine_that_it_has_found(lab: Lab) -> None:
    """A busy machine takes its time; its images are not "not within reach"."""
    share, _ = start(lab)
    share.popen.send_signal(signal.SIGSTOP)
    ls = lab.node("bob").start("ls", "--peer", share.peer, "--wait", "0", "--json")
    connections = Path(f"/proc/{ls.popen.pid}/net/tcp6")
    # Remote port and state, as in proc(5): established, although it stands still.
    connected = re.compile(rf":{share.port:04X} 01 ")
    until(lambda: connected.search(connections.read_text()), what="a connection")
    share.popen.send_signal(signal.SIGCONT)
    assert ls.wait().code == DONE
    assert [image["name"] for image in ls.document()["images"]] == [lab.name("disk")]


def test_a_terminal_shows_no_time_left_while_nothing_comes(lab: Lab) -> None:
    share, words = start(lab)
    node = share.document()["node"]
    with Terminal(lab.node("bob"), *words) as terminal:
        terminal.until(lambda shown: re.search(r"KiB/s +\d:\d\d left", shown), "a rate")
        share.popen.send_signal(signal.SIGSTOP)
        stopped = time.monotonic()
        terminal.until(lambda shown: f"stalled: waiting for {node} for" in shown, "a stall")
        assert time.monotonic() - stopped < _SOON_S
        *_, line = terminal.shown.split("\r")
        assert "left" not in line and "/s" not in line
    share.popen.send_signal(signal.SIGCONT)


@pytest.mark.slow
def test_a_slow_source_is_not_called_stalled(lab: Lab) -> None:
    alice = lab.node("alice")
    # The kernel keeps 64 KiB back before it wakes the client: four seconds at this rate.
    path = disks.make_master(alice.place / f"{lab.name('disk')}.raw", size=128 * KIB)
    share = alice.share(path, "--limit-rate", "16K")
    fetch = lab.node("bob").start("fetch", lab.name("disk"), "--peer", share.peer, "--json")
    assert fetch.wait().code == DONE
    seen = progress_of(fetch)
    assert len(seen) > 1 and not any(line["stalled"] for line in seen), seen
