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


def test_help(benchmark, tmp_path):
    """Time `charlstm --help` from start to exit."""
    times = []

    def run():
        begin = time.perf_counter()
        subprocess.run([*command(), "--help"], stdout=subprocess.DEVNULL, check=True, cwd=tmp_path)
        times.append(time.perf_counter() - begin)

    _measure(benchmark, run, times, 1 if QUICK else 15)


def test_first_step_of_a_warm_cache(benchmark, tmp_path):
    """Time the command up to its report of the first iteration, with kernels in the cache."""
    times = []

    def run():
        taken, line = until_first_line(TRAIN, tmp_path)
        assert json.loads(line)["iteration"] == 0
        times.append(taken)

    run()
    times.clear()
    _measure(benchmark, run, times, 1 if QUICK else 7)


@pytest.mark.skipif(QUICK, reason="takes as long as compiling does")
def test_first_step_of_a_cold_cache(benchmark, tmp_path):
    """Time the same with an empty NUMBA_CACHE_DIR, so that it compiles the kernels."""
    times = []

    def run():
        cache = tmp_path / f"cache-{len(times)}"
        cache.mkdir()
        taken, line = until_first_line(TRAIN, tmp_path, {"NUMBA_CACHE_DIR": str(cache)})
        assert json.loads(line)["iteration"] == 0
        assert any(cache.iterdir())
        times.append(taken)

    _measure(benchmark, run, times, 2)


def _measure(benchmark, run, times, rounds):
    benchmark.group = "start"
    benchmark.pedantic(run, rounds=rounds)
    benchmark.extra_info.update(spread(times))
