"""What of a VM a state can hold, and how it may be called: who looks for VMs asks, and sees no state."""

from overlaysync.model.names import MAX_NAME, is_name
from overlaysync.units import MIB

MAX_FILES = 64
"""Disks of a VM, and its companions, and what was left out of each."""
MAX_COMPANION = 64 * MIB
"""Bytes of a companion: the UEFI variables of an Arm machine."""
MAX_TEXT = 200
"""Characters of a note, and of a reason."""
_MAX_PARTS = 8
"""Components of a file's name: it may lie in a directory of the VM."""


def is_inner_path(file: str) -> bool:
    """Whether a file's name stays inside the directory of its VM: each part obeys the rule of names."""
    parts = file.split("/")
    return len(parts) <= _MAX_PARTS and len(file) <= _MAX_PARTS * MAX_NAME and all(map(is_name, parts))
