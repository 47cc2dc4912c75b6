"""The demo: the main job in under a minute, with two nodes on this machine and without QEMU.

The nodes are real processes (``python -m overlaysync``), each with a home and a directory of its own below
one temporary directory, announced on loopback only. Two things a person would do otherwise are done here: the
master is generated, and the demo writes into the overlay as the guest of a VM would.
"""

from __future__ import annotations

import json
import os
import secrets
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from overlaysync.cli.output import Output
from overlaysync.errors import NetworkError, NotFoundError, OverlaysyncError, VerificationError
from overlaysync.formats.image import Format
from overlaysync.model.digest import as_digests, hash_units
from overlaysync.model.pages import PageListBuilder
from overlaysync.node.node import Node, now
from overlaysync.ops.assemble import Assembly, target_for
from overlaysync.ops.known import Known
from overlaysync.ops.local import LocalCopier, LocalSource
from overlaysync.ops.make import MASTER_MODE, OVERLAY_MODE, backing_name
from overlaysync.store.target import entry_at
from overlaysync.units import CHUNK, MIB, PAGE_UNITS, format_size

MASTER, OVERLAY, PROMOTED = "debian-demo", "router", "debian-router"
_VIRTUAL_SIZE = 256 * MIB
_AREAS, _AREA_SIZE = 12, 4 * MIB
"""The master's data: areas spread over its disk, 48 MiB together."""
_CHANGED_CHUNKS = 96
"""What the guest writes: 6 MiB, spread as well."""
_READY_S, _COMMAND_S, _STOP_S = 30.0, 60.0, 5.0


@dataclass(frozen=True, slots=True)
class Person:
    """One of the two nodes.

    Attributes:
        name: shown as the prompt.
        user: the first part of the node's label; like no other, for a second demo may run beside this one.
        directory: where their images are.
        home: of their node.
    """

    name: str
    user: str
    directory: Path
    home: Path

    @classmethod
    def at(cls, root: Path, name: str) -> Person:
        """Return a person with a new directory below ``root``."""
        directory = root / name
        directory.mkdir()
        return cls(name, f"{name}-{secrets.token_hex(2)}", directory, root / f"{name}-home")

    @property
    def environment(self) -> dict[str, str]:
        """Ours, without our settings, and with this package on the path."""
        package = str(Path(__file__).resolve().parents[2])
        kept = {name: value for name, value in os.environ.items() if not name.startswith("OVERLAYSYNC_")}
        paths = [package, *filter(None, [kept.get("PYTHONPATH")])]
        return kept | {
            "OVERLAYSYNC_HOME": str(self.home),
            "OVERLAYSYNC_USER": self.user,
            "PYTHONPATH": os.pathsep.join(paths),
        }


_KEEP = "overlaysync demo --keep, and look at the files that it leaves; overlaysync doctor"


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
            master = _make_master(node, self.teacher.directory)
        self._step(f"The teacher has a master: a disk of {format_size(_VIRTUAL_SIZE)}, a fifth of it used.")
        self._step("A VM runs on an overlay, so that the master is never written.")
        self._command(self.teacher, "new", f"{OVERLAY}.qcow2", "--master", f"{MASTER}.qcow2")
        with _closing(Node.open(self.teacher.environment)) as node:
            _write_as_guest(node, master, self.teacher.directory / f"{OVERLAY}.qcow2")
        self._say(
            f"    (the demo now writes {format_size(_CHANGED_CHUNKS * CHUNK)} into it, in place of a VM)"
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
        document = _read_document(process, log)
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
                hint=_KEEP,
            )

    def _promote(self) -> None:
        self._step(
            "The overlay is worth keeping and becomes a master, checked against the id known in advance."
        )
        document = self._command(self.student, "promote", f"{OVERLAY}.qcow2", "--as", PROMOTED)
        if document["disk"] != self.results["overlay"]["disk"]:
            raise VerificationError("The promoted master does not show the disk of its overlay", hint=_KEEP)
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


# -- processes ---------------------------------------------------------------------------------------

_LOOPBACK = {"share": ["--iface", "lo"], "fetch": ["--iface", "lo"]}
"""What keeps the demo off the LAN; on two machines nobody types it."""


