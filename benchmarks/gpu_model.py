"""Predicts the time per iteration on GPUs from what they issue and from their data sheets; nothing here is measured.

tests/count_instructions.py counts, in SASS, what a block issues between two barriers, in gpu_counts.json. Each stretch
takes as many cycles as the busiest of the schedulers, the ports of a multiprocessor and its way to the L2 cache, and
the wait at the barrier. A CUDA graph runs other models: each of its nodes waits for the one before, and takes the
longer of NODE_SECONDS and the time of its multiply-adds.
"""

import json
from pathlib import Path
from typing import NamedTuple

from benchmarks import pages, results
from charlstm.measure.bench import WORKS, in_words
from kernels import spec
from kernels.gpu.block import sizes

COUNTS = json.loads((Path(__file__).parent / "gpu_counts.json").read_text(encoding="utf-8"))
ISSUED, LANES, SPECIAL, LINE, L2_BYTES = 4, 32, 16, 128, 64  # per cycle and multiprocessor; a line is 128 bytes
INTEGERS = 64  # lanes for integers
WAIT_CYCLES = 150  # per barrier of a block: latencies of memory, exp and division before it
GRID_CYCLES = 1500  # per barrier of a grid: a fence, an atomic addition, a poll and the first read, in the L2 cache
NODE_SECONDS = 4e-6  # of a graph's node that waits for the one before, about what `keras` took on an H200
OF_PEAK = 0.5  # fraction of peak throughput that matrix products reach


class Device(NamedTuple):
    """The figures in a GPU's data sheet."""

    name: str
    clock: float  # boost clock, GHz
    lanes: int  # float32 multiply-adds per cycle and multiprocessor
    multiprocessors: int
    bandwidth: float  # memory bandwidth, GB/s
    architecture: int  # compute capability, times ten
    shared: int  # bytes of shared memory that a block may have
    doubles: int  # float64 multiply-adds per cycle and multiprocessor


DEVICES = (
    Device("T4", 1.59, 64, 40, 320, 75, 65_536, 2),
    Device("A100", 1.41, 64, 108, 1555, 80, 166_912, 32),
    Device("RTX 4090", 2.52, 128, 128, 1008, 89, 101_376, 2),
    Device("H100", 1.98, 128, 132, 3350, 90, 232_448, 64),
)
MEASURED = "nvidia-h200.json"
SHOWN = ("seed", "h256-b16", "keras", "torch-rnn-128", "torch-rnn-512", "torch-rnn-1024")


def cycles(rows, device):
    """Return the cycles of stretches between barriers, counted as in gpu_counts.json."""
    total = 0
    for times, issue, fma, alu, special, doubles, memory, lines in rows:
        busy = (
            issue / ISSUED, fma * 32 / device.lanes, alu * 32 / INTEGERS, special * 32 / SPECIAL,
            doubles * 32 / device.doubles, memory * 32 / LANES, lines * LINE / L2_BYTES,
        )  # fmt: skip
        total += times * (max(busy) + WAIT_CYCLES)
    return total


def launch_seconds(work, device):
    """Predict the seconds per iteration of a CUDA graph; if steps were counted, one launch makes all of a layer."""
    V, H, L, *_ = work.shape
    T, B = work.seq_length, work.batch_size
    read = 1 if work.last_only else T
    peak = OF_PEAK * device.lanes * device.multiprocessors * device.clock * 1e9
    step = B * 4 * H * H  # multiply-adds
    adds = 3 * B * (T * (4 * H * H * (2 * L - 1) + 4 * H * V) + read * H * V)
    steps = COUNTS.get(work.name, {}).get(device.name)
    if steps:
        each = sum(cycles(rows, device) + GRID_CYCLES for rows in steps.values())
        of_steps = L * T * each / (device.clock * 1e9)
    else:
        of_steps = 2 * L * T * (max(NODE_SECONDS, step / peak) + NODE_SECONDS)  # a product and a kernel
    N, slots = spec.num_parameters(work.shape), spec.OPTIMIZERS[work.optimizer].slots
    moved = 4 * (N * (3 + 2 * slots) + 12 * T * B * L * 4 * H) / (device.bandwidth * 1e9)
    return of_steps + (10 * L + 20) * NODE_SECONDS + (adds - 2 * L * T * step) / peak + moved


def seconds(work, device):
    """Predict the seconds per iteration of a work on a GPU."""
    block = COUNTS.get(work.name, {}).get(device.name, {}).get("iteration")
    return cycles(block, device) / (device.clock * 1e9) if block else launch_seconds(work, device)


def table():
    """Format the predictions as a Markdown table, beside what an H200 took, whose multiprocessors are an H100's."""
    took = {row["work"]: row["median"] for row in results.read(results.FOLDER / MEASURED)["gpu"]}
    head = ["prediction", *(device.name for device in DEVICES), "H200, measured", "of the H100's"]
    rows = []
    for name in SHOWN:
        found = [seconds(WORKS[name], device) for device in DEVICES]
        rows.append([f"`{name}`", *map(in_words, found), in_words(took[name]), f"{took[name] / found[-1]:.2f}"])
    return pages.table(head, rows)


def block_figures(work):
    """Return the block's multiply-adds without and with padding, in millions, and its memory traffic in megabytes."""
    H, V, T = work.shape.hidden_size, work.shape.vocab_size, work.seq_length
    warps, rows, columns = sizes(H)
    weights, readout = warps * rows * 32 * columns, 3 * T * H * V
    return (12 * T * H * H + readout) / 1e6, (3 * T * weights + readout) / 1e6, (6 * 4 * weights + 8 * H * V) / 1e6


if __name__ == "__main__":
    print(table())
