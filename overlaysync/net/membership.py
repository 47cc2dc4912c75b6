"""The messages by which the two ends of a TLS connection show each other that they are in one team.

``/v1/nonce`` gives the server's nonce; ``/v1/proof?nonce=…&proof=…`` takes the client's nonce and its proof,
and answers with the server's proof, or as if there were no such path. Source: docs/protocol.md.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from overlaysync.trust.teams import NONCE_SIZE, PROOF_SIZE, Binding, Role, Team, proven

if TYPE_CHECKING:
    from overlaysync.trust.certificate import Shown
    from overlaysync.trust.keys import NodeKey

_QUESTION = re.compile(
    rf"nonce=([0-9a-f]{{{2 * NONCE_SIZE}}})&proof=([0-9a-f]{{{2 * PROOF_SIZE}}})", re.ASCII
)


def encode_proof(nonce: bytes, proof: bytes) -> str:
    """Return the query string of a client's proof."""
    return f"nonce={nonce.hex()}&proof={proof.hex()}"


@dataclass(frozen=True, slots=True)
class PrivateLane:
    """What a server needs for its private lane.

    Attributes:
        key: the node's.
        teams: those that the node is in, by name.
    """

    key: NodeKey
    teams: Mapping[str, Team] = field(default_factory=dict)


@dataclass(slots=True)
class Membership:
    """What the client of one TLS connection has proven.

    Attributes:
        teams: names of the teams.
    """

    teams: frozenset[str] = frozenset()
    _nonce: bytes = b""

    def challenge(self) -> bytes:
        """Return a new nonce; one before it is worth nothing any more."""
        self._nonce = secrets.token_bytes(NONCE_SIZE)
        return self._nonce

    def answer(self, query: str, shown: Shown, teams: Collection[Team]) -> bytes | None:
        """Return the server's proof, when ``query`` proves membership of one of ``teams``.

        The nonce is used up.

        Args:
            query: what the client sent.
            shown: what this server's certificate shows; who relays to it has shown something else.
            teams: those that this node is in.
        """
        nonce, self._nonce = self._nonce, b""
        match = _QUESTION.fullmatch(query)
        if match is None or not nonce:
            return None
        binding = Binding(shown.node, shown.lane, nonce, bytes.fromhex(match[1]))
        team = proven(Role.CLIENT, teams, binding, bytes.fromhex(match[2]))
        if team is None:
            return None
        self.teams |= {team.name}
        return team.prove(Role.SERVER, binding)
