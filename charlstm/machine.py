"""The machine: what the results and the speed of a run depend on."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def processor() -> str:
    """The processor's name, as far as the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    """Cores that this process may use, by its affinity and its container's share."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = Path("/sys/fs/cgroup/cpu.max")  # a container's share: "200000 100000" is two cores, "max 100000" all
    if quota.is_file():
        allowed, _, period = quota.read_text().partition(" ")
        if allowed.isdigit():
            cores = min(cores, max(1, int(allowed) // int(period)))
    return cores


def versions() -> dict[str, str]:
    """Versions of what the results depend on, of those that are installed."""
    found = {"python": platform.python_version()}
    for package in ("charlstm", "numpy", "numba", "llvmlite", "safetensors", "cupy-cuda12x", "cupy-cuda13x"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
