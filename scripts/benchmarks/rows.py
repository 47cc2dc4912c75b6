"""The rows of the table, in order."""

from __future__ import annotations

from benchmarks import fetch_rows, machine_rows
from benchmarks.row import Row

ALL = (
    Row(1, "Index an image that is in the page cache", machine_rows.index),
    Row(2, "First fetch of a public master, loopback", fetch_rows.first_fetch),
    Row(3, "Overlay whose master is here", fetch_rows.overlay),
    Row(4, "Newer version, 1 % changed, the old one here", fetch_rows.newer_version),
    Row(5, "Promote, verification included", machine_rows.promote),
    Row(6, "Peak memory", machine_rows.memory),
    Row(7, "Start", machine_rows.help_text),
    Row(8, "Promoted master where parent and layer are held", fetch_rows.recipe),
    Row(9, "First fetch of a team's master over TLS, loopback", fetch_rows.private_fetch),
)
