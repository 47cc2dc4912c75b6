"""Which test hits which limit of :mod:`overlaysync.net.bounds`, and a check that each can fail.

``python -m tests.net.limits [LIMIT...]`` takes the limits out of the program, one after the other, and runs
the test of each, which must fail then; each in a process of its own, as many modules know a limit by value.
"""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from overlaysync.discovery import bounds as discovery_bounds
from overlaysync.net import bounds

ROOT = Path(__file__).parents[2]
CLASSES: tuple[Any, ...] = (bounds.ServerBounds, bounds.ClientBounds, discovery_bounds.DiscoveryBounds)
_DISCOVERY = "../discovery/test_discovery.py"

IMPLIED = {
    "MAX_QUESTION": "what is longer does not fit the pattern either; it only saves the trying",
}
"""Limits that nothing can hit, since others are narrower."""

TESTS = {
    "MAX_CATALOG_SIZE": "test_limits.py::test_size_of_a_message[MAX_CATALOG_SIZE]",
    "MAX_CATALOG_ITEMS": "test_limits.py::test_manifests_in_a_catalog",
    "MAX_PEERS_SIZE": "test_limits.py::test_size_of_a_message[MAX_PEERS_SIZE]",
    "MAX_PEERS": "test_limits.py::test_peers_in_a_list",
    "MAX_HISTORY_SIZE": "test_limits.py::test_size_of_a_message[MAX_HISTORY_SIZE]",
    "MAX_HISTORY_ITEMS": "test_limits.py::test_versions_in_a_history",
    "MAX_LABEL": "test_limits.py::test_length_of_a_label",
    "MAX_ETAG": "test_limits.py::test_length_of_an_etag",
    "MAX_HOST": "test_limits.py::test_length_of_a_host_name",
    "MAX_SWARM_SIZE": "test_limits.py::test_size_of_a_message[MAX_SWARM_SIZE]",
    "MAX_CROWD": "test_limits.py::test_a_crowd",
    "MAX_TAKEN": "test_limits.py::test_pieces_taken_in_an_answer",
    "MAX_TAKEN_FIELD": "test_claims.py::test_a_refusal_names_only_so_many",
    "MAX_TOLD": "test_limits.py::test_members_in_an_answer",
    "MAX_NEWS": "test_limits.py::test_news_in_an_answer",
    "MEMBER_ID_SIZE": "test_limits.py::test_length_of_a_member_id",
    "MAX_CURSOR": "test_limits.py::test_a_cursor",
    "MAX_RANGES": "test_limits.py::test_ranges_in_a_request",
    "MAX_SLOTS": "test_limits.py::test_slots_in_a_request",
    "MAX_SLOT_DIGITS": "test_limits.py::test_digits_of_a_slot",
    "MAX_SLOTS_TEXT": "test_limits.py::test_a_request_line_has_room_for_all_ranges",
    "MAX_COMPRESSED_BODY": "test_compression.py::test_a_long_body_goes_plain",
    "MAX_PAGE_SIZE": "test_limits.py::test_size_of_a_page",
    "MAX_PAGE_LIST_SIZE": "test_client.py::test_a_page_list_out_of_bounds_is_not_asked_for",
    "MAX_MANIFEST_SIZE": "test_limits.py::test_size_of_a_manifest",
    "ServerBounds.connections": "test_server.py::test_connections_in_all_are_bounded",
    "ServerBounds.connections_per_address": "test_server.py::test_connections_of_one_address_are_bounded",
    "ServerBounds.keepalive_s": "test_server.py::test_idle_and_dripping_connections_are_closed",
    "ServerBounds.line_size": "test_limits.py::test_length_of_a_request_line",
    "ServerBounds.field_size": "test_limits.py::test_length_of_a_field",
    "ServerBounds.fields": "test_limits.py::test_fields_of_a_request",
    "ServerBounds.bodies": "test_limits.py::test_bodies_under_way",
    "ServerBounds.places": "test_upload_slots.py::test_so_many_are_sent_at_once[8-64-8]",
    "ServerBounds.waiting": "test_upload_slots.py::test_a_line_has_an_end",
    "ServerBounds.wait_s": "test_upload_slots.py::test_a_line_that_does_not_move_ends",
    "ServerBounds.place_s": "test_upload_slots.py::test_who_is_slow_holds_up_nobody_but_counts[after it]",
    "ServerBounds.compressed_size": "test_compression.py::test_without_room_a_body_goes_plain",
    "ServerBounds.retry_s": "test_limits.py::test_when_to_come_back",
    "ServerBounds.write_s": "test_server.py::test_a_client_that_never_reads_is_dropped",
    "ServerBounds.min_rate": "test_limits.py::test_rate_of_a_client",
    "ServerBounds.queue": "test_limits.py::test_connections_in_the_kernel",
    "ServerBounds.stop_s": "test_server.py::test_stopping_ends_bodies_that_nobody_reads",
    "ServerBounds.handshake_s": "test_tls.py::test_a_handshake_that_stalls_ends",
    "ServerBounds.handshakes": "test_tls.py::test_handshakes_are_bounded_in_all",
    "ServerBounds.records": "test_records.py::test_a_client_that_demands_new_keys_is_dropped",
    "ClientBounds.records": "test_records.py::test_a_server_that_demands_new_keys_is_a_failed_peer",
    "ClientBounds.handshake_s": "test_tls.py::test_a_node_that_never_shakes_hands",
    "ClientBounds.connect_s": "test_client.py::test_who_does_not_take_the_connection_is_silent",
    "ClientBounds.read_s": "test_limits.py::test_silence_of_a_server",
    "ClientBounds.min_rate": "test_limits.py::test_rate_of_a_server",
    "ClientBounds.head_size": "test_limits.py::test_size_of_a_head",
    "ClientBounds.connections_per_host": "test_receiving.py::test_no_more_connections_than_allowed",
    "ClientBounds.idle_s": "test_limits.py::test_age_of_an_idle_connection",
    "ClientBounds.max_retry_s": "test_receiving.py::test_retry_after_is_bounded",
    "DiscoveryBounds.peers": "test_limits.py::test_peers_kept",
    "DiscoveryBounds.confirmed": f"{_DISCOVERY}::test_one_host_that_answers_by_many_names_hides_nobody",
    "DiscoveryBounds.addresses": "test_limits.py::test_addresses_of_a_peer",
    "DiscoveryBounds.resolve_s": "test_limits.py::test_time_to_resolve_a_peer",
    "DiscoveryBounds.resolves": "test_limits.py::test_peers_resolved_at_once",
    "DiscoveryBounds.doubts": "../discovery/test_goodbyes.py::test_few_are_asked_at_once",
    "DiscoveryBounds.doubt_s": "../discovery/test_goodbyes.py::test_a_flood_of_goodbyes_asks_seldom",
    "DiscoveryBounds.pending": "test_limits.py::test_peers_that_wait_to_be_resolved",
    "DiscoveryBounds.pace_s": "test_limits.py::test_pause_between_two_peers",
    "DiscoveryBounds.updates_s": "test_limits.py::test_pause_between_two_updates",
    "DiscoveryBounds.txt_size": "../discovery/test_txt.py::test_as_many_as_fit",
    "DiscoveryBounds.updates": f"{_DISCOVERY}::test_nothing_that_is_kept_of_records_is_without_bound",
    "DiscoveryBounds.items": "../discovery/test_txt.py::test_foreign_entries_are_bounded",
    "DiscoveryBounds.name_length": "test_limits.py::test_length_of_an_instance_name",
}

