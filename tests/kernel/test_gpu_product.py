"""Train, sample and score on the GPU backend, emulated if there is no GPU; check the messages if it is missing."""

import ctypes
import json
import os
import re
import subprocess
import sys
import timeit
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT, load, made_up_text
from device import emulator, fake_cupy

import charlstm
import kernels
from charlstm.cli import _guarded
from charlstm.model.backend import choose_backend
from charlstm.runs.begin import prepared, resume
from charlstm.settings.config import from_model, from_preset
from charlstm.text.corpus import Corpus
from charlstm.training.backend import chosen
from charlstm.training.trainer import Trainer
from kernels.gpu import choice, presence

SMALL = {"hidden_size": 9, "num_layers": 1, "seq_length": 6, "batch_size": 1}
LARGER = {"hidden_size": 9, "num_layers": 2, "seq_length": 6, "batch_size": 3, "dropout": 0.3, "embedding_size": 5}


@pytest.fixture
def has_gpu(monkeypatch):
    """Provide a machine with a GPU, emulated where there is none."""
    if kernels.missing("cupy") is None:
        return
    if emulator.COMPILER is None:
        pytest.skip(emulator.REASON)
    load("cupy")
    monkeypatch.setattr(presence, "problem", lambda: None)


def train(out, backend, iterations=30, **options):
    text = out.parent / "book.txt"
    text.write_text(made_up_text())
    options = {"sample_every": 0, "dtype": "float64", "report_every": 1, "schedule": "constant", **options}
    return charlstm.train(text, out=str(out), backend=backend, iterations=iterations, seed=3, **options)


def test_mixed_precision_of_batches_is_that_of_the_processor(has_gpu, tmp_path):
    sizes = {"hidden_size": 40, "num_layers": 2, "seq_length": 6, "batch_size": 3, "dropout": 0.3, "dtype": "bfloat16"}
    ours, theirs, plain = (
        losses(train(tmp_path / "-".join(run), run[0], 6, **sizes | {"dtype": run[1]}))
        for run in (("cupy", "bfloat16"), ("numpy", "bfloat16"), ("numpy", "float32"))
    )
    apart, by_rounding = (np.abs(np.subtract(other, theirs)).max() for other in (ours, plain))
    assert apart < 0.1 * by_rounding  # sums in another order rarely round a number the other way


def losses(run):
    lines = (run.folder / "metrics.jsonl").read_text().splitlines()
    return [line["loss"] for line in map(json.loads, lines)]


@pytest.mark.parametrize("sizes", [SMALL, LARGER], ids=["block", "launches"])
def test_a_run_is_that_of_the_processor(has_gpu, tmp_path, sizes):
    ours, theirs = (train(tmp_path / name, name, sample_every=20, **sizes) for name in ("cupy", "numpy"))
    assert losses(ours) == pytest.approx(losses(theirs), rel=1e-9)
    assert (ours.folder / "samples.txt").read_text().splitlines()[1:] == (
        theirs.folder / "samples.txt"
    ).read_text().splitlines()[1:]
    kept = charlstm.load(ours.folder)
    for name in ("theta", "state", "h", "c"):
        assert type(getattr(kept, name)) is np.ndarray
        assert getattr(kept, name) == pytest.approx(getattr(charlstm.load(theirs.folder), name), rel=1e-7, abs=1e-9)


@pytest.mark.parametrize(("first", "then"), [("numpy", "cupy"), ("cupy", "numpy")])
def test_a_run_goes_on_elsewhere_and_says_where_exactness_ends(has_gpu, tmp_path, first, then):
    train(tmp_path / "run", first, **SMALL)
    resumed = resume(tmp_path / "run", (), {"backend": then, "iterations": 50})
    assert any(note.startswith(f"warning: backend changed ({first} -> {then})") for note in resumed.notes)
    for _ in resumed.train():
        pass
    assert losses(resumed) == pytest.approx(losses(train(tmp_path / "whole", "numpy", 50, **SMALL)), rel=1e-9)


def test_samples_and_scores_are_those_of_the_processor(has_gpu, model):
    texts = [model.sample("ab", length=80, seed=1, backend=name) for name in ("cupy", "numpy")]
    scores = [model.score("abcd efgh.\n" * 60, backend=name).bits_per_char for name in ("cupy", "numpy")]
    assert texts[0] == texts[1]
    assert scores[0] == pytest.approx(scores[1], rel=1e-6)


