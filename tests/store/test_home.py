"""Homes: where things live, who may look, and network file systems."""

import os
import stat
from pathlib import Path

import pytest

from overlaysync.errors import NotAllowedError, OverlaysyncError
from overlaysync.store import home as home_module
from overlaysync.store.home import Home, mount_type


def test_one_variable_moves_everything():
    home = Home.from_environment({"OVERLAYSYNC_HOME": "/x/node", "XDG_STATE_HOME": "/s", "HOME": "/h"})
    assert home.root == Path("/x/node")
    assert home.config == Path("/x/node/config")
    assert home.node_key == Path("/x/node/node.key")
    assert home.catalog == Path("/x/node/catalog.sqlite")
    assert home.journals == Path("/x/node/journals")


def test_xdg_directories(monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", "/s")
    monkeypatch.setenv("XDG_CONFIG_HOME", "/c")
    home = Home.from_environment({})
    assert (home.root, home.config) == (Path("/s/overlaysync"), Path("/c/overlaysync"))


@pytest.mark.parametrize("state, config", [("", ""), ("not/absolute", "")])
def test_defaults_under_the_user(state, config, monkeypatch):
    monkeypatch.setenv("HOME", "/h")
    monkeypatch.setenv("XDG_STATE_HOME", state)
    monkeypatch.setenv("XDG_CONFIG_HOME", config)
    home = Home.from_environment({})
    assert home.root == Path("/h/.local/state/overlaysync")
    assert home.config == Path("/h/.config/overlaysync")


def test_a_relative_home_is_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    home = Home.from_environment({"OVERLAYSYNC_HOME": "node"})
    assert home.root == tmp_path / "node"


def test_prepare_makes_private_directories_twice(tmp_path):
    home = Home.from_environment({"OVERLAYSYNC_HOME": str(tmp_path / "deep" / "node")})
    old = os.umask(0)
    try:
        assert home.prepare().prepare() == home
    finally:
        os.umask(old)
    for directory in (home.root, home.journals, home.config):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_looking_up_a_home_makes_nothing(tmp_path):
    home = Home.from_environment({"OVERLAYSYNC_HOME": str(tmp_path / "node")})
    assert home.on_network == ""
    assert list(tmp_path.iterdir()) == []


def test_a_home_that_others_may_write_is_refused(tmp_path):
    (tmp_path / "node").mkdir()
    (tmp_path / "node").chmod(0o770)
    with pytest.raises(NotAllowedError) as caught:
        Home(tmp_path / "node", tmp_path / "node" / "config").prepare()
    assert "chmod 700" in caught.value.hint


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_home_of_somebody_else_is_refused(tmp_path):
    (tmp_path / "node").mkdir(mode=0o700)
    os.chown(tmp_path / "node", 12345, 12345)
    with pytest.raises(NotAllowedError, match="another user"):
        Home(tmp_path / "node", tmp_path / "node" / "config").prepare()


def test_a_home_below_a_file_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OverlaysyncError, match="Cannot use the directory"):
        Home(tmp_path / "file" / "node", tmp_path / "config").prepare()


MOUNTS = b"""\
22 1 0:21 / /proc rw - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
40 27 0:40 / /home rw shared:1 master:2 - nfs4 server:/home rw
41 40 0:41 / /home/local\\040disk rw - xfs /dev/sdb rw
42 27 0:42 / /mnt/over rw - ext4 /dev/sdc rw
43 42 0:43 / /mnt/over rw - cifs //server/share rw
44 27 0:44 / /mnt/ssh rw - fuse.sshfs host: rw
45 27 0:45 / /mnt/usb rw - fuseblk /dev/sdd rw
a line of nonsense
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        (b"/", "ext4"),
        (b"/srv/x", "ext4"),
        (b"/home", "nfs4"),
        (b"/home/u/.local", "nfs4"),
        (b"/homework", "ext4"),
        (b"/home/local disk/u", "xfs"),
        (b"/mnt/over/x", "cifs"),
        (b"/mnt/ssh/x", "fuse.sshfs"),
    ],
)
def test_the_innermost_mount_decides(path, kind):
    assert mount_type(MOUNTS, path) == kind


def test_unknown_when_there_are_no_mounts():
    assert mount_type(b"", b"/home") == ""


@pytest.mark.parametrize(
    ("root", "kind"), [("/home/u", "nfs4"), ("/mnt/ssh/u", "fuse.sshfs"), ("/srv", ""), ("/mnt/usb/x", "")]
)
def test_network_homes_are_named(tmp_path, monkeypatch, root, kind):
    (tmp_path / "mountinfo").write_bytes(MOUNTS)
    monkeypatch.setattr(home_module, "MOUNTINFO", tmp_path / "mountinfo")
    assert Home(Path(root), Path(root)).on_network == kind
