"""Data-parallel training by real ranks: `make test-mpi` installs mpi4py and mpich, and mpiexec starts the ranks."""

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from benchmarks import network
from charlstm.model.checkpoint import Checkpoint
from charlstm.text import corpus

FAULTY, ON_GPU = (Path(__file__).parent / name for name in ("faulty_rank.py", "gpu_rank.py"))
TEXT = "".join(f"{n} men went to mow, went to mow {n * n} meadows; " for n in range(120))
SIZES = "--hidden-size 7 --batch-size 4 --seq-length 6"
SMALL = [*SIZES.split(), "--report-every", "1", "--sample-every", "0", "--no-plot", "--mix", "0"]
LIMIT = 400  # seconds; a job that hangs fails its test, and one on a crowded machine does not

mpi = pytest.mark.skipif(
    shutil.which("mpiexec") is None or find_spec("mpi4py") is None, reason="needs mpiexec and mpi4py (make test-mpi)"
)
pytestmark = pytest.mark.mpi


@pytest.fixture
def train(tmp_path):
    """Train in a folder of the test by some ranks, or by one on each host; return what was printed, and the exit code."""
    text = tmp_path / "text.txt"
    text.write_text(TEXT)

    def train(ranks, *options, out=None, fault=(), backend="numpy", small=SMALL):
        program = [sys.executable, *([FAULTY, *fault] if fault else ["-m", "charlstm"]), "train"]
        if backend == "cupy":
            program = [sys.executable, ON_GPU, tmp_path, "train"]
        started = ["mpiexec", "-n", str(ranks)] if ranks else []
        env = {**os.environ, "PYTHONPATH": str(ROOT)}  # the scripts of the ranks import what is not installed
        if isinstance(ranks, list):
            started, env = ["mpiexec"], {**env, **network.THROUGH_THE_LINK}
        given = [] if out is None else [text, "--out", tmp_path / out, "--backend", backend, *small]
        words = [*program, *given, *options]
        if isinstance(ranks, list):
            words = [word for host in ranks for word in (":", "-n", "1", *host, *words)][1:]
        return subprocess.run(
            [str(word) for word in (*started, *words)],
            cwd=tmp_path, env=env, capture_output=True, text=True, timeout=LIMIT, check=False,
        )  # fmt: skip

    return train


def losses(folder):
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def seconds(folder):
    return json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])["seconds"]


def last(folder):
    return Checkpoint.from_file(folder / "last.safetensors")


def same_state(a, b):
    names = ("theta", "state", "h", "c", "average")
    return all(getattr(a, name).tobytes() == getattr(b, name).tobytes() for name in names)


@mpi
@pytest.mark.parametrize(
    ("backend", "options"),
    [
        ("numpy", "--num-layers 2 --dropout 0.25 --weight-drop 0.3 --grad-clip 0.01 --validation 0.1 --dtype float64"),
        ("numba", "--dtype float32 --optimizer adagrad --loss-reduction sum --schedule constant"),
        ("numpy", "--windows 9:2 --cell gru --dtype float64"),
    ],
)
def test_any_number_of_ranks_gives_the_same_losses(train, tmp_path, backend, options):
    for ranks in (0, 2, 4):
        done = train(ranks, "--iterations", "30", *options.split(), out=f"{ranks}", backend=backend)
        assert done.returncode == 0, done.stderr
    assert "4 ranks of 1 thread" in done.stderr
    alone, two, four = (np.array(losses(tmp_path / name)) for name in "024")
    roundings = 1e-12 if "float64" in options else 1e-5  # 30 updates carry a rounding further
    np.testing.assert_allclose(two, alone, rtol=roundings)
    np.testing.assert_allclose(four, alone, rtol=roundings)
    states = [last(tmp_path / name).h for name in "024"]  # of all streams
    np.testing.assert_allclose(states[2], states[0], atol=100 * roundings)
    assert alone[-1] < alone[0]


