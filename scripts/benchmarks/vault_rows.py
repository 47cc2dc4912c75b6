"""The rows of the vault: what saving, restoring and listing cost, beside restic."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from benchmarks.bench import Bench, Line, at_most
from benchmarks.images import GIB, MIB
from benchmarks.measure import CannotMeasureError, Done, Series, run, take_turns
from benchmarks.overlays import TEAM, Overlays, tree_size
from benchmarks.relay import relay
from benchmarks.row import Row, check_equal

LARGER = 8
"""So many times the data, for the memory."""
_MEMORY = 250 * MIB
_UNPROTECTED = 12
"""What ``status`` ends with where something has too few copies, as here."""


@dataclass(slots=False)
class VaultRows:
    """The rows.

    Attributes:
        bench: measures.
        overlays: what is saved.
    """

    bench: Bench
    overlays: Overlays

    def all(self) -> tuple[Row, ...]:
        size = f"{self.bench.size / GIB:g} GiB"
        return (
            Row(12, f"First save of an overlay of {size}", lambda _: self.first_save()),
            Row(13, "Save again, 1 % changed in scattered clusters", lambda _: self.again()),
            Row(14, "Restore where the master is here", lambda _: self.restore()),
            Row(15, "Peak memory of save and restore", lambda _: self.memory()),
            Row(16, "1,000 states, 100 GiB", lambda _: self.many_states()),
        )

    # -- 12, 13: save ----------------------------------------------------------------------------------

    def first_save(self) -> list[Line]:
        _need_restic()
        ours, theirs = self._saves["save first"], self._saves["restic first"]
        stored = self._saves["save stored"], self._saves["restic stored"]
        return [
            at_most(
                0.8,
                ours.median / theirs.median,
                what="`save`, whole command, sealed and compressed",
                ours=ours.text(),
                against="`restic backup`",
                theirs=theirs.text(),
            ),
            at_most(
                1.02,
                stored[0].median / stored[1].median,
                what="bytes in the vault",
                ours=_mib(stored[0]),
                against="bytes in the repository",
                theirs=_mib(stored[1]),
            ),
        ]

    def again(self) -> list[Line]:
        again, first, grown = (self._saves[f"save {word}"] for word in ("again", "first", "grown"))
        changed = self.overlays.changes[1]
        lines = [
            at_most(
                1.3,
                grown.median / changed,
                what="bytes by which the vault grows",
                ours=_mib(grown),
                against="changed bytes",
                theirs=f"{changed / MIB:.2f} MiB",
            ),
            at_most(
                0.3,
                again.median / first.median,
                what="`save`, whole command",
                ours=again.text(),
                against="the first `save`",
                theirs=first.text(),
            ),
        ]
        if "restic again" in self._saves:
            theirs, size = self._saves["restic again"], self._saves["restic grown"]
            lines += [
                _told("bytes by which the vault grows", grown, "`restic backup`", size, _mib),
                _told("`save`, whole command", again, "`restic backup`", theirs),
            ]
        return lines

    @cached_property
    def _saves(self) -> dict[str, Series]:
        sides = {"save": self._save_twice}
        if _has_restic():
            sides["restic"] = self._back_up_twice
        return take_turns(self.bench.runs, sides)

    def _save_twice(self) -> dict[str, float]:
        directory, home = self.bench.directory("vm"), self.bench.home(self._team_home)
        path = self.overlays.fresh(directory)
        run(["sync"])
        first = self._save(directory, home)
        stored = tree_size(home / "vault")
        self.overlays.change(path)
        run(["sync"])
        again = self._save(directory, home)
        grown = tree_size(home / "vault") - stored
        shutil.rmtree(home)
        return {"first": first.seconds, "stored": stored, "again": again.seconds, "grown": grown}

    def _back_up_twice(self) -> dict[str, float]:
        path, restic = self.overlays.fresh(self.bench.directory("vm")), Restic(self.bench)
        run(["sync"])
        first = restic.run("backup", path)
        stored = tree_size(restic.repository)
        self.overlays.change(path)
        run(["sync"])
        again = restic.run("backup", path)
        grown = tree_size(restic.repository) - stored
        restic.remove()
        return {"first": first.seconds, "stored": stored, "again": again.seconds, "grown": grown}

    def _save(self, directory: Path, home: Path) -> Done:
        return self.bench.command("save", "--team", TEAM, directory, home=home)

    @cached_property
    def _team_home(self) -> Path:
        """A home that is in a team, and knows nothing else."""
        home = self.bench.home()
        code = self.bench.command("team", "create", TEAM, home=home).json["code"]
        self._secret.touch(0o600)
        self._secret.write_text(code)
        return home

    @property
    def _secret(self) -> Path:
        return self.bench.scratch / "code"

    def _member(self, master: Path) -> Path:
        """A home of another node in the team, which has the master and has hashed it."""
        home = self.bench.home()
        self.bench.command("team", "join", TEAM, "--code-file", self._secret, home=home)
        self.bench.command("id", master, home=home)
        return home

    # -- 14: restore -----------------------------------------------------------------------------------

    def restore(self) -> list[Line]:
        bench = self.bench
        directory, home = bench.directory("vm"), bench.home(self._team_home)
        path, master = self.overlays.fresh(directory), self.overlays.master(bench.size)
        self._save(directory, home)
        restic = Restic(bench) if _has_restic() else None
        if restic:
            restic.run("backup", path)
        own, member = bench.home(home), self._member(master)
        path.unlink()
        with bench.share(master, "--iface", "lo", "--team", TEAM, home=home) as (peer, _):
            # Looking for peers takes the time that it is given, so from the own vault there is none.
            sides = {
                "peer": lambda: self._restore(bench.home(member), "--peer", peer, once=True).seconds,
                "own": lambda: self._restore(own, "--wait", "0").seconds,
            }
            if restic:
                sides["restic"] = lambda: self._restic_restore(restic)
            times = take_turns(bench.runs, sides)
            with relay(peer) as counting:
                copy = bench.home(member)
                plan = self._restore(copy, "--peer", peer, "--dry-run").json["plan"]
                # It must not hear of the peer's own address: that is announced on the loopback.
                words = ("--peer", counting.address, "--iface", _other_interface())
                self._restore(bench.home(member), *words, once=True)
        shutil.rmtree(home)
        return [_wire_line(counting.passed, plan[0]["pull"]), *_restore_lines(times)]

    def _restore(self, home: Path, *words: str, once: bool = False) -> Done:
        """Restore, and compare what came with what was saved; ``once``: the home is not used again."""
        out = self.bench.directory("out")
        masters = self.bench.directory("masters")
        done = self.bench.command("restore", TEAM, "--to", out, "--masters", masters, *words, home=home)
        if "--dry-run" not in words:
            if not (self.bench.scratch / "compared").exists():
                check_equal(self.overlays.overlay, out / "web.qcow2")
                (self.bench.scratch / "compared").touch()
            (out / "web.qcow2").unlink()
        if once:
            shutil.rmtree(home)
        return done

    def _restic_restore(self, restic: Restic) -> dict[str, float]:
        out = self.bench.directory("restic-out")
        bare = restic.run("restore", "latest", "--target", out).seconds
        (path,) = out.rglob("web.qcow2")
        synced = run(["sync", path]).seconds
        shutil.rmtree(out)
        return {"bare": bare, "fsync": bare + synced}

    # -- 15: memory ------------------------------------------------------------------------------------

    def memory(self) -> list[Line]:
        peaks: dict[tuple[str, int], int] = {}
        for times in (1, LARGER):
            saved, restored = self._peaks(times)
            peaks["save", times], peaks["restore", times] = saved, restored
        lines = []
        for command in ("save", "restore"):
            small, large = peaks[command, 1], peaks[command, LARGER]
            what = f"{self.bench.size * LARGER / GIB:g} GiB"
            lines.append(
                Line(
                    what=f"`{command}`, peak resident memory, {what} of data",
                    ours=f"{large / MIB:.0f} MiB",
                    against=f"{self.bench.size / GIB:g} GiB of data",
                    theirs=f"{small / MIB:.0f} MiB",
                    ratio=large / small,
                    reach="≤ 250 MiB, ≤ 1.25",
                    good=large <= _MEMORY and large <= 1.25 * small,
                )
            )
        return lines

    def _peaks(self, times: int) -> tuple[int, int]:
        """Peak memory of a save, and of a restore from a peer, with so many times the data."""
        bench = self.bench
        directory, home = bench.directory("vm"), bench.home(self._team_home)
        path = self.overlays.fresh(directory) if times == 1 else self.overlays.larger(directory, times)
        master = self.overlays.master(bench.size * times)
        saved = self._save(directory, home).peak
        member = self._member(master)
        path.unlink()
        with bench.share(master, "--iface", "lo", "--team", TEAM, home=home) as (peer, _):
            out, masters = bench.directory("out"), bench.directory("masters")
            words = ("restore", TEAM, "--to", out, "--masters", masters, "--peer", peer)
            restored = bench.command(*words, home=member).peak
        (out / path.name).unlink()
        shutil.rmtree(home)
        shutil.rmtree(member)
        return saved, restored

    # -- 16: many states -------------------------------------------------------------------------------

    def many_states(self) -> list[Line]:
        count = 50 if self.bench.quick else 1000
        homes = {number: self._many(number) for number in (count, 2 * count)}
        commands = {
            "history": lambda: self._listed(homes[count], "history", TEAM, "--local"),
            "status": lambda: self._listed(homes[count], "status", TEAM, "--local"),
            "gc": lambda: self._listed(homes[count], "vault", "gc"),
            "gc twice": lambda: self._listed(homes[2 * count], "vault", "gc"),
        }
        times = take_turns(max(self.bench.runs, 5), commands)
        lines = [
            Line(f"`{name} TEAM --local`", times[name].text(), reach="≤ 1 s", good=times[name].median <= 1)
            for name in ("history", "status")
        ]
        ratio = times["gc twice"].median / times["gc"].median
        gc = {"what": f"`vault gc`, {2 * count:,} states", "ours": times["gc twice"].text()}
        return [*lines, at_most(2.2, ratio, **gc, against=f"{count:,} states", theirs=times["gc"].text())]

    def _many(self, count: int) -> Path:
        home = self.bench.home(self._team_home)
        run([sys.executable, "-m", "benchmarks.many_states", home, str(count)])
        return home

    def _listed(self, home: Path, *words: str) -> float:
        good = (0, _UNPROTECTED) if words[0] == "status" else (0,)
        return self.bench.command(*words, home=home, good=good).seconds


class Restic:
    """A new restic repository, in a directory of the bench."""

    def __init__(self, bench: Bench) -> None:
        base = bench.home()
        self.repository, self._base = base / "repository", base
        self._env = {"RESTIC_PASSWORD": "bench", "RESTIC_CACHE_DIR": str(base / "cache")}
        self.run("init")

    def run(self, *words: str | Path) -> Done:
        return run(["restic", "--repo", self.repository, *words], self._env)

    def remove(self) -> None:
        shutil.rmtree(self._base)


def restic_version() -> str:
    """What restic says of itself; "" where it is not installed."""
    return run(["restic", "version"]).stdout.split(" compiled")[0].strip() if _has_restic() else ""


def _has_restic() -> bool:
    return shutil.which("restic") is not None


def _need_restic() -> None:
    if not _has_restic():
        raise CannotMeasureError("restic is not installed")


def _other_interface() -> str:
    """An interface that is up and not the loopback, whose state is unknown."""
    for state in sorted(Path("/sys/class/net").glob("*/operstate")):
        if state.read_text().strip() == "up":
            return state.parent.name
    raise CannotMeasureError("no interface but the loopback is up")


def _wire_line(passed: int, stored: int) -> Line:
    return at_most(
        1.05,
        passed / stored,
        what="bytes on the wire, both directions, from a peer's vault",
        ours=f"{passed / MIB:.2f} MiB",
        against="the layer's packs",
        theirs=f"{stored / MIB:.2f} MiB",
    )


def _restore_lines(times: dict[str, Series]) -> list[Line]:
    peer, own = times["peer"], times["own"]
    what = "`restore` from a peer's vault, loopback, whole command with its fsync"
    if "restic fsync" not in times:
        return [
            Line(what, peer.text()),
            Line("the same from the own vault", own.text(), against="restic is not installed"),
        ]
    synced, bare = times["restic fsync"], times["restic bare"]
    against = "`restic restore` and `sync FILE`"
    return [
        at_most(
            0.9,
            peer.median / synced.median,
            what=what,
            ours=peer.text(),
            against=against,
            theirs=synced.text(),
        ),
        _told("the same", peer, "`restic restore` without fsync", bare),
        _told("from the own vault", own, against, synced),
        _told("the same", own, "`restic restore` without fsync", bare),
    ]


def _told(
    what: str, ours: Series, against: str, theirs: Series, text: Callable[[Series], str] = Series.text
) -> Line:
    return Line(what, text(ours), against, text(theirs), ours.median / theirs.median)


def _mib(amount: Series) -> str:
    return amount.text("MiB", 1 / MIB)