def test_evaluation_on_the_device(has_gpu):
    corpus = Corpus.from_text(made_up_text(), "book")
    found = []
    for name in ("cupy", "numpy"):
        config = from_preset(iterations=12, backend=name, dtype="float64", validation=0.1, sample_every=0, **SMALL)
        found.append([p.val_bits_per_char for p in Trainer(config, corpus).run() if p.kind == "evaluation"])
    assert found[0] == pytest.approx(found[1], rel=1e-9)
    assert found[0]


def test_auto_is_the_processor_but_for_training(has_gpu, monkeypatch):
    assert choose_backend("cupy") == "cupy"
    monkeypatch.setattr(presence, "problem", None)  # asking would start CUDA
    assert choose_backend("auto") in ("numba", "numpy")


# ------------------------------------------------------------------------------------------------ --backend auto
@pytest.fixture
def fast_gpu(has_gpu, monkeypatch):
    """Provide a GPU that is predicted to be faster whatever the sizes."""
    monkeypatch.setattr(presence, "is_installed", lambda: True)
    monkeypatch.setattr(presence, "device_name", lambda: "Fast GPU")
    monkeypatch.setattr(choice, "DEVICES", {"Fast GPU": (1e-12, 1e30)})


def test_auto_trains_where_it_is_faster_and_a_resumed_run_stays_there(fast_gpu, monkeypatch, tmp_path):
    options = {**SMALL, "dtype": "float32"}
    run = train(tmp_path / "gpu", "auto", 10, **options)
    assert (run.trainer.backend, run.config.backend, charlstm.load(run.folder).config.backend) == ("cupy",) * 3
    monkeypatch.setattr(choice, "DEVICES", {"Slow GPU": (1.0, 1.0)})
    assert train(tmp_path / "processor", "auto", 10, **options).config.backend == kernels.fastest()
    monkeypatch.setattr(choice, "DEVICES", {"Fast GPU": (1e-12, 1e30)})
    for name, given, backend in (("gpu", {}, "cupy"), ("processor", {"backend": "auto"}, kernels.fastest())):
        resumed = resume(tmp_path / name, (), {"iterations": 12, **given})
        assert (resumed.trainer.backend, resumed.config.backend) == (backend, backend)
        assert not [note for note in resumed.notes if note.startswith("warning")]


def test_auto_says_in_one_line_what_it_chose_and_why(fast_gpu, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "book.txt").write_text(made_up_text())
    options = ["--hidden-size", "9", "--batch-size", "1", "--seq-length", "6", "--iterations", "2", "--threads", "2"]
    lines = []
    for device in ("Fast GPU", "Other GPU"):
        monkeypatch.setattr(presence, "device_name", lambda device=device: device)
        assert _guarded(["train", "book.txt", *options]) == 0
        lines += [line.strip() for line in capsys.readouterr().err.splitlines() if line.strip().startswith("backend")]
        assert _guarded(["info"]) == 0
        lines += [line for line in capsys.readouterr().out.splitlines() if line.startswith("auto")]
    untested = "the tests have not passed on this kind of GPU, Other GPU (--backend cupy uses it all the same)"
    chosen, *others = lines
    assert re.fullmatch("backend cupy: Fast GPU, predicted to be .* times as fast as 2 cores with this model", chosen)
    assert others == [
        f"auto         cupy for what Fast GPU is predicted to train faster, else {kernels.fastest()}",
        f"backend {kernels.fastest()}: {untested}",
        f"auto         {kernels.fastest()}: {untested}",
    ]


@pytest.mark.parametrize(
    ("options", "more", "why"),
    [
        ({"dtype": "float64"}, {}, "float64 on a GPU only on request"),
        ({"dtype": "bfloat16"}, {}, "bfloat16 on a GPU only on request"),
        ({"members": "2"}, {}, "several nets train on the processor only"),
        ({"seeds": 2, "validation": 0.1}, {}, "several nets train on the processor only"),
        ({"cell": "lnlstm"}, {}, "a GPU has no lnlstm cell"),
        ({}, {"ranks": 2}, "several ranks train on GPUs only on request"),
        ({}, {"is_resumed": True}, "a resumed run changes its backend only on request"),
    ],
    ids=str,
)
def test_auto_stays_on_the_processor(fast_gpu, monkeypatch, options, more, why):
    monkeypatch.setattr(presence, "problem", None)  # asking would start CUDA
    config = from_preset(**SMALL, **options)
    assert chosen(config, 20, 2, **more) == (kernels.fastest(), why)
    monkeypatch.setattr(presence, "is_installed", lambda: False)
    assert chosen(config, 20, 2, **more) == (kernels.fastest(), "")


