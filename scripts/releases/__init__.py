"""Builds what is handed out: scripts/release."""
