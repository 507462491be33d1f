"""Fuzz the kernels with invalid calls, each batch in its own process (fuzz_kernels.py).

Every call must return a result or raise an error that names the argument, never crash.
"""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import ROOT
from mutations import Mutation, plant

#: Checks to remove; without any one of them, some calls end wrongly, even on the reference.
HOLES = (
    Mutation("read-only arrays pass", "numpy", "spec/arguments.py", "if is_written and not flags.writeable:", "if False:"),
    Mutation("ids pass", "numpy", "spec/arguments.py", ".max() >= size:", ".max() < 0:"),
    Mutation("lists pass", "numpy", "spec/arguments.py", "            check_type(array.name, value, family)\n", ""),
    Mutation("overlaps pass", "numpy", "spec/arguments.py", "if overlap(given[k], given[n]) and", "if False and"),
    Mutation("texts pass as numbers", "numpy", "spec/arguments.py", "        if value is None:\n            raise", "        if False:\n            raise"),
    Mutation("foreign caches pass", "numpy", "spec/arguments.py", "if not isinstance(value, kind):", "if False:"),
    Mutation("any order of dimensions passes", "numpy", "spec/arguments.py", "elif known * factor + extra != got:", "elif False:"),
)  # fmt: skip


def fuzz(folder, seed, calls, seconds, *backends, package=ROOT):
    """Run calls in their own process; return the process, and a line with its last call and its errors."""
    progress = folder / f"progress-{seed}"
    arguments = [seed, calls, seconds, progress, *backends]
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "fuzz_kernels.py"), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(package)}, capture_output=True, text=True, timeout=seconds + 600,
        check=False,
    )  # fmt: skip
    return (
        done,
        f"seed {seed}, call {progress.read_text() if progress.exists() else 'none'}: {done.returncode}\n{done.stderr}",
    )


def test_hostile_calls_end_in_a_result_or_a_named_error(tmp_path):
    done, where = fuzz(tmp_path, 1, 20_000, 10)
    assert done.returncode == 0, where
    calls, refused = map(int, re.findall(r"\d+", done.stdout))
    assert 0 < refused < calls


@pytest.mark.long
def test_a_million_hostile_calls(tmp_path):
    with ThreadPoolExecutor(2) as pool:
        runs = list(pool.map(lambda seed: fuzz(tmp_path, seed, 100_000, 3600), range(100, 110)))
    assert all(done.returncode == 0 for done, _ in runs), [where for done, where in runs if done.returncode]
    calls = sum(int(done.stdout.split()[0]) for done, _ in runs)
    print(f"{calls} calls")
    assert calls >= 1_000_000


@pytest.mark.parametrize("hole", [None, *HOLES], ids=lambda hole: hole.name if hole else "none")
def test_a_hole_in_the_checks_is_found(tmp_path, hole):
    plant(hole or HOLES[0]._replace(wrong=HOLES[0].right), tmp_path)
    done, where = fuzz(tmp_path, 5, 20_000 if hole else 500, 120, "numpy", package=tmp_path)
    assert (done.returncode == 0) == (hole is None), where
    assert hole is None or "seed 5, call" in done.stderr, where


def test_memory_around_an_array_is_watched():
    """A write past the end of an array is a segmentation fault; a write before it changes a canary."""
    script = """
import sys, numpy as np, ctypes
sys.path.insert(0, sys.argv[1])
from fuzz_kernels import Memory
memory = Memory()
array = memory.place(np.zeros(3))
ctypes.memset(array.ctypes.data + int(sys.argv[2]), 0, 1)
memory.check()
"""
    tests = str(ROOT / "tests")

    def write(at):
        return subprocess.run(
            [sys.executable, "-c", script, tests, str(at)], env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    assert write(0).returncode == 0
    assert "memory around array 0 was changed" in write(-1).stderr
    if sys.platform == "linux":
        assert write(24).returncode == -11
