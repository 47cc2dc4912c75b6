"""Write docs/schemas.json: the JSON schemas of what the commands print with --json, from their types.

schemas.py          write it
schemas.py --check  fail when it is out of date
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from overlaysync.cli.documents import schemas

PAGE = Path(__file__).resolve().parent.parent / "docs" / "schemas.json"


def main() -> int:
    text = json.dumps(schemas(), indent=2) + "\n"
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(text)
        return 0
    if PAGE.read_text() != text:
        print("docs/schemas.json is out of date. Type: .venv/bin/python scripts/schemas.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
