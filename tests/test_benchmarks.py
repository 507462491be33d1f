"""The benchmarks run, refuse to measure while a test fails, and record nothing about the user or the host."""

import json
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from test_report import made_up

from benchmarks import __main__ as command
from benchmarks import memory, process, results, stages
from benchmarks.process import Contestant, Race, spread
from benchmarks.rivals import CannotRun
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
        "date", "commit", "uncommitted_changes", "machine", "versions", "limits", "benchmarks", "failed",
    }  # fmt: skip
    assert found["machine"]["processor"] == machine.processor()
    assert found["machine"]["cores"] == machine.usable_cores()
    assert found["versions"] == machine.versions()
    assert set(found["limits"]) == {"sgemm_gflops", "l2_gbytes_per_s", "memory_gbytes_per_s", "exp_per_ns", "l2_bytes"}
    assert str(ROOT) not in json.dumps(found)
    about = found["machine"] | {"versions": {}, "limits": {}, "node": "somebodys-own", "python_build": "x"}
    raw = {"machine_info": about, "commit_info": {"id": "1", "author": "somebody", "branch": "private"}}
    assert "somebody" not in json.dumps(kept := results.trimmed(raw, [], [], "2020-01-01"))
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


def test_a_row_is_one_iteration_in_microseconds_beside_what_it_may_be_compared_with(quick):
    done, found = quick
    tables = re.split(r"^-* ?benchmark '", done.stdout, flags=re.M)
    (seed,) = (table for table in tables if table.startswith("one iteration of seed on 1 thread'"))
    assert re.search(r"^Name \(time in us\) +Min +Median +Rounds$", seed, re.M)
    rows = dict(re.findall(r"^training\[seed-(\w+)-1thread\] +([\d,.]+) ", seed, re.M))
    race = results.race_of(found, "seed")
    assert set(rows) == {contestant["name"] for contestant in race["contestants"]}
    for contestant in race["contestants"]:
        shown = float(rows[contestant["name"]].replace(",", ""))
        assert shown == pytest.approx(1e6 * contestant["min"], rel=1e-4)
    (call,) = (table for table in tables if table.startswith("one call: lstm_forward[T16-B1-V71-H100]"))
    assert "T16-B1-V71-H100-numba]" in call
    assert "T16-B1-V71-H100-numpy]" in call


def test_each_stage_is_told_as_it_begins(quick):
    done, _ = quick
    told = re.findall(r"^\[ *(\d+)/(\d+)\] about +\d+ (?:s|min) +left +([\w-]+): \S", done.stdout, re.M)
    assert [int(number) for number, _, _ in told] == list(range(1, len(told) + 1))
    assert {count for _, count, _ in told} == {str(len(told))}
    assert [name for _, _, name in told] == ["memory", "ops", "sample", "startup", "seed", "cost-h", "cost-b", "busy"]


class Noted:
    """A contestant's process that notes what is asked of it, and may fail at that."""

    order, faults = [], {}

    def __init__(self, contestant, work):
        self.contestant = contestant

    def _do(self, what):
        self.order.append(f"{what} {self.contestant.name}")
        if fault := self.faults.get(self.order[-1]):
            raise fault

    def warm(self):
        self._do("warm")

    def calibrate(self, seconds):
        self._do("calibrate")

    def round(self):
        self._do("round")

    def close(self):
        self._do("close")

    def result(self):
        return {"name": self.contestant.name}


@pytest.fixture
def noted(monkeypatch):
    monkeypatch.setattr(process, "Process", Noted)
    monkeypatch.setattr(Noted, "order", [])
    monkeypatch.setattr(Noted, "faults", {})
    return Noted


def test_rounds_are_taken_in_turns(noted):
    names = ("ours", "jax", "pytorch")
    race = Race(WORKS["seed"], [Contestant(name) for name in names])
    race.run(2)
    race.close()
    turns = [f"{what} {name}" for what in ("warm", "calibrate", "round", "round", "close") for name in names]
    assert noted.order == turns


def test_all_are_closed_even_if_closing_one_is_interrupted(noted):
    noted.faults = {"close ours": KeyboardInterrupt()}
    race = Race(WORKS["seed"], [Contestant("ours"), Contestant("jax")])
    with pytest.raises(KeyboardInterrupt):
        race.close()
    assert noted.order[-2:] == ["close ours", "close jax"]


def test_who_fails_or_cannot_run_leaves_the_race_and_the_others_go_on(noted):
    noted.faults = {"warm jax": CannotRun("not on Sundays"), "round pytorch": RuntimeError("it ended with 1")}
    race = Race(WORKS["seed"], [Contestant(name) for name in ("ours", "jax", "pytorch", "plain_c")])
    race.run(2)
    found = race.result()
    assert [each["name"] for each in found["contestants"]] == ["ours", "plain_c"]
    assert found["absent"] == {"jax": "not on Sundays"}
    assert race.failed == {Contestant("pytorch"): "it ended with 1"}
    assert noted.order.count("round ours") == noted.order.count("round plain_c") == 2
    assert "calibrate jax" not in noted.order
    assert noted.order.count("close jax") == noted.order.count("close pytorch") == 1


