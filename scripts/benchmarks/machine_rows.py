"""Rows of what one machine does alone: index, promote, memory, start."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from benchmarks import images
from benchmarks.bench import OVERLAYSYNC, Bench, Line, at_least, at_most
from benchmarks.images import GIB, MIB, TIB
from benchmarks.measure import Series, run, take_turns
from benchmarks.row import check_equal, clean


def index(bench: Bench) -> list[Line]:
    """Speeds are of the bytes that each side hashes: ours passes over holes, the other does not."""
    master = bench.master
    images.warm(master)

    def identify() -> float:
        home = bench.home()
        seconds = bench.command("id", master, home=home).seconds
        shutil.rmtree(home)
        return seconds

    times = take_turns(
        bench.runs,
        {
            "blake3": lambda: bench.worker("blake3_file", master),
            "hash_disk": lambda: bench.worker("hash_image", master),
            "id": identify,
        },
    )
    whole, ours = master.stat().st_size / 1e9, bench.data_size / 1e9
    speeds = {
        name: Series(tuple((whole if name == "blake3" else ours) / value for value in series.values))
        for name, series in times.items()
    }
    against = {"against": "BLAKE3, all threads", "theirs": speeds["blake3"].text("GB/s")}

    def ratio(name: str) -> float:
        return speeds[name].median / speeds["blake3"].median

    return [
        at_least(
            0.75,
            ratio("hash_disk"),
            what="hashing, in process",
            ours=speeds["hash_disk"].text("GB/s"),
            **against,
        ),
        at_least(
            0.6,
            ratio("id"),
            what="`id`, whole command, nothing known",
            ours=speeds["id"].text("GB/s"),
            **against,
        ),
    ]


def promote(bench: Bench) -> list[Line]:
    master = bench.master
    directory = bench.directory("promoted")
    path = directory / "router.qcow2"
    images.make_overlay(path, master, bench.size // 16)
    out = bench.directory("out")
    known = bench.home(bench.master_home)
    bench.command("id", path, home=known)

    def ours(home: Path) -> float:
        mine = bench.home(home)
        images.warm(path)
        done = bench.command("promote", path, "--as", "web", "--to", out, "--format", "qcow2", home=mine)
        if not (bench.scratch / "compared").exists():
            check_equal(path, out / "web.qcow2")
            (bench.scratch / "compared").touch()
        clean(out, mine)
        return done.seconds

    def theirs(*words: str) -> float:
        images.warm(path)
        command = ["qemu-img", "convert", *words, "-f", "qcow2", "-O", "qcow2", path, out / "web.qcow2"]
        seconds = run(command).seconds
        clean(out)
        return seconds

    images.warm(master)
    times = take_turns(
        bench.runs,
        {
            "promote": lambda: ours(bench.master_home),
            "convert+flush": lambda: theirs("-t", "writeback"),
            "promote, known": lambda: ours(known),
            "convert": theirs,
            "convert, direct": lambda: theirs("-t", "none"),
            "convert -W -m 8": lambda: theirs("-W", "-m", "8", "-t", "writeback"),
        },
    )
    shutil.rmtree(directory)
    convert = {"against": "`qemu-img convert -t writeback`", "theirs": times["convert+flush"].text()}

    def told(what: str, side: str, against: str) -> Line:
        fields: dict[str, Any] = {"what": what, "ours": times["promote"].text(), "against": against}
        ratio = times["promote"].median / times[side].median
        return Line(theirs=times[side].text(), ratio=ratio, **fields)

    return [
        at_most(
            0.8,
            times["promote"].median / times["convert+flush"].median,
            what="`promote`, overlay not hashed yet, with its fsync",
            ours=times["promote"].text(),
            **convert,
        ),
        Line(
            what="the same, overlay hashed before",
            ours=times["promote, known"].text(),
            ratio=times["promote, known"].median / times["convert+flush"].median,
            **convert,
        ),
        told("the first again", "convert", "`qemu-img convert`, which does not flush"),
        told("the first again", "convert, direct", "`qemu-img convert -t none`, past the page cache"),
        told("the first again", "convert -W -m 8", "`qemu-img convert -W -m 8 -t writeback`"),
    ]


def memory(bench: Bench) -> list[Line]:
    size = 64 * MIB if bench.quick else GIB
    directory, target = bench.directory("sparse"), bench.directory("fetched")
    peaks: dict[tuple[str, str], list[int]] = {}
    for virtual_size, label in ((GIB, "1 GiB"), (TIB, "1 TiB")):
        path = directory / "sparse.raw"
        images.make_spread(path, bench.master, size, virtual_size)
        with bench.share(path) as (peer, server):
            for format in ("raw", "qcow2"):
                home = bench.home()
                words = ("fetch", "sparse", "--to", target, "--format", format, "--peer", peer)
                fetched = bench.command(*words, home=home)
                peaks.setdefault(("fetch", label), []).append(fetched.peak)
                clean(target, home)
            peaks["share", label] = [server.peak()]
        path.unlink()
    lines = []
    for command in ("share", "fetch"):
        small, large = (max(peaks[command, label]) for label in ("1 GiB", "1 TiB"))
        lines.append(
            Line(
                what=f"`{command}`, peak resident memory, {size // MIB} MiB of data in 1 TiB",
                ours=f"{large / MIB:.0f} MiB",
                against="the same data in 1 GiB",
                theirs=f"{small / MIB:.0f} MiB",
                ratio=large / small,
                reach="≤ 200 MiB, ≤ 1.25",
                good=large <= 200 * MIB and large <= 1.25 * small,
            )
        )
    return lines


def help_text(bench: Bench) -> list[Line]:
    times = take_turns(
        3 * bench.runs,
        {"--help": lambda: run([*OVERLAYSYNC, "--help"], bench.env(bench.scratch)).seconds},
    )["--help"]
    return [
        Line(what="`overlaysync --help`", ours=times.text(), reach="≤ 0.3 s", good=times.median <= 0.3),
    ]
