"""The monitor of a VM of a drill: answers go to who asked, and what has ended is let go of."""

from __future__ import annotations

import asyncio
import gc
import socket
import warnings
from pathlib import Path

import pytest

from overlaysync.node.channel import ChannelError, Monitor
from overlaysync.node.vm_process import vm_process
from overlaysync.ops.drill.machine import Machine

pytestmark = [pytest.mark.qemu, pytest.mark.drill]


async def test_who_gives_up_leaves_no_answer_to_the_next(tmp_path: Path) -> None:
    async with vm_process(Machine("web", (), memory_mib=64), tmp_path) as vm:
        given_up = asyncio.create_task(vm.monitor.ask("query-version"))
        await asyncio.sleep(0)  # it has asked, and waits
        given_up.cancel()
        assert await vm.monitor.ask("query-kvm") == {"enabled": False, "present": True}
        with pytest.raises(ChannelError, match="no-such-command"):
            await vm.monitor.ask("no-such-command")


async def test_the_socket_of_a_qemu_that_never_started_is_closed() -> None:
    # The number of a socket that is closed behind a transport's back may soon be another VM's.
    ours, theirs = socket.socketpair()
    with warnings.catch_warnings(), ours:
        warnings.simplefilter("error")
        theirs.close()
        with pytest.raises(ChannelError):
            await Monitor.open(ours)
        gc.collect()
