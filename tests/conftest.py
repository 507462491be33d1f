"""Shared fixtures: backends, small texts and models, and the command line in its own process."""

import os
import subprocess
import sys
from pathlib import Path

import children
import numpy as np
import pytest
from device import emulator, fake_cupy

import kernels
from kernels import spec

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared"

#: These variables name the folder and the backend of a copy of the kernels with a planted mistake, to test it.
MUTANT = os.environ.get("CHARLSTM_TEST_MUTANT")
if os.environ.get("CHARLSTM_REQUIRE_GPU") and kernels.missing("cupy"):
    raise pytest.UsageError(f"CHARLSTM_REQUIRE_GPU is set, but {kernels.missing('cupy')}")
BACKENDS = tuple(name for name in kernels.available() if name == os.environ.get("CHARLSTM_TEST_BACKEND", name))
if not BACKENDS and os.environ.get("CHARLSTM_TEST_BACKEND") == "cupy" and emulator.COMPILER:
    BACKENDS = ("cupy",)  # run on the CPU by tests/device
if MUTANT and not Path(kernels.__file__).is_relative_to(MUTANT):
    raise RuntimeError(f"the kernels under test are those of {kernels.__file__}, not of {MUTANT}")

children.disinherit()
for name in [name for name in os.environ if "XDIST" in name]:
    del os.environ[name]  # a pytest that a test starts is not one of our workers

needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="needs the texts and traces of ../shared")


def pytest_make_parametrize_id(val, argname):
    """Name bytes by their length: packed files hold the time, so two workers may generate different ones."""
    return f"{argname}{len(val)}" if isinstance(val, bytes) else None


def pytest_collection_modifyitems(config, items):
    """Deselect tests of what a backend lacks: a cell that its table leaves out, or what a test's mark names."""
    lacks = [item for item in items if _is_lacking(item)]
    config.hook.pytest_deselected(items=lacks)
    items[:] = [item for item in items if item not in lacks]


def _is_lacking(item):
    params = item.callspec.params if hasattr(item, "callspec") else {}
    used = {params.get("ops"), params.get("backend")}
    is_cell_lacking = "cupy" in used and not getattr(spec.CELLS.get(params.get("cell")), "on_device", True)
    return is_cell_lacking or any(used & set(mark.args) for mark in item.iter_markers("lacking"))


@pytest.fixture(autouse=True, scope="session")
def cache_of_texts(tmp_path_factory):
    """Keep tests away from the user's own cache of texts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHARLSTM_DATA_DIR", str(tmp_path_factory.mktemp("texts")))
        yield


@pytest.fixture
def id_cache(tmp_path, monkeypatch):
    """Provide an empty id cache, with a limit so low that texts of a few kB count as large."""
    from charlstm.text import idcache

    monkeypatch.setenv("CHARLSTM_DATA_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(idcache, "IN_MEMORY", 100)
    return idcache.folder()


@pytest.fixture(scope="session", autouse=True)
def no_pictures():
    """Draw no pictures after training: that takes most of a second for each of hundreds of runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHARLSTM_PLOT", "0")
        yield


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk():
    """Skip fsync, which takes minutes for thousands of small files; tests/faults.py models and checks it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda descriptor: None)
        yield


@pytest.fixture(params=BACKENDS, scope="session")
def ops(request):
    return load(request.param)


def load(name):
    """Load a backend's ops for NumPy arrays; without a GPU, GPU kernels run on the CPU."""
    if name == "cupy" and kernels.missing(name):
        return fake_cupy.load("kernels.gpu.host")
    return kernels.load_for_host(name)


@pytest.fixture(scope="session")
def ref():
    return kernels.load("numpy")


@pytest.fixture(params=BACKENDS)
def backend(request):
    return request.param


def made_up_text(length=3000, seed=5):
    """Make up a learnable text of short words, lines and punctuation."""
    random = np.random.RandomState(seed)
    words = ["".join(random.choice(list("abcdefgh"), random.randint(1, 6))) for _ in range(40)]
    out = []
    while sum(map(len, out)) < length:
        out.append(words[int(40 * random.random_sample() ** 3)] + (".\n" if random.random_sample() < 0.1 else " "))
    return "".join(out)[:length]


@pytest.fixture(scope="session")
def model():
    """Provide the checkpoint of a small trained model."""
    from charlstm.settings.config import from_preset
    from charlstm.text.corpus import Corpus
    from charlstm.training.trainer import Trainer

    config = from_preset(iterations=150, hidden_size=16, seq_length=8, batch_size=4, sample_every=0)
    trainer = Trainer(config, Corpus.from_text(made_up_text(), "book"))
    for _ in trainer.run():
        pass
    return trainer.checkpoint()


@pytest.fixture
def text_file(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text(made_up_text())
    return path


@pytest.fixture
def corpus():
    from charlstm.text.corpus import Corpus

    return Corpus.from_text(made_up_text(), "book")


@pytest.fixture
def saved(corpus, tmp_path):
    """Provide a run trained for twelve iterations."""
    from small_runs import finish, small

    from charlstm.runs.begin import start

    run = start(corpus, small(iterations=12, hidden_size=3, num_layers=1), str(tmp_path / "run"))
    finish(run)
    return run


@pytest.fixture
def charlstm_command(tmp_path):
    """Run the command line in its own process, in tmp_path; return the finished process."""

    def run(*arguments, stdin=b"", env=None, timeout=240):
        return subprocess.run(
            [sys.executable, "-m", "charlstm", *map(str, arguments)],
            input=stdin,
            capture_output=True,
            cwd=tmp_path,
            env={**os.environ, **(env or {})},
            timeout=timeout,
            check=False,
        )

    return run
