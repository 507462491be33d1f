"""Test the tests: the chain of trust must fail for every mistake planted in a copy of a backend's source."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import mutations
import pytest
from conftest import ROOT
from device import emulator
from mutations import MORE_MUTATIONS, MUTATIONS, Mutation, plant

NONE = "no mistake"
#: Numba compiles each mistake for half a minute, so that make test-long plants them.
QUICK = tuple(m for m in MUTATIONS if m.backend == "numpy")
OTHERS = (*(m for m in MUTATIONS if m not in QUICK), *MORE_MUTATIONS)
BACKENDS = ("numpy", "numba", "cupy")


def run_chain(mutation, folder):
    """Run the chain of trust in its own process against the mutated copy; return the finished process."""
    plant(mutation, folder)
    (folder / "pytest.ini").write_text("[pytest]\n")
    environment = {
        **os.environ,
        "PYTHONPATH": str(folder),
        "CHARLSTM_TEST_MUTANT": str(folder),
        "CHARLSTM_TEST_BACKEND": mutation.backend,
    }
    if mutation.name != NONE:  # the unchanged code may use the cache of the real package
        environment["NUMBA_CACHE_DIR"] = str(folder / "cache")
    options = ["-c", folder / "pytest.ini", "-p", "no:cacheprovider", "-x", "-q"]
    file = "test_gpu.py" if mutation.backend == "cupy" else "test_chain.py"
    file = "test_weight_drop.py" if mutation.file.endswith("weight_drop.py") else file
    file = "test_series.py" if mutation.file.endswith("/loss.py") or "series" in mutation.name else file
    is_mixed = mutation.file in ("cpu/mixed.py", "cpu/emit/rounding.py") or "mixed precision" in mutation.name
    tests = "mixed" if is_mixed else "not float32 and not original and not works_that and not mixed"
    chosen = ["-k", tests, ROOT / "tests" / "kernel" / file]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *map(str, options + chosen)],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip


def run_chains(mutations, tmp_path_factory):
    """Run the chain with each mutation, two at a time; return the finished processes by name and backend."""
    with ThreadPoolExecutor(2) as pool:
        jobs = {(m.name, m.backend): pool.submit(run_chain, m, tmp_path_factory.mktemp("mutant")) for m in mutations}
    return {key: job.result() for key, job in jobs.items()}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Run the quick mutations."""
    return run_chains(QUICK, tmp_path_factory)


@pytest.fixture(scope="module")
def more_outcomes(tmp_path_factory):
    """Run all others, and for each backend the unchanged source as a control."""
    controls = [Mutation(NONE, backend, "spec/__init__.py", "GATE_I", "GATE_I") for backend in BACKENDS]
    return run_chains(filter(can_run, (*controls, *OTHERS)), tmp_path_factory)


def can_run(mutation):
    return mutation.backend != "cupy" or emulator.COMPILER is not None


def name_of(mutation):
    return f"{mutation.name}-{mutation.backend}".replace(" ", "-")


def test_every_planted_mistake_has_its_place():
    for mutation in (*QUICK, *OTHERS):
        source = (ROOT / "kernels" / mutation.file).read_text("utf-8")
        assert mutation.right in source, mutation.name


def is_red(done):
    assert done.returncode == 1, done.stdout + done.stderr  # 1: tests ran and failed; 2 or more: they did not run
    assert "1 failed" in done.stdout


@pytest.mark.parametrize("mutation", QUICK, ids=name_of)
def test_a_planted_mistake_turns_the_chain_red(outcomes, mutation):
    is_red(outcomes[mutation.name, mutation.backend])


@pytest.mark.long
@pytest.mark.parametrize("mutation", OTHERS, ids=name_of)
def test_any_other_mistake_turns_it_red(more_outcomes, mutation):
    if not can_run(mutation):
        pytest.skip(emulator.REASON)
    is_red(more_outcomes[mutation.name, mutation.backend])


@pytest.mark.long  # test_chain.py itself has to be green
@pytest.mark.parametrize("backend", BACKENDS)
def test_without_a_mistake_it_is_green(more_outcomes, backend):
    if (NONE, backend) not in more_outcomes:
        pytest.skip(emulator.REASON)
    done = more_outcomes[NONE, backend]
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout


def test_every_backend_has_the_mutations():
    names = {m.name for m in MUTATIONS}
    assert len(names) == 5
    assert {(m.name, m.backend) for m in MUTATIONS} == {(n, b) for n in names for b in ("numpy", "numba")}


def test_a_mutation_that_no_longer_fits_the_source_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"spec/__init__\.py has no 'not there'"):
        plant(Mutation("lost", "numpy", "spec/__init__.py", "not there", ""), tmp_path)


def test_a_package_that_is_read_only_is_copied_to_be_changed(tmp_path, monkeypatch):
    installed = mutations.copied(tmp_path)
    for path in (installed, *installed.rglob("*")):
        path.chmod(path.stat().st_mode & ~0o222)
    monkeypatch.setattr(mutations.kernels, "__file__", str(installed / "__init__.py"))
    made = mutations.copied(tmp_path / "made")
    monkeypatch.undo()
    assert all(path.stat().st_mode & 0o200 for path in (made, *made.rglob("*")))
    for path in (installed, *installed.rglob("*/")):
        path.chmod(0o700)  # so that pytest can remove it
