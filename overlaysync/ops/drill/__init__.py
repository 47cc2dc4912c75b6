"""Drills: what a rehearsal of a restore decides and reports. Nothing here runs a process or reads a clock."""