NONE = {
    "MEMBER_ID_SIZE": 9,
    "MAX_SLOT_DIGITS": 30,
    "ServerBounds.fields": 10_000,  # the parser makes room for them beforehand
    "ServerBounds.retry_s": 0,
    "ServerBounds.min_rate": 1e-6,
    "ClientBounds.min_rate": 0,
    "DiscoveryBounds.resolves": 64,
    "DiscoveryBounds.pace_s": 0,
    "DiscoveryBounds.updates_s": 0,
}
"""What stands for no limit, where that is not just a very large number."""

LARGE = 1 << 30


def all_limits() -> list[str]:
    """Names of the limits in the table."""
    constants = [name for name in vars(bounds) if name.startswith(("MAX_", "MEMBER_"))]
    imported = ("MAX_HEADER_SIZE", "MAX_LIST_SIZE", "MAX_ENVELOPE_SIZE")
    inside = [f"{made.__name__}.{field.name}" for made in CLASSES for field in fields(made)]
    return [name for name in constants if name not in imported] + inside


# -- without a limit -----------------------------------------------------------------------------------


def take_out(limit: str) -> None:
    """From here on the program does without; nothing else of it may have been imported before."""
    none: Any = NONE.get(limit, LARGE)
    class_name, _, field = limit.rpartition(".")
    if class_name:
        made = next(one for one in CLASSES if one.__name__ == class_name)
        ordinary = made.__init__

        def initialise(self: object, *arguments: object, **named: object) -> None:
            ordinary(self, *arguments, **named)
            object.__setattr__(self, field, none)

        made.__init__ = initialise
        for standard in (bounds.SERVER, bounds.CLIENT, discovery_bounds.DISCOVERY):
            if type(standard) is made:
                object.__setattr__(standard, field, none)
        return
    usual = getattr(bounds, limit)
    setattr(bounds, limit, none)
    import overlaysync

    for module in pkgutil.walk_packages(overlaysync.__path__, "overlaysync."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    setattr(bounds, limit, usual)  # tests know what it should be


def fails_without(limit: str) -> bool:
    """Whether the test of a limit fails without it."""
    command = "import sys, pytest; from tests.net import limits; limits.take_out(sys.argv[1]); "
    command += "sys.exit(pytest.main(['-q', '-x', '-p', 'no:cacheprovider', '--timeout=20', sys.argv[2]]))"
    test = str(Path(__file__).parent / TESTS[limit])
    words = [sys.executable, "-c", command, limit, test]
    return subprocess.run(words, cwd=ROOT, capture_output=True, check=False).returncode == 1


def main() -> int:
    """The exit code is 0 when every test fails without its limit."""
    wrong = []
    for limit in sys.argv[1:] or TESTS:
        good = fails_without(limit)
        print(f"{'fails without it' if good else 'WRONG':<18}{limit}", flush=True)
        wrong += [] if good else [limit]
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
