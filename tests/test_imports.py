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
    "charlstm.presets": set(),
    "charlstm.budgets": {"charlstm.errors"},
    "charlstm.config": {
        "charlstm", "charlstm.budgets", "charlstm.errors", "charlstm.presets", "charlstm.unknown", "kernels.spec",
    },
    "charlstm.figures": set(),
    "charlstm.progress": {"charlstm.figures"},
    "charlstm.schedules": {"charlstm.config"},
    "charlstm.keywords": {"charlstm.corpus", "charlstm.errors", "charlstm.reading"},
    "charlstm.heldout": {"charlstm", "charlstm.corpus", "charlstm.errors", "charlstm.idcache"},
    "charlstm.places": set(),
    "charlstm.hints": set(),
    "charlstm.streams": set(),
    "charlstm.stopping": set(),
    "charlstm.data": {"charlstm", "charlstm.errors", "charlstm.places", "charlstm.terminals"},
    "charlstm.vocabulary": {"charlstm.unknown", "charlstm.encodings", "charlstm.errors"},
    "charlstm.weights": {"charlstm", "charlstm.data", "charlstm.errors", "charlstm.idcache", "charlstm.vocabulary"},
    "charlstm.known": {"charlstm.checkpoint", "charlstm.corpus", "charlstm.errors", "charlstm.sampler"},
    "charlstm.idcache": {"charlstm", "charlstm.data", "charlstm.vocabulary"},
    "charlstm.encoder": {"charlstm.idcache", "charlstm.vocabulary"},
    "charlstm.encodings": {"charlstm.errors"},
    "charlstm.markup": {"charlstm.errors"},
    "charlstm.tables": {"charlstm.errors"},
    "charlstm.archives": {"charlstm.encodings", "charlstm.errors", "charlstm.markup"},
    "charlstm.formats": {
        "charlstm", "charlstm.archives", "charlstm.encodings", "charlstm.errors", "charlstm.markup", "charlstm.tables",
    },
    "charlstm.reading": {"charlstm", "charlstm.data", "charlstm.encodings", "charlstm.errors", "charlstm.formats"},
    "charlstm.edges": {"charlstm.vocabulary"},
    "charlstm.unknown": {"charlstm.errors"},
    "charlstm.corpus": {
        "charlstm.weights",
        "charlstm", "charlstm.archives", "charlstm.data", "charlstm.edges", "charlstm.encodings", "charlstm.formats", "charlstm.encoder", "charlstm.errors", "charlstm.idcache", "charlstm.reading",
        "charlstm.unknown", "charlstm.vocabulary",
    },
    "charlstm.batches": {"charlstm.errors"},
    "charlstm.dropout": set(),
    "charlstm.machine": set(),
    "charlstm.ngram": {"charlstm", "charlstm.corpus", "charlstm.heldout", "charlstm.errors", "charlstm.figures"},
    "charlstm.initial": {"kernels", "kernels.spec"},
    "charlstm.forward": {"charlstm.errors", "kernels", "kernels.spec"},
    "charlstm.checkpoint": {
        "charlstm.config", "charlstm.corpus", "charlstm.edges", "charlstm.errors", "charlstm.evaluate", "charlstm.sampler", "kernels",
        "kernels.spec",
    },
    "charlstm.sampler": {
        "charlstm", "charlstm.checkpoint", "charlstm.config", "charlstm.edges", "charlstm.errors", "charlstm.forward",
        "charlstm.unknown", "charlstm.vocabulary", "kernels",
    },
    "charlstm.evaluate": {
        "charlstm", "charlstm.checkpoint", "charlstm.corpus", "charlstm.errors", "charlstm.figures", "charlstm.forward",
        "charlstm.sampler", "charlstm.unknown", "charlstm.vocabulary", "kernels", "kernels.spec",
    },
    "charlstm.trainer": {
        "charlstm.weights",
        "charlstm", "charlstm.batches", "charlstm.budgets", "charlstm.checkpoint", "charlstm.config", "charlstm.corpus",
        "charlstm.dropout", "charlstm.edges", "charlstm.errors", "charlstm.evaluate", "charlstm.forward", "charlstm.heldout", "charlstm.initial",
        "charlstm.machine", "charlstm.presets", "charlstm.progress", "charlstm.sampler", "charlstm.schedules", "kernels",
        "kernels.spec",
    },
    "charlstm.disk": set(),
    "charlstm.lock": {"charlstm.errors"},
    "charlstm.store": {"charlstm", "charlstm.checkpoint", "charlstm.disk", "charlstm.errors"},
    "charlstm.records": {"charlstm.config", "charlstm.figures", "charlstm.machine", "charlstm.progress"},
    "charlstm.run": {
        "charlstm.weights","charlstm.evaluate", "charlstm.plotting",
        "charlstm", "charlstm.checkpoint", "charlstm.config", "charlstm.corpus", "charlstm.data", "charlstm.disk",
        "charlstm.heldout", "charlstm.hints",
        "charlstm.errors", "charlstm.figures", "charlstm.lock", "charlstm.progress", "charlstm.reading", "charlstm.records",
        "charlstm.store", "charlstm.trainer",
    },
    "charlstm.inspection": {
        "charlstm", "charlstm.checkpoint", "charlstm.config", "charlstm.errors", "charlstm.records", "charlstm.store",
    },
    "charlstm.originals": {"charlstm.config", "charlstm.corpus", "charlstm.errors", "charlstm.progress", "charlstm.trainer"},
    "charlstm.limits": {"kernels.spec"},
    "charlstm.bench": {
        "charlstm", "charlstm.batches", "charlstm.corpus", "charlstm.errors", "charlstm.initial", "charlstm.limits",
        "kernels", "kernels.spec", "kernels.testing",
    },
    "charlstm.terminals": set(),
    "charlstm.plotting": {"charlstm.errors"},
    "charlstm.notebook": {"charlstm.display", "charlstm.progress"},
    "charlstm.display": {"charlstm.notebook", "charlstm.terminals", "kernels", "charlstm.figures", "charlstm.progress", "charlstm.records"},
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
        ("import charlstm.corpus; charlstm.corpus.load()", "numba cupy pooch requests rich"),
    ],
)
def test_what_is_not_loaded(program, absent):
    check = f"import sys\n{program}\nprint(sorted(set({absent.split()!r}) & set(sys.modules)), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == "[]"
