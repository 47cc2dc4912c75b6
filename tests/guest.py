"""A small Linux guest for tests that need a running VM: Debian's kernel, and a busybox that obeys orders.

The guest prints ``READY`` on its serial port once its disks are there, and then takes orders there, a line
each: see :data:`_INIT`. It has no root disk: what is on its disks is what a test puts there. Its counter
writes N = 1, 2, 3 … to every disk in turn, each with fsync, so that a copy of the disks is a point in time
if and only if it holds exactly 1 … m on the first disk, and the same, or all but m, on those that follow
(:func:`counted`).
"""

from __future__ import annotations

import gzip
import os
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Self

from overlaysync.units import KIB, MIB

SLOTS = 2048
STRIDE = 4 * KIB
SPREAD = 17
"""Record N of the counter lies at N * SPREAD % SLOTS * STRIDE: soon in a cluster that was written before."""
DISK_SIZE = 64 * MIB

_DRIVERS = ("virtio_pci", "virtio_blk", "virtio_net", "virtio_console", "ext4")
DIES_WITH_US = ("setpriv", "--pdeathsig", "KILL")
"""Words before a program that the kernel kills when the thread that started it ends, however it ends."""
_AGENT = "/usr/sbin/qemu-ga"
_MEMORY_MIB = 192

_INIT = r"""#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc none /proc; mount -t sysfs none /sys; mount -t devtmpfs none /dev
for m in $(cat /lib/order); do insmod /lib/$m; done
for w in $(cat /proc/cmdline); do case "$w" in disks=*) disks=${w#disks=};; esac; done
i=0
while [ $(ls -d /sys/block/vd? 2>/dev/null | wc -l) -lt ${disks:-0} ] && [ $i -lt 100 ]; do
  usleep 50000; i=$((i+1))
done
put() {
  at=$(( ($2 * 17 % 2048) * 8 ))
  printf '%-511s\n' "N=$2" | dd of=$1 bs=512 seek=$at count=1 conv=notrunc,fsync 2>/err || echo "FAILED $2"
}
now() { read u _ < /proc/uptime; t=${u%.*}${u#*.}; }
count() {
  n=1; now; last=$t
  while [ ! -e /stop ]; do
    for d in ${1:-/dev/vd?}; do put $d $n; done
    echo $n > /n; n=$((n+1))
    now; read g < /gap; [ $((t - last)) -gt ${g:-0} ] && echo $((t - last)) > /gap; last=$t
  done
  rm /stop
}
files() {
  n=1
  while [ ! -e /stop ]; do
    echo $n > /mnt/n.new; sync; mv /mnt/n.new /mnt/n; echo $n > /n; n=$((n+1))
  done
  rm /stop
}
agent() {
  for p in /sys/class/virtio-ports/*; do
    [ "$(cat $p/name 2>/dev/null)" = org.qemu.guest_agent.0 ] && port=/dev/${p##*/}
  done
  mkdir -p /var/run /run; qemu-ga -m virtio-serial -p $port -t /run -f /run/ga.pid >/ga.log 2>&1 &
}
echo 0 > /n; echo 0 > /gap
echo "READY $(cat /proc/uptime)"
while read -r c a b; do case "$c" in
  ping) echo "PONG $a";;
  start) count $a & ;;                    # write the counter to one disk, or to all in turn
  files) files & ;;                       # write it to a file on the mounted file system
  stop) : > /stop; wait $!; echo "STOPPED $(cat /n)";;
  n) v=; while [ -z "$v" ]; do v=$(cat /n); done; echo "N $v";;   # it is written anew all the time
  gap) read g < /gap; echo 0 > /gap; echo "GAP $g";;   # hundredths of a second, since the last time
  fill) dd if=/dev/urandom of=/dev/$a bs=1M seek=8 count=$b conv=fsync 2>/err && echo FILLED || echo FAILED;;
  mount) mount -t ext4 /dev/$a /mnt && echo "MOUNTED $a" || echo "FAILED $a";;
  agent) agent; echo "AGENT";;
  up) ifconfig eth0 10.0.2.15 netmask 255.255.255.0 up; echo "UP";;
  serve) while :; do echo hello | nc -l -p $a; done & echo "SERVING $a";;
  sum) echo "SUM $(dd if=/dev/$a bs=1M 2>/err | sha256sum)";;
  sh) eval "$a $b";;
  off) sync; poweroff -f;;
  *) echo "UNKNOWN $c";;
esac; done
"""


