"""Every limit of the network code in one table, ours unless a comment says otherwise.

Times are seconds, sizes bytes, rates bytes per second. Tests make smaller ones; nothing else changes them
except the two that a user may: connections per address and the rate.
"""

from __future__ import annotations

from dataclasses import dataclass

from overlaysync.model.manifest import MAX_HEADER_SIZE
from overlaysync.model.pages import MAX_LIST_SIZE, PAGE_SIZE
from overlaysync.swarm.members import ALL_TOLD
from overlaysync.trust.envelope import MAX_ENVELOPE_SIZE
from overlaysync.units import KIB, MIB

# -- messages ----------------------------------------------------------------------------------------

MAX_CATALOG_SIZE = 2 * MIB
MAX_CATALOG_ITEMS = 2048
MAX_PEERS_SIZE = 64 * KIB
MAX_PEERS = 256
MAX_LABEL = 100  # characters of a node's label
MAX_ETAG = 128
MAX_HOST = 253  # DNS
BOOT_SIZE = 16  # of the hash of a boot id

MAX_SWARM_SIZE = 64 * KIB  # a have map of 65,536 pieces is 11 KiB in base64, 64 members are 5 KiB
MAX_TOLD = ALL_TOLD  # members told of in one answer
MAX_CROWD = 1024  # members there are, as an answer says; a node keeps no more
MAX_NEWS = 2048  # pieces named one by one; more come as a have map
MAX_TAKEN = 2048  # pieces named as handed out to others in an answer; the latest
MAX_TAKEN_FIELD = 512  # the same in a field of a refusal, which has some 3 KB then
MEMBER_ID_SIZE = 8  # random bytes a fetching node calls itself by
MAX_CURSOR = 1 << 40
MAX_QUESTION = 256

MAX_RANGES = 128  # ranges in one request for data
MAX_SLOTS = 4096  # slots in one request for data: 256 MiB of a disk
MAX_SLOT_DIGITS = 12  # 64 TiB in granules of 4 KiB need eleven
MAX_SLOTS_TEXT = MAX_RANGES * (2 * MAX_SLOT_DIGITS + 2)
MAX_COMPRESSED_BODY = 4 * MIB  # data of a request, before they are compressed; more go plain

MAX_PAGE_SIZE = PAGE_SIZE
MAX_PAGE_LIST_SIZE = MAX_LIST_SIZE
RECORDS_SIZE = 16 * KIB  # of an answer by TLS, after which the server may send as many records again
MAX_MANIFEST_SIZE = MAX_ENVELOPE_SIZE
MAX_HISTORY_ITEMS = 1024  # envelopes of versions before one
MAX_HISTORY_SIZE = 2 * MIB  # a thousand of some 900 bytes, in base64
assert MAX_HEADER_SIZE < MAX_MANIFEST_SIZE


@dataclass(frozen=True, slots=True)
class ServerBounds:
    """What a client may take from the server.

    Attributes:
        connections: open connections in all; beyond, an idle one is closed, or one of the host with the most,
            or the new one refused.
        connections_per_address: the same for one client address; many teams may share a hypervisor's.
        keepalive_s: an idle connection, or one that drips its request, lives this long.
        line_size: request line; it carries the slot ranges.
        field_size: one header field.
        fields: header fields in a request.
        bodies: bodies with image data under way at once; more are answered 503.
        places: of these, the ones that are sent; the others wait in line, each client in its turn.
        waiting: bodies waiting in line.
        wait_s: longest wait in line, then 503.
        place_s: a body keeps its place for so long: who is slow does not hold up the others.
        compressed_size: memory of compressed bodies under way; then others go plain.
        retry_s: least Retry-After of a 503; up to as much again is added at random.
        write_s: a client must take something within this time …
        min_rate: … and a whole body at this rate, after that grace.
        queue: pending connections in the kernel.
        stop_s: responses under way get this long when the server stops.
        handshake_s: a TLS handshake is over within this time …
        handshakes: … and so many are under way at once, of one address as many as it may have connections;
            beyond, one of the host with the most ends, or the new one is refused.
        records: TLS records that may come during a handshake, and for each request.
    """

    connections: int = 512
    connections_per_address: int = 16
    keepalive_s: float = 15
    line_size: int = 4 * KIB
    field_size: int = 2 * KIB
    fields: int = 32
    bodies: int = 64
    places: int = 8
    waiting: int = 512
    wait_s: float = 5
    place_s: float = 1
    compressed_size: int = 32 * MIB
    retry_s: int = 1
    write_s: float = 20
    min_rate: int = 16 * KIB
    queue: int = 1024
    stop_s: float = 1
    handshake_s: float = 5
    handshakes: int = 128
    records: int = 16


@dataclass(frozen=True, slots=True)
class ClientBounds:
    """What a server may do to the client.

    Attributes:
        connect_s: time to connect.
        handshake_s: time for the TLS handshake after that.
        read_s: longest silence of a server.
        min_rate: least average rate of a body, over every span of ``read_s``.
        head_size: status line and fields of an answer.
        connections_per_host: to one address and port.
        idle_s: an idle connection is not used again after this time; less than the server keeps it.
        max_retry_s: longest Retry-After that is believed.
        records: TLS records that may come during a handshake, and for an answer, and for each
            ``RECORDS_SIZE`` bytes of it.
    """

    connect_s: float = 3
    handshake_s: float = 5
    read_s: float = 10
    min_rate: int = 16 * KIB
    head_size: int = 8 * KIB
    connections_per_host: int = 6
    idle_s: float = 10
    max_retry_s: float = 60
    records: int = 128


SERVER = ServerBounds()
CLIENT = ClientBounds()
