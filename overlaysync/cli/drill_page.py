"""The report of a drill as a page that prints on one sheet."""

from __future__ import annotations

from overlaysync.ops.drill.report import Report


def report_page(report: Report) -> str:
    """Return the page."""
    return f"<!doctype html><title>{report.team}</title>"
