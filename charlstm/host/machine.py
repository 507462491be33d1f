"""The machine properties that affect a run's results and speed: processor, usable cores, package versions."""

import os
import platform
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def processor() -> str:
    """Return the processor's model name, or its architecture where the system does not report the model."""
    return _model_name() or platform.processor() or platform.machine()


def _model_name() -> str:
    """Return the processor's model name; empty where the system does not report it."""
    if sys.platform == "darwin":
        asked = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()  # noqa: S603
    if sys.platform == "win32":
        import winreg

        with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, r"HARDWARE\DESCRIPTION\System\CentralProcessor\0") as key:
            return str(winreg.QueryValueEx(key, "ProcessorNameString")[0]).strip()
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text("utf-8", errors="replace").splitlines() if cpuinfo.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def usable_cores() -> int:
    """Return the number of cores this process may use, at least 1.

    CPU affinity, the control group's quota, OMP_NUM_THREADS and NUMBA_NUM_THREADS limit it.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    limits = [_number(os.environ.get(name)) for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")]
    return max(1, min([cores, *([] if quota is None else [int(quota)]), *(limit for limit in limits if limit)]))


def _number(words: str | None) -> int:
    """Return the first number of an OMP_NUM_THREADS-style list such as "4" or "4,2"; 0 if it has none."""
    first = (words or "").partition(",")[0].strip()
    return int(first) if first.isascii() and first.isdigit() else 0


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Return the CPU quota of this process's control group, in cores; None if it is unlimited.

    A group is also limited by the quotas of its parents, so the smallest of them counts. `root` is the folder that
    contains proc and sys.
    """
    try:
        groups = (root / "proc/self/cgroup").read_text("utf-8", errors="replace").splitlines()
        mounts = (root / "proc/self/mountinfo").read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return None
    found = []
    for mount in mounts:
        fields, _, rest = mount.partition(" - ")
        kind, _, options = [*rest.split(), "", "", ""][:3]
        is_v2, words = kind == "cgroup2", fields.split()
        if len(words) < 5 or not (is_v2 or (kind == "cgroup" and "cpu" in options.split(","))):
            continue
        top = root / _unescaped(words[4]).lstrip("/")
        for folder in _folders(top, _unescaped(words[3]), _group(groups, is_v2)):
            found.append(_quota_v2(folder) if is_v2 else _quota_v1(folder))
    return min((quota for quota in found if quota), default=None)


def _group(groups: list[str], is_v2: bool) -> str:
    """Return this process's group from the lines of /proc/self/cgroup: 0::/path in v2, 4:cpu,cpuacct:/path in v1."""
    for line in groups:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if (number == "0" and not controllers) if is_v2 else "cpu" in controllers.split(","):
            return path
    return "/"


def _folders(top: Path, root: str, group: str) -> list[Path]:
    """Return a group's folder and its parents, up to the mount point `top` of the group `root`."""
    inside = f"{group}/".removeprefix(f"{root.rstrip('/')}/") if f"{group}/".startswith(f"{root.rstrip('/')}/") else ""
    parts = [part for part in inside.split("/") if part not in ("", "..")]
    return [top.joinpath(*parts[:n]) for n in range(len(parts), -1, -1)]


def _quota_v2(folder: Path) -> float | None:
    """Return the quota in cpu.max, in cores: "200000 100000" is two cores, "max 100000" no limit."""
    try:
        allowed, period = [*(folder / "cpu.max").read_text("utf-8").split(), "100000"][:2]
        return int(allowed) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _quota_v1(folder: Path) -> float | None:
    """Return the quota in cpu.cfs_quota_us and cpu.cfs_period_us, in cores; a quota of -1 means no limit."""
    try:
        allowed, period = (int((folder / f"cpu.cfs_{name}_us").read_text("utf-8")) for name in ("quota", "period"))
        return allowed / period if allowed > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _unescaped(path: str) -> str:
    """Decode a path from mountinfo, which writes blanks and some other characters as octal escapes."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages that affect results."""
    found = {"python": platform.python_version()}
    for package in ("charlstm", "numpy", "numba", "llvmlite", "safetensors", "cupy-cuda12x", "cupy-cuda13x"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
