"""Memory: the peak of a training process, and the allocations per iteration after warm-up, which should be 0."""

import json
import subprocess
import sys

import pytest

from benchmarks.process import QUICK, ROOT
from charlstm.host.machine import usable_cores

COUNTS = {"seed": 500} if QUICK else {"seed": 2000, "h256-b16": 40}


@pytest.mark.parametrize("threads", sorted({1, usable_cores()}))
@pytest.mark.parametrize("name", COUNTS)
def test_memory(keep, name, threads):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", name, str(threads), str(COUNTS[name])],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    keep(f"test_memory[{name}-{threads}]", **found, work=name, threads=threads)
    assert found["arrays_per_iteration"] == 0
    assert found["bytes_per_iteration"] == 0
