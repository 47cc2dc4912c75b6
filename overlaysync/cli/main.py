"""The entry point: global options, errors and exit codes."""

from __future__ import annotations

import functools
import gc
import itertools
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import typer

from overlaysync import __version__
from overlaysync.archive.authorities import AUTHORITIES
from overlaysync.cli import signals, streams
from overlaysync.cli.commands import ENTRIES, Commands
from overlaysync.cli.later import later
from overlaysync.cli.output import Output, Settings, output_of
from overlaysync.cli.refusals import candidate_lines, error_fields
from overlaysync.errors import BrokenOffError, OverlaysyncError
from overlaysync.store.files import translate

_COMPLETION = "_OVERLAYSYNC_COMPLETE"
"""Set by the shell while it completes a word: nothing may be printed then."""
_SCRIPTS = frozenset(("--install-completion", "--show-completion"))
_GLOBAL_FLAGS = ("--json", "--quiet", "-q", "--no-color")

app = typer.Typer(
    name="overlaysync",
    cls=Commands,
    help="Share QEMU master images and overlays between the machines of a lab.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(context: typer.Context, wanted: bool) -> None:
    if wanted:
        output_of(context).result({"version": __version__}, f"overlaysync {__version__}")
        raise typer.Exit


@app.callback()
def main(
    context: typer.Context,
    json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON document.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print results and errors only.")] = False,
    no_color: Annotated[
        bool, typer.Option("--no-color", help="Print without colours (also: NO_COLOR).")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Global options, accepted before or after the command's name; see :func:`settings`."""


def run(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with its code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    streams.prepare()
    # numpy's matrix library starts a thread per processor, and nothing here multiplies matrices.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # aiohttp reads the certificates of all authorities when it is imported; no peer is known by one of them.
    # A user's own file of authorities is read as slowly, so what is set already counts for nothing. Archives
    # are known by authorities: they find what was set under another name.
    if "SSL_CERT_FILE" in os.environ:
        os.environ.setdefault(AUTHORITIES, os.environ["SSL_CERT_FILE"])
    os.environ["SSL_CERT_FILE"] = os.devnull
    signals.install()
    code = _run(words)
    signals.leave()
    try:
        sys.stdout.flush()
    except OSError as error:  # the interpreter would complain again at exit
        streams.silence(sys.stdout)
        code = code or (streams.CLOSED if isinstance(error, BrokenPipeError) else 1)
    # The interpreter looks twice through everything for garbage when it ends, which takes 0.1 s for nothing.
    gc.freeze()
    sys.exit(code)


def _run(words: list[str]) -> int:
    words = globals_first(words)
    if all(word in _GLOBAL_FLAGS for word in words):
        words.append("--help")
    output = Output(settings(words))
    if _COMPLETION in os.environ or not _SCRIPTS.isdisjoint(words):
        later("cli.shells").mend()
    try:
        result = _group().main(args=words, obj=output, standalone_mode=False, prog_name="overlaysync")
        if result == signals.INTERRUPTED:  # typer makes this of a KeyboardInterrupt
            raise KeyboardInterrupt
        return result if isinstance(result, int) else 0
    except OverlaysyncError as error:
        return _report(output, error)
    except (KeyboardInterrupt, typer.Abort):
        return _report(output, BrokenOffError("interrupted"))
    except BrokenPipeError:  # what reads our output has had enough: no mistake, and nothing to say
        return streams.CLOSED
    except typer.Exit as stop:
        return int(stop.exit_code)
    except SystemExit as stop:
        if isinstance(stop.__context__, BrokenPipeError):  # typer makes 1 of it
            return streams.CLOSED
        return stop.code if isinstance(stop.code, int) else 1
    except Exception as error:
        if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # a usage error of typer's
            return _report_usage(output, error, words)
        if isinstance(error, OSError):
            return _report(output, translate(error, _describe_os_error(error)))
        raise


@functools.cache
def _group() -> Any:
    """All commands. To make it of their functions takes time: several runs in one process share it."""
    return typer.main.get_command(app)


def globals_first(words: Sequence[str]) -> list[str]:
    """Return the words with the global options moved to the front, up to a ``--``."""
    end = words.index("--") if "--" in words else len(words)
    front = [word for word in words[:end] if word in _GLOBAL_FLAGS]
    return front + [word for word in words[:end] if word not in _GLOBAL_FLAGS] + list(words[end:])


def settings(words: Sequence[str]) -> Settings:
    """Return the global options among words that begin with them: errors in what follows obey them too."""
    chosen = set(itertools.takewhile(_GLOBAL_FLAGS.__contains__, words))
    return Settings(
        json="--json" in chosen,
        quiet=not chosen.isdisjoint(("-q", "--quiet")),
        color="--no-color" not in chosen,
    )


def _report(output: Output, error: OverlaysyncError) -> int:
    lines = [error.what + ("." if not error.why and not error.what.endswith((".", "?")) else "")]
    if error.why:
        lines = [f"{error.what}:", f"  {error.why}"]
    lines += [f"  {line}" for line in candidate_lines(error)]
    if error.hint:
        lines.append(f"  {streams.TRY}{error.hint}")
    output.error("\n".join(lines), error_fields(error))
    return error.exit_code


def _command_in(words: Sequence[str]) -> Sequence[str]:
    """Return the name of the command among the words; nothing where there is none."""
    return next(((word,) for word in words if word in ENTRIES), ())


def _report_usage(output: Output, error: Exception, words: Sequence[str]) -> int:
    message: str = error.format_message()  # type: ignore[attr-defined] # a usage error of click
    if near := getattr(error, "possibilities", None):  # the best first; typer prints them by the alphabet
        mistyped = error.option_name  # type: ignore[attr-defined] # what has possibilities has a name
        message = f"No such option: {mistyped}. Did you mean '{near[0]}'?"
    context = getattr(error, "ctx", None)
    if context and message == context.get_help():  # a group of commands, without one: nothing is wrong
        typer.echo(message)
        return 0
    command = context.command_path if context else " ".join(["overlaysync", *_command_in(words)])
    fields = {"what": message, "why": "", "hint": f"{command} --help", "candidates": [], "exit_code": 2}
    output.error(f"{message}\n  {streams.TRY}{command} --help", fields)
    return 2


def _describe_os_error(error: OSError) -> str:
    return f"Cannot use {error.filename}" if error.filename else "The system refused a file operation"
