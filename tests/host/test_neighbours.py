"""Hugging Face's package `kernels` over ours, and ours over it."""

import os
import shutil
import subprocess
import sys
import zipfile

import pytest
from conftest import ROOT

WAY = "pip uninstall kernels, then install charlstm again; to have both, give each an environment of its own"


def run(folder, *arguments):
    """Run Python with a folder of packages before all others."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(folder / "site"), "PYTHONUTF8": "1"},
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def site(tmp_path):
    """Provide a folder with a copy of our packages, and the metadata of theirs."""
    for package in ("kernels", "charlstm"):
        shutil.copytree(ROOT / package, tmp_path / "site" / package, ignore=shutil.ignore_patterns("__pycache__"))
    about = tmp_path / "site" / "kernels-0.17.2.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: kernels\nVersion: 0.17.2\n")
    return tmp_path / "site"


def is_told(folder):
    """Check what users see when theirs hides ours."""
    line = f"'import kernels' finds Hugging Face's kernels 0.17.2 in {folder / 'site' / 'kernels'}, which hides charlstm's: {WAY}"
    for arguments in (["info"], ["train", "book.txt"], ["--help"]):
        assert run(folder, "-m", "charlstm", *arguments) == (2, "", f"charlstm: {line}\n")
    code, _, told = run(folder, "-c", "import charlstm; charlstm.train('book.txt')")
    assert (code, told.splitlines()[-1]) == (1, f"ImportError: {line}")


def test_theirs_over_ours(site):
    (site / "kernels" / "__init__.py").write_text("import kernels._rust\n")
    is_told(site.parent)


def test_ours_over_theirs(site):
    code, told, _ = run(site.parent, "-m", "charlstm", "info")
    assert code == 0
    assert f"kernels      Hugging Face's kernels 0.17.2 is installed, too, and broken by charlstm's: {WAY}\n" in told


def test_ours_alone(site):
    shutil.rmtree(site / "kernels-0.17.2.dist-info")
    code, told, _ = run(site.parent, "-m", "charlstm", "info")
    assert (code, "Hugging Face" in told) == (0, False)


def test_ours_missing(site):
    shutil.rmtree(site / "kernels")
    said = "charlstm: the package kernels, which is part of charlstm, is missing: install charlstm again\n"
    assert run(site.parent, "-S", "-m", "charlstm", "info") == (2, "", said)


@pytest.mark.peers
def test_the_real_package(site):
    pytest.importorskip("torch", reason="only in the environment of make test-peers, which may use an index")
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", site.parent, "kernels==0.17.2"],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    if done.returncode:
        pytest.skip(f"no package index is in reach: {done.stderr.strip().splitlines()[-1]}")
    (wheel,) = site.parent.glob("kernels-*.whl")
    shutil.rmtree(site / "kernels-0.17.2.dist-info")
    with zipfile.ZipFile(wheel) as opened:
        opened.extractall(site)  # as pip does, over what is there
    is_told(site.parent)
    shutil.copytree(
        ROOT / "kernels", site / "kernels", dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__")
    )
    test_ours_over_theirs(site)
