"""Who may import whom, and what must not be loaded before it is needed."""

import ast
import subprocess
import sys

import pytest
from conftest import ROOT

#: module -> the modules of this project that it may import (at any depth); a folder stands for all that is in it.
ALLOWED = {
    "kernels": {"kernels"},
    "charlstm.errors": set(),
    "charlstm.settings.presets": set(),
    "charlstm.settings.plans": {"charlstm.errors"},
    "charlstm.settings.config": {
        "charlstm", "charlstm.settings.plans", "charlstm.errors", "charlstm.settings.presets", "charlstm.settings.unknown", "kernels.spec",
    },
    "charlstm.figures": set(),
    "charlstm.training.progress": {"charlstm.figures"},
    "charlstm.training.schedules": {"charlstm.settings.config"},
    "charlstm.runs.keywords": {"charlstm.text.corpus", "charlstm.errors", "charlstm.text.reading"},
    "charlstm.text.heldout": {"charlstm", "charlstm.text.corpus", "charlstm.errors", "charlstm.text.idcache"},
    "charlstm.host.places": set(),
    "charlstm.show.hints": set(),
    "charlstm.host.streams": set(),
    "charlstm.training.stopping": set(),
    "charlstm.text.downloads": {"charlstm", "charlstm.errors", "charlstm.host.places", "charlstm.host.terminals"},
    "charlstm.text.vocabulary": {"charlstm.settings.unknown", "charlstm.text.encodings", "charlstm.errors"},
    "charlstm.text.weights": {"charlstm", "charlstm.text.downloads", "charlstm.errors", "charlstm.text.idcache", "charlstm.text.vocabulary"},
    "charlstm.model.known": {"charlstm.model.checkpoint", "charlstm.text.corpus", "charlstm.errors", "charlstm.model.sampling"},
    "charlstm.text.idcache": {"charlstm", "charlstm.text.downloads", "charlstm.text.vocabulary"},
    "charlstm.text.encoder": {"charlstm.text.idcache", "charlstm.text.vocabulary"},
    "charlstm.text.encodings": {"charlstm.errors"},
    "charlstm.text.markup": {"charlstm.errors"},
    "charlstm.text.tables": {"charlstm.errors"},
    "charlstm.text.archives": {"charlstm.text.encodings", "charlstm.errors", "charlstm.text.markup"},
    "charlstm.text.formats": {
        "charlstm", "charlstm.text.archives", "charlstm.text.encodings", "charlstm.errors", "charlstm.text.markup", "charlstm.text.tables",
    },
    "charlstm.text.reading": {"charlstm", "charlstm.text.downloads", "charlstm.text.encodings", "charlstm.errors", "charlstm.text.formats"},
    "charlstm.text.edges": {"charlstm.text.vocabulary"},
    "charlstm.settings.unknown": {"charlstm.errors"},
    "charlstm.text.corpus": {
        "charlstm.text.weights",
        "charlstm", "charlstm.text.archives", "charlstm.text.downloads", "charlstm.text.edges", "charlstm.text.encodings", "charlstm.text.formats", "charlstm.text.encoder", "charlstm.errors", "charlstm.text.idcache", "charlstm.text.reading",
        "charlstm.settings.unknown", "charlstm.text.vocabulary",
    },
    "charlstm.text.batches": {"charlstm.errors"},
    "charlstm.training.dropout": set(),
    "charlstm.host.machine": set(),
    "charlstm.ngram": {"charlstm", "charlstm.text.corpus", "charlstm.text.heldout", "charlstm.errors", "charlstm.figures"},
    "charlstm.model.initial": {"kernels", "kernels.spec"},
    "charlstm.model.forward": {"charlstm.errors", "kernels", "kernels.spec"},
    "charlstm.model.checkpoint": {
        "charlstm.settings.config", "charlstm.text.corpus", "charlstm.text.edges", "charlstm.errors", "charlstm.model.scoring", "charlstm.model.sampling", "kernels",
        "kernels.spec",
    },
    "charlstm.model.sampling": {
        "charlstm", "charlstm.model.checkpoint", "charlstm.settings.config", "charlstm.text.edges", "charlstm.errors", "charlstm.model.forward",
        "charlstm.settings.unknown", "charlstm.text.vocabulary", "kernels",
    },
    "charlstm.model.scoring": {
        "charlstm", "charlstm.model.checkpoint", "charlstm.text.corpus", "charlstm.errors", "charlstm.figures", "charlstm.model.forward",
        "charlstm.model.sampling", "charlstm.settings.unknown", "charlstm.text.vocabulary", "kernels", "kernels.spec",
    },
    "charlstm.training.trainer": {
        "charlstm.text.weights",
        "charlstm", "charlstm.text.batches", "charlstm.settings.plans", "charlstm.model.checkpoint", "charlstm.settings.config", "charlstm.text.corpus",
        "charlstm.training.dropout", "charlstm.text.edges", "charlstm.errors", "charlstm.model.scoring", "charlstm.model.forward", "charlstm.text.heldout", "charlstm.model.initial",
        "charlstm.host.machine", "charlstm.settings.presets", "charlstm.training.progress", "charlstm.model.sampling", "charlstm.training.schedules", "kernels",
        "kernels.spec",
    },
    "charlstm.runs.disk": set(),
    "charlstm.runs.lock": {"charlstm.errors"},
    "charlstm.runs.store": {"charlstm", "charlstm.model.checkpoint", "charlstm.runs.disk", "charlstm.errors"},
    "charlstm.runs.records": {"charlstm.settings.config", "charlstm.figures", "charlstm.host.machine", "charlstm.training.progress"},
    "charlstm.runs.run": {
        "charlstm.text.weights","charlstm.model.scoring", "charlstm.show.plotting",
        "charlstm", "charlstm.model.checkpoint", "charlstm.settings.config", "charlstm.text.corpus", "charlstm.text.downloads", "charlstm.runs.disk",
        "charlstm.text.heldout", "charlstm.show.hints",
        "charlstm.errors", "charlstm.figures", "charlstm.runs.lock", "charlstm.training.progress", "charlstm.text.reading", "charlstm.runs.records",
        "charlstm.runs.store", "charlstm.training.trainer",
    },
    "charlstm.runs.inspection": {
        "charlstm", "charlstm.model.checkpoint", "charlstm.settings.config", "charlstm.errors", "charlstm.runs.records", "charlstm.runs.store",
    },
    "charlstm.show.originals": {"charlstm.settings.config", "charlstm.text.corpus", "charlstm.errors", "charlstm.training.progress", "charlstm.training.trainer"},
    "charlstm.measure.limits": {"kernels.spec"},
    "charlstm.measure.bench": {
        "charlstm", "charlstm.text.batches", "charlstm.text.corpus", "charlstm.errors", "charlstm.model.initial", "charlstm.measure.limits",
        "kernels", "kernels.spec", "kernels.testing",
    },
    "charlstm.host.terminals": set(),
    "charlstm.show.plotting": {"charlstm.errors"},
    "charlstm.show.notebook": {"charlstm.show.display", "charlstm.training.progress"},
    "charlstm.show.display": {"charlstm.show.notebook", "charlstm.host.terminals", "kernels", "charlstm.figures", "charlstm.training.progress", "charlstm.runs.records"},
}  # fmt: skip
NEVER_SHIPPED = {"tests", "benchmarks", "torch", "jax", "pytest"}
ONLY_IN = {"cupy": "kernels/gpu", "numba": "kernels/cpu", "llvmlite": "kernels/cpu"}
FILES = sorted(path for top in ("kernels", "charlstm") for path in (ROOT / top).rglob("*.py"))


