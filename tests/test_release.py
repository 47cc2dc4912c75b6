"""What scripts/release builds quickly: man pages, packages, checksums. Its option --try tries the .deb."""

from __future__ import annotations

import gzip
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from overlaysync.cli.commands import ENTRIES

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "scripts"))

from releases import manuals, packages, sums  # noqa: E402
from releases.source import ReleaseError, check_clean, export, run  # noqa: E402

pytestmark = pytest.mark.release
EPOCH = 1_790_000_000


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return manuals.write(tmp_path_factory.mktemp("man"), "1.2.3", EPOCH)


def test_each_command_has_a_man_page(pages: list[Path]) -> None:
    assert {page.name for page in pages} == {
        "overlaysync.1.gz",
        *(f"overlaysync-{name}.1.gz" for name in ENTRIES),
    }
    share = gzip.decompress(next(page for page in pages if "-share." in page.name).read_bytes()).decode()
    assert ".SH SYNOPSIS" in share and "\\-\\-exclude" in share and "overlaysync 1.2.3" in share
    team = gzip.decompress(next(page for page in pages if "-team." in page.name).read_bytes()).decode()
    assert "overlaysync team join" in team and "overlaysync team leave" in team


@pytest.mark.slow
def test_man_shows_each_page_without_a_warning(pages: list[Path]) -> None:
    environment = os.environ | {"LC_ALL": "C.UTF-8", "MANWIDTH": "80"}
    for page in pages:
        words = ["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", str(page)]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
        assert done.stderr == "", f"{page.name}: {done.stderr}"


@pytest.mark.slow
def test_the_packages_are_the_same_when_they_are_built_again(tmp_path: Path) -> None:
    built = []
    for name in ("one", "two"):
        source = export(ROOT, tmp_path / name / "tree", dirty=True)
        (tmp_path / name / "out").mkdir()
        built.append(packages.build(source, tmp_path / name / "out"))
    assert [sums.digest(file) for file in built[0]] == [sums.digest(file) for file in built[1]]
    with zipfile.ZipFile(built[0][0]) as wheel:
        top = {name.split("/")[0] for name in wheel.namelist()}
    assert top == {"overlaysync", f"overlaysync-{source.version}.dist-info"}


def test_a_signature_fits_the_checksums_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "thing.whl"
    file.write_bytes(b"thing")
    key = tmp_path / "key"
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key])
    listed, signature = sums.write([file], tmp_path, str(key))
    assert re.fullmatch(r"[0-9a-f]{64}  thing\.whl\n", listed.read_text())
    signers = tmp_path / "signers"
    signers.write_text(f"maintainer {key.with_suffix('.pub').read_text()}")

    def fits() -> bool:
        words = ["ssh-keygen", "-Y", "verify", "-f", signers, "-I", "maintainer", "-n", sums.NAMESPACE]
        done = subprocess.run(
            [*map(str, words), "-s", str(signature)],
            input=listed.read_bytes(),
            capture_output=True,
            check=False,
        )
        return done.returncode == 0

    assert fits()
    listed.write_text(listed.read_text().replace("thing", "other"))
    assert not fits()
    # Of other checksums no signature is left over.
    assert sums.write([file], tmp_path, None) == [listed] and not signature.exists()
    with pytest.raises(ReleaseError, match="there is no key"):
        sums.write([file], tmp_path, str(tmp_path / "none"))


def test_changes_that_no_commit_has_are_not_released(tmp_path: Path) -> None:
    for words in (["init", "-q"], ["config", "user.email", "a@b"], ["config", "user.name", "a"]):
        run(["git", "-C", tmp_path, *words])
    check_clean(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ReleaseError, match="file"):
        check_clean(tmp_path)