class Processes:
    """The children; none is left after :meth:`end`."""

    def __init__(self) -> None:
        self._started: list[subprocess.Popen[bytes]] = []

    def start(
        self, person: Person, words: list[str], stderr: Any = subprocess.PIPE
    ) -> subprocess.Popen[bytes]:
        """Start a command."""
        verb = next(word for word in words if not word.startswith("-"))
        with _interrupted_later():  # an interrupt between fork and append would lose a child
            self._started.append(
                subprocess.Popen(
                    [sys.executable, "-m", "overlaysync", *words, *_LOOPBACK.get(verb, [])],
                    cwd=person.directory,
                    env=person.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                )
            )
        return self._started[-1]

    def run(self, person: Person, words: list[str]) -> str:
        """Return what a command prints.

        Raises:
            OverlaysyncError: it failed; of the same kind where that matters here.
        """
        process = self.start(person, words)
        try:
            stdout, stderr = (text.decode() for text in process.communicate(timeout=_COMMAND_S))
        except subprocess.TimeoutExpired:
            raise OverlaysyncError(
                f"'overlaysync {shlex.join(words)}' did not end in time", hint=_KEEP
            ) from None
        if process.returncode:
            kinds = {NotFoundError.exit_code: NotFoundError, NetworkError.exit_code: NetworkError}
            raise kinds.get(process.returncode, OverlaysyncError)(
                f"'overlaysync {shlex.join(words)}' failed", why=_reason(stdout) or stderr.strip()
            )
        return stdout

    def stop(self, process: subprocess.Popen[bytes]) -> None:
        """Ctrl-C, and if that does not help, the end."""
        process.send_signal(signal.SIGINT)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()

    def end(self) -> None:
        """Kill what still runs."""
        for process in self._started:
            process.kill()
            process.wait()
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()


@contextmanager
def _interrupted_later() -> Iterator[None]:
    """Let a Ctrl-C wait for the end of the block."""
    pending: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: pending.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pending:
        raise KeyboardInterrupt


def _reason(text: str) -> str:
    """Return what the error document of a failed command says."""
    try:
        error = json.loads(text)["error"]
    except (ValueError, KeyError, TypeError):
        return ""
    return f"{error['what']}: {error['why']}" if error["why"] else str(error["what"])


def _read_document(process: subprocess.Popen[bytes], log: Path) -> dict[str, Any]:
    """Return the JSON document that a running command has printed."""
    assert process.stdout is not None
    text, deadline = b"", time.monotonic() + _READY_S
    while select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
        part = os.read(process.stdout.fileno(), 1 << 16)
        if not part:
            break
        text += part
        try:
            document: dict[str, Any] = json.loads(text)
        except ValueError:
            continue
        if "error" not in document:
            return document
    why = _reason(text.decode()) or log.read_text(errors="replace").strip() or "it did not begin in time"
    raise OverlaysyncError("'overlaysync share' failed", why=why, hint="overlaysync doctor")


@contextmanager
def _closing(node: Node) -> Iterator[Node]:
    try:
        yield node
    finally:
        node.close()


# -- images ------------------------------------------------------------------------------------------


def _make_master(node: Node, directory: Path) -> Known:
    """Return a master with random and compressible areas, as a file system has: raw first, then as qcow2."""

    raw, path = directory / f"{MASTER}.raw", directory / f"{MASTER}.qcow2"
    random = np.random.default_rng()
    with open(raw, "wb") as file:
        file.truncate(_VIRTUAL_SIZE)
        for area in range(_AREAS):
            file.seek(area * (_VIRTUAL_SIZE // _AREAS // CHUNK) * CHUNK)
            file.write(random.bytes(_AREA_SIZE) if area % 2 else _text(area))
    library = node.library
    disk = library.examine(raw, now=now()).disk
    target = target_for(disk, format=Format.QCOW2, cluster_size=CHUNK)
    assembly = Assembly.open(path, target, disk, library.load_page, node.home.journals)
    try:
        with library.open(raw, Format.RAW) as chain:
            LocalCopier(assembly, library.load_page).take(LocalSource(chain, disk))
        assembly.finish(mode=MASTER_MODE)
    finally:
        assembly.close()
    raw.unlink()
    node.catalog.forget_image(os.path.realpath(raw))
    return library.examine(path, now=now())


def _text(area: int) -> bytes:
    lines = (b"line %d of the demo's file %d\n" % (line, area) for line in range(_AREA_SIZE // 20))
    return b"".join(lines)[:_AREA_SIZE]


def _write_as_guest(node: Node, master: Known, path: Path) -> None:
    """Put an overlay with changed chunks in the place of the fresh one at ``path``."""

    data = memoryview(np.random.default_rng().bytes(_CHANGED_CHUNKS * CHUNK))
    units = _VIRTUAL_SIZE // CHUNK
    digests = np.zeros((units, 32), dtype=np.uint8)
    digests[:: units // _CHANGED_CHUNKS][:_CHANGED_CHUNKS] = as_digests(hash_units(data, CHUNK))
    pages: dict[bytes, bytes] = {}
    builder = PageListBuilder(
        virtual_size=_VIRTUAL_SIZE, unit=CHUNK, parent=master.disk.id, keep=pages.__setitem__
    )
    for index in range(units // PAGE_UNITS):
        builder.add(index, digests[index * PAGE_UNITS : (index + 1) * PAGE_UNITS].tobytes())
    layer = builder.build()
    target = target_for(
        layer,
        format=Format.QCOW2,
        cluster_size=CHUNK,
        backing_name=backing_name(str(path), master.path),
        backing_format=Format.QCOW2,
    )
    replaces = entry_at(path)
    assembly = Assembly.open(path, target, layer, pages.__getitem__, node.home.journals, replaces=replaces)
    try:
        assembly.accept(0, _CHANGED_CHUNKS, data)
        assembly.finish(mode=OVERLAY_MODE, replaces=replaces)
    finally:
        assembly.close()
