"""Vectors are those of the processor that Numba compiles for, whether the environment chooses it or the host does."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT

pytest.importorskip("numba")

import llvmlite.binding as llvm

from kernels.cpu.emit import processor

needs_x86 = pytest.mark.skipif("avx" not in llvm.get_host_cpu_features(), reason="the processor has no AVX")
AVX, AVX2 = {"avx"}, {"avx", "avx2", "fma"}
PROGRAM = """
from kernels.cpu.emit import processor
from kernels.cpu import compiler
print(processor.VECTORS.width, processor.in_words().split("(")[-1].strip(")").replace(",", ""))
print(compiler._BUILD_KEY)
"""


def told(**environment):
    """Return the width of the vectors, the features and the cache's key in a process with these variables."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("NUMBA_CPU", "NUMBA_ENABLE"))}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, env={**plain, **environment}, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    first, key = done.stdout.splitlines()
    width, *features = first.split()
    return int(width), set(features), key


@needs_x86
def test_the_environment_chooses_the_vectors_and_the_key_of_the_cache():
    host = told()
    assert ("avx512f" in host[1]) == (host[0] == 64)
    haswell = told(NUMBA_CPU_NAME="haswell", NUMBA_CPU_FEATURES="")
    assert haswell[:2] == (32, AVX2)
    without = told(NUMBA_ENABLE_AVX="0")
    assert without[0] == 16
    assert not [name for name in without[1] if name.startswith("avx")]
    assert len({host[2], haswell[2], without[2]}) == (3 if host[1] != AVX2 else 2)


@pytest.mark.parametrize(
    ("triple", "cpu", "features", "width", "expected"),
    [
        ("x86_64-unknown-linux-gnu", "x86-64-v2", "", 16, set()),
        ("x86_64-unknown-linux-gnu", "sandybridge", "", 32, AVX),
        ("x86_64-pc-windows-msvc", "haswell", "", 32, AVX2),
        ("x86_64-unknown-linux-gnu", "skylake-avx512", "", 64, AVX2 | {"avx512f"}),
        ("x86_64-unknown-linux-gnu", "znver5", "", 64, AVX2 | {"avx512f", "avx512bf16"}),
        ("x86_64-unknown-linux-gnu", "sapphirerapids", "", 64,
         AVX2 | {"avx512f", "avx512bf16", "amx-tile", "amx-bf16"}),
        ("x86_64-unknown-linux-gnu", "sapphirerapids", "-avx512f,-amx-tile", 32, AVX2),
        ("x86_64-unknown-linux-gnu", "x86-64", "+avx512bf16", 64, AVX2 | {"avx512f", "avx512bf16"}),
        ("aarch64-unknown-linux-gnu", "generic", "", 16, {"neon"}),
        ("arm64-apple-darwin", "apple-m1", "", 16, {"neon"}),
        ("riscv64-unknown-linux-gnu", "generic-rv64", "", 16, set()),
    ],
)  # fmt: skip
def test_names_and_lists_of_features_mean_what_llvm_makes_of_them(capfd, triple, cpu, features, width, expected):
    llvm.initialize_all_targets()
    target = llvm.Target.from_triple(triple).create_target_machine(cpu=cpu, features=features)
    assert processor.features_of(target) == expected
    assert processor.vector_unit(frozenset(expected)).width == width
    assert capfd.readouterr().err == ""  # LLVM says here which features it does not know


def test_the_targets_features_are_the_hosts_where_nothing_else_is_chosen(monkeypatch):
    host = llvm.get_host_cpu_features()
    if any(name.startswith(("NUMBA_CPU", "NUMBA_ENABLE_AVX")) for name in os.environ) or not host:
        pytest.skip("the environment chooses the processor, or LLVM cannot tell the host's features")
    for feature in ("avx", "avx512f", "avx512bf16", "amx-tile", "neon"):
        assert processor.has(feature) == host.get(feature, False)
    with pytest.raises(ValueError, match="got 'avx512_bf16'"):
        processor.has("avx512_bf16")