@mpi
@pytest.mark.parametrize("options", ["", "--sync-every 4", "--sync-dtype bfloat16 --dtype float32"])
def test_a_run_resumes_exactly_with_as_many_ranks(train, tmp_path, options):
    assert train(2, "--iterations", "30", "--schedule", "constant", *options.split(), out="whole").returncode == 0
    assert train(2, "--iterations", "17", "--schedule", "constant", *options.split(), out="parts").returncode == 0
    done = train(2, f"--resume={tmp_path / 'parts'}", "--iterations", "30")
    assert done.returncode == 0
    assert "ranks   " not in done.stderr
    if "--sync-every" not in options:  # with averages, the end of a run is one more of them
        assert same_state(last(tmp_path / "whole"), last(tmp_path / "parts"))
        assert losses(tmp_path / "whole") == losses(tmp_path / "parts")
    else:
        assert losses(tmp_path / "whole")[:17] == losses(tmp_path / "parts")[:17]
        assert np.isfinite(losses(tmp_path / "parts")).all()


@mpi
@pytest.mark.parametrize("options", ["--num-layers 2 --dropout 0.2", "--sync-every 4 --optimizer sgd"])
def test_each_rank_has_a_gpu_and_all_train_as_on_processors(train, tmp_path, options):
    """On GPUs that are emulated where there are none: two in this machine, which the ranks take in turn."""
    common = ["--iterations", "12", "--dtype", "float64", *options.split()]
    for backend in ("numpy", "cupy"):
        done = train(2, *common, out=backend, backend=backend)
        assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(losses(tmp_path / "cupy"), losses(tmp_path / "numpy"), rtol=1e-9)
    np.testing.assert_allclose(last(tmp_path / "cupy").theta, last(tmp_path / "numpy").theta, rtol=1e-7, atol=1e-9)
    if (tmp_path / "gpus").is_dir():
        assert {(tmp_path / f"rank-{rank}").read_text() for rank in (0, 1)} == {"0", "1"}
    done = train(2, f"--resume={tmp_path / 'cupy'}", "--iterations", "14", backend="cupy")
    assert done.returncode == 0, done.stderr


@mpi
def test_gradients_as_bfloat16_lose_nothing_in_the_long_run(train, tmp_path):
    """Without error feedback, the sum of the updates would have an error of about 1/500, and not of 1/500 of the last."""
    updates = "--optimizer sgd --learning-rate 0.05 --schedule constant --dtype float32"
    options = ["--iterations", "60", *updates.split()]
    for name in ("float32", "bfloat16"):
        assert train(4, *options, "--sync-dtype", name, out=name).returncode == 0
    plain, halves = last(tmp_path / "float32"), last(tmp_path / "bfloat16")
    np.testing.assert_allclose(losses(tmp_path / "bfloat16"), losses(tmp_path / "float32"), rtol=1e-3)
    assert halves.remainders.shape[0] == 4
    start = train(4, "--iterations", "0", *options[2:], out="start")
    assert start.returncode == 0
    moved = np.linalg.norm(plain.theta - last(tmp_path / "start").theta)
    assert 0 < np.linalg.norm(plain.theta - halves.theta) < 1e-3 * moved
    done = train(2, f"--resume={tmp_path / 'bfloat16'}", "--iterations", "70")  # remainders are dealt anew
    assert done.returncode == 0, done.stderr


@mpi
def test_local_steps_can_be_interrupted_at_an_average(train, tmp_path):
    common = ["--sync-every", "4", "--iterations", "60", "--reset-every", "0"]
    assert train(2, *common, out="whole").returncode == 0
    assert train(2, *common, out="parts", fault=("SIGTERM", 1, 9)).returncode == 143
    assert 9 < last(tmp_path / "parts").iteration < 60
    assert train(2, f"--resume={tmp_path / 'parts'}").returncode == 0
    assert same_state(last(tmp_path / "whole"), last(tmp_path / "parts"))