def imported(path):
    """Dotted names that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            if node.module in ("kernels", "charlstm"):
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_imports_follow_the_table(path):
    place = path.relative_to(ROOT).as_posix()
    names = set(imported(path))
    for name in names:
        top = name.partition(".")[0]
        assert top not in NEVER_SHIPPED, name
        assert place.startswith(ONLY_IN.get(top, place)), name
    module = place.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
    allowed = ALLOWED["kernels"] if module.startswith("kernels") else ALLOWED.get(module)
    if allowed is None:
        outermost = ("charlstm", "charlstm.__main__", "charlstm.api", "charlstm.cli")  # may import all
        assert module in outermost or module.startswith("charlstm.commands")
        return
    ours = {name for name in names if name.partition(".")[0] in ("kernels", "charlstm")}
    modules = {name for name in ours if (ROOT / (name.replace(".", "/") + ".py")).exists() or name in ALLOWED}
    if module.startswith("kernels"):
        assert not [name for name in ours if name.startswith("charlstm")]
    else:
        assert modules - {"kernels"} <= allowed


@pytest.mark.parametrize(
    ("program", "absent"),
    [
        ("from charlstm.cli import _guarded; _guarded(['--help'])", "numba cupy numpy rich matplotlib"),
        ("from charlstm.cli import _guarded; _guarded(['train', '--help'])", "numba cupy numpy rich matplotlib"),
        ("from charlstm.cli import _guarded; _guarded(['--version'])", "numba cupy numpy rich matplotlib"),
        ("import kernels; kernels.available()", "numba cupy numpy"),
        ("import kernels; kernels.load('numpy')", "numba cupy"),
        ("import charlstm", "numba cupy numpy click"),
        ("import charlstm.text.corpus; charlstm.text.corpus.load()", "numba cupy pooch requests rich"),
    ],
)
def test_what_is_not_loaded(program, absent):
    check = f"import sys\n{program}\nprint(sorted(set({absent.split()!r}) & set(sys.modules)), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == "[]"
