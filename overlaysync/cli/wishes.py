"""The state that the user wants: ``TEAM[:STATE]``, or a team and a time."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime

from overlaysync.cli.save import team_of
from overlaysync.errors import UsageError
from overlaysync.model.names import printable
from overlaysync.node.node import Node
from overlaysync.ops.dates import utc
from overlaysync.ops.recovery.choosing import Wish

_REFERENCE = re.compile(r"([^:/@]+)(?::([0-9a-fA-F]+))?")
_ID_DIGITS = 8


def parse_wish(node: Node, reference: str, at: str, vms: Sequence[str]) -> Wish:
    """Return what ``TEAM[:STATE]`` and the options mean.

    Raises:
        UsageError: it is not such a reference, or not a time.
    """
    match = _REFERENCE.fullmatch(reference.removesuffix("/"))
    if match is None:
        raise UsageError(
            f"'{printable(reference)}' is neither a team nor a state of one",
            hint="write TEAM or TEAM:STATE, such as red or red:2",
        )
    team = team_of(node, match[1], "restore")
    named = (match[2] or "").lower()
    if at and named:
        raise UsageError(
            "Cannot use --at together with a state",
            hint=f"overlaysync restore {team.name} --at TIME, or: overlaysync restore {team.name}:{named}",
        )
    is_id = len(named) >= _ID_DIGITS or not named.isdigit()
    return Wish(
        team=team.name,
        number=0 if is_id or not named else int(named),
        id=named if is_id else "",
        before=parse_time(at) if at else "",
        vms=tuple(vms),
    )


def parse_time(text: str) -> str:
    """Return a time that the user wrote, local or with a zone, as ISO 8601 UTC.

    A day or a minute is meant to its end: times are shown to the minute, and who types one means what was
    saved in it.

    Raises:
        UsageError: it is not a time.
    """
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise UsageError(
            f"'{printable(text)}' is not a time", hint="write it like 2026-11-29 14:30"
        ) from None
    if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text.strip()):
        moment = moment.replace(hour=23, minute=59, second=59)
    elif re.search(r"[T ]\d{2}:\d{2}([Z+-][0-9:]*)?$", text.strip()):
        moment = moment.replace(second=59)
    return utc(moment.timestamp())
