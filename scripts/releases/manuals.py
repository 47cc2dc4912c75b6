"""Man pages, made from the tree of commands: one for the program, and one for each command.

The texts are those of ``--help``, and what all commands share comes from here. Source: man-pages(7),
groff_man(7).
"""

from __future__ import annotations

import gzip
import inspect
import re
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import typer

from overlaysync.cli import commands
from overlaysync.cli.main import app

PROGRAM = "overlaysync"

_DESCRIPTION = """
overlaysync shares QEMU master images and overlays between the machines of a lab, without a server. It finds
the machines that hold an image, fetches the missing data from all of them at once, and verifies each piece
before it is written.

Each command has a page of its own, such as overlaysync-share(1).
"""
_EXIT_CODES = (
    ("0", "Done."),
    ("2", "The command was not understood, or its arguments do not fit."),
    ("3", "There is nothing by that name here, and no machine within reach has it."),
    ("4", "The network or every machine failed."),
    ("5", "The master that an overlay stands on is missing or has other content."),
    ("6", "Data do not match their digest."),
    ("7", "An image is in use."),
    ("8", "Rights or trust forbid it."),
    ("9", "Something would be overwritten or lost."),
    ("10", "There is not enough space."),
    ("11", "A file is no image, is damaged, or cannot be used."),
    ("12", "Something is on fewer machines than it should be."),
    ("130", "You interrupted it."),
    ("1", "Anything else."),
)
_FILES = (
    ("~/.config/overlaysync/config.toml", "Settings: a table for each command."),
    ("~/.local/state/overlaysync", "The key of this machine, and what it knows of images."),
    ("~/.local/share/overlaysync/vault", "Saved states."),
)
_ENVIRONMENT = (
    ("OVERLAYSYNC_HOME", "One directory for all of these files."),
    ("OVERLAYSYNC_PEERS", "Addresses to ask, separated by blanks, as with --peer."),
    ("NO_COLOR", "No colours."),
)


class Page(NamedTuple):
    """A man page.

    Attributes:
        name: "overlaysync-team".
        text: its source, for groff.
    """

    name: str
    text: str


def pages(version: str, epoch: int) -> Iterator[Page]:
    """Yield all pages."""
    group = typer.main.get_command(app)
    root = group.make_context(PROGRAM, [], resilient_parsing=True)
    footer = f'"{datetime.fromtimestamp(epoch, UTC):%Y-%m-%d}" "{PROGRAM} {version}" "overlaysync manual"'
    yield Page(PROGRAM, _program_page(group, root, footer))
    for entry in commands.ENTRIES.values():
        command = commands.load(entry.name)
        context = command.make_context(entry.name, [], parent=root, resilient_parsing=True)
        yield Page(f"{PROGRAM}-{entry.name}", _command_page(entry, command, context, footer))


def write(target: Path, version: str, epoch: int) -> list[Path]:
    """Write the pages into ``target``, compressed as Debian has them."""
    target.mkdir(parents=True, exist_ok=True)
    files = []
    for page in pages(version, epoch):
        file = target / f"{page.name}.1.gz"
        file.write_bytes(gzip.compress(page.text.encode(), 9, mtime=0))
        files.append(file)
    return files


# -- pages -------------------------------------------------------------------------------------------


def _program_page(group: Any, context: Any, footer: str) -> str:
    lines = [
        f".TH OVERLAYSYNC 1 {footer}",
        *_name(PROGRAM, "share QEMU images between the machines of a lab"),
    ]
    lines += [
        ".SH SYNOPSIS",
        f".B {PROGRAM}",
        "[\\fIOPTIONS\\fR] \\fICOMMAND\\fR [\\fIARGUMENT\\fR]...",
        ".SH DESCRIPTION",
    ]
    lines += _paragraphs(_DESCRIPTION)
    for section, entries in commands.SECTIONS.items():
        lines += [f".SH {_text(section.upper())}"]
        for entry in entries:
            lines += [".TP", f"\\fB{PROGRAM}\\-{_text(entry.name)}\\fR(1)", *_paragraph(entry.help)]
    lines += [".SH OPTIONS", *_options(group, context)]
    lines += [
        *_terms("EXIT STATUS", _EXIT_CODES),
        *_terms("ENVIRONMENT", _ENVIRONMENT),
        *_terms("FILES", _FILES),
    ]
    return _joined(lines)