@mpi
def test_another_number_of_ranks_resumes_and_says_so(train, tmp_path):
    for name in ("whole", "parts"):
        count = "30" if name == "whole" else "17"
        options = ("--schedule", "constant", "--dtype", "float64")
        assert train(2, "--iterations", count, *options, out=name).returncode == 0
    for ranks, line in ((4, "ranks   2 -> 4"), (0, "ranks   4 -> 1")):
        more = 24 if ranks else 30
        done = train(ranks, f"--resume={tmp_path / 'parts'}", "--iterations", str(more))
        assert done.returncode == 0
        assert line in done.stderr
    np.testing.assert_allclose(losses(tmp_path / "parts"), losses(tmp_path / "whole"), rtol=1e-12)


@mpi
def test_a_rank_that_raises_ends_the_job_with_its_message(train, tmp_path):
    done = train(4, "--iterations", "1000000", out="run", fault=("raise", 2, 20))
    assert done.returncode != 0
    assert "charlstm: rank 2: the cat sat on it: all ranks end" in done.stderr


@mpi
def test_a_killed_rank_ends_the_job_and_the_run_resumes(train, tmp_path):
    done = train(2, "--iterations", "1000000", out="run", fault=("kill", 1, 20))
    assert done.returncode != 0
    done = train(2, f"--resume={tmp_path / 'run'}", "--iterations", "25")
    assert done.returncode == 0, done.stderr
    assert last(tmp_path / "run").iteration == 25


@mpi
def test_two_hosts_that_a_slow_link_joins_train_as_one_does(train, tmp_path):
    if reason := network.missing():
        pytest.skip(f"two hosts: {reason}")
    delay, rate = 5e-3, 1e8
    assert train(0, "--iterations", "20", out="one").returncode == 0
    with network.two_hosts(delay, rate) as hosts:
        done = train(hosts, "--iterations", "20", out="two")
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=1e-5)
    assert seconds(tmp_path / "two") > 20 * delay > seconds(tmp_path / "one")  # the sums went through the link


@mpi
@pytest.mark.parametrize("rank", [0, 1])
def test_sigterm_to_one_rank_saves_and_ends_all(train, tmp_path, rank):
    done = train(2, "--iterations", "1000000", out="run", fault=("SIGTERM", rank, 20))
    assert done.returncode == 143
    assert ("stopped after" if rank == 0 else "stopped by a signal to another rank") in done.stderr
    assert 20 < last(tmp_path / "run").iteration < 1000000


@mpi
def test_ctrl_c_saves_and_ends_all(train, tmp_path):
    done = train(2, "--iterations", "1000000", out="run", fault=("Ctrl-C", 1, 20))
    assert done.returncode == 130
    assert done.stderr.count("stopping after this iteration and saving; press Ctrl-C again to quit immediately") == 1
    assert done.stderr.count("the run is saved") == 1
    assert 20 < last(tmp_path / "run").iteration < 1000000


