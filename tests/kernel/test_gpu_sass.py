"""Check what a GPU executes (SASS): no memory for registers, fused multiply-adds, no slow paths, the grid's barrier."""

import re
from collections import Counter
from functools import cache

import pytest
from device import emulator, nvrtc, sass, thread
from test_gpu_compile import BUDGETS, CONSTANTS, IN_DOUBLE, OPTIONS, block, compiled, source

from benchmarks import gpu_model
from charlstm.measure.bench import WORKS
from kernels import spec
from kernels.gpu.block import rule_defines

pytestmark = [
    pytest.mark.skipif(nvrtc.wheel() is None, reason=nvrtc.REASON),
    pytest.mark.skipif(sass.wheel() is None, reason=sass.REASON),
]
ARCHITECTURES = (75, 90)
#: The compile-time constants with which each file is disassembled.
UNITS = {
    **{file: [()] for file in BUDGETS},
    **CONSTANTS,
    "small": [block("float32", 100, "adagrad")[2]],
    "optimizers": [tuple(rule_defines("adam").items())],
}
#: Functions that kernels may call: the division of 64-bit integers that are large, and shuffles of a warp that is split.
CALLED = re.compile(r"_(?:div|rem)_[us]64|_shflsync_|_warpsync$")
#: Loops with fewer fused multiply-adds than this compute no product.
PRODUCT = 16


@cache
def kernels_of(file, architecture, defines):
    return sass.disassembled(compiled(file, "float32", architecture, defines).code)


def called(kernel):
    """Return the names of the functions that a kernel calls."""
    return {re.search(r"`\((\S+?)\)", each.operands[-1])[1] for each in kernel.code if each.op == "CALL"}


def touches_memory_for_registers(kernel):
    """Return the loads and stores of a thread's own memory, and whatever moves its stack pointer."""
    _, *rest = [each for each in kernel.code if each.operands[:1] == ("R1",)]  # the first sets it
    return [each for each in kernel.code if each.op in ("LDL", "STL")] + rest


@pytest.mark.parametrize(("file", "architecture"), [*((file, 90) for file in UNITS), ("small", 75), ("persistent", 75)])
def test_no_register_is_spilled_and_nothing_slow_is_called(file, architecture):
    for defines in UNITS[file]:
        for name, kernel in kernels_of(file, architecture, defines).items():
            assert not touches_memory_for_registers(kernel), name
            if name not in IN_DOUBLE:
                assert [each for each in called(kernel) if not CALLED.search(each)] == [], name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_division_of_64_bits_is_only_in_cells_that_need_it(architecture):
    narrow, wide = (kernels_of("cells", architecture, defines) for defines in ((), (("WIDE", 1),)))
    for name, kernel in narrow.items():
        assert called(kernel) == set(), name
        assert called(wide[name]), name
        assert len(kernel.code) < 0.7 * len(wide[name].code), name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("file", ["persistent", "small"])
def test_products_are_fused_multiply_adds(file, architecture):
    for defines in UNITS[file]:
        for name, kernel in kernels_of(file, architecture, defines).items():
            loops = [Counter(each.op for each in kernel.code[a : b + 1]) for a, b in kernel.inner_loops()]
            products = [ops for ops in loops if ops["FFMA"] >= PRODUCT]
            # steps of a product with h have the cells, too, and those of a product with dz the sums over lanes
            assert all(ops["FMUL"] + ops["FADD"] <= (44 if ops["BAR"] else 0) for ops in products), (name, products)
            assert len(products) >= (1 if file == "persistent" else 5), name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("optimizer", spec.OPTIMIZERS)
