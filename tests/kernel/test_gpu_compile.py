"""Compile the CUDA source with NVRTC for every architecture; check registers, spills, shared memory and PTX."""

import re
from functools import cache
from pathlib import Path

import pytest
from conftest import ROOT
from device import emulator, nvrtc

from kernels import spec
from kernels.gpu.block import defines, rule_defines

pytestmark = pytest.mark.skipif(nvrtc.wheel() is None, reason=nvrtc.REASON)

FOLDER = ROOT / "kernels" / "gpu" / "cuda"
ARCHITECTURES = [75, pytest.param(80, marks=pytest.mark.long), pytest.param(86, marks=pytest.mark.long),
                 pytest.param(89, marks=pytest.mark.long), 90, pytest.param(100, marks=pytest.mark.long), 120]  # fmt: skip
OPTIONS = ("--std=c++17", "--prec-div=false", "--prec-sqrt=false")
REALS = {"float32": "float", "float64": "double"}

#: Limits for each kernel on any architecture, with the compiler that extra gpu-test pins: registers in float32 and in
#: float64, and bytes of static shared memory in float64 (float32 needs no more).
BUDGETS = {
    "cells": {
        "lstm_cell": (42, 39, 0), "lstm_cell_back": (40, 40, 0), "gru_cell": (38, 41, 0), "gru_cell_back": (40, 38, 0),
        "rnn_cell": (18, 24, 0), "rnn_cell_back": (24, 26, 0),
    },
    "model": {
        "gather_ids_1": (36, 36, 0), "gather_ids_2": (36, 36, 0), "gather_ids_4": (36, 36, 0), "table_rows": (38, 38, 0),
        "embedded": (38, 38, 0), "repeated": (35, 35, 0), "one_hot": (38, 38, 0), "dropped": (30, 30, 0),
        "rounded_to_bfloat16": (28, 28, 0), "cleared": (26, 26, 0), "cross_entropy": (54, 56, 0), "log_probs": (56, 58, 0),
        "sum_in_double": (32, 42, 2048), "column_sums": (42, 56, 2048),
    },
    "clipping": {"norm_panels": (15, 14, 2048), "norm_factor": (42, 42, 2048), "clip": (26, 32, 0)},
    "persistent": {"lstm_steps": (138, 196, 0), "lstm_steps_back": (184, 214, 0)},
    "training": {
        "begin_iteration": (48, 48, 0), "judge": (32, 32, 0), "carry": (38, 38, 0), "hide_weights": (40, 40, 0),
        "put_weights_back": (36, 36, 0),
    },
    "sample": {"draw": (64, 64, 3084)},
}  # fmt: skip
#: Limits on the registers of the update kernel, by optimizer: float32 and float64.
UPDATES = {
    "sgd": (34, 36),
    "momentum": (36, 40),
    "adagrad": (40, 48),
    "rmsprop": (40, 48),
    "adam": (40, 52),
    "adamw": (42, 54),
}
#: Kernels that compute sums or probabilities in double for both dtypes, for the contract or for exactness.
IN_DOUBLE = {"sum_in_double", "log_probs", "norm_panels", "norm_factor", "draw", "judge"}
#: The compile-time constants of a file.
CONSTANTS = {"persistent": [(("UNITS", 4),), (("UNITS", 8),)], "cells": [(), (("MIXED", 1),)]}
#: Double-precision instructions in the small-model block kernel: the smoothed loss, once per iteration.
BLOCKS_DOUBLES = 12


def source(file):
    return (FOLDER / "common.cu").read_text() + (FOLDER / f"{file}.cu").read_text()


@cache
def compiled(file, dtype, architecture, defines=()):
    constants = (f"-D{name}={value}" for name, value in defines)
    return nvrtc.compiled(source(file), (*OPTIONS, f"-DREAL={REALS[dtype]}", *constants), architecture)


def instructions(ptx, kernel):
    """Return a kernel's PTX without declarations."""
    body = ptx[ptx.index(f".entry {kernel}(") :]
    return re.sub(r"\.(reg|shared)[^;]*;", "", body[body.index("{") : body.index("\n}")])


def doubles(ptx, kernel):
    return len(re.findall(r"^\s*(?:@!?%p\d+\s+)?\w[\w.]*\.f64\b", instructions(ptx, kernel), re.MULTILINE))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", REALS)
