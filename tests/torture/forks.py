"""Runs commands in forks of one process that has everything loaded: tens of milliseconds for a command.

Run as ``python -m tests.torture.forks SETTINGS`` (JSON). A line on stdin starts a command, which waits for an
empty line, so that it can be traced from its first step; lines on stdout say its pid, and how it ended.
The child is what the command line is: the same entry point, its own session, environment and streams.

In one thread (``one_thread``) work for threads is done where it is asked for. Then the n-th call of a system
call is the same one in every run, which no program with threads can promise.
"""

from __future__ import annotations

import concurrent.futures
import ctypes
import gc
import importlib
import json
import os
import pkgutil
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG, _PR_SET_PTRACER = 1, 0x59616D61
_ANY = ctypes.c_ulong(-1)
_SIGKILL = 9


class OneThread(concurrent.futures.Executor):
    """Looks like a pool of threads, and does everything at once."""

    def __init__(self, *arguments: object, **options: object) -> None:
        pass

    def submit(self, call: Callable[..., Any], /, *arguments: Any, **named: Any) -> Any:
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        try:
            future.set_result(call(*arguments, **named))
        except BaseException as error:
            future.set_exception(error)
        return future


def prepare(settings: dict[str, Any]) -> Callable[[list[str]], None]:
    """Load all of overlaysync; the function that runs a command line."""
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    if settings["one_thread"]:
        concurrent.futures.ThreadPoolExecutor = OneThread  # type: ignore[assignment,misc]
    import overlaysync

    for module in pkgutil.walk_packages(overlaysync.__path__, "overlaysync."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    importlib.import_module("numpy.random")  # numpy itself imports it at its first use
    from overlaysync.cli import main
    from overlaysync.store import partial, space

    if settings["checkpoint"]:
        partial.CHECKPOINT_BYTES = settings["checkpoint"]
    if settings["reserve"] is not None:
        checks: tuple[Any, ...] = (partial.PartFile.open.__func__, space.check_room)  # type: ignore[attr-defined]
        for check in checks:
            check.__kwdefaults__["reserve"] = settings["reserve"]
    if settings["one_pull"]:
        # What is pulled is stored by one thread: then its calls are numbered nearly the same every time.
        from overlaysync.ops.recovery import pulling

        pulling._AT_ONCE = 1
    _warm_up(main.run)
    return main.run


def _warm_up(run: Callable[[list[str]], None]) -> None:
    """Some modules are loaded at their first use; then let the collector leave alone what is shared."""
    with tempfile.TemporaryDirectory() as place:
        os.environ["OVERLAYSYNC_HOME"] = f"{place}/home"
        Path(place, "m.raw").write_bytes(b"\1" * 65536)
        for words in (
            ["new", f"{place}/vm.qcow2", "--master", f"{place}/m.raw"],
            ["rebase", f"{place}/vm.qcow2", "--onto", f"{place}/m.raw"],
            ["promote", f"{place}/vm.qcow2", "--as", "p"],
            ["id", f"{place}/none"],
        ):
            try:
                run([*words, "--json", "--quiet"])
            except SystemExit as stop:
                assert stop.code in (0, 3, 11), words
    gc.collect()
    gc.freeze()


def serve(run: Callable[[list[str]], None], channel: int) -> None:
    """Run commands until stdin ends."""
    with os.fdopen(channel, "w") as answers:
        for line in sys.stdin:
            order = json.loads(line)
            ready, go = os.pipe()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # a fork where threads may be
                pid = os.fork()
            if not pid:
                os.close(go)
                _child(run, order, ready)
            os.close(ready)
            print(pid, file=answers, flush=True)
            sys.stdin.readline()
            os.close(go)
            print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), file=answers, flush=True)


def _child(run: Callable[[list[str]], None], order: dict[str, Any], ready: int) -> None:
    code = 1
    try:
        libc = ctypes.CDLL(None)
        libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL)
        libc.prctl(_PR_SET_PTRACER, _ANY)
        os.setsid()
        for target, path, flags in (
            (0, os.devnull, os.O_RDONLY),
            (1, order["stdout"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
            (2, order["stderr"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
        ):
            opened = os.open(path, flags, 0o600)
            os.dup2(opened, target)
            os.close(opened)
        os.environ.clear()
        os.environ.update(order["environment"])
        os.chdir(order["directory"])
        os.read(ready, 1)
        os.close(ready)
        run(order["words"])
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else bool(stop.code)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    channel = os.dup(1)
    os.dup2(2, 1)
    serve(prepare(json.loads(sys.argv[1])), channel)


if __name__ == "__main__":
    main()