def kernel() -> Path:
    """Debian's kernel for virtual machines."""
    found = sorted(Path("/boot").glob("vmlinuz-*-cloud-amd64"))
    assert found, "not installed: linux-image-cloud-amd64"
    return found[-1]


@cache
def _initramfs(agent: bool) -> bytes:
    """The archive of busybox, the drivers and our init, compressed; on request with the guest agent."""
    modules = Path("/lib/modules") / kernel().name.removeprefix("vmlinuz-")
    files = {"init": _INIT.encode(), "bin/busybox": Path("/bin/busybox").read_bytes()}
    order = []
    for module in _with_dependencies(modules):
        order.append(module.name)
        files[f"lib/{module.name}"] = module.read_bytes()
    files["lib/order"] = "\n".join(order).encode()
    if agent:
        files |= agent_files()
    return gzip.compress(_cpio(files, ("proc", "sys", "dev", "mnt")), 1)


def agent_files() -> dict[str, bytes]:
    """The guest agent, and what it is linked with."""
    files = {path.lstrip("/"): Path(path).read_bytes() for path in _libraries(_AGENT)}
    return files | {"bin/qemu-ga": Path(_AGENT).read_bytes()}


def _with_dependencies(modules: Path) -> list[Path]:
    """The files of the drivers, each after those that it needs."""
    needs: dict[str, list[str]] = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        file, _, others = line.partition(":")
        needs[file] = others.split()
    by_name = {Path(file).name.partition(".")[0]: file for file in needs}
    found: dict[str, None] = {}
    for driver in _DRIVERS:
        if driver in by_name:  # what is missing is built into the kernel
            file = by_name[driver]
            found |= dict.fromkeys([*reversed(needs[file]), file])
    return [modules / file for file in found]


def _libraries(program: str) -> list[str]:
    listed = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
    return [word for line in listed.splitlines() for word in line.split() if word.startswith("/")]


def _cpio(files: dict[str, bytes], folders: Sequence[str]) -> bytes:
    """A "newc" archive (the kernel's Documentation/driver-api/early-userspace/buffer-format)."""
    parents = {str(parent) for name in files for parent in Path(name).parents} - {"."}
    entries = [(name, 0o040755, b"") for name in sorted({*folders, *parents}, key=len)]
    entries += [(name, 0o100755, data) for name, data in files.items()]
    archive = bytearray()
    for number, (name, mode, data) in enumerate([*entries, ("TRAILER!!!", 0, b"")], 1):
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        archive += b"070701" + b"".join(b"%08X" % value for value in fields) + name.encode() + b"\0"
        archive += b"\0" * (-len(archive) % 4) + data
        archive += b"\0" * (-len(archive) % 4)
    return bytes(archive)


@dataclass(slots=True)
class Serial:
    """The guest's serial port."""

    path: Path
    log: bytes = b""
    _socket: socket.socket = field(init=False)

    def __post_init__(self) -> None:
        self._socket = connected(self.path)

    def until(self, word: str, *, within_s: float = 60) -> str:
        """The next line that begins with ``word``; what came before it is skipped."""
        deadline = time.monotonic() + within_s
        while True:
            *lines, rest = self.log.split(b"\n")
            for number, line in enumerate(lines):
                if line.startswith(word.encode()):
                    self.log = b"\n".join([*lines[number + 1 :], rest])
                    return line.decode(errors="replace").strip()
            self._socket.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                data = self._socket.recv(4096)
            except TimeoutError:
                data = b""
            assert data, f"the guest did not say {word!r} within {within_s} s: {self.log[-600:]!r}"
            self.log += data

    def send(self, line: str) -> None:
        self._socket.sendall(line.encode() + b"\n")

    def close(self) -> None:
        self._socket.close()


def connected(path: Path, *, within_s: float = 20) -> socket.socket:
    """A connection to a socket that a program is about to make; its directory may have a long path."""
    deadline = time.monotonic() + within_s
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        while True:
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.connect(f"/proc/self/fd/{folder}/{path.name}")
                return connection
            except OSError:
                connection.close()
                assert time.monotonic() < deadline, f"nothing listens at {path}"
                time.sleep(0.02)
    finally:
        os.close(folder)


