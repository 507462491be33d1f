"""Start-up times: help, the first training step with cached kernels, and the first with an empty cache."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.process import QUICK, spread

TRAIN = ("train", "--preset", "min-char-lstm", "--iterations", "1", "--report-every", "1", "--json")


def command():
    """Return the installed command, or else `python -m charlstm`, which does the same."""
    beside = Path(sys.executable).with_name("charlstm")
    return [str(beside)] if beside.exists() else [sys.executable, "-m", "charlstm"]


def until_first_line(arguments, folder, environment=None):
    """Return the seconds from starting the command to its first line on standard output."""
    begin = time.perf_counter()
    with subprocess.Popen(
        [*command(), *arguments], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env={**os.environ, **(environment or {})},
    ) as process:  # fmt: skip
        line = process.stdout.readline()
        taken = time.perf_counter() - begin
        process.stdout.read()
    assert process.returncode == 0, arguments
    return taken, line


def test_help(row, keep, tmp_path):
    """Time `charlstm --help` from start to exit."""

    def run(_):
        begin = time.perf_counter()
        subprocess.run([*command(), "--help"], stdout=subprocess.DEVNULL, check=True, cwd=tmp_path)
        return time.perf_counter() - begin

    _show(row, keep, "test_help", "charlstm --help", [run(k) for k in range(1 if QUICK else 15)])


def first_step(folder, environment=None):
    """Return the seconds from starting the command to its report of the first iteration."""
    taken, line = until_first_line(TRAIN, folder, environment)
    assert json.loads(line)["iteration"] == 0
    return taken


def test_first_step_of_a_warm_cache(row, keep, tmp_path):
    """Time the command up to its report of the first iteration, with kernels in the cache."""
    first_step(tmp_path)
    times = [first_step(tmp_path) for _ in range(1 if QUICK else 7)]
    _show(row, keep, "test_first_step_of_a_warm_cache", "first training step, kernels in the cache", times)


@pytest.mark.skipif(QUICK, reason="takes as long as compiling does")
def test_first_step_of_a_cold_cache(row, keep, tmp_path):
    """Time the same with an empty NUMBA_CACHE_DIR, so that it compiles the kernels."""
    times = []
    for k in range(2):
        cache = tmp_path / f"cache-{k}"
        cache.mkdir()
        times.append(first_step(tmp_path, {"NUMBA_CACHE_DIR": str(cache)}))
        assert any(cache.iterdir())
    _show(row, keep, "test_first_step_of_a_cold_cache", "first training step, empty cache", times)


def _show(row, keep, name, group, times):
    keep(name, **spread(times))
    row(group, times)
