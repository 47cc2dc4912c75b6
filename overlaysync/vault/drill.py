"""Records of drills: what a rehearsal of a restore has shown, signed by the node that ran it.

A record is canonical JSON, signed, and sealed as a whole, as a state is. No head lists it: it is found by
listing, and nothing needs it. Exact bytes: docs/vault-format.md, "Drills".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import msgspec

from overlaysync.errors import DecodeError
from overlaysync.model.names import is_name
from overlaysync.vault.limits import MAX_TEXT
from overlaysync.vault.objects import Kind, hash_of
from overlaysync.vault.signed import SignedForm, Signer, Verify
from overlaysync.vault.spaces import Space
from overlaysync.vault.state import MAX_VMS

DRILL_MAGIC = b"OSVD"
DRILL_CONTEXT = b"overlaysync v1 drill\0"
MAX_LOST = 64
MAX_SECONDS = 10 * 366 * 86400.0

_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
_DIGEST = re.compile(r"[0-9a-f]{64}")


class DrillRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is signed.

    Attributes:
        v: version of this form, 1.
        team: whose VMs.
        started: when, ISO 8601 UTC.
        by: label of the node that ran it; for people only.
        lost: what was pretended to be lost, as it was typed.
        verdict: how it ended.
        vms: names of the VMs that were to come back.
        ready: of these, the ones that did.
        rto_s: seconds until the last VM was back; None where one was not.
        rpo_s: seconds between the oldest moment that came back and the start; None where nothing came back.
        rto_target_s, rpo_target_s: what was asked for; None for nothing.
        booted: ``no``, ``kvm``, or ``tcg``: emulated, and so never compared with other drills.
        report: BLAKE3 of the report in JSON, in hexadecimal.
    """

    v: Literal[1] = 1
    team: str
    started: str
    by: str = ""
    lost: tuple[str, ...] = ()
    verdict: Literal["passed", "partial", "failed", "timed-out", "not-tested"]
    vms: tuple[str, ...] = ()
    ready: tuple[str, ...] = ()
    rto_s: float | None = None
    rpo_s: float | None = None
    rto_target_s: float | None = None
    rpo_target_s: float | None = None
    booted: Literal["no", "kvm", "tcg"] = "no"
    report: str = ""


@dataclass(frozen=True, slots=True)
class SignedDrill:
    """A record whose signature has been verified.

    Attributes:
        id: the hash that names the object.
        node: public key of the node that ran the drill.
        record: what it says.
    """

    id: bytes
    node: bytes
    record: DrillRecord


def _check(record: DrillRecord) -> None:
    seconds = (record.rto_s, record.rpo_s, record.rto_target_s, record.rpo_target_s)
    checks = {
        "started": bool(_TIME.fullmatch(record.started)),
        "by": len(record.by) <= MAX_TEXT,
        "lost": len(record.lost) <= MAX_LOST and all(len(one) <= MAX_TEXT for one in record.lost),
        "vms": len(record.vms) <= MAX_VMS and all(map(is_name, record.vms)),
        "ready": set(record.ready) <= set(record.vms) and len(record.ready) <= len(record.vms),
        "seconds": all(one is None or 0 <= one <= MAX_SECONDS for one in seconds),
        "report": not record.report or bool(_DIGEST.fullmatch(record.report)),
    }
    wrong = next((field for field, good in checks.items() if not good), "")
    if wrong:
        raise DecodeError(f"a record of a drill is wrong: {wrong}")


_FORM = SignedForm(DrillRecord, Kind.DRILL, DRILL_MAGIC, DRILL_CONTEXT, _check, "a record of a drill")


def encode_drill(record: DrillRecord, signer: Signer, space: Space) -> tuple[bytes, SignedDrill]:
    """Return the object of a record, and the record as others will read it.

    Raises:
        ValueError: it is not for this space.
        DecodeError: a field is out of bounds.
    """
    data = _FORM.encode(record, signer, space)
    return data, SignedDrill(hash_of(data), signer.public, record)


def decode_drill(data: bytes, space: Space, verify: Verify) -> SignedDrill:
    """Return the record in an object; its signature is verified before it is parsed.

    Raises:
        DecodeError: it is not for this space, damaged, not signed by who it says, or says what cannot be.
    """
    node, record = _FORM.decode(data, space, verify)
    return SignedDrill(hash_of(data), node, record)