def test_auto_stays_on_the_processor_if_the_gpu_fails_its_trial(fast_gpu, monkeypatch):
    assert chosen(from_preset(**SMALL), 20, 2).name == "cupy"

    def fail(name):
        raise kernels.BackendUnavailable("the cupy backend cannot use the GPU: all CUDA-capable devices are busy")

    monkeypatch.setattr(kernels, "load_for_host", fail)
    expected = (kernels.fastest(), "the cupy backend cannot use the GPU: all CUDA-capable devices are busy")
    assert chosen(from_preset(**SMALL), 20, 2) == expected


def test_a_run_from_the_weights_of_another_trains_on_the_gpu(has_gpu, model):
    corpus, config = Corpus.from_text(made_up_text(), "book"), from_model(model.config, backend="cupy", iterations=1)
    theta = prepared(corpus, config, model=model).checkpoint().theta
    assert np.array_equal(theta, model.voices[0].theta)


# ------------------------------------------------------------------------------------------------ errors of a device
def failing(monkeypatch, error, after):
    """Make training on the GPU raise an error, after some calls."""
    from kernels.gpu import ops

    plain, made = ops._rates, []

    def rates(given):
        made.append(given)
        if len(made) > after:
            raise error
        return plain(given)

    monkeypatch.setattr(ops, "_rates", rates)