@mpi
def test_sigusr1_to_one_rank_saves_and_training_goes_on(train, tmp_path):
    done = train(2, "--iterations", "300", "--save-every", "1e6", "--keep", "9", out="run", fault=("SIGUSR1", 1, 20))
    assert done.returncode == 0
    steps = sorted(int(path.stem[5:]) for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert any(20 < step < 300 for step in steps)
    assert steps[-1] == 300


@mpi
def test_a_difference_between_ranks_stops_the_run(train, tmp_path):
    done = train(2, "--iterations", "30", out="run", fault=("differ", 1, 20))
    assert done.returncode == 1
    assert done.stderr.count("charlstm: rank 1 has other weights than rank 0") == 1
    assert last(tmp_path / "run").iteration < 20


@mpi
def test_a_loss_that_is_not_finite_on_one_rank_ends_all(train, tmp_path):
    done = train(4, "--iterations", "30", out="run", fault=("nan", 3, 20))
    assert done.returncode == 1
    assert done.stderr.count("the loss of iteration 20 is nan") == 1


@mpi
def test_mistakes_are_told_once(train, tmp_path):
    done = train(4, "--batch-size", "6", out="run")
    assert (done.returncode, done.stderr) == (
        2, "charlstm: --batch-size 6: cannot be dealt evenly to 4 ranks; 4 and 8 can\n"
    )  # fmt: skip
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    done = train(2, out="full")
    assert done.returncode == 2
    assert done.stderr.count("already exists and is not empty") == 1
    done = train(2, "--resume=nowhere")
    assert (done.returncode, done.stderr) == (2, "charlstm: nowhere: no such run folder\n")
    assert not (tmp_path / "run").exists()


@pytest.fixture
def large(tmp_path, monkeypatch):
    """Provide a folder whose ids are so many that they go to the cache, which is empty."""
    monkeypatch.setenv("CHARLSTM_DATA_DIR", str(tmp_path / "cache"))
    (tmp_path / "large").mkdir()
    for n in range(3):
        (tmp_path / "large" / f"{n}.txt").write_text(f"{n}: {TEXT}" * (1000 + 300 * n))
    return tmp_path / "large"


def cached(tmp_path):
    return sorted(path.suffix for path in (tmp_path / "cache" / "ids").iterdir())


@mpi
def test_ranks_encode_a_folder_together_and_each_maps_its_part(train, tmp_path, large, monkeypatch):
    options = [large, "--iterations", "3", "--backend", "numpy", *SMALL, "--out"]
    done = train(2, *options, tmp_path / "run", fault=("maps", 1, 2))
    assert done.returncode == 0, done.stderr
    assert cached(tmp_path) == [".ids", ".json"]
    monkeypatch.setenv("CHARLSTM_DATA_DIR", str(tmp_path / "alone"))
    alone, recorded = corpus.load([large]), last(tmp_path / "run").corpus
    assert (recorded["digest"], recorded["num_ids"]) == (alone.digest, len(alone.ids))
    if sys.platform == "linux":
        bytes_mapped = int(done.stderr.split("rank 1 maps ")[1].split()[0])
        assert 0.49 * alone.ids.nbytes < bytes_mapped < 0.51 * alone.ids.nbytes
    monkeypatch.setenv("CHARLSTM_DATA_DIR", str(tmp_path / "cache"))
    done = train(4, f"--resume={tmp_path / 'run'}", "--iterations", "6", fault=("kill reading", 1, 0))  # reads nothing
    assert done.returncode == 0, done.stderr
    assert train(0, *options, tmp_path / "one").returncode == 0
    np.testing.assert_allclose(losses(tmp_path / "one"), losses(tmp_path / "run")[:3], rtol=1e-5)


@mpi
def test_a_rank_that_fails_while_it_encodes_leaves_no_cache(train, tmp_path, large):
    options = [large, "--iterations", "3", "--backend", "numpy", *SMALL, "--out", tmp_path / "run"]
    assert train(2, *options, fault=("kill reading", 1, 0)).returncode != 0
    assert set(cached(tmp_path)) <= {".tmp"}
    (large / "3.txt").write_bytes(b"text\xff")
    done = train(2, *options)
    assert done.returncode == 2
    assert done.stderr.count("3.txt: byte 4 is not utf-8") == done.stderr.count("charlstm:") == 1
    assert set(cached(tmp_path)) <= {".tmp"}


@mpi
def test_a_job_without_mpi_is_refused(train, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "4")
    done = train(0, "--iterations", "3", out="run")
    assert done.returncode == 2
    assert "SLURM_NTASKS tells of 4 processes, but MPI connects only one" in done.stderr
    assert not (tmp_path / "run").exists()


@mpi
def test_slurm_says_how_many_threads_a_rank_has(train, monkeypatch):
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if cores < 2:
        pytest.skip("needs two cores")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "2")
    assert "2 ranks of up to 2 threads" in train(2, "--iterations", "1", out="run").stderr
