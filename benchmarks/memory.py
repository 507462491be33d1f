"""How much memory a process has had, and what an iteration allocates."""

import sys
from pathlib import Path


def peak_rss():
    """The most memory that this process has had at once, in bytes; None where the system does not tell.

    Linux carries ru_maxrss over from whoever started the process; VmHWM is this program's own.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
