"""Everything in this package, for as long as one likes: ``scripts/torture``."""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from overlaysync.units import KIB, MIB
from tests.counts import record_counts
from tests.e2e import disks
from tests.e2e.namespaces import NoNamespaceError, island
from tests.e2e.nodes import Lab
from tests.e2e.recorded import RecordedPeer, record
from tests.e2e.small_disk import small_disk
from tests.torture import full
from tests.torture.decay import Decay
from tests.torture.kills import Asked, Killing
from tests.torture.machine import try_orders
from tests.torture.points import WHATS, ImageTorturer, Tally
from tests.torture.rot import memory_or
from tests.torture.runner import SOURCE, Fault, Runner
from tests.torture.scenes import CHECKPOINT, SCENES, Stage
from tests.torture.school import school
from tests.torture.team_machine import try_weeks
from tests.torture.vault_machine import try_terms
from tests.torture.vault_points import VaultTorturer
from tests.torture.vault_scenes import THREADED, VAULT_SCENES, VaultStage

_HOUR_S = 3600


@dataclass(slots=True)
class Session:
    """One run: what was done, what was found, and when it is to end.

    Attributes:
        seed: of all that is random.
        end: time on the monotonic clock; None ends after everything was done once.
    """

    root: Path
    prefix: tuple[str, ...]
    seed: int
    end: float | None
    turn: int = 0
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)

    def add(self, part: str, tally: Tally) -> None:
        """Count, and show what was found at once."""
        self.counts.setdefault(part, Counter()).update(tally.counts)
        for finding in tally.findings:
            self.findings.append(f"{part}: {finding}")
            print(f"FOUND   {part}: {finding}", flush=True)

    @property
    def over(self) -> bool:
        return self.end is not None and time.monotonic() >= self.end

    @contextmanager
    def place(self) -> Iterator[Path]:
        """A directory for one part."""
        place = Path(tempfile.mkdtemp(dir=self.root))
        try:
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def chance(self, part: str) -> random.Random:
        """Another one for every part and turn, the same for the same seed."""
        return random.Random(f"{self.seed} {self.turn} {part}")


# -- the parts: each does a fair amount of its work, and looks at the clock --------------------------


def points(session: Session) -> None:
    """Every fault at every call of every command."""
    for name in SCENES:
        with session.place() as place, Lab(place / "lab", prefix=session.prefix) as lab, ExitStack() as stack:
            runner = stack.enter_context(Runner(place, checkpoint=CHECKPOINT, prefix=session.prefix))
            stage = Stage(place / "stage", lab)
            torturer = ImageTorturer(runner, stage.place, stage.scene(name))
            faults = torturer.faults()
            print(f"        {name}: {len(torturer.calls)} calls that change something", flush=True)
            session.counts.setdefault(f"points-{name}", Counter())["calls"] = len(torturer.calls)
            for fault in faults:
                session.add(f"points-{name}", torturer.try_one(fault))
                if session.over:
                    return


def threads(session: Session) -> None:
    """The same with threads, as users have them: a random call of any of them."""
    chance = session.chance("threads")
    for name in SCENES:
        with session.place() as place, Lab(place / "lab", prefix=session.prefix) as lab, ExitStack() as stack:
            runner = stack.enter_context(
                Runner(place, one_thread=False, checkpoint=CHECKPOINT, prefix=session.prefix)
            )
            stage = Stage(place / "stage", lab)
            torturer = ImageTorturer(runner, stage.place, stage.scene(name), tries=1)
            for _ in range(60):
                call = chance.choice(torturer.calls)
                fault = Fault(call.name, chance.randint(1, call.nth), chance.choice(WHATS))
                session.add(f"threads-{name}", torturer.try_one(fault))
                if session.over:
                    return


def vault_points(session: Session) -> None:
    """Every fault at every call of every command on the vault."""
    for name in VAULT_SCENES:
        with session.place() as place, Lab(place / "lab", prefix=session.prefix) as lab, ExitStack() as stack:
            one_thread = name not in THREADED
            runner = stack.enter_context(
                Runner(
                    place,
                    one_thread=one_thread,
                    checkpoint=CHECKPOINT,
                    one_pull=True,
                    prefix=session.prefix,
                )
            )
            stage = VaultStage(place / "stage", lab)
            torturer = VaultTorturer(runner, stage, stage.scene(name))
            print(f"        {name}: {len(torturer.calls)} calls that change something", flush=True)
            session.counts.setdefault(f"vault-{name}", Counter())["calls"] = len(torturer.calls)
            for fault in torturer.faults():
                session.add(f"vault-{name}", torturer.try_one(fault))
                if session.over:
                    return


