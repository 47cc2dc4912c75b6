"""Commands that stay: their log, signals that end them, and terminals and pipes that go away."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from datetime import datetime
from functools import partial
from pathlib import Path

import pytest

from overlaysync.cli.streams import CLOSED
from overlaysync.units import MIB
from tests.e2e import disks
from tests.e2e.nodes import DONE, INTERRUPTED, NOT_FOUND, USAGE, Lab, Node, free_port, until
from tests.e2e.terminals import Terminal

_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d) (.+)")


def lists(node: Node, name: str, peer: str) -> bool:
    """Whether a peer lists a name."""
    result = node.run("ls", name, "--peer", peer, "--wait", "1", "--json")
    return result.code == DONE and bool(result.document["images"])


def master(node: Node, name: str) -> Path:
    return disks.make_master(node.place / f"{name}.raw", size=MIB)


# -- the log -----------------------------------------------------------------------------------------


def test_a_log_says_when_who_took_what_and_how_much(lab: Lab) -> None:
    alice, bob = lab.node("alice"), lab.node("bob")
    name, port = lab.name("web"), free_port()
    share = alice.start("share", master(alice, name), "--port", port)
    until(lambda: "fetch" in share.stdout, what="the share")

    bob.fetch(name, "--peer", f"[::1]:{port}" if lab.prefix else f"127.0.0.1:{port}")
    until(lambda: f"has all of {name}:1" in share.stderr, what="the end of the fetch")
    share.popen.send_signal(signal.SIGTERM)
    result = share.wait()

    assert result.code == DONE
    lines = [_TIME.fullmatch(line) for line in result.stderr.splitlines()]
    assert all(lines), result.stderr
    for line in lines:
        assert line and datetime.fromisoformat(line[1]).tzinfo is not None
    said = [line[2] for line in lines if line]
    (began,) = (text for text in said if f"fetches {name}:1" in text)
    (done,) = (text for text in said if f"has all of {name}:1" in text)
    assert began.startswith("bob@") and done.startswith("bob@")
    assert re.search(r" sent 1 MiB in \d", done), done
    assert "SIGTERM" in said[-1]
    assert "missing" not in result.stderr and "\r" not in result.stderr


def test_with_json_every_line_stays_a_document(lab: Lab) -> None:
    alice, bob = lab.node("alice"), lab.node("bob")
    share = alice.share(master(alice, lab.name("web")))
    bob.fetch(lab.name("web"), "--peer", share.peer)
    until(lambda: '"done": 1' in share.stderr, what="the end of the fetch")
    for line in share.stop().stderr.splitlines():
        assert json.loads(line)


# -- signals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_share_that_is_told_to_end_ends_well(lab: Lab, number: signal.Signals) -> None:
    node = lab.node("alice")
    path = disks.make_master(node.place / f"{lab.name('web')}.qcow2", size=MIB)
    share = node.share(path)
    assert not disks.qemu_may_write(path)
    share.popen.send_signal(number)
    if number != signal.SIGINT:  # a shell and the kernel may both send it, and init until it ends
        while share.running:
            share.popen.send_signal(number)
    result = share.wait(within_s=20)
    assert result.code == (INTERRUPTED if number == signal.SIGINT else DONE)
    assert "error" not in result.stderr
    assert disks.qemu_may_write(path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_sync_that_watches_ends_well_and_a_fetch_goes_on_the_next_time(
    lab: Lab, number: signal.Signals
) -> None:
    alice, bob = lab.node("alice"), lab.node("bob")
    name = lab.name("web")
    share = alice.share(disks.make_master(alice.place / f"{name}.raw", size=4 * MIB), "--limit-rate", "1M")
    fetch = bob.start("fetch", name, "--peer", share.peer, "--json")
    until(lambda: '"progress"' in fetch.stderr, what="progress")
    fetch.popen.send_signal(number)
    assert fetch.wait().code == INTERRUPTED

    watch = bob.start("sync", name, "--watch", "--peer", share.peer, "--json")
    (synced,) = watch.document(within_s=40)["synced"]
    assert synced["resumed"] > 0
    watch.popen.send_signal(number)
    assert watch.wait().code == DONE


def test_ctrl_c_while_the_interpreter_ends_is_no_traceback() -> None:
    program = """
