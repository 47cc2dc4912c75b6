"""What the command line of a QEMU process says of its monitors and its guest agent.

Text in, values out: no file is opened here. Source: qemu-system-x86_64(1), "-mon", "-monitor", "-qmp" and
"-chardev"; QEMU's util/keyval.c for commas, which are doubled inside a value.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise

AGENT = "org.qemu.guest_agent.0"
"""The name of the port at which a guest agent listens."""

_MONITORS = {"qmp": "qmp", "qmp-pretty": "qmp", "monitor": "human"}


class Speech(Enum):
    """What a monitor understands."""

    QMP = "qmp"
    HUMAN = "human"


@dataclass(frozen=True, slots=True)
class Channel:
    """Where a monitor, or a guest agent, can be reached.

    Attributes:
        path: of a Unix socket as QEMU was told it, perhaps relative; "" for another kind.
        host, port: of a TCP socket; "" and 0 for another kind.
    """

    path: str = ""
    host: str = ""
    port: int = 0


@dataclass(frozen=True, slots=True)
class Arguments:
    """What is of interest here in a command line.

    Attributes:
        monitors: those that can be reached.
        agent: None where there is no port for a guest agent, or it cannot be reached.
        name, uuid: of the VM, "" where none is given; libvirt gives both.
    """

    monitors: tuple[tuple[Speech, Channel], ...]
    agent: Channel | None
    name: str
    uuid: str


def parse_arguments(words: Sequence[str]) -> Arguments:
    """Return what a command line says; what is not understood is left out."""
    options = list(_options(words))
    devices: dict[str, Channel] = {}
    for option, value in options:
        if option == "chardev":
            fields = _fields(value)
            channel = _socket_of(fields)
            if channel is not None:
                devices[fields.get("id", "")] = channel
    monitors = []
    for option, value in options:
        found: Channel | None = None
        speech = Speech(_MONITORS.get(option, "qmp"))
        if option in _MONITORS:
            found = devices.get(value.removeprefix("chardev:")) if value[:8] == "chardev:" else _legacy(value)
        elif option == "mon":
            fields = _fields(value)
            found = devices.get(fields.get("chardev", fields.get("", "")))
            speech = Speech.QMP if fields.get("mode") == "control" else Speech.HUMAN
        if found is not None:
            monitors.append((speech, found))
    ports = [_fields(value) for option, value in options if option == "device"]
    agents = [devices.get(fields.get("chardev", "")) for fields in ports if fields.get("name") == AGENT]
    named = _fields(next((value for option, value in options if option == "name"), ""))
    return Arguments(
        tuple(monitors),
        next(iter(agents), None),
        named.get("guest", named.get("", "")),
        next((value for option, value in options if option == "uuid"), ""),
    )


def _options(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield (option, the word after it)."""
    for word, value in pairwise(words[1:]):
        if word.startswith("-"):
            yield word.removeprefix("-").removeprefix("-"), value


def _fields(value: str) -> Mapping[str, str]:
    """Return the fields of an option; a first one without a name is "", and one without a value is ``on``."""
    if value.startswith("{"):
        try:
            said = json.loads(value)
        except (ValueError, RecursionError):
            return {}
        flat = said | said.get("addr", {}) if isinstance(said.get("addr", {}), dict) else said
        return {str(name): str(content) for name, content in flat.items()}
    found: dict[str, str] = {}
    for number, part in enumerate(value.replace(",,", "\0").split(",")):
        name, equals, content = part.replace("\0", ",").partition("=")
        if equals:
            found[name] = content
        else:
            found["" if number == 0 else name] = name if number == 0 else "on"
    return found


def _socket_of(fields: Mapping[str, str]) -> Channel | None:
    """Return where a character device can be reached; None for one of another kind, or a client."""
    if fields.get("", fields.get("backend", "")) != "socket" or fields.get("server", "off") in (
        "off",
        "False",
    ):
        return None
    if "path" in fields:
        return Channel(path=fields["path"])
    return _tcp(fields.get("host", ""), fields.get("port", ""))


def _legacy(value: str) -> Channel | None:
    """Return where ``unix:PATH,server=on`` or ``tcp:HOST:PORT,server=on`` can be reached."""
    kind, _, rest = value.partition(":")
    fields = _fields(rest)
    address = fields.get("", "")
    if kind == "unix" and address:
        return Channel(path=address)
    if kind in ("tcp", "telnet"):
        host, _, port = address.rpartition(":")
        return _tcp(host, port)
    return None


def _tcp(host: str, port: str) -> Channel | None:
    return Channel(host=host or "127.0.0.1", port=int(port)) if port.isdecimal() and len(port) < 6 else None