def _command_page(entry: commands.Entry, command: Any, context: Any, footer: str) -> str:
    name = f"{PROGRAM}-{entry.name}"
    lines = [f".TH {_text(name.upper())} 1 {footer}", *_name(name, _as_title(entry.help))]
    parts = [(f"{PROGRAM} {entry.name}", command, context)]
    for word, below in getattr(command, "commands", {}).items():
        inside = below.make_context(word, [], parent=context, resilient_parsing=True)
        parts.append((f"{PROGRAM} {entry.name} {word}", below, inside))
    runnable = parts[1:] or parts
    lines += [".SH SYNOPSIS"]
    for number, (typed, one, inside) in enumerate(runnable):
        lines += [".br"] * bool(number)
        lines += [f".B {_text(typed)}", _text(" ".join(one.collect_usage_pieces(inside)))]
    lines += [".SH DESCRIPTION", *_paragraphs(inspect.cleandoc(command.help or ""))]
    for typed, one, inside in runnable:
        if len(parts) > 1:
            lines += [f".SS {_text(typed)}", *_paragraphs(inspect.cleandoc(one.help or ""))]
        elif one.params:
            lines += [".SH OPTIONS"]
        lines += _options(one, inside)
    lines += [".SH NOTES", *_paragraph(f"The options of {PROGRAM}(1) may stand after the command as well.")]
    lines += [".SH SEE ALSO", *_see_also(entry.name)]
    return _joined(lines)


def _see_also(name: str) -> list[str]:
    """Return the pages of the section that a command is in."""
    near = next(
        entries for entries in commands.SECTIONS.values() if name in {entry.name for entry in entries}
    )
    others = [f"{PROGRAM}-{entry.name}" for entry in near if entry.name != name]
    shown = [PROGRAM, *sorted(others)]
    return [f".BR {_text(one)} (1){',' if one != shown[-1] else ''}" for one in shown]


def _options(command: Any, context: Any) -> list[str]:
    lines: list[str] = []
    for param in command.get_params(context):
        if param.param_type_name == "argument":
            lines += [".TP", f"\\fI{_text(param.metavar)}\\fR", *_paragraph(param.help or "")]
        elif record := param.get_help_record(context):
            lines += [".TP", f"\\fB{_text(record[0])}\\fR", *_paragraph(record[1])]
    return lines


# -- groff -------------------------------------------------------------------------------------------


def _name(name: str, what: str) -> list[str]:
    return [".SH NAME", f"{_text(name)} \\- {_text(what)}"]


def _as_title(text: str) -> str:
    """Return the first sentence as what stands after a name: without its capital and its full stop."""
    first = text.split(". ", maxsplit=1)[0]
    return first[:1].lower() + first[1:].rstrip(".")


def _terms(title: str, rows: Sequence[tuple[str, str]]) -> list[str]:
    return [
        f".SH {title}",
        *(line for name, what in rows for line in (".TP", f"\\fB{_text(name)}\\fR", *_paragraph(what))),
    ]


def _paragraphs(text: str) -> list[str]:
    lines: list[str] = []
    for number, paragraph in enumerate(re.split(r"\n\s*\n", text.strip())):
        lines += [".PP"] * bool(number)
        lines += _paragraph(paragraph)
    return lines


def _paragraph(text: str) -> list[str]:
    """Return a paragraph, a sentence on each line."""
    return [_text(line) for line in re.split(r"(?<=[.:]) (?=[A-Z])", " ".join(text.split())) if line]


def _text(text: str) -> str:
    """Return words so that groff shows them as they are."""
    shown = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")
    shown = shown.replace("^", "\\(ha").replace("~", "\\(ti").replace("…", "...")
    return f"\\&{shown}" if shown.startswith(".") else shown


def _joined(lines: Sequence[str]) -> str:
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    for made in write(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])):
        print(made)
