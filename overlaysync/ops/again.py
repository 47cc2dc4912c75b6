"""Again: the commands that errors of fetch and sync print, for the one thing and into the same places.

A printed command is typed as it stands, so it carries every option that says where its files go, how they are
called and whom to ask.
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
