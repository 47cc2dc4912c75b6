"""Connections to a peer: at an address in public, or on its private lane with a proof of membership.

On the private lane each connection begins with a handshake, in which the peer shows its key, and a proof from
both sides that they are in the team; nothing else is said before.
"""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from overlaysync.errors import DecodeError, PeerError
from overlaysync.model.names import printable
from overlaysync.net.bounds import ClientBounds
from overlaysync.net.membership import encode_proof
from overlaysync.net.messages import Address, Endpoint, PrivateAddress
from overlaysync.net.receiving import DataConnection, SilentError
from overlaysync.net.records import RecordSocket
from overlaysync.net.refusals import GoneError, check_status, no_data
from overlaysync.net.requests import request_for
from overlaysync.net.tls import SERVER_NAME, client_context, connect, shown_by
from overlaysync.trust.teams import NONCE_SIZE, PROOF_SIZE, Binding, Role, Team, proven

if TYPE_CHECKING:
    from overlaysync.trust.certificate import Shown

_NEXT_ADDRESS_S = 0.25
"""Of a name with several addresses the next is tried after so long, as RFC 8305 has it."""


class Dialler:
    """Connects to peers.

    Args:
        bounds: limits.
        teams: those that this node is in, by name.
        made: makes a connection that is not connected yet, on a socket if one is given.
    """

    def __init__(
        self,
        bounds: ClientBounds,
        teams: Mapping[str, Team],
        made: Callable[[RecordSocket | None], DataConnection],
    ) -> None:
        self._bounds = bounds
        self._teams = teams
        self._made = made

    def unconnected(self) -> DataConnection:
        """Return a connection for :meth:`connect`: what is asked first may be given to it before."""
        return self._made(None)

    async def connect(self, address: Address, connection: DataConnection) -> None:
        """Connect to a public address.

        Raises:
            PeerError: nothing was connected.
        """
        loop = asyncio.get_running_loop()
        try:
            async with _connecting(address, self._bounds.connect_s):
                await loop.create_connection(
                    lambda: connection, address.host, address.port, happy_eyeballs_delay=_NEXT_ADDRESS_S
                )
        except BaseException:
            connection.abort()
            raise

    async def shown(self, address: PrivateAddress) -> Shown:
        """Return what the process behind a private lane shows of itself in a handshake; nothing is asked.

        Raises:
            PeerError: there is no connection, or no certificate that can be judged.
        """
        connection = await self._connect_tls(address)
        try:
            return _shown_behind(address, connection)
        finally:
            connection.abort()

    async def open_private(self, address: PrivateAddress) -> DataConnection:
        """Connect, see who answers, and prove to each other to be in the team; nothing else is said before.

        Raises:
            GoneError: this node or the other is not in the team.
            PeerError: another key answers than was expected, or there is no connection.
        """
        team = self._teams.get(address.team)
        if team is None:
            raise GoneError(f"this machine is not in the team of {address}")
        connection = await self._connect_tls(address)
        try:
            shown = _shown_behind(address, connection)
            if address.key not in (b"", shown.node):
                raise PeerError(f"{address} is another node than was expected")
            await self._prove(address, connection, team, shown)
            return connection
        except (PeerError, DecodeError) as error:
            connection.abort()
            raise no_data(address, error) from None
        except BaseException:
            connection.abort()
            raise

    async def _connect_tls(self, address: PrivateAddress) -> DataConnection:
        async with _connecting(address, self._bounds.connect_s):
            sock = await connect(address.host, address.port, self._bounds.records)
        connection = self._made(sock)
        try:
            async with _connecting(address, self._bounds.handshake_s):
                await asyncio.get_running_loop().create_connection(
                    lambda: connection,
                    sock=sock,
                    ssl=client_context(),
                    server_hostname=SERVER_NAME,
                    ssl_handshake_timeout=self._bounds.handshake_s,
                    ssl_shutdown_timeout=self._bounds.connect_s,
                )
        except BaseException:
            connection.abort()
            sock.close()
            raise
        return connection

    async def _prove(
        self, address: PrivateAddress, connection: DataConnection, team: Team, shown: Shown
    ) -> None:
        nonce = memoryview(bytearray(NONCE_SIZE))
        head = await connection.begin(request_for(address, "nonce"), nonce)
        check_status(address, head.status, str(head.retry_after))
        binding = Binding(shown.node, shown.lane, bytes(nonce), secrets.token_bytes(NONCE_SIZE))
        query = encode_proof(binding.client, team.prove(Role.CLIENT, binding))
        proof = memoryview(bytearray(PROOF_SIZE))
        head = await connection.begin(request_for(address, f"proof?{query}"), proof)
        check_status(address, head.status, str(head.retry_after))
        if not proven(Role.SERVER, (team,), binding, bytes(proof)):
            raise GoneError(f"{address} is not in the team")


@asynccontextmanager
async def _connecting(address: Endpoint, limit_s: float) -> AsyncIterator[None]:
    """Make of what fails inside, or takes longer, what it says of the peer.

    Raises:
        PeerError: nothing was connected.
    """
    try:
        async with asyncio.timeout(limit_s):
            yield
    except (TimeoutError, ConnectionAbortedError):  # the latter is how a handshake ends that takes too long
        raise SilentError(f"{address} does not answer") from None
    except ssl.SSLError:
        raise PeerError(f"{address} does not answer", why="it does not speak TLS 1.3") from None
    except OSError as error:
        raise _unreachable(address, error) from None


def _shown_behind(address: PrivateAddress, connection: DataConnection) -> Shown:
    """Return what the peer has shown of itself.

    Raises:
        PeerError: nothing, or a certificate that cannot even be judged.
    """
    assert connection.transport is not None
    try:
        return shown_by(connection.transport)
    except Exception as error:
        raise PeerError(f"{address} shows no usable certificate", why=printable(str(error))) from None


def _unreachable(address: Endpoint, error: OSError) -> PeerError:
    """Why there is no connection: somebody refused it, or nobody is there at present."""
    silent = error.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ETIMEDOUT, errno.ENETDOWN)
    return (SilentError if silent else PeerError)(f"{address} does not answer", why=_reason(error))


def _reason(error: OSError) -> str:
    """Why a connection failed, without the address that asyncio repeats."""
    if isinstance(error, socket.gaierror):
        missing = error.errno in (socket.EAI_NONAME, socket.EAI_NODATA)
        return "no such host" if missing else f"its name cannot be looked up ({error.strerror})"
    return os.strerror(error.errno).lower() if error.errno else printable(str(error))