def test_what_our_kernels_refuse_in_bfloat16_is_absent_with_their_reason(monkeypatch):
    from benchmarks.rivals import ours

    class Refuses:
        iteration = 0

        def __init__(self, *_):
            pass

        def run(self, count):
            raise ValueError("bfloat16: expected one stream")

    monkeypatch.setattr(ours, "Ours", Refuses)
    with pytest.raises(CannotRun, match="expected one stream"):
        ours.make(WORKS["h256-b32"], None, 1, dtype="bfloat16").run(1)
    with pytest.raises(ValueError, match="expected one stream"):
        ours.make(WORKS["h256-b32"], None, 1).run(1)


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


@pytest.mark.long
@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C cannot be sent to one process")
def test_ctrl_c_keeps_what_was_measured(tmp_path):
    path = tmp_path / "last.json"
    with subprocess.Popen(
        [sys.executable, "-m", "pytest", "benchmarks", "--benchmark-enable", "-q", "-p", "no:cacheprovider", "-k",
         "help or training", f"--benchmark-json={path}"],
        cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ, "CHARLSTM_BENCH_QUICK": "1"},
    ) as running:  # fmt: skip
        while "seed: " not in running.stdout.readline():
            assert running.poll() is None
        running.send_signal(signal.SIGINT)
        said, _ = running.communicate(timeout=100)
    assert "unclosed" not in said
    found = json.loads(path.read_text())
    assert found["failed"] == [{"name": "interrupted", "why": "Ctrl-C"}]
    assert [each["name"] for each in found["benchmarks"]][-1] == "test_help"


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """Run `measure` on made-up results; return its exit code and the folder of results."""
    monkeypatch.setattr(command, "ROOT", tmp_path)
    monkeypatch.setattr(results, "FOLDER", tmp_path / "results")
    monkeypatch.setattr(results, "name_of_machine", lambda: "abacus")
    monkeypatch.setattr(command.subprocess, "run", lambda arguments, **_: subprocess.CompletedProcess(arguments, 0))

    def run(found, code, only=None):
        def to_its_end(arguments, environment):
            if found:
                results.write(found, results.FOLDER / "last.json")
            return code

        monkeypatch.setattr(command, "to_its_end", to_its_end)
        return command.measure(quick=False, only=only), results.FOLDER

    return run


def test_what_was_measured_is_kept_and_shown_though_something_failed(measured, capsys):
    found = {**made_up(), "failed": [{"name": "test_memory[seed-1]", "why": "assert 2.0 == 0"}]}
    code, folder = measured(found, 1)
    assert code == 1
    assert results.read(folder / "abacus.json")["benchmarks"] == found["benchmarks"]
    shown = capsys.readouterr().out
    assert re.search(r"^seed +1 +100 us +1\.00 ms, 10x +140 us, 1\.4x +110 us, 1\.1x +80%$", shown, re.M)
    assert shown.splitlines()[-1] == "FAILED test_memory[seed-1]: assert 2.0 == 0"
    assert "not measured" not in shown


@pytest.mark.parametrize(("failed", "only"), [([{"name": "interrupted", "why": "Ctrl-C"}], None), ([], "seed")])
def test_results_of_a_part_do_not_replace_those_of_the_machine(measured, failed, only):
    ended, folder = measured({**made_up(), "failed": failed}, 1, only)
    assert ended == len(failed)
    assert [path.name for path in folder.iterdir()] == ["last.json"]
    assert results.read(folder / "last.json")["bars"]


def test_nothing_measured_is_said(measured, capsys):
    assert measured(None, 1)[0] == 1
    assert "nothing was measured" in capsys.readouterr().err


def test_a_run_says_first_what_it_will_do_for_how_long_and_what_is_missing(monkeypatch, capsys):
    monkeypatch.setattr(process.rivals, "missing", lambda name: "mislaid" if name == "jax" else None)
    command.announce(quick=False, only=None)
    said = capsys.readouterr().out
    assert re.search(r"^Then, in about \d+ min on two free cores:$", said, re.M)
    assert re.search(r"^ +\d+ (?:s|min)  seed: ours, .*plain C.*thread", said, re.M)
    for name in ("torch-rnn-1024", "cost-b", "startup", "memory"):
        assert re.search(rf"^ +\d+ (?:s|min)  {name}: \S", said, re.M)
    assert "Not here: JAX (mislaid)" in said
    assert sum(each.seconds for each in stages.planned()) + stages.TESTS_SECONDS[1] < 15 * 60


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


@pytest.mark.parametrize(
    ("calls", "expected"),
    [
        ([(0, 30), (0, 0)], (0, 0)),  # the short call was split more often than the long one
        ([(0, 0), (10**6, 100), (0, 0), (0, 0)], (0, 0)),  # the first try alone was disturbed
        ([(0, 0), (10**6, 100)], (10**4, 1)),
    ],
)
def test_counts_are_the_least_of_a_few_tries_and_not_negative(monkeypatch, calls, expected):
    answers = [each for each in calls for _ in range(8)]
    following = iter(answers * 3)
    monkeypatch.setattr(memory, "of_one_call", lambda run, count: next(following))
    assert memory.per_iteration(lambda count: None, 100) == expected


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
