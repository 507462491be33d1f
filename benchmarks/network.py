"""Two hosts on one machine: network namespaces, joined by a link with a delay and a rate, for jobs of two ranks.

The link is this process: it reads packets from the TUN device of one namespace and writes them into that of the other
when they would have arrived. So a real MPI sends real TCP through it, and no kernel module for traffic control is
needed. Linux and root only.
"""

import fcntl
import os
import select
import shutil
import struct
import subprocess
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import perf_counter

MTU = 9000
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 1, 0x1000
#: What makes MPICH send through the namespaces' devices: it would take shared memory, since both are on one machine.
THROUGH_THE_LINK = {
    "UCX_TLS": "tcp,self", "UCX_NET_DEVICES": "eth0", "MPIR_CVAR_NOLOCAL": "1", "FI_PROVIDER": "tcp",
    "FI_TCP_IFACE": "eth0",
}  # fmt: skip


def missing() -> str:
    """Return why there can be no link here, or an empty string."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "needs root"
    if not Path("/dev/net/tun").exists() or shutil.which("ip") is None:
        return "needs /dev/net/tun and ip"
    try:
        _ip("netns", "add", _name(0))
        _ip("netns", "delete", _name(0))
    except subprocess.CalledProcessError as error:
        return str(error.stderr).strip()
    return ""


def _name(host: int) -> str:
    return f"charlstm-{os.getpid()}-{host}"


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)  # noqa: S607


@contextmanager
def two_hosts(delay: float, rate: float) -> Iterator[list[list[str]]]:
    """Join two hosts; yield, for each, the words that run a command on it.

    Parameters
    ----------
    delay : seconds that a packet travels
    rate : bytes per second and direction
    """
    with ExitStack() as stack:
        devices = []
        for host in range(2):
            _ip("netns", "add", _name(host))
            stack.callback(_ip, "netns", "delete", _name(host))
            device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
            stack.callback(os.close, device)
            given = f"tun-{os.getpid() % 10**6}-{host}"
            fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH", given.encode(), _IFF_TUN | _IFF_NO_PI))
            _ip("link", "set", given, "netns", _name(host), "name", "eth0", "mtu", str(MTU))
            _ip("-n", _name(host), "address", "add", f"10.77.0.{host + 1}/24", "dev", "eth0")
            for each in ("lo", "eth0"):
                _ip("-n", _name(host), "link", "set", each, "up")
            devices.append(device)
        ended = threading.Event()
        link = threading.Thread(target=_carry, args=(devices, delay, rate, ended))
        link.start()
        stack.callback(link.join)
        stack.callback(ended.set)
        yield [["ip", "netns", "exec", _name(host)] for host in range(2)]


def _carry(devices: list[int], delay: float, rate: float, ended: threading.Event) -> None:
    """Carry packets between two devices until `ended` is set."""
    on_the_way: list[deque[tuple[float, bytes]]] = [deque(), deque()]  # by sender: time of arrival, packet
    free = [0.0, 0.0]  # when the last packet of each sender has left it
    while not ended.is_set():
        now = perf_counter()
        for sender, packets in enumerate(on_the_way):
            while packets and packets[0][0] <= now:
                os.write(devices[1 - sender], packets.popleft()[1])
        first = min((packets[0][0] for packets in on_the_way if packets), default=now + 0.05)
        for device in select.select(devices, [], [], max(0.0, first - perf_counter()))[0]:
            sender, packet = devices.index(device), os.read(device, 2 * MTU)
            free[sender] = max(perf_counter(), free[sender]) + len(packet) / rate
            on_the_way[sender].append((free[sender] + delay, packet))
