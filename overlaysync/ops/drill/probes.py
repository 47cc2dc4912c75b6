"""Probes: how a drill finds out that a VM is ready, as the user wrote them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from overlaysync.errors import UsageError
from overlaysync.model.names import is_name, printable

COMMON_PORTS = (22, 80, 443)
"""Ports of the guest that a command can reach."""

_KINDS = "tcp:PORT, serial:REGEX, agent, or a command"
_VM = re.compile(r"([^\s=:/]+)=(.+)", re.DOTALL)


class ProbeKind(StrEnum):
    """What is asked."""

    NONE = "none"
    TCP = "tcp"
    SERIAL = "serial"
    AGENT = "agent"
    COMMAND = "command"


@dataclass(frozen=True, slots=True)
class Probe:
    """How to find out that a VM is ready.

    Attributes:
        kind: what is asked.
        value: the port, the regular expression, or the command.
    """

    kind: ProbeKind = ProbeKind.NONE
    value: str = ""

    def __str__(self) -> str:
        if self.kind in (ProbeKind.NONE, ProbeKind.AGENT):
            return str(self.kind)
        return self.value if self.kind is ProbeKind.COMMAND else f"{self.kind}:{self.value}"

    @property
    def ports(self) -> tuple[int, ...]:
        """Ports of the guest that must be within reach of this machine, and of nobody else."""
        if self.kind is ProbeKind.TCP:
            return (int(self.value),)
        return COMMON_PORTS if self.kind is ProbeKind.COMMAND else ()


NO_PROBE = Probe()


@dataclass(frozen=True, slots=True)
class Probes:
    """The probes of all VMs.

    Attributes:
        every: of a VM that has none of its own.
        own: by the name of the VM.
    """

    every: Probe
    own: Mapping[str, Probe]

    def of(self, vm: str) -> Probe:
        """Return the probe of a VM."""
        return self.own.get(vm, self.every)


def parse_probes(texts: Iterable[str]) -> Probes:
    """Return the probes of ``--ready``: one for all VMs, or ``VM=PROBE`` for one of them.

    Raises:
        UsageError: one is not understood, or there are two for the same VM.
    """
    every: Probe | None = None
    own: dict[str, Probe] = {}
    for text in texts:
        named = _VM.fullmatch(text)
        if named and is_name(named[1]):
            if named[1] in own:
                raise UsageError(
                    f"--ready was given twice for the VM '{named[1]}'", hint="leave one of the two out"
                )
            own[named[1]] = parse_probe(named[2])
        elif every is not None:
            raise UsageError(
                "--ready was given twice for all VMs", hint="for one of the VMs: --ready VM=PROBE"
            )
        else:
            every = parse_probe(text)
    return Probes(every or NO_PROBE, own)


def parse_probe(text: str) -> Probe:
    """Return one probe.

    Raises:
        UsageError: it is not understood.
    """
    kind, colon, value = text.strip().partition(":")
    if not text.strip():
        raise UsageError("--ready says nothing", hint=f"write {_KINDS}")
    if text.strip() == ProbeKind.AGENT:
        return Probe(ProbeKind.AGENT)
    if colon and kind == ProbeKind.TCP:
        if not (value.isascii() and value.isdigit() and 1 <= int(value) <= 65535):
            raise UsageError(
                f"'{printable(value)}' is not a port",
                hint="for ssh: --ready tcp:22; for the web: --ready tcp:80",
            )
        return Probe(ProbeKind.TCP, str(int(value)))
    if colon and kind == ProbeKind.SERIAL:
        return Probe(ProbeKind.SERIAL, _checked_regex(value))
    return Probe(ProbeKind.COMMAND, text.strip())


def _checked_regex(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise UsageError(
            f"'{printable(text)}' is not a regular expression",
            why=str(error),
            hint="--ready 'serial:login: '",
        ) from None
    if not text:
        raise UsageError("--ready serial: says nothing", hint="--ready 'serial:login: '")
    return text