def test_an_update_takes_one_root_or_division_a_parameter(optimizer, architecture):
    """One reciprocal and one root at most; Adagrad takes a reciprocal root, and momentum and SGD neither."""
    most = {"sgd": (0, 0), "momentum": (0, 0), "adagrad": (0, 1)}.get(optimizer, (1, 1))
    for kernel in kernels_of("optimizers", architecture, tuple(rule_defines(optimizer).items())).values():
        loops = [kernel.code[a : b + 1] for a, b in kernel.inner_loops()]
        stores = [sum(each.op == "STG" for each in loop) for loop in loops]
        for loop, count in zip(loops, stores, strict=True):
            names = Counter(each.name for each in loop)
            parameters = count // (1 + spec.OPTIMIZERS[optimizer].slots)
            found = names["MUFU.RCP"], names["MUFU.RSQ"] + names["MUFU.SQRT"]
            assert found == tuple(parameters * each for each in most), names
            assert "CALL" not in {each.op for each in loop}
        assert max(stores) >= 4  # several parameters in turn


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_grids_barrier_releases_counts_and_acquires(architecture):
    """A fence before the counter is raised; the loop that waits reads the counter anew and drops the L1 cache."""
    for defines in UNITS["persistent"]:
        for name, kernel in kernels_of("persistent", architecture, defines).items():
            (raised,) = [k for k, each in enumerate(kernel.code) if each.op in ("ATOM", "ATOMG")]
            assert kernel.code[raised].name.endswith(".ADD.STRONG.GPU"), name
            fences = [k for k, each in enumerate(kernel.code) if each.name == "MEMBAR.ALL.GPU"]
            barriers = [k for k, each in enumerate(kernel.code) if each.name.startswith("BAR.SYNC")]
            assert [k for k in fences if max(b for b in barriers if b < raised) < k < raised], name
            loops = [kernel.code[a : b + 1] for a, b in kernel.inner_loops() if a in (raised + 1, raised + 2)]
            assert loops, name
            waits = [each.name for each in loops[0]]
            read = [k for k, each in enumerate(waits) if re.fullmatch(r"LDG?\.E\.STRONG\.GPU", each)]
            assert len(read) == 1, name
            assert "CCTL.IVALL" in waits[read[0] :], name


@pytest.mark.skipif(emulator.COMPILER is None, reason=emulator.REASON)
def test_what_is_counted_is_what_the_compiler_makes():
    import count_instructions

    device = gpu_model.DEVICES[-1]
    counts = gpu_model.COUNTS
    assert counts["compiler"] == nvrtc.wheel()
    assert count_instructions.block(WORKS["seed"], device) == counts["seed"][device.name]
    assert count_instructions.steps(WORKS["h256-b16"], device) == counts["h256-b16"][device.name]


def test_a_thread_makes_as_many_turns_as_its_arguments_say():
    text = """
    extern "C" __global__ void f(const float* a, float* b, int n, int step) {
        float sum = 0;
        #pragma unroll 1
        for (int k = threadIdx.x; k < n; k += step) {
            sum += a[k] * a[k + 1];
            __syncthreads();
        }
        b[threadIdx.x] = sum;
    }"""
    kernel = sass.disassembled(nvrtc.compiled(text, (), 90).code)["f"]
    constants = {0x210 + 16: 1000, 0x210 + 20: 150}
    for first, turns in ((0, 7), (99, 7), (100, 6), (1000, 0)):
        ops = Counter(each.op for each in thread.Thread(kernel, {"SR_TID.X": first}, constants).run())
        assert (ops["FFMA"], ops["BAR"], ops["LDG"], ops["STG"]) == (turns, turns, 2 * turns, 1)


def test_spills_slow_paths_and_unfused_products_are_seen():
    """Check the checks."""
    indexed = (
        'extern "C" __global__ void f(int* a) { int b[9]; for (int k = 0; k < 9; ++k) b[a[k]] = k; a[0] = b[a[9]]; }'
    )
    assert touches_memory_for_registers(sass.disassembled(nvrtc.compiled(indexed, (), 90).code)["f"])
    exact = [option for option in OPTIONS if "prec" not in option]
    defines = [f"-D{name}={value}" for name, value in rule_defines("adam").items()]
    slow = sass.disassembled(nvrtc.compiled(source("optimizers"), (*exact, "-DREAL=float", *defines), 90).code)
    assert [each for each in called(slow["update"]) if not CALLED.search(each)]
    unfused = (*OPTIONS, "-DREAL=float", "-DUNITS=4", "--fmad=false")
    kernel = sass.disassembled(nvrtc.compiled(source("persistent"), unfused, 90).code)["lstm_steps"]
    assert not any(each.op == "FFMA" for a, b in kernel.inner_loops() for each in kernel.code[a : b + 1])


def test_the_disassembler_is_as_old_as_the_compiler():
    assert sass.wheel() == nvrtc.wheel()
