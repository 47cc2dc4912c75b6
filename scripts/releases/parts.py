"""The list of parts (SBOM, CycloneDX): what a release contains of others, with versions and hashes."""

from __future__ import annotations

import json
import sys
import uuid
from datetime import UTC, datetime
from pathlib import Path

from releases.source import Source, run


def build(source: Source, target: Path) -> list[Path]:
    """Return the list, made from the lock file of what is released."""
    done = target / f"overlaysync-{source.version}.cdx.json"
    scripts = source.root / "scripts"
    words = [sys.executable, "-m", "cyclonedx_py", "requirements", scripts / "requirements-run.txt"]
    words += ["--pyproject", source.root / "pyproject.toml", "--mc-type", "application"]
    words += ["--output-reproducible", "--of", "JSON", "--output-file", done]
    run(words, cwd=source.root, env=source.environment)
    listed = json.loads(done.read_text())
    # The tool leaves these out to be reproducible; readers want them, and the commit has both.
    listed["serialNumber"] = f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'{source.version} {source.epoch}')}"
    at = datetime.fromtimestamp(source.epoch, UTC)
    listed.setdefault("metadata", {})["timestamp"] = at.isoformat(timespec="seconds")
    done.write_text(json.dumps(listed, indent=2, sort_keys=True) + "\n")
    return [done]
