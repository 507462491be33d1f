"""Tests that need a real GPU: make gpu-test, which also runs the files of the chain of trust on it."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, load, made_up_text

import charlstm
import kernels
from charlstm.runs.begin import resume
from kernels import testing

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(kernels.missing("cupy") is not None, reason=str(kernels.missing("cupy"))),
]


@pytest.fixture(scope="module")
def gpu():
    return load("cupy")


@pytest.fixture
def text(tmp_path):
    for package in (
        "filelock",
        "platformdirs",
        "safetensors",
        "threadpoolctl",
        "tomli_w",
    ):  # a Python with CuPy alone can test the kernels
        pytest.importorskip(package)
    path = tmp_path / "book.txt"
    path.write_text(made_up_text())
    return path


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_gradients_by_central_differences(gpu, cell):
    for check in testing.gradient_errors(gpu, cells=(cell,)):
        assert check.error < testing.GRADIENT_TOLERANCE, check


@pytest.mark.parametrize(
    "sizes",
    [{"hidden_size": 50, "num_layers": 1, "batch_size": 1}, {"hidden_size": 50, "num_layers": 2, "batch_size": 3}],
    ids=str,
)
def test_the_same_seed_gives_the_same_bits_also_when_resumed(text, tmp_path, sizes):
    options = {"backend": "cupy", "seq_length": 10, "seed": 5, "sample_every": 0, "schedule": "constant", **sizes}
    whole, again = (
        charlstm.train(text, out=str(tmp_path / name), iterations=400, **options) for name in ("whole", "again")
    )
    charlstm.train(text, out=str(tmp_path / "parts"), iterations=150, **options)
    parts = resume(tmp_path / "parts", (), {"iterations": 400})
    for _ in parts.train():
        pass
    kept = [charlstm.load(run.folder).theta.tobytes() for run in (whole, again, parts)]
    assert kept[0] == kept[1] == kept[2]


def test_a_run_goes_from_the_processor_to_the_device_and_back(text, tmp_path):
    options = {"hidden_size": 30, "num_layers": 1, "batch_size": 1, "seq_length": 10, "dtype": "float64", "seed": 5}
    options |= {"sample_every": 0, "schedule": "constant"}
    whole = charlstm.train(text, out=str(tmp_path / "whole"), backend="numpy", iterations=90, **options)
    charlstm.train(text, out=str(tmp_path / "parts"), backend="numpy", iterations=30, **options)
    for backend, end in (("cupy", 60), ("numpy", 90)):
        run = resume(tmp_path / "parts", (), {"backend": backend, "iterations": end})
        assert any(note.startswith("warning: backend changed") for note in run.notes)
        for _ in run.train():
            pass
    thetas = [charlstm.load(tmp_path / name).theta for name in ("whole", "parts")]
    assert testing.relative_error(thetas[1], thetas[0]) < 1e-6
    assert whole.folder.exists()


def test_work_is_queued_on_the_current_stream(gpu):
    import cupy

    from kernels.gpu import ops

    logits = cupy.asarray(np.random.RandomState(0).randn(5, 2, 7))
    targets = cupy.zeros((5, 2), np.int32)
    cupy.cuda.Stream.null.synchronize()  # a non-blocking stream does not wait for these copies
    with cupy.cuda.Stream(non_blocking=True):
        loss, dlogits = ops.softmax_cross_entropy(logits, targets)
        assert abs(float(dlogits.sum())) < 1e-12
    assert loss > 0


@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "synccheck"])
def test_nvidias_own_sanitizer_sees_nothing(tool):
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        pytest.skip("needs compute-sanitizer, of the CUDA toolkit")
    tests = "many_models or a_block_of_any_size or (steps_in_one_launch and order0) or scores_and_draws"
    program = f"""
import cupy, pytest, sys
cupy.cuda.set_allocator(None)  # each array an allocation of its own, whose ends memcheck sees
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "tests/kernel/test_gpu.py", "-k", "{tests}"]))
"""
    done = subprocess.run(
        [sanitizer, "--tool", tool, "--report-api-errors", "no", "--error-exitcode", "66", sys.executable, "-c", program],
        cwd=ROOT, env={**os.environ, "CHARLSTM_TEST_BACKEND": "cupy"}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
