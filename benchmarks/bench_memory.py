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
def test_memory(benchmark, name, threads):
    arguments = [name, str(threads), str(COUNTS[name])]

    def run():
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.memory", *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        benchmark.extra_info.update(json.loads(done.stdout), work=name, threads=threads)

    benchmark.group = "memory"
    benchmark.pedantic(run, rounds=1)
    assert benchmark.extra_info["arrays_per_iteration"] == 0
    assert benchmark.extra_info["bytes_per_iteration"] == 0
