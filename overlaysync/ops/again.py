"""Again: the commands that errors of fetch, sync and share print, for the one thing and as they were given.

A printed command is typed as it stands, so it carries every option that says where its files go, how they are
called, whom to ask and whom it is for.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Again:
    """A command that fetches one thing as the command did that could not.

    Attributes:
        thing: the thing, as a reference.
        options: the options that hold for all things, as they were typed.
        name: name of the file, where one was given.
        format: format of the file, where one was given.
    """

    thing: str = ""
    options: tuple[str, ...] = ()
    name: str | None = None
    format: str | None = None

    def about(self, thing: str) -> Again:
        """Return the same about another thing."""
        return replace(self, thing=thing)

    def other(self, thing: str) -> Again:
        """Return the same about a thing that the file's name and format were not given for."""
        return replace(self, thing=thing, name=None, format=None)

    def fetch(self, *more: str) -> str:
        """Return the ``fetch`` command with more options; a name among those takes the place of the given."""
        return self._typed("fetch", more)

    def sync(self) -> str:
        """Return the ``sync`` command."""
        return self._typed("sync", ())

    def _typed(self, command: str, more: tuple[str, ...]) -> str:
        named = ("--as", self.name) if self.name and "--as" not in more else ()
        formed = ("--format", self.format) if self.format else ()
        return shlex.join(["overlaysync", command, self.thing, *self.options, *named, *formed, *more])


PUBLIC = ("--public",)
"""The audience of a ``share`` that is for everybody."""


@dataclass(frozen=True, slots=True)
class ShareAgain:
    """A ``share`` command that shares one thing, or several, as the command did that could not.

    Attributes:
        audience: the option that says whom it is for, as it was typed; () when none was.
        options: the other options, as they were typed.
        name: what the one image is called, where that was given.
    """

    audience: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    name: str = ""

    def share(
        self, *paths: str, more: tuple[str, ...] = (), name: str = "", audience: tuple[str, ...] | None = None
    ) -> str:
        """Return the command about ``paths``.

        Args:
            paths: images or directories; the name that was given goes with one only.
            more: further options.
            name: takes the place of the name that was given.
            audience: takes the place of the audience that was given.
        """
        whom = self.audience if audience is None else audience
        name = name or (self.name if len(paths) == 1 else "")
        options = (*whom, *(word for word in more if word not in self.options), *self.options)
        named = ("--as", name) if name else ()
        return shlex.join(["overlaysync", "share", *options, *named, *paths])
