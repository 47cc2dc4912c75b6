"""The archive commands against a real store that keeps three copies of each object, one server dead."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from overlaysync.units import KIB
from tests.archive.conftest import Cloud
from tests.archive.swift_cluster import TESTER
from tests.e2e.disks import identical
from tests.e2e.nodes import Lab
from tests.e2e.recovery import flat_copies, make_vms, same_as, work

pytestmark = [pytest.mark.swift, pytest.mark.qemu, pytest.mark.slow]


def test_vms_come_back_from_an_object_store_while_a_server_of_it_is_dead(
    cloud: Cloud, tmp_path: Path
) -> None:
    keys = dict(cloud.swift.environment(TESTER))
    with Lab(tmp_path / "lab") as lab:
        alice, dora = lab.node("alice"), lab.node("dora")
        team = lab.team("red", alice, dora)
        make_vms(alice)
        alice.json("save", "--team", team, alice.place)
        url = f"s3://{cloud.bucket()}/lab"
        alice.json("archive", "add", "cloud", url, **keys)
        with cloud.swift.without(cloud.swift.object_servers[0]):
            assert alice.json("archive", "push", team, **keys)["stored"] > 0
        cloud.swift.catch_up()
        work(alice, "tuesday")
        alice.json("save", "--team", team, alice.place)
        flat_copies(alice, tmp_path / "tuesday")
        pushed = alice.json("archive", "push", team, **keys)
        assert pushed["states"] == 2 and alice.json("archive", "push", team, **keys)["stored"] == 0
        assert not alice.json("archive", "check", "cloud", "--read", **keys)["damaged"]
        copies = {
            vm["name"]: vm["copies"]
            for vm in alice.json("status", team, "--local", **keys)["teams"][0]["vms"]
        }
        assert copies == {"web": 2, "db": 2, "mail": 2}

        dora.json("archive", "add", "cloud", url, **keys)
        with cloud.swift.without(cloud.swift.object_servers[0]):
            dora.json("restore", team, "--to", dora.place / "back", "--wait", "1", **keys)
        assert same_as(tmp_path / "tuesday", dora.place / "back")

        # One image by its name, and a later version of it: stored is what has changed.
        url = f"s3://{cloud.bucket()}/images"
        alice.json("archive", "add", "images", url, **keys)
        first = alice.json("archive", "push", f"{team}/web", "images", **keys)
        work(alice, "wednesday")
        alice.json("save", "--team", team, alice.place)
        second = alice.json("archive", "push", f"{team}/web", "images", **keys)
        assert second["version"] == first["version"] + 1 and second["stored"] < 650 * KIB
        erin = lab.node("erin")
        shutil.copytree(dora.home / "teams", erin.home / "teams")
        erin.json("archive", "add", "images", url, **keys)
        with cloud.swift.without(cloud.swift.object_servers[0]):
            fetched = erin.json("fetch", f"{team}/web", "--wait", "1", **keys)["fetched"]
        assert all(set(one["sources"]) == {"archive images"} for one in fetched)
        assert identical(erin.place / "web.qcow2", alice.place / "web.qcow2")
        for node in (alice, dora, erin):
            catalog = (node.home / "catalog.sqlite").read_bytes()
            assert TESTER.key.encode() not in catalog