def vaults(session: Session) -> None:
    """Any order of what is done with a vault."""
    with session.place() as place, Lab(place / "lab", prefix=session.prefix) as lab, ExitStack() as stack:
        runner = stack.enter_context(Runner(place, one_thread=False, prefix=session.prefix))
        tally = Tally()
        try:
            seed = session.chance("vaults").getrandbits(32)
            tally.counts += try_terms(lab, runner, seed=seed, examples=50, steps=30)
        except Exception:
            tally.findings.append(traceback.format_exc())
        session.add("vaults", tally)


def kills(session: Session) -> None:
    """A large fetch, killed at random."""
    with session.place() as place, Lab(place / "lab") as lab:
        teacher = lab.node("teacher")
        master = disks.make_master(teacher.place / f"{lab.name('big')}.raw", size=100 * MIB)
        share = teacher.share(master)
        recording = record(share.port)
        share.stop()
        asked = Asked()
        with (
            RecordedPeer(recording, asked.answer) as peer,
            Runner(place, one_thread=False, checkpoint=8 * MIB) as runner,
        ):
            killing = Killing(runner, peer, asked, master, place / "student", session.chance("kills"))
            for _ in killing.kill(100):
                if session.over:
                    break
        tally = Tally(killing.counts)
        if killing.counts["reused"] < 0.95 * killing.counts["claimed"]:
            tally.findings.append(f"too little is reused: {dict(killing.counts)}")
        session.add("kills", tally)


def full_disk(session: Session) -> None:
    """A full disk, with every amount of room."""
    for name in full.SCENES:
        with session.place() as place, Lab(place / "lab", prefix=session.prefix) as lab, ExitStack() as stack:
            first = stack.enter_context(Runner(place, prefix=session.prefix))
            stage = Stage(place / "stage", lab)
            scene = ImageTorturer(first, stage.place, stage.scene(name)).scene
            disk = stack.enter_context(small_disk(lab, full.DISK))
            runner = stack.enter_context(
                Runner(place, one_thread=False, reserve=0, prefix=disk.student.prefix)
            )
            for room in full.rooms(scene):
                session.add(f"full-{name}", full.try_rooms(runner, disk.outside, scene, [room]))
                if session.over:
                    return


def machine(session: Session) -> None:
    """Any order of commands."""
    with session.place() as place, Lab(place / "lab", prefix=session.prefix) as lab, ExitStack() as stack:
        runner = stack.enter_context(Runner(place, one_thread=False, prefix=session.prefix))
        made = stack.enter_context(school(lab, runner))

        tally = Tally(made.counts)
        try:
            seed = session.chance("machine").getrandbits(32)
            try_orders(made, seed=seed, examples=100, steps=50)
        except Exception:
            tally.findings.append(traceback.format_exc())
        session.add("machine", tally)


def teams(session: Session) -> None:
    """Any order of what the members of a team do."""
    with session.place() as place, Lab(place / "lab", prefix=session.prefix) as lab, ExitStack() as stack:
        runner = stack.enter_context(Runner(place, one_thread=False, prefix=session.prefix))
        tally = Tally()
        try:
            seed = session.chance("teams").getrandbits(32)
            tally.counts += try_weeks(lab, runner, seed=seed, examples=50, steps=30)
        except Exception:
            tally.findings.append(traceback.format_exc())
        session.add("teams", tally)


