"""How much of a VM a state can hold: asked by all who look for VMs, most of whom never see a state."""

from overlaysync.units import MIB

MAX_FILES = 64
"""Disks of a VM, and its companions, and what was left out of each."""
MAX_COMPANION = 64 * MIB
"""Bytes of a companion: the UEFI variables of an Arm machine."""
MAX_TEXT = 200
"""Characters of a note, and of a reason."""
