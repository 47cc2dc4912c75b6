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
from overlaysync.vault.objects import LIMITS, Kind, hash_of
from overlaysync.vault.pack import HEAD, begin_object, seal_of
from overlaysync.vault.spaces import Space
from overlaysync.vault.state import MAX_VMS, Signer, Verify

DRILL_MAGIC = b"OSVD"
DRILL_CONTEXT = b"overlaysync v1 drill\0"
MAX_LOST = 64
MAX_SECONDS = 10 * 366 * 86400.0

_KEY_SIZE, _SIGNATURE_SIZE = 32, 64
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


_encode = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder(DrillRecord)


def encode_drill(record: DrillRecord, signer: Signer, space: Space) -> tuple[bytes, SignedDrill]:
    """Return the object of a record, and the record as others will read it.

    Raises:
        ValueError: it is not for this space.
        DecodeError: a field is out of bounds.
    """
    if record.team != space.name:
        raise ValueError("a record of a drill is sealed for the team that it names")
    _check(record)
    payload = _encode(record)
    signed = signer.public + signer.sign(DRILL_CONTEXT + payload) + payload
    salt = space.new_salt()
    data = begin_object(DRILL_MAGIC, space, salt) + space.seal(DRILL_MAGIC, salt).close(0, signed)
    if len(data) > LIMITS[Kind.DRILL]:
        raise DecodeError("a record of a drill is too large")
    return data, SignedDrill(hash_of(data), signer.public, record)


def decode_drill(data: bytes, space: Space, verify: Verify) -> SignedDrill:
    """Return the record in an object; its signature is verified before it is parsed.

    Raises:
        DecodeError: it is not for this space, damaged, not signed by who it says, or says what cannot be.
    """
    if len(data) > LIMITS[Kind.DRILL]:
        raise DecodeError("a record of a drill is too long")
    signed = seal_of(data, DRILL_MAGIC, space).open(0, data[HEAD.size :])
    if len(signed) < _KEY_SIZE + _SIGNATURE_SIZE:
        raise DecodeError("a record of a drill is cut off")
    node = signed[:_KEY_SIZE]
    signature = signed[_KEY_SIZE : _KEY_SIZE + _SIGNATURE_SIZE]
    payload = signed[_KEY_SIZE + _SIGNATURE_SIZE :]
    if not verify(node, signature, DRILL_CONTEXT + payload):
        raise DecodeError("the signature of a record of a drill is wrong")
    try:
        record = _decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise DecodeError("not a record of a drill") from None
    if _encode(record) != payload:
        raise DecodeError("a record of a drill is not in canonical form")
    if record.team != space.name:
        raise DecodeError("a record of a drill names another team")
    _check(record)
    return SignedDrill(hash_of(data), node, record)


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
