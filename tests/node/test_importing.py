"""What imports leave to the collector of garbage, in a Python of its own: what is frozen stays so."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import gc
from overlaysync.node.importing import importing

def frozen_by(name):
    before = gc.get_freeze_count()
    with importing():
        assert not gc.isenabled()
        __import__(name)
    assert gc.isenabled()
    return gc.get_freeze_count() - before

print(frozen_by("fractions") > 0, frozen_by("fractions"))
"""


def test_only_what_an_import_made_is_never_looked_through_for_garbage() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert done.stdout == "True 0\n"
