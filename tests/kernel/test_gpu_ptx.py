"""Run the PTX that NVRTC makes of the CUDA source for several architectures, on the CPU."""

import numpy as np
import pytest
from device import emulator, fake_cupy, nvrtc, ptx, sanitized

pytestmark = [
    pytest.mark.skipif(nvrtc.wheel() is None, reason=nvrtc.REASON),
    pytest.mark.skipif(emulator.COMPILER is None, reason=emulator.REASON),
]


@pytest.fixture
def through_ptx(monkeypatch):
    """Load the GPU ops with kernels that run an architecture's PTX."""
    ops = fake_cupy.load("kernels.gpu.host")
    from kernels.gpu import launch

    def of(architecture):
        monkeypatch.setattr(fake_cupy.RawModule, "architecture", architecture)
        forget()
        return ops

    def forget():
        launch._module.cache_clear()
        launch._function.cache_clear()

    yield of
    forget()


@pytest.mark.parametrize(
    ("work", "architecture"),
    [
        ("block", 90), ("block_in_float", 90), ("steps", 90), ("launches", 90), ("drawing", 90),
        *(pytest.param(work, arch, marks=pytest.mark.long) for work in ("block", "block_in_float", "steps") for arch in (75, 120)),
    ],
)  # fmt: skip
def test_ptx_as_the_reference(through_ptx, ref, work, architecture):
    found, expected = (getattr(sanitized, work)(ops) for ops in (through_ptx(architecture), ref))
    exact = {"rtol": 1e-10, "atol": 1e-13} if work != "block_in_float" else {"rtol": 1e-4, "atol": 1e-6}
    for got, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(got, wanted, **exact)


def test_a_kernel_by_hand():
    """Check signs, bits and comparisons, in which C++ and PTX differ, against results computed by hand."""
    source = r"""
    extern "C" __global__ void kernel(const int* in, float* out) {
        const int k = threadIdx.x, v = in[k];
        out[k] = (v >> 1) + (int)((unsigned int)v % 7u) + (v < 0 ? 0.5f : 0.25f) + __shfl_xor_sync(0xffffffffu, (float)k, 3);
    }"""
    unit = ptx.translated(nvrtc.compiled(source, (), 90).ptx, ["kernel"])
    import ctypes

    kernel = emulator.Function(ctypes.CDLL(str(emulator.compiled(unit))), "kernel")
    kernel.parameters = ["*i4", "*f4"]
    values = (np.arange(32) - 9).astype(np.int32)
    out = fake_cupy.empty((32,), np.float32)
    kernel((1,), (32,), (fake_cupy.asarray(values), out))
    expected = [(v >> 1) + (v % 2**32) % 7 + (0.5 if v < 0 else 0.25) + (k ^ 3) for k, v in enumerate(values.tolist())]
    assert out.get().tolist() == expected


def test_what_is_not_known_is_an_error():
    with pytest.raises(ptx.Unknown, match="tanh"):
        ptx.translated(".entry f(\n)\n{\n\t.reg .f32 %f<3>;\n\ttanh.approx.f32 %f1, %f2;\n}\n", ["f"])
