"""Writes benchmarks/gpu_counts.json: what a GPU issues in an iteration of the works that our own kernels run whole.

    python tests/count_instructions.py

It needs the wheels of extra gpu-test and no GPU; benchmarks/gpu_model.py turns the counts into times.
"""

import json
import re
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parent.parent
PATH = ROOT / "benchmarks" / "gpu_counts.json"
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from device import fake_cupy, nvrtc, sass, thread  # noqa: E402

from benchmarks.gpu_model import DEVICES  # noqa: E402
from charlstm.measure.bench import WORKS  # noqa: E402
from kernels.gpu.block import defines, memory, sizes  # noqa: E402

launch = fake_cupy.load("kernels.gpu.launch")
persistent = fake_cupy.load("kernels.gpu.persistent")
#: Where the arguments of a kernel begin in the constant bank.
ARGUMENTS = {75: 0x160, 80: 0x160, 89: 0x160, 90: 0x210}


def constants(architecture, arguments, threads, blocks):
    """Return the words of the constant bank: sizes of the grid, and arguments: ints, "pointer" or "real"."""
    found, at = {0: threads, 4: 1, 8: 1, 12: blocks, 16: 1, 20: 1}, ARGUMENTS[architecture]
    for each in arguments:
        size = 8 if each == "pointer" else 4
        at = -(-at // size) * size
        if isinstance(each, int):
            found[at] = each
        at += size
    return found


def kernel_of(file, name, architecture, sizes):
    code = nvrtc.compiled(launch.source(file), launch.options("float32", sizes), architecture).code
    return sass.disassembled(code)[name]


def one_more(count, of):
    """Return what one more iteration (or step) adds to a run of `count`, as rows: how often, and the sums of KINDS."""
    more = Counter(of(count + 1))
    more.subtract(Counter(of(count)))
    return sorted([times, *row] for row, times in more.items() if times)


def block(work, device):
    """Count an iteration of the small model's block."""
    (V, H, *_), T = work.shape, work.seq_length
    threads, shared = 32 * sizes(H).warps, memory(H, T, V, 4, device.shared).shared
    kernel = kernel_of("small", "train_small", device.architecture, defines(H, T, V, work.optimizer, shared))

    def run(count):
        # count, chunk, apart and total, of which the last is 64 bits long and lies at a multiple of 8
        arguments = [*["pointer"] * 13, count, count, 0, 0, count, 0, *["real"] * 8]
        return thread.stretches(kernel, threads, constants(device.architecture, arguments, threads, 1))

    return {"iteration": one_more(1, run)}


def steps(work, device):
    """Count a step, forward and backward, of a layer whose steps run in one launch; empty if they do not fit."""
    H, T, B = work.shape.hidden_size, work.seq_length, work.batch_size
    fake_cupy.ATTRIBUTES |= {
        "MaxSharedMemoryPerBlockOptin": device.shared, "MultiProcessorCount": device.multiprocessors, "CooperativeLaunch": 1,
    }  # fmt: skip
    how, found = persistent.layout(T, B, H, persistent.np.dtype("float32")), {}
    if how is None:
        return found
    for name, pointers, more in (("lstm_steps", 5, ()), ("lstm_steps_back", 8, (how.at_once,))):
        kernel = kernel_of("persistent", name, device.architecture, {"UNITS": how.units})

        def run(count, kernel=kernel, pointers=pointers, more=more):
            arguments = [*["pointer"] * pointers, count, B, H, *more]
            blocks = -(-H // how.units)
            return thread.stretches(kernel, 256, constants(device.architecture, arguments, 256, blocks))

        found[name] = one_more(3, run)
    return found


def counted():
    found = {"compiler": nvrtc.wheel(), "kinds": thread.KINDS, "seed": {}, "h256-b16": {}, "torch-rnn-128": {}}
    for device in DEVICES:
        found["seed"][device.name] = block(WORKS["seed"], device)
        for name in ("h256-b16", "torch-rnn-128"):
            found[name][device.name] = steps(WORKS[name], device)
    return found


def as_text(found):
    """Return JSON with a row of counts a line."""
    text = json.dumps(found, indent=1)
    return re.sub(r"\[\s+([^\[\]{}]*?)\s+\]", lambda row: "[" + re.sub(r"\s+", " ", row[1]) + "]", text) + "\n"


if __name__ == "__main__":
    PATH.write_text(as_text(counted()), encoding="utf-8", newline="\n")
