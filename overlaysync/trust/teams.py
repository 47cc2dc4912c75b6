"""Teams: who knows a team's key is a member. Codes to hand a key over, and proofs of knowing it. Pure.

A proof is a keyed MAC over the node that is asked, the TLS key of its running process and a nonce of each
side, so it is worth nothing elsewhere (a relay, even one with a copy of the node key) and nothing a second
time (a replay); clocks play no part. To who does not have the team's key it is 32 random bytes. Exact bytes:
docs/protocol.md, "Private lane". Leaves out files and TLS.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from hmac import compare_digest

from blake3 import blake3

from overlaysync.errors import UsageError
from overlaysync.model.digest import derive
from overlaysync.model.names import check_name

TEAM_KEY_SIZE = 20
NONCE_SIZE = 32
PROOF_SIZE = 32
MAX_TEAMS = 16
"""Teams that one node may be in: each is tried at each node, and by it."""

VOUCHER_SIZE = 32
_VOUCHER = "overlaysync v1 team voucher of a manifest"
_CHECK_SIZE = 5
_GROUP = 5
_CODE_LENGTH = 40
_LOOKS_LIKE = str.maketrans("018", "olb")
"""Digits that base32 does not have, and what was meant."""


class Role(Enum):
    """Who proves, and the context of the key it does so with."""

    CLIENT = "overlaysync v1 team proof of a client"
    SERVER = "overlaysync v1 team proof of a server"


@dataclass(frozen=True, slots=True)
class Team:
    """A team this node is in.

    Attributes:
        name: as its members call it; another name makes other proofs.
        key: the secret.
        since: when this node joined, ISO 8601 UTC.
    """

    name: str
    key: bytes = field(repr=False)
    since: str = field(default="", compare=False)

    @property
    def code(self) -> str:
        """The key and a checksum of key and name, 40 characters of base32 in groups."""
        text = base64.b32encode(self.key + self._check).decode("ascii").lower()
        return "-".join(text[at : at + _GROUP] for at in range(0, _CODE_LENGTH, _GROUP))

    @property
    def tag(self) -> str:
        """What two members compare to see that they have one key; it says nothing of the key."""
        text = base64.b32encode(self._derive("overlaysync v1 team tag")[:_GROUP]).decode("ascii").lower()
        return f"{text[:4]}-{text[4:]}"

    @property
    def id(self) -> bytes:
        """What stands for the team in the catalog, 32 bytes: another key makes another team of that name."""
        return self._derive("overlaysync v1 team id")

    @property
    def _check(self) -> bytes:
        return self._derive("overlaysync v1 team code")[:_CHECK_SIZE]

    def _derive(self, context: str) -> bytes:
        return derive(context, self.key + self.name.encode())

    def vouch(self, signed: bytes) -> bytes:
        """Return the 32 bytes that show to members, and to them alone, that a member published ``signed``."""
        return blake3(signed, key=self._derive(_VOUCHER)).digest()

    def prove(self, role: Role, binding: Binding) -> bytes:
        """Return the 32 bytes that show to who is in the team, and to nobody else, that this node is."""
        message = binding.node + binding.lane + binding.server + binding.client
        return blake3(message, key=self._derive(role.value)).digest()


@dataclass(frozen=True, slots=True)
class Binding:
    """What a proof is bound to.

    Attributes:
        node: the public key of the node that is asked, 32 bytes, as its certificate has it.
        lane: the public key that TLS has verified on this connection, 32 bytes; one process has its other
            half.
        server, client: a random value of each side, 32 bytes.
    """

    node: bytes
    lane: bytes
    server: bytes
    client: bytes


def new_team(name: str) -> Team:
    """Return a team with a new key.

    Raises:
        UsageError: ``name`` is no name.
    """
    return Team(check_name(name, "team"), secrets.token_bytes(TEAM_KEY_SIZE))


def read_code(name: str, text: str) -> Team:
    """Return the team called ``name`` whose code somebody typed; blanks, dashes and case do not matter.

    Raises:
        UsageError: it is not the code of a team of that name.
    """
    check_name(name, "team")
    plain = "".join(text.split()).replace("-", "").lower().translate(_LOOKS_LIKE)
    wrong = UsageError(
        f"That is not the code of team '{name}'",
        why=f"a code has {_CODE_LENGTH} letters and digits, and is valid for one team name",
        hint="compare the code and the team's name with what a member's machine shows: "
        f"overlaysync team code {name}",
    )
    if len(plain) != _CODE_LENGTH:
        raise wrong
    try:
        data = base64.b32decode(plain.upper())
    except ValueError:
        raise wrong from None
    team = Team(name, data[:TEAM_KEY_SIZE])
    if not compare_digest(team._check, data[TEAM_KEY_SIZE:]):
        raise wrong
    return team


def proven(role: Role, teams: Iterable[Team], binding: Binding, proof: bytes) -> Team | None:
    """Return the one of ``teams`` whose membership ``proof`` shows."""
    fitting = [team for team in teams if compare_digest(team.prove(role, binding), proof)]
    return fitting[0] if fitting else None