@pytest.mark.skipif(kernels.missing("cupy") is None, reason="a device makes errors of its own")
@pytest.mark.parametrize(
    ("error", "line"),
    [
        (fake_cupy.CUDARuntimeError(700, "cudaErrorIllegalAddress: an illegal memory access"),
         "the GPU failed: cudaErrorIllegalAddress: an illegal memory access (code 700)"),
        (fake_cupy.CUDADriverError(719, "CUDA_ERROR_LAUNCH_FAILED: unspecified launch failure"),
         "the GPU failed: CUDA_ERROR_LAUNCH_FAILED: unspecified launch failure (code 719)"),
        (fake_cupy.CUBLASError(13, "CUBLAS_STATUS_EXECUTION_FAILED"),
         "the GPU failed: CUBLAS_STATUS_EXECUTION_FAILED (code 13)"),
        (fake_cupy.CompileException("\nkernels.cu(3): error: no header\n1 error"),
         "the GPU failed: kernels.cu(3): error: no header"),
        (fake_cupy.CUDARuntimeError(2, "cudaErrorMemoryAllocation: out of memory"),
         "not enough memory for a model or text of this size: cudaErrorMemoryAllocation: out of memory (code 2)"),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_a_device_that_fails_is_one_line_and_the_run_stays_saved(has_gpu, monkeypatch, tmp_path, capsys, error, line):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "book.txt").write_text(made_up_text())
    options = ["--backend", "cupy", "--hidden-size", "9", "--num-layers", "1", "--batch-size", "1", "--seq-length", "6"]
    command = [
        "train",
        "book.txt",
        *options,
        "--sample-every",
        "0",
        "--save-every",
        "0.001",
        "--quiet",
        "--mix",
        "0",
        "--preset",
        "min-char-lstm",
    ]
    failing(monkeypatch, error, 5)
    assert _guarded([*command, "--iterations", "400", "--report-every", "20"]) == 1
    said = capsys.readouterr().err.strip()
    assert said.startswith(f"charlstm: {line}; the newest checkpoint is iteration "), said
    assert charlstm.load(tmp_path / "runs" / "book").iteration > 0


@pytest.mark.skipif(kernels.missing("cupy") is None, reason="a device's own products take longer")
def test_a_product_costs_the_host_a_microsecond(has_gpu, monkeypatch):
    from kernels.gpu import cublas, matmul

    library = ctypes.CDLL("msvcrt" if sys.platform == "win32" else None)
    nothing = library.abs  # of the handle 0, with the arguments of a product
    nothing.restype, nothing.errcheck = ctypes.c_int, cublas._check
    monkeypatch.setattr(cublas, "_library", lambda: SimpleNamespace(cublasSgemm_v2=nothing))
    monkeypatch.setattr(cublas, "_handle", lambda: ctypes.c_void_p(0))
    a, b, out = (fake_cupy.zeros(dims, np.float32) for dims in ((3, 4), (4, 5), (3, 5)))
    product = matmul.product(a, b, out)
    bare = partial(library.labs, *(ctypes.c_void_p(0),) * 14)  # as many arguments: what ctypes itself takes
    seconds, least = (min(timeit.repeat(call, number=1000, repeat=50)) / 1000 for call in (product, bare))
    assert seconds < 2 * max(1e-6, least)  # looking up addresses takes 4e-6


@pytest.mark.skipif(kernels.missing("cupy") is None, reason="a device makes errors of its own")
@pytest.mark.parametrize("words", ["cudaErrorMemoryAllocation: out of memory", "CUBLAS_STATUS_ALLOC_FAILED"])
def test_no_memory_for_cudas_own_needs_is_told_as_such(has_gpu, monkeypatch, words):
    from kernels.gpu import host, matmul

    def full(*_):
        raise fake_cupy.CUDARuntimeError(2, words)

    monkeypatch.setattr(matmul.cublas, "gemm", full)
    with pytest.raises(MemoryError, match=words):
        host.lstm_forward(
            np.zeros((2, 1), np.int32), *np.zeros((2, 1, 3)), *(np.zeros(d) for d in ((4, 12), (3, 12), 12))
        )


@pytest.mark.skipif(kernels.missing("cupy") is None, reason="a device makes errors of its own")
def test_a_device_that_does_not_work_is_no_backend(has_gpu, monkeypatch):
    from kernels.gpu import failures

    def mismatched(*_, **__):
        raise fake_cupy.CUDARuntimeError(803, "cudaErrorSystemDriverMismatch: system has unsupported display driver")

    failures.try_out.cache_clear()
    monkeypatch.setattr(failures, "each", mismatched)
    with pytest.raises(
        kernels.BackendUnavailable, match=r"cannot use the GPU: cudaErrorSystemDriverMismatch.* \(code 803\)"
    ):
        kernels.load("cupy")
    monkeypatch.undo()
    failures.try_out.cache_clear()


@pytest.mark.skipif(kernels.missing("cupy") is None, reason="needs two devices")
def test_arrays_of_another_device_are_refused(has_gpu):
    from kernels.gpu import ops

    theta, grad, state = (fake_cupy.zeros(dims) for dims in (4, 4, (0, 4)))
    grad.device_id = 1
    with pytest.raises(ValueError, match="grad: expected an array on GPU 0, the current one, got one on GPU 1"):
        ops.sgd(theta, grad, state, 0, learning_rate=0.1)


# ------------------------------------------------------------------------------------------- messages without a GPU
class Driver:
    """A CUDA driver with a given version, number of devices, compute capability and compute mode."""

    def __init__(self, version, devices, result=0, capability=(9, 0), mode=0):
        self.version, self.devices, self.result = version, devices, result
        self.attributes = {75: capability[0], 76: capability[1], 20: mode}

    def cuDriverGetVersion(self, place):  # noqa: N802
        ctypes.cast(place, ctypes.POINTER(ctypes.c_int))[0] = self.version
        return 0

    def cuInit(self, flags):  # noqa: N802
        return self.result

    def cuDeviceGetCount(self, place):  # noqa: N802
        ctypes.cast(place, ctypes.POINTER(ctypes.c_int))[0] = self.devices
        return 0

    def cuDeviceGetAttribute(self, place, number, device):  # noqa: N802
        ctypes.cast(place, ctypes.POINTER(ctypes.c_int))[0] = self.attributes[number]
        return 0


CUDA13, CUDA12 = "pip install 'charlstm[cuda13]'", "pip install 'charlstm[cuda12]'"


@pytest.mark.parametrize(
    ("package", "driver", "found", "expected"),
    [
        (False, None, (), f"needs CuPy: {CUDA13} (cuda12 for drivers before 580)"),
        (False, Driver(12040, 1), (), f"needs CuPy: {CUDA12}"),
        (False, Driver(13000, 1), (), f"needs CuPy: {CUDA13}"),
        (True, None, (), "needs the NVIDIA driver, which was not found: install it from your system's packages, or from NVIDIA"),
        (True, Driver(13000, 0), (), "found the NVIDIA driver, but no GPU that it can use (CUDA_VISIBLE_DEVICES may hide it)"),
        (True, Driver(13000, 1, 100), (), "found the NVIDIA driver, but no GPU that it can use (CUDA_VISIBLE_DEVICES may hide it)"),
        (True, Driver(13000, 1), ("nvrtc",), f"needs CUDA's libraries cublas (the matrix products): {CUDA13}, or a CUDA toolkit"),
        (True, Driver(12080, 1), (), f"needs CUDA's libraries nvrtc (the compiler) and cublas (the matrix products): {CUDA12}, or a CUDA toolkit"),
        (True, Driver(13000, 1), ("nvrtc", "cublas"), None),
        (True, Driver(13000, 1, capability=(7, 0)), ("nvrtc", "cublas"), None),
        (True, Driver(13000, 1, capability=(6, 1)), ("nvrtc", "cublas"), "needs a GPU of compute capability 7.0 or more; this one has 6.1"),
        (True, Driver(13000, 1, mode=2), ("nvrtc", "cublas"), "found a GPU whose compute mode is Prohibited: nvidia-smi --compute-mode=DEFAULT allows its use"),
        ("cupy-cuda13x", Driver(12080, 1), ("nvrtc", "cublas"), f"has a CuPy for drivers from 580 on, and an older driver: {CUDA12}, or a newer driver"),
        ("cupy-cuda12x", Driver(12080, 1), ("nvrtc", "cublas"), None),
    ],
)  # fmt: skip
def test_what_is_missing_is_named_with_what_would_help(monkeypatch, package, driver, found, expected):
    monkeypatch.setattr(presence, "find_spec", lambda name: package or None)
    monkeypatch.setattr(presence, "_has", lambda name: name == package)
    monkeypatch.setattr(presence, "_driver", lambda: driver)
    monkeypatch.setattr(presence, "_loads", lambda name: name in found)
    presence.problem.cache_clear()
    try:
        assert presence.problem() == expected
    finally:
        presence.problem.cache_clear()


def test_a_command_says_it_in_one_line(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(presence, "problem", lambda: "needs the NVIDIA driver")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "book.txt").write_text(made_up_text())
    assert _guarded(["train", "book.txt", "--backend", "cupy"]) == 2
    assert capsys.readouterr().err.strip() == "charlstm: --backend cupy: the cupy backend needs the NVIDIA driver"
    with pytest.raises(kernels.BackendUnavailable, match="the cupy backend needs the NVIDIA driver"):
        kernels.load("cupy")
    assert "cupy" not in kernels.available()


def test_a_package_that_cannot_be_imported_is_no_traceback(monkeypatch):
    monkeypatch.setattr(presence, "problem", lambda: None)

    def broken(name):
        raise ImportError("libcublas.so.13: cannot open shared object file\nmore of it")

    monkeypatch.setattr(kernels, "import_module", broken)
    with pytest.raises(kernels.BackendUnavailable) as caught:
        kernels.load("cupy")
    assert str(caught.value) == "the cupy backend cannot be loaded: libcublas.so.13: cannot open shared object file"


def test_anything_that_importing_it_raises_is_no_traceback(monkeypatch):
    monkeypatch.setattr(presence, "problem", lambda: None)

    def broken(name):
        raise OSError(f"{name}: wrong ELF class")

    monkeypatch.setattr(kernels, "import_module", broken)
    with pytest.raises(kernels.BackendUnavailable, match=r"cannot be loaded: kernels\.gpu\.ops: wrong ELF class"):
        kernels.load("cupy")
    with pytest.raises(OSError, match="wrong ELF class"):  # not the user's machine, but our fault
        kernels.load("numba")


@pytest.mark.skipif(kernels.missing("cupy") is None, reason="here is what it requires")
def test_a_gpu_that_the_tests_require_is_not_imitated():
    environment = {**os.environ, "CHARLSTM_REQUIRE_GPU": "1", "CHARLSTM_TEST_BACKEND": "cupy"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "tests/kernel/test_gpu.py"],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert f"CHARLSTM_REQUIRE_GPU is set, but {kernels.missing('cupy')}" in done.stdout + done.stderr
