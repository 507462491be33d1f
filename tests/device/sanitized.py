"""Runs kernels under a sanitizer, or with one barrier of their source removed, in its own process.

    python -m device.sanitized SANITIZER|none FILE LINE WORK...

It removes the barrier on LINE of FILE (from 1; 0 for none), compiles, runs the works in several orders of threads, and
compares them with the reference. Exit code 0: all results are right; 3: a wrong result; 66: a sanitizer's error.
"""

import sys
from unittest.mock import patch

import numpy as np

from device import emulator, fake_cupy
from kernels import reference as ref
from kernels import spec
from kernels.spec import Shape

SEEDS = (0, 1, 2)


def block(ops):
    """Run a few iterations of the small-model block kernel."""
    return _train(ops, Shape(35, 7), 1)


def block_in_float(ops):
    """Run the block kernel in float32."""
    return _train(ops, Shape(35, 7), 1, dtype="float32")


def blocks(ops):
    """Run the block kernel for three models in one launch, one of which ends before the others."""
    return _train(ops, Shape(35, 7), 1, models=3)


def launches(ops):
    """Train by separate launches, with two layers, two streams and a clipped gradient norm."""
    return _train(ops, Shape(35, 5, 2), 2, grad_clip_norm=0.1)


def steps(ops):
    """Train one layer whose steps run in one launch of several blocks, with room for dz of eight streams."""
    H, B, units = 19, 9, 4
    room = 8 * (8 * 4 * H + 4 * units * H + 32 * 65)  # bytes: dz, weights, sums, as in kernels/gpu/persistent.py
    device = {"CooperativeLaunch": 1, "MultiProcessorCount": 5, "MaxSharedMemoryPerBlockOptin": room}
    with patch.dict(fake_cupy.ATTRIBUTES, device):
        return _train(ops, Shape(13, H), B, n=2)


def drawing(ops):
    """Sample with and without each truncation."""
    shape = Shape(41, 3)
    theta = np.random.RandomState(0).randn(spec.num_parameters(shape))
    uniforms, log_probs = np.random.RandomState(1).random_sample((5, 2)), np.zeros((5, 2))
    first, found = np.zeros(2, np.int32), []
    for how in ({"top_k": 9, "top_p": 0.9}, {}, {"temperature": 0.0}):
        options = {"temperature": 0.8, "log_probs": log_probs, **how}
        found += [ops.sample(theta, *np.zeros((2, 1, 2, 3)), first, uniforms, shape=shape, **options), log_probs.copy()]
    return found


def _train(ops, shape, B, n=3, T=4, dtype="float64", models=0, **options):
    random, L, H, N = np.random.RandomState(0), shape.num_layers, shape.hidden_size, spec.num_parameters(shape)
    several = (models,) if models else ()
    arrays = [random.randn(*several, N) * 0.4, np.zeros((*several, 2, N)), *random.randn(2, *several, L, B, H)]
    arrays = [array.astype(dtype) for array in arrays]
    if models:
        arrays[0][1] = np.inf  # this model has no finite loss
    ids = random.randint(0, shape.vocab_size, 90).astype(np.uint8)
    starts = np.arange(max(models, 1) * n * B).reshape(*several, n, B) * 3
    losses = ops.train_steps(
        *arrays,
        ids,
        starts,
        np.tile(np.arange(n) == 1, (*several, 1)) if models else np.arange(n) == 1,
        np.full(n, 0.01),
        shape=shape,
        seq_length=T,
        optimizer="adam",
        **options,
    )
    return losses, *arrays


def is_close(a, b):
    return np.shape(a) == np.shape(b) and np.allclose(a, b, rtol=1e-7, atol=1e-9, equal_nan=True)


def main(sanitizer, file, line, *works):
    target, line = (emulator.FOLDER / f"{file}.cu").read_text(), int(line)
    if line:
        lines = target.split("\n")
        assert emulator.BARRIER.search(lines[line - 1]), lines[line - 1]
        lines[line - 1] = emulator.BARRIER.sub(";", lines[line - 1])
        fake_cupy.RawModule.edit = staticmethod(lambda text: text.replace(target, "\n".join(lines)))
    fake_cupy.RawModule.sanitizer = None if sanitizer == "none" else sanitizer
    ops = fake_cupy.load("kernels.gpu.host")
    for work in works:
        expected = globals()[work](ref)
        for seed in SEEDS if sanitizer == "none" else SEEDS[:1]:
            emulator.Function.seed = seed
            try:
                found = globals()[work](ops)
            except emulator.LaunchError as error:
                print(error)
                return 3
            if not all(map(is_close, found, expected)):
                print(f"{work}: other numbers than the reference's")
                return 3
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
