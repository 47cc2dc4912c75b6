"""libtorrent's part of a room, each in a process of its own: ``python -m benchmarks.torrents NAME ...``.

Nodes know each other's addresses from the start and ask no tracker: what is measured is the transfer, not the
search. Settings are those for a LAN: TCP only, no encryption, no limit of rate or of upload slots.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import libtorrent as lt

PORT = 6881
_POLL_MS = 100
_SETTINGS = {
    "enable_dht": False,
    "enable_lsd": True,
    "enable_upnp": False,
    "enable_natpmp": False,
    "enable_outgoing_utp": False,
    "enable_incoming_utp": False,
    "mixed_mode_algorithm": 0,  # prefer TCP
    "out_enc_policy": 2,  # none
    "in_enc_policy": 2,
    "allow_multiple_connections_per_ip": True,
    "unchoke_slots_limit": -1,
    "connections_limit": 500,
    "min_reconnect_time": 1,  # those who start a moment later are tried again soon
    "alert_mask": lt.alert.category_t.status_notification | lt.alert.category_t.error_notification,
}


def make(path: str, torrent: str) -> None:
    """Describe a file."""
    files = lt.file_storage()
    lt.add_files(files, path)
    made = lt.create_torrent(files, 0, lt.create_torrent.v1_only)
    lt.set_piece_hashes(made, str(Path(path).parent))
    Path(torrent).write_bytes(lt.bencode(made.generate()))


def seed(torrent: str, directory: str, address: str) -> None:
    """Serve a file until interrupted; prints its port when it is ready."""
    session = _session(address)
    handle = _add(session, torrent, directory, lt.torrent_flags.seed_mode)
    _until(session, lambda: handle.status().is_seeding)
    print(PORT, flush=True)
    _until(session, lambda: False)


def fetch(torrent: str, directory: str, sign: str, address: str, *peers: str) -> None:
    """Fetch a file from ``peers`` and whoever calls; makes ``sign`` when it is whole, then serves it."""
    session = _session(address)
    handle = _add(session, torrent, directory, 0)
    for peer in peers:
        handle.connect_peer((peer, PORT))
    _until(session, lambda: handle.status().is_seeding)
    Path(sign).touch()
    _until(session, lambda: False)


def _session(address: str) -> Any:
    return lt.session({**_SETTINGS, "listen_interfaces": f"{address}:{PORT}"})


def _add(session: Any, torrent: str, directory: str, flags: int) -> Any:
    wanted = lt.add_torrent_params()
    wanted.ti = lt.torrent_info(torrent)
    wanted.save_path = directory
    wanted.flags = (wanted.flags | flags) & ~(lt.torrent_flags.paused | lt.torrent_flags.auto_managed)
    return session.add_torrent(wanted)


def _until(session: Any, condition: Any) -> None:
    """Wait until ``condition`` holds; it is asked after each alert.

    Raises:
        SystemExit: libtorrent reports an error of the torrent.
    """
    while not condition():
        session.wait_for_alert(_POLL_MS)
        for alert in session.pop_alerts():
            if isinstance(alert, lt.torrent_error_alert | lt.file_error_alert | lt.listen_failed_alert):
                raise SystemExit(alert.message())


PARTS = {part.__name__: part for part in (make, seed, fetch)}

if __name__ == "__main__":
    try:
        PARTS[sys.argv[1]](*sys.argv[2:])
    except KeyboardInterrupt:
        sys.exit(130)
