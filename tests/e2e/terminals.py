"""Commands on a terminal of their own: what they show, and answers to what they ask."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Mapping
from typing import Self

from tests.e2e.nodes import Node, check_words, until


class Terminal:
    """A command whose stdin, stdout and stderr are a terminal; ended with its block.

    Attributes:
        shown: what it has printed so far, and what was typed as far as the terminal shows that.
    """

    def __init__(
        self,
        node: Node,
        *arguments: object,
        stdout: int | None = None,
        shell: str = "",
        columns: int = 0,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start it.

        Args:
            node: whose command it is.
            arguments: of the program.
            stdout: a descriptor to print to instead of the terminal.
            shell: a line for a shell, instead of the arguments.
            columns: of the terminal; by default it does not say.
            environment: besides the node's own.
        """
        self.shown = ""
        self._terminal, inside = os.openpty()
        if columns:
            termios.tcsetwinsize(inside, (50, columns))
        words = node.words(*arguments)
        if shell:
            words = [*words[: words.index(sys.executable)], "sh", "-c", shell]

        self._process = subprocess.Popen(
            ["setsid", "--ctty", *words],
            env=node.environment(**({"TERM": "dumb"} | dict(environment or {}))),
            cwd=node.place,
            stdin=inside,
            stdout=inside if stdout is None else stdout,
            stderr=inside,
        )
        os.close(inside)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        if self._terminal >= 0:
            os.close(self._terminal)
        check_words(self.shown)

    def answer(self, question: str, text: str) -> None:
        """Type ``text`` and Enter when the question is shown."""
        until(lambda: question in self._read(), what=f"the question {question!r}")
        self.type(text)

    def until(self, condition: Callable[[str], object], what: str) -> None:
        """Wait until what is shown fulfils a condition."""
        until(lambda: condition(self._read()), what=what)

    def hang_up(self) -> None:
        """Close the terminal, as when its window is closed."""
        os.close(self._terminal)
        self._terminal = -1

    def interrupt(self) -> None:
        """Send what Ctrl-C sends."""
        self._process.send_signal(signal.SIGINT)

    def type(self, text: str) -> None:
        """Type ``text`` and Enter."""
        os.write(self._terminal, f"{text}\n".encode())

    @property
    def ended(self) -> bool:
        """Whether the command has ended; what it printed by then is shown."""
        done = self._process.poll() is not None
        self._read()
        return done

    def end(self) -> int:
        """Wait until it has ended; its exit code."""
        until(lambda: (self._read(), self._process.poll() is not None)[1], what="the command's end")
        self._read()
        return self._process.returncode

    def _read(self) -> str:
        while self._terminal >= 0 and select.select([self._terminal], [], [], 0)[0]:
            try:
                data = os.read(self._terminal, 4096)
            except OSError:  # no process is left at the other end
                break
            if not data:
                break
            self.shown += data.decode(errors="replace")
        return self.shown
