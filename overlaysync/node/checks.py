"""What a check of this machine found."""

from __future__ import annotations

import dataclasses
from typing import Literal

NETWORK_FAILS = 4
"""Exit code of a failed check of the network."""

SPACE_FAILS = 10
"""Exit code where there is no room."""


@dataclasses.dataclass(frozen=True, slots=True)
class Check:
    """What one check of the doctor found.

    Attributes:
        name: what was looked at.
        state: how it is.
        meaning: what that means.
        advice: what to do.
        exit_code: of the command, when this check failed; that of the error, where the check met one.
    """

    name: str
    state: Literal["ok", "warn", "fail"]
    meaning: str
    advice: str = ""
    exit_code: int = 1
