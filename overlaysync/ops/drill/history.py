"""The history of drills: records in a vault, each signed by the node that ran the drill."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice

from overlaysync.errors import DecodeError, NotFoundError, OverlaysyncError, VerificationError
from overlaysync.ops.drill.report import Earlier, Report
from overlaysync.ops.recovery.pulling import Place
from overlaysync.trust.keys import NodeKey, node_id, verify
from overlaysync.vault.drill import DrillRecord, SignedDrill, decode_drill, encode_drill
from overlaysync.vault.limits import MAX_TEXT
from overlaysync.vault.objects import Kind, Objects, get_whole, object_name
from overlaysync.vault.spaces import Space

MAX_DRILLS = 200
"""Records that are read of one place, and kept of one node; the oldest go first."""


def drills_in(objects: Objects, space: Space) -> list[SignedDrill]:
    """Return the drills that are recorded in a place, the oldest first; what is damaged is left out."""
    found = []
    for number, stored in enumerate(objects.list(f"{space.tag}/{Kind.DRILL}/")):
        if number >= MAX_DRILLS:
            break
        try:
            found.append(decode_drill(get_whole(objects, stored.name), space, verify))
        except (DecodeError, VerificationError, NotFoundError):
            continue
    return sorted(found, key=lambda one: (one.record.started, one.id))


def take_drills(objects: Objects, space: Space, places: Iterable[Place]) -> None:
    """Take the records that other places have and a member has signed; one that fails is left alone.

    Raises:
        NoSpaceError, OverlaysyncError: they cannot be stored.
    """
    for place in places:
        for name, data in _records(place.objects, space, objects):
            objects.put(name, data)


def _records(place: Objects, space: Space, have: Objects) -> Iterator[tuple[str, bytes]]:
    """Yield the objects of a place that are records of the team and not here."""
    with suppress(OverlaysyncError):
        listed = islice(place.list(f"{space.tag}/{Kind.DRILL}/"), MAX_DRILLS)
        for stored in [one for one in listed if have.size(one.name) is None]:
            with suppress(DecodeError, VerificationError, NotFoundError):
                data = get_whole(place, stored.name)
                decode_drill(data, space, verify)
                yield stored.name, data


def record_drill(objects: Objects, space: Space, key: NodeKey, record: DrillRecord) -> SignedDrill:
    """Store the record of a drill; of this node's, the oldest give way when there are too many.

    Raises:
        NoSpaceError, OverlaysyncError: it cannot be stored.
    """
    data, signed = encode_drill(record, key, space)
    objects.put(object_name(space.tag, Kind.DRILL, signed.id), data)
    own = [one for one in drills_in(objects, space) if one.node == key.public]
    for one in own[: -MAX_DRILLS // 2]:
        objects.delete(object_name(space.tag, Kind.DRILL, one.id))
    return signed


def record_of(report: Report, digest: str) -> DrillRecord:
    """Return the record of a drill.

    Args:
        report: of it.
        digest: BLAKE3 of the report in JSON, in hexadecimal.
    """
    return DrillRecord(
        team=report.team,
        started=report.started,
        by=report.by[:MAX_TEXT],
        lost=tuple(name[:MAX_TEXT] for name in report.lost),
        verdict=report.verdict,
        vms=tuple(vm.name for vm in report.vms),
        ready=tuple(vm.name for vm in report.vms if vm.verdict in ("passed", "not-tested")),
        rto_s=report.rto_s,
        rpo_s=report.rpo_s,
        rto_target_s=report.targets.rto_s,
        rpo_target_s=report.targets.rpo_s,
        booted=report.booted,
        report=digest,
    )


def earlier_of(drills: Iterable[SignedDrill], most: int) -> tuple[Earlier, ...]:
    """Return the last drills for a report, the newest first."""
    return tuple(_earlier(one) for one in sorted(drills, key=_started, reverse=True)[:most])


def last_passed(drills: Sequence[SignedDrill]) -> SignedDrill | None:
    """Return the newest drill that passed."""
    passed = [one for one in drills if one.record.verdict == "passed"]
    return max(passed, key=_started, default=None)


def _started(one: SignedDrill) -> tuple[str, bytes]:
    return one.record.started, one.id


def _earlier(one: SignedDrill) -> Earlier:
    record = one.record
    return Earlier(
        started=record.started,
        by=record.by or node_id(one.node)[:9],
        verdict=record.verdict,
        lost=record.lost,
        rto_s=record.rto_s,
        rpo_s=record.rpo_s,
        booted=record.booted,
    )
