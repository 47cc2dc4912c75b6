"""The unit files of the service, as systemd reads them.

The user's unit uses no option that needs a namespace: where unprivileged ones are forbidden (Ubuntu 24.04), a
unit with one does not start at all. The system unit uses all that the program can do without.
Source: systemd.service(5), systemd.exec(5), systemd.syntax(7).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from overlaysync.errors import UsageError
from overlaysync.model.names import printable

NAME = "overlaysync.service"
ACCOUNT = "overlaysync"
"""The user that the system unit runs as."""
STATE = "/var/lib/overlaysync"
"""The home of that user."""

_PLAIN = re.compile(r"[\w@+,./:=-]+")
_IMPOSSIBLE = re.compile("[\0-\x08\x0b-\x1f\x7f\ud800-\udfff]")
"""Systemd takes no control characters, and nothing but UTF-8; a carriage return ends a line, too."""

_SERVICE = """\
Type=notify
NotifyAccess=main
ExecStart={program} service run
Restart=on-failure
RestartSec=5
# 2: the settings cannot be used, which trying again does not mend.
RestartPreventExitStatus=2
# Large images are hashed before the service is ready.
TimeoutStartSec=infinity
TimeoutStopSec=30
WatchdogSec=120
TasksMax=512
MemoryMax=50%
IPAccounting=yes
"""

_WITHOUT_NAMESPACES = """\
NoNewPrivileges=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallErrorNumber=EPERM
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
"""

_USER = """\
# Written by: overlaysync service install. To undo it: overlaysync service remove
[Unit]
Description=overlaysync: share images and keep copies
Documentation=man:overlaysync-service(1)
StartLimitIntervalSec=0

[Service]
{service}{environment}UMask=0077
{hardening}
[Install]
WantedBy=default.target
"""

_SYSTEM = """\
# For a machine that serves for everybody: overlaysync service install --system
[Unit]
Description=overlaysync: share images and keep copies
Documentation=man:overlaysync-service(1)
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
{service}User={account}
Group={account}
StateDirectory=overlaysync
StateDirectoryMode=0700
Environment=HOME={state}
UMask=0077
{hardening}CapabilityBoundingSet=
AmbientCapabilities=
DevicePolicy=closed
KeyringMode=private
PrivateDevices=yes
PrivateTmp=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHome=read-only
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
ProtectSystem=strict
RemoveIPC=yes

[Install]
WantedBy=multi-user.target
"""


def user_unit(program: Sequence[str], environment: Mapping[str, str]) -> str:
    """Return the unit of one user, whose homes are where ``environment`` says."""
    lines = [f"Environment={_quoted(f'{name}={value}')}\n" for name, value in sorted(environment.items())]
    return _USER.format(service=_service(program), environment="".join(lines), hardening=_WITHOUT_NAMESPACES)


def system_unit(program: Sequence[str]) -> str:
    """Return the unit of a machine that serves for everybody."""
    return _SYSTEM.format(
        service=_service(program), account=ACCOUNT, state=STATE, hardening=_WITHOUT_NAMESPACES
    )


def _service(program: Sequence[str]) -> str:
    return _SERVICE.format(program=" ".join(map(_quoted, program)))


def _quoted(word: str) -> str:
    """Return a word as systemd reads it; ``%`` would begin one of its specifiers.

    Raises:
        UsageError: systemd cannot read it.
    """
    if _IMPOSSIBLE.search(word):
        raise UsageError(
            f"systemd cannot be given '{printable(word)}'",
            why="it has a control character, or is not UTF-8",
            hint="rename that directory",
        )
    word = word.replace("%", "%%")
    if _PLAIN.fullmatch(word):
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
