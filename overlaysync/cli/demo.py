"""The demo: the main job in under a minute, with two nodes on this machine and without QEMU.

The nodes are real processes (``python -m overlaysync``), each with a home and a directory of its own below
one temporary directory, announced on loopback only. Two things a person would do otherwise are done here: the
master is generated, and the demo writes into the overlay as the guest of a VM would.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from overlaysync.cli.demo_images import CHANGED_CHUNKS, MASTER, VIRTUAL_SIZE, make_master, write_as_guest
from overlaysync.cli.demo_nodes import KEEP, Person, Processes, read_document
from overlaysync.cli.output import Output, output_of
from overlaysync.errors import NetworkError, NotFoundError, VerificationError
from overlaysync.node.node import Node
from overlaysync.units import CHUNK, format_size

OVERLAY, PROMOTED = "router", "debian-router"


def add_commands(app: typer.Typer) -> None:
    """Add the command of this module to ``app``."""
    app.command("demo")(demo)


def demo(
    context: typer.Context,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the demo's directory.")] = False,
) -> None:
    """Show what overlaysync does, in under a minute."""

    run(output_of(context), keep=keep)


def run(output: Output, *, keep: bool) -> None:
    """Run the demo.

    Raises:
        OverlaysyncError: a command failed, or a check did not hold.
    """
    root, processes = Path(tempfile.mkdtemp(prefix="overlaysync-demo-")), Processes()
    try:
        demo = _Demo(output, processes, Person.at(root, "teacher"), Person.at(root, "student"))
        demo.run()
        demo.finish(str(root) if keep else None)
    finally:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C leaves nothing behind either
        processes.end()
        if not keep:
            shutil.rmtree(root, ignore_errors=True)
        signal.signal(signal.SIGINT, before)


@dataclass(slots=True)
class _Demo:
    output: Output
    processes: Processes
    teacher: Person
    student: Person
    started: float = field(default_factory=time.monotonic)
    results: dict[str, Any] = field(default_factory=dict)
    commands: list[str] = field(default_factory=list)
    peer: list[str] = field(default_factory=list)
    """Options that name the teacher's node, once mDNS has turned out not to work."""

    def run(self) -> None:
        """All steps."""
        self._say("Two people, each with a node of their own. Here both run on this machine, over loopback.")
        self._prepare()
        with self._sharing() as port:
            self._fetch_master(port)
            self._fetch_overlay(port)
        self._compare()
        self._promote()
        self._show_tree()

    def finish(self, kept: str | None) -> None:
        """Print the summary, which is the command's result."""
        seconds = time.monotonic() - self.started
        document = self.results | {
            "commands": self.commands,
            "mdns": not self.peer,
            "directory": kept,
            "seconds": round(seconds, 1),
        }
        wire, size = (format_size(self.results["overlay"][key]) for key in ("wire", "virtual_size"))
        text = (
            f"a machine with a disk of {size} cost {wire} on the wire, because its master was there already"
        )
        lines = ["", self.output.good(text)]
        if kept:
            lines.append(f"  kept in {kept}; remove it with: rm -rf {shlex.quote(kept)}")
            lines.append(
                f"  look around with: OVERLAYSYNC_HOME={shlex.quote(str(self.student.home))} overlaysync tree"
            )
        self.output.result(document, *lines)

    # -- steps ---------------------------------------------------------------------------------------

    def _prepare(self) -> None:

        with _closing(Node.open(self.teacher.environment)) as node:
            master = make_master(node, self.teacher.directory)
        self._step(f"The teacher has a master: a disk of {format_size(VIRTUAL_SIZE)}, a fifth of it used.")
        self._step("A VM runs on an overlay, so that the master is never written.")
        self._command(self.teacher, "new", f"{OVERLAY}.qcow2", "--master", f"{MASTER}.qcow2")
        with _closing(Node.open(self.teacher.environment)) as node:
            write_as_guest(node, master, self.teacher.directory / f"{OVERLAY}.qcow2")
        self._say(
            f"    (the demo now writes {format_size(CHANGED_CHUNKS * CHUNK)} into it, in place of a VM)"
        )

    @contextmanager
    def _sharing(self) -> Iterator[int]:
        """Share both as the teacher while the block runs; yield the port."""
        self._step("The teacher shares both, until Ctrl-C.")
        words = ["share", f"{MASTER}.qcow2", f"{OVERLAY}.qcow2"]
        self._type(self.teacher, words)
        log = self.teacher.home / "share.log"
        with open(log, "wb") as file:
            process = self.processes.start(self.teacher, ["--json", *words], file)
        document = read_document(process, log)
        for item in document["shared"]:
            kind = "overlay" if item["layer"] else "master"
            id = (item["layer"] or item["disk"])[:11]
            self._say(f"    {kind:8} {item['name']}:{item['version']}  {id}")
        yield int(document["port"])
        self.processes.stop(process)

    def _fetch_master(self, port: int) -> None:
        self._step("A student fetches the master, once. Only what is used travels, each chunk verified.")
        self._say(
            f"    (@{self.teacher.user} names the publisher; without it, any machine that has it will do)"
        )
        self.results["master"] = self._fetch(MASTER, port)

    def _fetch_overlay(self, port: int) -> None:
        self._step("Then the overlay. Its master is here already, so only what the VM wrote travels.")
        self.results["overlay"] = self._fetch(OVERLAY, port)

    def _fetch(self, name: str, port: int) -> dict[str, Any]:
        """Return what was fetched and what travelled; without mDNS once more with the address."""
        reference = f"{name}@{self.teacher.user}"
        try:
            document = self._command(self.student, "fetch", reference, *self.peer)
        except (NetworkError, NotFoundError) as error:
            if self.peer:
                raise
            self._say(f"    mDNS does not work here ({error.why or error.what}); so the address is named:")
            self.peer = ["--peer", f"127.0.0.1:{port}"]
            document = self._command(self.student, "fetch", reference, *self.peer)
        fetched = document["fetched"][-1]
        wire = sum(fetched["wire"].values())
        size, file_size = fetched["virtual_size"], os.stat(fetched["path"]).st_size
        self._say(
            f"    {format_size(wire)} travelled, for a disk of {format_size(size)}"
            f" (an image file of {format_size(file_size)})"
        )
        return {
            "disk": fetched["disk"],
            "wire": wire,
            "virtual_size": size,
            "file_size": file_size,
            "data_size": fetched["data_size"],
        }

    def _compare(self) -> None:
        self._step("Both see the same disk: an id is made of the content, not of the file.")
        disks = {self._disk(person, f"{OVERLAY}.qcow2") for person in (self.teacher, self.student)}
        if len(disks) != 1:
            raise VerificationError(
                "The two overlays do not show the same disk",
                why=", ".join(sorted(disks)),
                hint=KEEP,
            )

    def _promote(self) -> None:
        self._step(
            "The overlay is worth keeping and becomes a master, checked against the id known in advance."
        )
        document = self._command(self.student, "promote", f"{OVERLAY}.qcow2", "--as", PROMOTED)
        if document["disk"] != self.results["overlay"]["disk"]:
            raise VerificationError("The promoted master does not show the disk of its overlay", hint=KEEP)
        self._say(
            f"    {document['disk'][:11]}  {os.path.basename(document['path'])}, standalone and read-only"
        )
        self.results["promoted"] = {
            "disk": document["disk"],
            "wire": 0,
            "virtual_size": document["virtual_size"],
        }

    def _show_tree(self) -> None:
        self._step("What the student has now:")
        self._type(self.student, ["tree"])
        for line in (
            self.processes.run(self.student, ["tree"]).replace(f"{self.student.directory}/", "").splitlines()
        ):
            self._say(f"    {line}")

    def _disk(self, person: Person, path: str) -> str:
        disk = str(self._command(person, "id", path)["disk"])
        self._say(f"    {disk}")
        return disk

    # -- words ---------------------------------------------------------------------------------------

    def _say(self, text: str) -> None:
        if not self.output.json and not self.output.quiet:
            print(text, flush=True)

    def _step(self, text: str) -> None:
        self._say(f"\n{text}")

    def _type(self, person: Person, words: list[str]) -> None:
        command = shlex.join(["overlaysync", *words])
        self.commands.append(command)
        self._say(f"  {person.name}$ {command}")

    def _command(self, person: Person, *words: str) -> dict[str, Any]:
        """Show and run a command; gives its JSON result."""
        self._type(person, list(words))
        document: dict[str, Any] = json.loads(self.processes.run(person, ["--json", *words]))
        return document


@contextmanager
def _closing(node: Node) -> Iterator[Node]:
    try:
        yield node
    finally:
        node.close()
