"""Check kernels/gpu against the CuPy that is installed (extra gpu-test), without a GPU or a driver.

The other tests run kernels/gpu on a stand-in for CuPy, tests/device/fake_cupy.py; these compare the stand-in with CuPy.
"""

import ast
import ctypes
import inspect
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from pkgutil import resolve_name

import numpy as np
import pytest
import test_gpu_compile as compiling
from conftest import ROOT
from device import emulator, fake_cupy, nvrtc

from kernels.gpu import presence

pytestmark = [
    pytest.mark.skipif(find_spec("cupy") is None, reason="needs CuPy: pip install cupy-cuda13x (extra gpu-test)"),
    pytest.mark.skipif(
        presence._driver() is not None, reason="needs a machine without NVIDIA's driver: here, make gpu-test"
    ),
]
#: Tests of test_gpu.py that take longer than they would tell here.
LEFT_OUT = "central_differences or refused_and_accepted or several_iterations or that_are_measured or our_own_trace"


def run(program, **environment):
    return subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests"))), **environment},
    )  # fmt: skip


def test_without_a_driver_it_is_imported_and_is_no_backend():
    program = "import cupy, kernels\nassert not cupy.cuda.is_available()\nkernels.load('cupy')"
    done = run(program)
    said = done.stderr.strip().splitlines()[-1]
    assert said.startswith("kernels.shared.BackendUnavailable: the cupy backend needs the NVIDIA driver"), done.stderr


