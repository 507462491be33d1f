"""The benchmarks run, refuse to measure while a test fails, and record nothing about the user or the host."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

from benchmarks import __main__ as command
from benchmarks import process, results
from benchmarks.process import Contestant, Race, spread
from charlstm.host import machine
from charlstm.measure.bench import WORKS


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """Run all benchmarks with tiny counts; return the finished process and its results."""
    path = tmp_path_factory.mktemp("results") / "quick.json"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "benchmarks", "--benchmark-enable", "-q", "-p", "no:cacheprovider",
         f"--benchmark-json={path}"],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "CHARLSTM_BENCH_QUICK": "1"},
    )  # fmt: skip
    return done, json.loads(path.read_text()) if path.exists() else None


def test_the_benchmarks_run(quick):
    done, found = quick
    assert done.returncode == 0, done.stdout
    names = {each["name"].partition("[")[0] for each in found["benchmarks"]}
    assert names >= {
        "test_training", "test_cost", "test_busy_neighbour", "test_sampling", "test_help",
        "test_first_step_of_a_warm_cache", "test_memory", "test_lstm_forward", "test_lstm_backward",
        "test_softmax_cross_entropy", "test_optimizer",
    }  # fmt: skip


def test_what_is_kept_says_where_it_comes_from_and_not_who_made_it(quick):
    _, found = quick
    assert set(found) == {
        "date", "commit", "uncommitted_changes", "machine", "versions", "limits", "benchmarks",
    }  # fmt: skip
    assert found["machine"]["processor"] == machine.processor()
    assert found["machine"]["cores"] == machine.usable_cores()
    assert found["versions"] == machine.versions()
    assert set(found["limits"]) == {"sgemm_gflops", "l2_gbytes_per_s", "memory_gbytes_per_s", "exp_per_ns", "l2_bytes"}
    assert str(ROOT) not in json.dumps(found)
    about = found["machine"] | {"versions": {}, "limits": {}, "node": "somebodys-own", "python_build": "x"}
    raw = {
        "machine_info": about,
        "commit_info": {"id": "1", "author": "somebody", "branch": "private"},
        "benchmarks": [],
    }
    assert "somebody" not in json.dumps(kept := results.trimmed(raw, "2020-01-01"))
    assert "private" not in json.dumps(kept)


def test_a_race_keeps_everybodys_median_and_spread(quick):
    _, found = quick
    race = results.race_of(found, "seed")
    assert {"ours", "numpy_loop"} <= {c["name"] for c in race["contestants"]}
    for contestant in race["contestants"]:
        assert 0 < contestant["min"] <= contestant["q1"] <= contestant["median"] <= contestant["q3"]
        assert contestant["rounds"] == 1
        assert contestant["iterations"] == 1
        assert contestant["versions"]
    assert len(race["load"]) == 2
    assert 0 < race["floor"]["1"] < 1


def test_rounds_are_taken_in_turns(monkeypatch):
    order = []

    class Noted:
        def __init__(self, contestant, work):
            self.contestant = contestant

        def calibrate(self, seconds):
            order.append(f"calibrate {self.contestant.name}")

        def round(self):
            order.append(self.contestant.name)

        def close(self):
            order.append("close")

    monkeypatch.setattr(process, "Process", Noted)
    race = Race(WORKS["seed"], [Contestant("ours"), Contestant("jax"), Contestant("pytorch")])
    for _ in range(2):
        race.others()
        race.first()
    race.close()
    turn = ["jax", "pytorch", "ours"]
    assert order == ["calibrate ours", "calibrate jax", "calibrate pytorch", *turn, *turn, *["close"] * 3]


def test_the_spread_of_times():
    assert spread([5.0, 1.0, 2.0, 4.0, 3.0]) == {"median": 3, "q1": 2, "q3": 4, "min": 1, "rounds": 5}


def test_nothing_is_measured_while_a_test_is_red(monkeypatch, capsys):
    ran = []

    def run(arguments, **_):
        ran.append(arguments)
        return subprocess.CompletedProcess(arguments, 1)

    monkeypatch.setattr(command.subprocess, "run", run)
    assert command.measure(quick=True, only=None) == 1
    assert [arguments[-1] for arguments in ran] == ["tests/kernel/test_chain.py"]
    assert "nothing is measured" in capsys.readouterr().err


def test_benchmarks_run_alone_check_the_gradients_first(tmp_path):
    """Even if pytest is called directly, wrong kernels are not measured."""
    (tmp_path / "sitecustomize.py").write_text(
        "from kernels import testing\n"
        "testing.gradient_errors = lambda ops, seed=0, cells=(): iter([testing.GradientError('lstm', 'db', 1e-3)])\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "benchmarks/bench_ops.py", "--benchmark-enable", "-q", "-p", "no:cacheprovider"],
        cwd=ROOT, capture_output=True, text=True, timeout=100, check=False,
        env={**os.environ, "CHARLSTM_BENCH_QUICK": "1", "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
    )  # fmt: skip
    assert done.returncode == 1
    assert "no speed is reported" in done.stdout
    assert "Median" not in done.stdout


@pytest.mark.parametrize(("planted", "expected"), [("none", (0, 0)), ("compiled", (0, 1)), ("python", (100, 0))])
def test_allocations_of_an_iteration_are_found(planted, expected):
    program = f"""
import numba, numpy as np
from benchmarks.memory import per_iteration

@numba.njit
def compiled(n):
    out = np.empty(n)
    for k in range(n):
        out[k] = np.zeros(3).sum()
    return out

def python(n):
    kept = [bytearray(100) for _ in range(n)]
    return np.zeros(n)

def none(n):
    return np.zeros(n)

compiled(1)
print(*per_iteration({planted}, 200))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False,
        env={**os.environ, "NUMBA_NRT_STATS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    in_bytes, arrays = np.array(done.stdout.split(), float)
    assert arrays == expected[1]
    assert expected[0] <= in_bytes <= 4 * expected[0]
