"""Versions whose files are in use by a VM: listed without their data. What is said of them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from overlaysync.errors import InUseError
from overlaysync.model.names import one_field
from overlaysync.ops.dates import ago
from overlaysync.trust.envelope import Manifest

_NAMED = 3


@dataclass(frozen=True, slots=True)
class InUse:
    """The last published version of a file that a VM writes now.

    Attributes:
        manifest: that version.
        since: when the VM was noticed, ISO 8601 UTC.
        past: the envelopes of the versions before it that are known here, the newest first.
    """

    manifest: Manifest
    since: str
    past: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """A node that has a version in use.

    Attributes:
        label: its label.
        address: where it answers; "" for this machine.
        since: since when, as it says, ISO 8601 UTC; "" when that is not known.
    """

    label: str
    address: str = ""
    since: str = ""


def users(usages: Sequence[Usage]) -> str:
    """Return the machines that have a version in use, a few by name."""
    labels = list(dict.fromkeys(one_field(usage.label) or usage.address for usage in usages))
    more = f" and {len(labels) - _NAMED} more" if len(labels) > _NAMED else ""
    return f"{', '.join(labels[:_NAMED])}{more}"


def in_use_words(manifest: Manifest, usages: Sequence[Usage], now: float) -> str:
    """Return where a version is in use, and how old the published one is."""
    header = manifest.header
    age = ago(header.created, now)
    last = f"last published {header.full_name}:{header.version}{f', {age}' if age else ''}"
    return f"in use at {users(usages)}; {last}"


def no_holder(manifest: Manifest, usages: Sequence[Usage], now: float) -> InUseError:
    """Return the error for a version that no machine within reach can give, because it is in use."""
    header = manifest.header
    first = one_field(usages[0].label) or usages[0].address
    return InUseError(
        f"'{header.full_name}' is in use, and no other machine within reach has {header.full_name}:"
        f"{header.version}",
        why=in_use_words(manifest, usages, now),
        hint=f"ask {first} to shut the VM down, or to share a snapshot of it; to fetch what is published "
        f"then: overlaysync sync {header.full_name} --watch",
    )