@dataclass(slots=True)
class Guest:
    """A VM under way: QEMU runs in ``directory``, in which its sockets lie, so that their names are short."""

    directory: Path
    process: subprocess.Popen[bytes]
    serial: Serial

    @classmethod
    def boot(
        cls,
        directory: Path,
        disks: Sequence[Path],
        *more: str,
        agent: bool = False,
        serial: str = "serial",
        prefix: Sequence[str] = (),
    ) -> Self:
        """Boot a guest from nothing and wait until it is ready.

        Args:
            directory: for the initramfs and the sockets ``serial`` and, with ``agent``, ``agent``.
            disks: qcow2, QED or raw by the endings of their names; vda, vdb, …
            more: arguments for QEMU: a monitor, for example.
            agent: whether the guest has the agent; it begins on the order ``agent``.
            serial: name of the socket.
            prefix: words before the command, to run it in other namespaces.
        """
        words = command(directory, disks, *more, agent=agent, serial=serial)
        with (directory / "qemu.log").open("wb") as log:
            process = subprocess.Popen(
                [*prefix, *DIES_WITH_US, "env", f"--chdir={directory}", *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )
        try:
            guest = cls(directory, process, Serial(directory / serial))
            guest.serial.until("READY")
        except BaseException:
            process.kill()
            process.wait()
            print((directory / "qemu.log").read_text())
            raise
        return guest

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def ask(self, order: str, answer: str, *, within_s: float = 60) -> str:
        """Give an order, and return the rest of the line that answers it."""
        self.serial.send(order)
        return self.serial.until(answer, within_s=within_s).removeprefix(answer).strip()

    def counter(self) -> int:
        """The last number that the guest has written."""
        return int(self.ask("n", "N "))

    def off(self) -> None:
        """Shut the guest down."""
        self.serial.send("off")
        assert self.process.wait(30) == 0
        self.serial.close()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.serial.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def command(
    directory: Path, disks: Sequence[Path], *more: str, agent: bool = False, serial: str = "serial"
) -> list[str]:
    """What starts the guest, in ``directory``, without KVM; writes its initramfs there."""
    initramfs = directory / "initramfs"
    initramfs.write_bytes(_initramfs(agent))
    words = ["qemu-system-x86_64", "-machine", "q35,accel=tcg", "-m", str(_MEMORY_MIB), "-nodefaults"]
    words += ["-display", "none", "-no-reboot", "-kernel", str(kernel()), "-initrd", str(initramfs)]
    words += ["-append", f"console=ttyS0 quiet disks={len(disks)}"]
    words += ["-serial", f"unix:{serial},server=on,wait=off"]
    for disk in disks:
        format = {".qed": "qed", ".raw": "raw"}.get(disk.suffix, "qcow2")
        words += ["-drive", f"file={disk},if=virtio,format={format}"]
    if agent:
        words += ["-device", "virtio-serial", "-chardev", "socket,id=agent,path=agent,server=on,wait=off"]
        words += ["-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"]
    return [*words, *more]


def make_disks(directory: Path, *names: str, master_data: int = 4 * MIB) -> list[Path]:
    """Overlays for the counter, each on a master of its own that ends with data."""
    made = []
    for name in names:
        path = directory / name
        master = directory / f"master-{path.stem}.raw"
        with master.open("wb") as file:
            file.truncate(DISK_SIZE + master_data)
            file.seek(DISK_SIZE)
            file.write(os.urandom(master_data))
        master.chmod(0o444)
        format = path.suffix.lstrip(".")
        words = ["qemu-img", "create", "-q", "-f", format, "-F", "raw", "-b", master.name, str(path)]
        subprocess.run(words, check=True)
        made.append(path)
    return made


def counted(image: Path, scratch: Path) -> int:
    """The m of an image that holds the records 1 … m and no other; 0 for none. Fails if there are holes."""
    flat = scratch / f"{image.name}.flat"
    subprocess.run(["qemu-img", "convert", "-O", "raw", str(image), str(flat)], check=True)
    found = {}
    with flat.open("rb") as file:
        for slot in range(SLOTS):
            file.seek(slot * STRIDE)
            record = file.read(512)
            if record.startswith(b"N="):
                found[slot] = int(record[2:])
    flat.unlink()
    last = max(found.values(), default=0)
    expected = {n * SPREAD % SLOTS: n for n in range(max(1, last - SLOTS + 1), last + 1)}
    assert found == expected, f"no point in time: holes before {last}: {set(expected) - set(found)}"
    return last