@pytest.mark.parametrize("file", BUDGETS)
def test_kernels_keep_their_budget(file, dtype, architecture):
    for constants in CONSTANTS.get(file, [()]):
        if dtype == "float64" and ("MIXED", 1) in constants:
            continue
        found = compiled(file, dtype, architecture, constants)
        assert set(found.kernels) == set(BUDGETS[file])
        for name, kernel in found.kernels.items():
            registers, shared = BUDGETS[file][name][list(REALS).index(dtype)], BUDGETS[file][name][2]
            assert kernel.registers <= registers, name
            assert kernel.shared <= shared, name
            assert (kernel.spilled, kernel.stack) == (0, 0), name
            if dtype == "float32" and name not in IN_DOUBLE:
                assert doubles(found.ptx, name) == 0, name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", REALS)
@pytest.mark.parametrize("optimizer", spec.OPTIMIZERS)
def test_updates_keep_their_budget(optimizer, dtype, architecture):
    found = compiled("optimizers", dtype, architecture, tuple(rule_defines(optimizer).items()))
    assert set(found.kernels) == {"update", "update_in_turn"}
    for name, kernel in found.kernels.items():
        assert kernel.registers <= UPDATES[optimizer][list(REALS).index(dtype)]
        assert (kernel.shared, kernel.spilled, kernel.stack) == (0, 0, 0)
        assert dtype == "float64" or doubles(found.ptx, name) == 0


def block(dtype, H, rule, shared=7, T=16, V=71):
    """Return the arguments with which small.cu is compiled."""
    return "small", dtype, tuple(defines(H, T, V, rule, shared).items())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(
    ("dtype", "H", "rule", "spilled"),
    [
        ("float32", 112, "adagrad", 0), ("float32", 100, "adagrad", 0), ("float32", 112, "adam", 0),
        pytest.param("float32", 56, "adagrad", 0, marks=pytest.mark.long),
        pytest.param("float32", 20, "rmsprop", 0, marks=pytest.mark.long),
        pytest.param("float32", 104, "momentum", 0, marks=pytest.mark.long),
        pytest.param("float64", 72, "adagrad", 0, marks=pytest.mark.long),
    ],
)  # fmt: skip
def test_the_small_models_block_holds_its_weights_in_registers(dtype, H, rule, spilled, architecture):
    file, dtype, defines = block(dtype, H, rule)
    found = compiled(file, dtype, architecture, defines)
    (kernel,) = found.kernels.values()
    threads = 32 * dict(defines)["WARPS"]
    assert kernel.registers * threads <= 65536
    assert kernel.spilled <= spilled
    assert kernel.stack == 0
    assert kernel.shared <= 16
    if dtype == "float32":
        assert 0 < doubles(found.ptx, "train_small") <= BLOCKS_DOUBLES


@pytest.mark.parametrize("file", [*BUDGETS, "small", "optimizers"])
def test_no_memory_is_read_as_if_nobody_wrote_it(file):
    """ld.global.nc reads through a cache that misses writes; no kernel may rely on memory staying unwritten."""
    known = {"small": block("float32", 112, "adagrad")[2], "optimizers": tuple(rule_defines("adam").items())}
    known["persistent"] = CONSTANTS["persistent"][0]
    found = compiled(file, "float32", 90, known.get(file, ()))
    assert "ld.global.nc" not in found.ptx


def test_the_launcher_compiles_what_is_tested_here():
    """The launcher uses the same options, apart from those that CuPy adds, and every file has limits here."""
    if emulator.COMPILER is None:
        pytest.skip(emulator.REASON)
    from conftest import load

    load("cupy")
    from kernels.gpu import launch

    assert launch.options("float32", {"HIDDEN": 3}) == (*OPTIONS, "-DREAL=float", "-DHIDDEN=3")
    assert launch.source("cells") == source("cells")
    assert {path.stem for path in Path(FOLDER).glob("*.cu")} == {*BUDGETS, "small", "optimizers", "common"}


def test_the_compiler_is_the_one_that_the_budgets_are_of():
    extras = (ROOT / "setup.cfg").read_text()
    assert f"{nvrtc.PACKAGE} =={nvrtc.wheel()}" in extras, "another compiler: its registers are not those of the table"


def test_spills_and_doubles_are_seen():
    """Check the checks: a block that is too large spills registers, and a double instruction is counted."""
    found = compiled("small", "float32", 90, block("float32", 126, "adagrad")[2])
    assert found.kernels["train_small"].spilled > 0
    wrong = nvrtc.compiled('typedef float real;\nextern "C" __global__ void f(real* a) { a[0] *= 1.1; }', (), 90)
    assert doubles(wrong.ptx, "f") > 0
    nc = nvrtc.compiled('extern "C" __global__ void f(const float* __restrict__ a, float* b) { b[0] = a[0]; }', (), 90)
    assert "ld.global.nc" in nc.ptx
