"""The distribution: wheel and sdist build, and the wheel trains and samples without the source tree."""

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from configparser import ConfigParser
from pathlib import Path

import oldest
import portable
import pytest
from conftest import ROOT, made_up_text

OURS = sorted(p.relative_to(ROOT).as_posix() for top in ("kernels", "charlstm") for p in (ROOT / top).rglob("*.py"))

PAGE = sorted(
    p.relative_to(ROOT).as_posix()
    for p in (ROOT / "charlstm" / "show" / "report").iterdir()
    if p.suffix != ".py" and p.is_file()
)
CUDA = sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / "kernels" / "gpu" / "cuda").glob("*.cu"))


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Build wheel and sdist without a network from a copy of the tracked and new files."""
    out, source = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("source")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],  # noqa: S607
        cwd=ROOT, capture_output=True, check=False,
    ).stdout.decode().split("\0")  # fmt: skip
    if listed == [""]:
        pytest.skip("not a git checkout")
    for name in filter(None, listed):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)],
        check=True, capture_output=True, env={**os.environ, "PYTHONWARNINGS": "default"},
    )  # fmt: skip
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return wheel, sdist


def test_the_wheel_holds_the_packages_and_nothing_else(built):
    with zipfile.ZipFile(built[0]) as wheel:
        names = wheel.namelist()
    code = sorted(name for name in names if ".dist-info/" not in name)
    assert [name for name in code if name.endswith(".py")] == OURS
    assert [name for name in code if not name.endswith(".py")] == [
        "charlstm/py.typed",
        *PAGE,
        *CUDA,
        "kernels/py.typed",
    ]
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_sdist_holds_the_sources(built):
    with tarfile.open(built[1]) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert {*OURS, *PAGE, *CUDA, "setup.cfg", "pyproject.toml", "README.md", "LICENSE"} <= names


def test_the_installed_wheel_trains_and_samples_outside_the_source_tree(built, tmp_path):
    """The environment is fresh; a path file provides the dependencies, because there may be no network."""
    place = tmp_path / "fresh"
    venv.create(place, with_pip=False, symlinks=os.name != "nt")
    scripts = place / ("Scripts" if os.name == "nt" else "bin")
    (packages,) = [p for p in place.rglob("site-packages") if p.is_dir() and "lib64" not in p.parts]
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check",
         "--prefix", str(place), "--ignore-installed", str(built[0])],
        check=True, capture_output=True,
    )  # fmt: skip
    (packages / "libraries.pth").write_text("\n".join(p for p in sys.path if p.endswith("site-packages")) + "\n")
    (tmp_path / "book.txt").write_text(made_up_text())
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}

    def run(*command):
        return subprocess.run(
            [str(word) for word in command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        ).stdout

    where = run(scripts / "python", "-c", "import kernels, charlstm; print(kernels.__file__, charlstm.__file__)")
    assert all(Path(path).is_relative_to(place) for path in where.split())
    command = (scripts / "python", "-m", "charlstm")
    assert run(*command, "--version").startswith("charlstm, version ")
    run(*command, "train", "book.txt", "--iterations", 20, "--hidden-size", 8, "--quiet")
    assert run(*command, "report", "runs/book").split() == [str(Path("runs", "book", "report.html"))]
    assert len(run(*command, "sample", "runs/book", "--length", 40, "--seed", 1)) == 40
    assert (scripts / ("charlstm.exe" if os.name == "nt" else "charlstm")).exists()


def test_each_fact_stands_once():
    assert "project" not in tomllib.loads((ROOT / "pyproject.toml").read_text())  # it overrides setup.cfg
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    packages = setup["options"]["packages"].split()
    assert packages == sorted({Path(name).parent.as_posix().replace("/", ".") for name in OURS}, key=packages.index)
    version = setup["metadata"]["version"]
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(rf"^## \[({re.escape(version)}|Unreleased)\]", changes, re.M)


def test_the_pythons_that_are_declared_are_those_that_are_tested():
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    declared = re.findall(r":: Python :: (3\.\d+)$", setup["metadata"]["classifiers"], re.M)
    assert declared == [f"3.{minor}" for minor in portable.MINORS]
    workflow = (ROOT / ".github" / "workflows" / "tests.yml").read_text("utf-8")
    assert re.findall(r"^ +python: \[(.*)\]$", workflow, re.M)[0].replace('"', "").split(", ") == declared


def test_each_lower_bound_can_be_pinned():
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    needed = setup["options"]["install_requires"].split("\n")[1:]
    pinned = oldest.pinned("\n".join(needed))
    assert [re.match(r"[\w-]+", line)[0] for line in pinned] == [re.match(r"[\w-]+", line)[0] for line in needed]
    assert oldest.pinned("numba >=0.63,<0.70\ntorch") == ["numba ==0.63"]


def test_the_two_commands_of_the_readme_are_targets_of_the_makefile():
    readme, makefile = (ROOT / "README.md").read_text(), (ROOT / "Makefile").read_text()
    for target in ("demo", "test"):
        assert re.search(rf"^make {target}\b", readme, re.M)
        assert re.search(rf"^{target}:", makefile, re.M)
    assert re.search(r"^make test$", (ROOT / ".ci" / "run").read_text(), re.M)
