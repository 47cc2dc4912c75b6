"""A QMP client of the tests' own, which looks at what is in a QEMU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self

from tests.guest import connected


class Qmp:
    """The monitor at a path, until it is closed."""

    def __init__(self, path: Path) -> None:
        self._socket = connected(path)
        self._socket.settimeout(20)
        self._lines = self._socket.makefile("rb")
        self._lines.readline()
        self.ask("qmp_capabilities")

    def ask(self, command: str, **arguments: Any) -> Any:
        """The answer to a command; an underscore stands for a hyphen."""
        named = {name.replace("_", "-"): value for name, value in arguments.items()}
        self._socket.sendall(json.dumps({"execute": command, "arguments": named}).encode() + b"\n")
        while True:
            said = json.loads(self._lines.readline())
            if "event" not in said:
                assert "return" in said, said
                return said["return"]

    def human(self, line: str) -> str:
        """The answer of the human monitor."""
        return str(self.ask("human-monitor-command", command_line=line))

    def close(self) -> None:
        self._lines.close()
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def left_in(path: Path) -> list[str]:
    """What of ours is in the QEMU behind a monitor: jobs, nodes, descriptors."""
    with Qmp(path) as qmp:
        names = [job["id"] for job in qmp.ask("query-jobs")]
        names += [node["node-name"] for node in qmp.ask("query-named-block-nodes", flat=True)]
        names += [one["opaque"] for each in qmp.ask("query-fdsets") for one in each["fds"] if "opaque" in one]
    return [name for name in names if name.startswith("os-")]
