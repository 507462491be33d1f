"""Import rules: which modules may import which, and which packages must load only when needed."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter

import pytest
from conftest import ROOT

#: The layers (floors), lowest first. A module may import from its own package (room) and from any lower layer.
FLOORS = (
    {"charlstm.errors", "charlstm.figures", "charlstm.host"},
    {"charlstm.settings"},
    {"charlstm.text"},
    {"charlstm.ngram"},
    {"charlstm.model"},
    {"charlstm.training"},
    {"charlstm.show"},
    {"charlstm.runs"},
    {"charlstm.measure", "charlstm.travel", "charlstm.api", "charlstm.cluster"},
    {"charlstm.commands"},
    {"charlstm.cli"},
    {"charlstm.__main__"},
)
#: charlstm may import kernels, kernels.spec and kernels.testing; kernels import neither charlstm nor other backends.
KERNELS = {
    "charlstm": {"kernels", "kernels.spec", "kernels.testing"},
    "kernels": {"kernels.shared", "kernels.protocol", "kernels.gpu.presence", "kernels.gpu.choice"},
    "kernels.protocol": {"kernels.spec"},
    "kernels.shared": set(),
    "kernels.spec": {"kernels.shared"},
    "kernels.reference": {"kernels.spec"},
    "kernels.cpu": {"kernels.spec", "kernels.shared"},
    "kernels.bidirectional": {"kernels.spec", "kernels.protocol"},
    "kernels.gpu": {"kernels.spec", "kernels.shared"},
    "kernels.testing": {"kernels.spec", "kernels.protocol"},
    "kernels.torch": {"kernels", "kernels.spec"},
    "kernels.jax": {"kernels", "kernels.spec"},
}
NEVER_SHIPPED = {"tests", "benchmarks", "pytest"}
ONLY_IN = {
    "cupy": ("kernels/gpu",),
    "numba": ("kernels/cpu",),
    "llvmlite": ("kernels/cpu",),
    "torch": ("charlstm/travel/tensors.py", "kernels/torch.py"),
    "onnx": ("charlstm/travel/onnx.py",),
    "h5py": ("charlstm/travel/keras.py",),
    "jax": ("kernels/jax.py",),
    "mpi4py": ("charlstm/training/world.py",),
    "optuna": ("charlstm/cluster",),
    "keras": (),
}
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for top in ("kernels", "charlstm")
    for path in (ROOT / top).rglob("*.py")
}
LEVEL = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}


def room(module):
    """Return a module's room: its package below charlstm or kernels, or the module itself at top level."""
    return ".".join(module.split(".")[:2])


def imported(path):
    """Return the dotted names of this project's modules that a file imports anywhere."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in FILES else node.module for name in inside)


@pytest.mark.parametrize("module", sorted(FILES))
def test_imports_go_down(module):
    place = FILES[module].relative_to(ROOT).as_posix()
    for name in set(imported(FILES[module])):
        top, own = name.partition(".")[0], room(module)
        assert top not in NEVER_SHIPPED, name
        assert place.startswith(ONLY_IN.get(top, (place,))), name
        if top == "kernels":
            allowed = KERNELS["charlstm" if module.startswith("charlstm") else own]
            assert room(name) == own or name in allowed or room(name) in allowed - {"kernels"}, name
        elif top == "charlstm" and module != "charlstm" and room(name) != own:
            assert name != "charlstm", "the door is for those who come from outside"
            assert LEVEL[room(name)] < LEVEL[own], name


def test_no_circles():
    arrows = {module: set(imported_at_once(path)) & set(FILES) - {module} for module, path in FILES.items()}
    TopologicalSorter(arrows).prepare()  # raises CycleError


def test_benchmarks_have_no_circles_not_even_inside_functions():
    files = {f"benchmarks.{path.stem}": path for path in (ROOT / "benchmarks").glob("*.py")}
    arrows = {}
    for module, path in files.items():
        names = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        inside = {f"{node.module}.{alias.name}" for node in names for alias in node.names}
        arrows[module] = ({node.module for node in names} | inside) & set(files) - {module}
    assert arrows["benchmarks.report"]  # the scan must find imports at all
    TopologicalSorter(arrows).prepare()  # raises CycleError


def imported_at_once(path):
    """Return the imports that a module makes when loaded or for type checking, not those inside functions."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in FILES else node.module for name in inside)


def test_public_names_are_found_where_they_once_stood():
    """Each runs in its own process, so that the first import uses the old name."""
    program = (
        "from charlstm.batches import Windows; from charlstm.checkpoint import Checkpoint, load; import charlstm.config\n"
        "assert load is __import__('charlstm').load\n"
        "from charlstm.corpus import Corpus; from charlstm.trainer import Trainer; from charlstm import run, progress\n"
        "import charlstm, charlstm.text.batches, pickle\n"
        "assert Windows is charlstm.text.batches.Windows and Checkpoint is charlstm.Checkpoint\n"
        "assert Trainer is charlstm.Trainer and Corpus is charlstm.Corpus and run.Run is charlstm.Run\n"
        "assert charlstm.config.Config is charlstm.Config and pickle.loads(pickle.dumps(Windows)) is Windows\n"
        "assert charlstm.text.batches.__spec__.name == 'charlstm.text.batches'\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("program", "absent"),
    [
        ("from charlstm.cli import _guarded; _guarded(['--help'])", "numba cupy numpy rich matplotlib"),
        ("from charlstm.cli import _guarded; _guarded(['train', '--help'])", "numba cupy numpy rich matplotlib"),
        ("from charlstm.cli import _guarded; _guarded(['--version'])", "numba cupy numpy rich matplotlib"),
        ("from charlstm.cli import _guarded; _guarded(['compare', '--help'])", "numba cupy numpy rich matplotlib"),
        ("import charlstm.api, charlstm.runs.begin", "matplotlib tensorboardX mpi4py"),
        ("from charlstm.training.world import joined; joined()", "mpi4py"),
        ("import charlstm.cluster.sweep", "optuna matplotlib"),
        ("import charlstm.travel.files", "torch onnx h5py keras matplotlib"),
        ("import kernels; kernels.available()", "numba cupy numpy"),
        ("import kernels; kernels.load('numpy')", "numba cupy torch jax"),
        ("import charlstm", "numba cupy numpy click"),
        ("import charlstm.text.corpus; charlstm.text.corpus.load()", "numba cupy pooch requests rich"),
    ],
)
def test_what_is_not_loaded(program, absent):
    check = f"import sys\n{program}\nprint(sorted(set({absent.split()!r}) & set(sys.modules)), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == "[]"