def fuzz(session: Session) -> None:
    """Random images and damaged bytes: ten times what ``scripts/test`` tries, and other ones."""
    seed = session.chance("fuzz").getrandbits(31)
    left = None if session.end is None else max(1.0, session.end - time.monotonic())
    words = [
        "-q",
        "-m",
        "fuzz",
        "-n",
        "2",
        "--dist",
        "worksteal",
        "-o",
        "timeout=0",
        "-p",
        "no:cacheprovider",
    ]
    tally = Tally()
    with subprocess.Popen(
        [sys.executable, "-m", "pytest", *words],
        cwd=SOURCE,
        env=os.environ | {"OVERLAYSYNC_EFFORT": "10", "OVERLAYSYNC_SEED": str(seed)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as tests:
        try:
            said, _ = tests.communicate(timeout=left)
        except subprocess.TimeoutExpired:
            tally.counts["broken off"] += 1
        else:
            tally.counts["runs"] += 1
            if tests.returncode:
                tally.findings.append(f"OVERLAYSYNC_EFFORT=10 OVERLAYSYNC_SEED={seed}\n{said}")
        finally:
            if tests.poll() is None:
                os.killpg(tests.pid, signal.SIGKILL)
    session.add("fuzz", tally)


def rot(session: Session) -> None:
    """Bits that turn over in images."""
    chance = session.chance("rot")
    for suffix in ("raw", "qed", "qcow2"):
        with session.place() as place, Lab(place / "lab", prefix=session.prefix) as lab, ExitStack() as stack:
            made = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=memory_or(place))))
            for word in ("images", "home"):
                (made / word).mkdir(mode=0o700)
            teacher = lab.node("teacher")
            master = disks.make_master(teacher.place / f"base.{suffix}", size=3 * MIB, data=2 * MIB)
            kind = "qcow2" if suffix == "raw" else suffix
            overlay = disks.make_overlay(teacher.place / f"lesson.{kind}", master, (MIB, 512 * KIB), (0, 512))
            share = teacher.share(master, overlay)
            runner = stack.enter_context(Runner(place, one_thread=False, prefix=session.prefix))
            decay = Decay(runner, made / "images", made / "home", share.peer, chance)
            tally = Tally(decay.counts)
            try:
                decay.run("fetch", "lesson", "--peer", share.peer)
                for _ in range(100):
                    name = chance.choice([master.name, overlay.name])
                    decay.rot_data(name, chance.randint(1, 5))
                    decay.rot_anywhere(name)
                    if session.over:
                        break
            except AssertionError:
                tally.findings.append(traceback.format_exc())
            session.add(f"rot-{suffix}", tally)


PARTS: dict[str, Callable[[Session], None]] = {
    "points": points,
    "threads": threads,
    "kills": kills,
    "full": full_disk,
    "machine": machine,
    "teams": teams,
    "vault-points": vault_points,
    "vaults": vaults,
    "rot": rot,
    "fuzz": fuzz,
}


def _torture(session: Session, parts: list[str]) -> None:
    """All the parts, once, or again and again until time is up."""
    while True:
        for part in parts:
            print(f"{time.strftime('%H:%M:%S')} {part}: {(PARTS[part].__doc__ or '').strip()}", flush=True)
            try:
                PARTS[part](session)
            except Exception:
                session.add(part, Tally(findings=[traceback.format_exc()]))
            if session.over:
                return
        session.turn += 1
        if session.end is None:
            return


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/torture", description=__doc__)
    parser.add_argument("--hours", type=float, metavar="H", help="go on this long (default: everything once)")
    parser.add_argument("--only", choices=PARTS, action="append", help="this part only; may be repeated")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="repeat what was random")
    arguments = parser.parse_args()
    # As a job of a script, a shell has it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    end = None if arguments.hours is None else time.monotonic() + arguments.hours * _HOUR_S
    print(f"seed {arguments.seed}", flush=True)
    interrupted = False
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="overlaysync-torture-")))
        try:
            prefix = stack.enter_context(island()).prefix
        except NoNamespaceError:
            prefix = ()
        session = Session(root, prefix, arguments.seed, end)
        try:
            _torture(session, arguments.only or list(PARTS))
        except KeyboardInterrupt:
            interrupted = True
            print("\ninterrupted")
    for part, counts in session.counts.items():
        record_counts(part, seed=arguments.seed, **counts)
        print(f"{part:24}{', '.join(f'{count} {what}' for what, count in sorted(counts.items()))}")
    print(f"scripts/torture: {len(session.findings)} findings, seed {arguments.seed}")
    if session.findings:
        return 1
    return 130 if interrupted else 0


if __name__ == "__main__":
    sys.exit(main())
