"""PyTorch in its other dtype: pytorch.py under autocast to bfloat16, with weights and optimizer in float32.

Only for processors that have instructions for bfloat16; without them it is many times slower than float32.
"""

import platform
import subprocess
from pathlib import Path

from benchmarks.rivals import pytorch

NEEDS = ("torch",)
WORKS = pytorch.BATCHES + pytorch.VOCABULARIES  # a single stream is slower in it
VERSIONS = ("torch",)
#: Names of the instructions in /proc/cpuinfo, on x86-64 and on aarch64.
INSTRUCTIONS = {"avx512_bf16", "amx_bf16", "bf16"}


def missing():
    return None if has_bfloat16() else "this processor has no instructions for bfloat16"


def has_bfloat16(cpuinfo=Path("/proc/cpuinfo")):
    if cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
        flags = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
        return not INSTRUCTIONS.isdisjoint(flags.split())
    if platform.system() == "Darwin":
        asked = ["/usr/sbin/sysctl", "-n", "hw.optional.arm.FEAT_BF16"]
        return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip() == "1"
    return False


def make(work, ids, threads):
    return pytorch.make(work, ids, threads, bfloat16=True)
