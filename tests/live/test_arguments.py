"""What is read from command lines of QEMU, and from its descriptions of block nodes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from overlaysync.formats.image import Format
from overlaysync.live.answers import Node
from overlaysync.live.arguments import Channel, Speech, parse_arguments
from overlaysync.live.blocks import nodes_for
from overlaysync.live.capture import capture
from overlaysync.live.processes import Process
from overlaysync.live.targets import Source
from overlaysync.units import KIB, MIB
from tests.live.vms import copied, overlay, running, whole


@pytest.mark.parametrize(
    ("words", "speech", "channel"),
    [
        ("-qmp unix:/run/a.qmp,server=on,wait=off", Speech.QMP, Channel("/run/a.qmp")),
        ("--qmp unix:a.qmp,server,nowait", Speech.QMP, Channel("a.qmp")),
        ("-qmp-pretty unix:a,,b.qmp,server=on", Speech.QMP, Channel("a,b.qmp")),
        ("-monitor tcp:127.0.0.1:4444,server=on,wait=off", Speech.HUMAN, Channel("", "127.0.0.1", 4444)),
        ("-monitor telnet::4444,server", Speech.HUMAN, Channel("", "127.0.0.1", 4444)),
        (
            "-chardev socket,id=m,path=/a,server=on,wait=off -mon chardev=m,mode=control",
            Speech.QMP,
            Channel("/a"),
        ),
        ("-mon m,mode=readline -chardev socket,id=m,path=/a,server", Speech.HUMAN, Channel("/a")),
        ("-monitor chardev:m -chardev socket,id=m,path=/a,server=on", Speech.HUMAN, Channel("/a")),
        (
            '-mon chardev=m,mode=control -chardev {"id":"m","backend":"socket","path":"/a","server":true}',
            Speech.QMP,
            Channel("/a"),
        ),
    ],
)
def test_a_monitor_is_found(words: str, speech: Speech, channel: Channel) -> None:
    assert parse_arguments(["qemu", *words.split(" ")]).monitors == ((speech, channel),)


@pytest.mark.parametrize(
    "words",
    [
        "-monitor stdio",
        "-qmp pty",
        "-qmp tcp:host:port",
        "-chardev socket,id=m,path=/a -mon chardev=m,mode=control",  # a client, which listens nowhere
        "-chardev socket,id=m,fd=27,server=on -mon chardev=m,mode=control",  # as libvirt gives it
        "-chardev {broken -mon chardev=m",
        "-qmp",
        "",
    ],
)
def test_what_cannot_be_reached_is_no_monitor(words: str) -> None:
    assert parse_arguments(["qemu", *words.split(" ")]).monitors == ()


def test_the_agent_and_the_names_are_found() -> None:
    words = "-name guest=web,debug-threads=on -uuid 12-34 -chardev socket,id=a,path=/ga,server=on"
    words += " -device virtserialport,chardev=a,name=org.qemu.guest_agent.0"
    found = parse_arguments(["qemu", *words.split(" ")])
    assert (found.name, found.uuid, found.agent) == ("web", "12-34", Channel("/ga"))


def node(name: str, file: str, drv: str = "qcow2", *, ro: bool = False) -> Node:
    return Node(node_name=name, drv=drv, file=file, ro=ro)


def test_a_node_is_chosen_by_its_file(tmp_path: Path) -> None:
    """Not by a name, nor by the order; QEMU has left the directory that names are relative to."""
    paths = [tmp_path / name for name in ("a.qcow2", "sub/a.qcow2", "b.qcow2")]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    identities = [(path.stat().st_dev, path.stat().st_ino) for path in paths]
    sources = [
        Source(str(path), identity, Format.QCOW2, Format.QCOW2, MIB)
        for path, identity in zip(paths, identities, strict=True)
    ]
    files = dict(zip(identities, map(str, paths), strict=True))
    process = Process(1, "qemu-system-x86", 1, "/", files, parse_arguments(["qemu"]))
    listed = [
        node("#3", "b.qcow2"),
        node("#2", "sub/a.qcow2"),
        node("raw", "b.qcow2", drv="file"),
        node("json", f'json:{{"driver":"qcow2","file":{{"driver":"file","filename":"{paths[0]}"}}}}'),
        node("odd", "json:{"),
        node("ro", str(paths[0]), ro=True),
        node("part", f'json:{{"driver":"raw","size":1,"file":{{"filename":"{paths[0]}"}}}}', drv="raw"),
    ]
    assert nodes_for(sources, listed, process) == {
        str(paths[0]): "json",
        str(paths[1]): "#2",
        str(paths[2]): "#3",
    }
    assert nodes_for(sources, [node("#1", "a.qcow2")], process) == {}, "it may be either"


@pytest.mark.qemu
@pytest.mark.slow
def test_a_daemon_that_was_given_relative_names_is_found(tmp_path: Path) -> None:
    disk = overlay(tmp_path / "a.qcow2", 64 * KIB)
    words = "qemu-system-x86_64 -accel tcg -m 32 -nodefaults -display none -daemonize -pidfile pid"
    words += " -drive file=a.qcow2,if=virtio,format=qcow2 -qmp unix:qmp,server=on,wait=off"
    subprocess.run(words.split(), cwd=tmp_path, check=True)
    try:
        copies = capture([running([disk])], tmp_path, lambda _: None)
        whole(copied(copies.files[str(disk)].file, tmp_path, disk))
        os.close(copies.files[str(disk)].file)
    finally:
        os.kill(int((tmp_path / "pid").read_text()), 15)