import atexit, sys
from overlaysync.cli.main import run
atexit.register(lambda: (print("leaving", flush=True), sys.stdin.read()))
run(["--version"])
"""
    words = [sys.executable, "-c", program]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout and process.stderr
        assert [process.stdout.readline() for _ in range(2)][1] == "leaving\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == -signal.SIGINT
        assert process.stderr.read() == ""


# -- what goes away ----------------------------------------------------------------------------------


def test_a_share_ends_with_its_terminal(lab: Lab) -> None:
    node = lab.node("alice")
    path = disks.make_master(node.place / f"{lab.name('web')}.qcow2", size=MIB)
    with Terminal(node, "share", path) as terminal:
        terminal.until(lambda shown: "type on another machine" in shown, "the share")
        assert not disks.qemu_may_write(path)
        terminal.hang_up()
        assert terminal.end() == DONE
    assert disks.qemu_may_write(path)


def test_with_nohup_a_share_outlives_its_terminal(lab: Lab) -> None:
    alice, bob = lab.node("alice"), lab.node("bob")
    port = free_port()
    peer = f"[::1]:{port}" if lab.prefix else f"127.0.0.1:{port}"
    master(alice, lab.name("first"))
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # what nohup does; without sending the output away
    try:
        terminal = Terminal(alice, "share", alice.place, "--port", port)
    finally:
        signal.signal(signal.SIGHUP, before)
    with terminal:
        terminal.until(lambda shown: "type on another machine" in shown, "the share")
        terminal.hang_up()
        # What it says of each new image has nowhere to go, and it finds the next one all the same.
        for word in ("second", "third"):
            master(alice, lab.name(word))
            until(partial(lists, bob, lab.name(word), peer), within_s=40, what=word)
        terminal.interrupt()
        assert terminal.end() == INTERRUPTED


def test_a_share_outlives_the_pipes_that_it_writes_to(lab: Lab) -> None:
    alice, bob = lab.node("alice"), lab.node("bob")
    port = free_port()
    peer = f"[::1]:{port}" if lab.prefix else f"127.0.0.1:{port}"
    master(alice, lab.name("first"))
    with subprocess.Popen(
        alice.words("share", alice.place, "--port", port),
        env=alice.environment(),
        cwd=alice.place,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout and process.stderr
        try:
            until(lambda: lists(bob, lab.name("first"), peer), within_s=40, what="the share")
            process.stdout.close()
            process.stderr.close()
            for word in ("second", "third"):
                master(alice, lab.name(word))
                until(partial(lists, bob, lab.name(word), peer), within_s=40, what=word)
            process.terminate()
            assert process.wait(20) == DONE
        finally:
            process.kill()


@pytest.mark.parametrize("closed", ["1", "2", "1,2", "0,1,2"])
def test_streams_that_are_closed_from_the_start_do_no_harm(lab: Lab, closed: str) -> None:
    node = lab.node("alice")
    path = master(node, "disk")
    words = " ".join(f"{number}>&-" for number in closed.split(","))
    command = ["sh", "-c", f'"$@" {words}', "sh", *node.words("id", path)]
    done = subprocess.run(
        command, env=node.environment(), cwd=node.place, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (DONE, "")
    assert path.read_bytes() == disks.noise("disk.raw ", MIB)


@pytest.mark.parametrize(("words", "code"), [(("id", "none.raw"), NOT_FOUND), (("nonsense",), USAGE)])
def test_an_error_that_has_no_room_keeps_its_exit_code(lab: Lab, words: tuple[str, ...], code: int) -> None:
    node = lab.node("alice")
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            node.words(*words, "--json"),
            env=node.environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert done.returncode == code and b"Traceback" not in done.stderr
    assert json.loads(done.stderr)["error"]["exit_code"] == code


def test_a_result_that_has_no_room_is_said_and_no_traceback(lab: Lab) -> None:
    node = lab.node("alice")
    path = master(node, "disk")
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            node.words("id", path), env=node.environment(), stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode != DONE and b"Traceback" not in done.stderr and done.stderr
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        node.words("id", path), env=node.environment(), stdout=write, stderr=subprocess.PIPE, check=False
    )
    os.close(write)
    assert done.returncode == CLOSED and done.stderr == b""