# ------------------------------------------------------------------------------------------------------ what we use
def used_names():
    """Yield the dotted names of CuPy that kernels/gpu uses, with its file."""
    for path in sorted((ROOT / "kernels" / "gpu").glob("*.py")):
        tree, known = ast.parse(path.read_text()), {}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                known |= {alias.name: alias.name for alias in node.names if alias.name == "cupy"}
            elif isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] == "cupy":
                known |= {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        for node in ast.walk(tree):  # runtime = cupy.cuda.runtime
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and dotted(node.value, known):
                known[node.targets[0].id] = dotted(node.value, known)
        yield from {(path.name, name) for node in ast.walk(tree) if (name := dotted(node, known))}


def dotted(node, known):
    if isinstance(node, ast.Name):
        return known.get(node.id)
    owner = dotted(node.value, known) if isinstance(node, ast.Attribute) else None
    return owner and f"{owner}.{node.attr}"


def exists(name):
    if name.startswith("cupy.cuda.cublas"):  # it cannot be imported without NVIDIA's library, of 450 MB
        library = find_spec("cupy_backends.cuda.libs.cublas").origin
        return name.rpartition(".")[2].encode() in Path(library).read_bytes()
    try:
        resolve_name(name)
    except AttributeError:
        return False
    return True


def test_every_name_that_we_use_exists():
    names = set(used_names())
    missing = sorted((file, name) for file, name in names if not exists(name))
    assert not missing
    found = {name for _, name in names}
    assert found > {"cupy.ndarray", "cupy.cuda.Stream", "cupy.cuda.runtime.cudaDevAttrCooperativeLaunch"}
    assert not exists("cupy.cuda.runtime.cudaDevAttrCooperativeLunch")
    assert not exists("cupy.cuda.cublas.CUBLASErrr")


def test_the_stand_in_has_nothing_that_cupy_lacks():
    modules = fake_cupy._modules()
    names = [f"{module}.{name}" for module in modules for name in vars(modules[module]) if not name.startswith("__")]
    cuda = modules["cupy.cuda"]
    names += [f"cupy.cuda.{part}.{name}" for part in ("runtime", "driver") for name in vars(getattr(cuda, part))]
    names += [f"cupy.cuda.Stream.{name}" for name in vars(fake_cupy.Stream) if not name.startswith("__")]
    names += [f"cupy.ndarray.{name}" for name in ("data", "get", "max", "min", "device", "flags", "nbytes")]
    assert [name for name in names if not exists(name)] == []
    assert len(names) > 30


def parameters(function):
    """Return the names of a function's parameters; Cython's are in the first line of the docstring."""
    try:
        return list(inspect.signature(function).parameters)
    except ValueError:
        head = re.search(r"\((.*?)\)(?: ->|$)", function.__doc__.splitlines()[0])[1]
        return [part.partition("=")[0].split()[-1].lstrip("*") for part in head.split(", ") if part != "*"]


def test_calls_of_the_stand_ins_are_calls_of_cupy():
    import cupy
    from device import real_arrays

    for name in ("asarray", "empty", "empty_like", "zeros"):
        theirs = parameters(getattr(cupy, name))
        for stand_in in (fake_cupy, real_arrays):
            ours = parameters(getattr(stand_in, name))
            assert len(ours) <= len(theirs), name
            assert set(ours[1:]) <= set(theirs), name
    for name in ("get", "copy", "fill", "min", "max"):
        assert parameters(getattr(real_arrays.Array, name)) == parameters(getattr(cupy.ndarray, name)), name
    ours = {name for name in parameters(fake_cupy.RawModule.__init__) if name != "self"}
    assert ours <= set(parameters(cupy.RawModule))


# --------------------------------------------------------------------------------------------------- what it passes
@pytest.mark.parametrize(
    ("value", "kind"),
    [(np.int32(-7), "i4"), (np.int64(-(2**40)), "i8"), (np.uint32(2**32 - 3), "u4"), (np.float32(1 / 3), "f4"),
     (np.float64(1 / 3), "f8"), (np.bool_(True), "b1"), (5, "i8"), (0.1, "f8"), (True, "b1")],
)  # fmt: skip
def test_a_scalars_bytes_are_those_that_the_emulator_passes(value, kind):
    from cupy._core._scalar import CScalar

    wanted = emulator.Function._value(type("Kernel", (), {"name": "k"})(), 0, value, kind).tobytes()
    passed = CScalar(value)
    assert ctypes.string_at(passed.ptr, len(wanted)) == wanted == np.array(value, kind).tobytes()


@pytest.mark.skipif(nvrtc.wheel() is None, reason=nvrtc.REASON)
@pytest.mark.parametrize("file", ["persistent", "small"])
def test_cupy_compiles_with_the_options_that_are_tested(monkeypatch, file):
    """Only the question for the GPU's architecture is answered here; loading the result then needs a driver."""
    from cupy._core import core
    from cupy.cuda import compiler

    monkeypatch.setenv("CUPY_CACHE_IN_MEMORY", "1")
    monkeypatch.setattr(compiler, "_get_arch", lambda: "90")
    monkeypatch.setattr(compiler, "_get_arch_for_options_for_nvrtc", lambda arch=None: (f"-arch=sm_{arch}", "cubin"))
    plain, made = compiler._NVRTCProgram.compile, []

    def noted(program, options=(), log_stream=None):
        made.append((options, plain(program, options, log_stream)[0]))
        return made[-1][1], None

    monkeypatch.setattr(compiler._NVRTCProgram, "compile", noted)
    sizes = {"small": compiling.block("float32", 20, "adagrad")[2], "persistent": compiling.CONSTANTS["persistent"][0]}[
        file
    ]
    ours = (*compiling.OPTIONS, "-DREAL=float", *(f"-D{name}={value}" for name, value in sizes))
    with pytest.raises(RuntimeError, match="cudaErrorInsufficientDriver"):
        core.compile_with_cache(compiling.source(file), ours, prepend_cupy_headers=False)
    options, code = made[-1]
    assert code.startswith(b"\x7fELF")
    options = [option for option in options if not option.startswith("-I")]  # our source includes nothing
    assert sorted(options) == sorted((*ours, *nvrtc.CUPYS, "-arch=sm_90"))


def test_cudas_errors_are_one_line():
    from cupy.cuda import compiler, nvrtc, runtime

    line = fake_cupy.load("kernels.gpu.failures")._line
    illegal = runtime.CUDARuntimeError(700)
    assert line(illegal) == "cudaErrorIllegalAddress: an illegal memory access was encountered (code 700)"
    assert line(runtime.CUDARuntimeError(2)).startswith("cudaErrorMemoryAllocation: ")
    assert line(nvrtc.NVRTCError(6)) == "NVRTC_ERROR_COMPILATION (6) (code 6)"
    told = compiler.CompileException("\nkernels.cu(3): error: no header\n1 error", "source", "name", ())
    assert line(told) == "kernels.cu(3): error: no header"


# ------------------------------------------------------------------------------------------------ CuPy's own arrays
def test_views_of_its_arrays_over_host_memory_are_its_own():
    import cupy
    from device import real_arrays

    whole = real_arrays.asarray(np.arange(24.0).reshape(2, 3, 4))
    part = whole[1, ::2]
    assert isinstance(part, cupy.ndarray)
    assert part.data.ptr - whole.data.ptr == 12 * 8
    assert (part.strides, part.flags.c_contiguous, part.shape) == ((64, 8), False, (2, 4))
    part[0] = real_arrays.zeros((4,))
    assert whole.get()[1].tolist() == [[0] * 4, [16, 17, 18, 19], [20, 21, 22, 23]]
    assert np.isnan(real_arrays.empty((3,)).get()).all()
    assert not real_arrays.asarray(np.zeros((2, 3)).T).flags.c_contiguous
    with pytest.raises(TypeError, match="Unsupported type <class 'numpy.ndarray'>"):
        part[0] = np.zeros(4)
    with pytest.raises(RuntimeError, match="cudaErrorInsufficientDriver"):
        _ = whole + whole  # nothing but what real_arrays.py lists is done without a GPU


@pytest.mark.skipif(emulator.COMPILER is None, reason=emulator.REASON)
def test_the_backend_over_cupys_own_arrays():
    program = f"""
import sys, cupy, pytest
code = pytest.main(["-q", "-p", "no:cacheprovider", "tests/kernel/test_gpu.py", "-k", "not ({LEFT_OUT})"])
from kernels.gpu import launch
(kind,) = launch.DEVICE.types
assert issubclass(kind, cupy.ndarray)
sys.exit(code)
"""
    done = run(program, CHARLSTM_TEST_ARRAYS="cupy", CHARLSTM_TEST_BACKEND="cupy")
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 150, done.stdout
    assert "skipped" not in done.stdout
