"""Predicts the time per iteration on GPUs from their data sheets; nothing here is measured.

The small-model block kernel runs on one multiprocessor. Each part of an iteration takes as many cycles as the busiest
of three: multiply-adds, words of shared memory (32 per cycle), bytes from the L2 cache (64 per cycle); the wait at each
barrier is added. Larger models take the maximum of the CPU's time for launches and the GPU's time for multiply-adds or
memory traffic.
"""

from typing import NamedTuple

from charlstm.measure.bench import WORKS, in_words
from kernels import spec
from kernels.gpu.block import in_registers, sizes

WORDS, L2_BYTES = 32, 64  # per cycle and multiprocessor
WAIT_CYCLES = 150  # per barrier: latencies of memory, exp and division before it
LAUNCH_SECONDS = 6e-6  # per kernel or product, from Python
OF_PEAK = 0.5  # fraction of peak throughput that matrix products reach


class Device(NamedTuple):
    """The figures in a GPU's data sheet."""

    name: str
    clock: float  # boost clock, GHz
    lanes: int  # float32 multiply-adds per cycle and multiprocessor
    multiprocessors: int
    bandwidth: float  # memory bandwidth, GB/s


DEVICES = (
    Device("T4", 1.59, 64, 40, 320),
    Device("A100", 1.41, 64, 108, 1555),
    Device("RTX 4090", 2.52, 128, 128, 1008),
    Device("H100", 1.98, 128, 132, 3350),
)
SHOWN = ("seed", "h256-b16", "keras", "torch-rnn-128", "torch-rnn-512", "torch-rnn-1024")


def block_seconds(work, device):
    """Predict the seconds per iteration of the small-model block kernel."""
    H, V, T = work.shape.hidden_size, work.shape.vocab_size, work.seq_length
    warps, rows, columns = sizes(H)
    weights = warps * rows * 32 * columns  # including padding
    slots = spec.OPTIMIZERS[work.optimizer].slots
    parts = [  # multiply-adds, words of shared memory, bytes from the L2 cache
        (T * weights, T * 32 * warps * (2 * rows + 2 * columns), 4 * weights),  # forward
        (T * weights, T * 32 * warps * (2 * columns + 5 * rows), 4 * weights),  # backward, including shuffles
        (T * weights, T * 32 * warps * (rows + columns), 4 * weights * 2 * (1 + slots)),  # gradient of W_h and update
        (3 * T * H * V, 6 * T * H * V, 4 * H * V * 2 * slots),  # readout
        (T * T * 4 * H, 2 * T * T * 4 * H, 4 * T * 4 * H * (1 + 2 * (1 + slots))),  # W_x
    ]
    busy = sum(max(adds / device.lanes, words / WORDS, size / L2_BYTES) for adds, words, size in parts)
    barriers = 5 * T + 6
    return (busy + barriers * WAIT_CYCLES) / (device.clock * 1e9)


def launch_seconds(work, device):
    """Predict the seconds per iteration when every op is a separate launch."""
    V, H, L, *_ = work.shape
    T, B = work.seq_length, work.batch_size
    read = 1 if work.last_only else T
    adds = 3 * B * (T * (4 * H * H * (2 * L - 1) + 4 * H * V) + read * H * V)
    N = spec.num_parameters(work.shape)
    size = 4 * (2 * T * L * 4 * H * H + N * (3 + 2 * spec.OPTIMIZERS[work.optimizer].slots) + 12 * T * B * L * 4 * H)
    calls = 4 * T * L + 10 * L + 20
    peak = device.lanes * device.multiprocessors * device.clock * 1e9
    return max(calls * LAUNCH_SECONDS, adds / (OF_PEAK * peak), size / (device.bandwidth * 1e9))


def seconds(work, device):
    """Predict the seconds per iteration of a work on a GPU."""
    shape = work.shape
    is_small = (work.batch_size, shape.num_layers) == (1, 1) and in_registers(shape.hidden_size, 4)
    return (block_seconds if is_small else launch_seconds)(work, device)


def table():
    """Format the predictions as a Markdown table."""
    lines = [f"| prediction | {' | '.join(device.name for device in DEVICES)} |", "|" + " --- |" * (len(DEVICES) + 1)]
    for name in SHOWN:
        row = " | ".join(in_words(seconds(WORKS[name], device)) for device in DEVICES)
        lines.append(f"| `{name}` | {row} |")
    return "\n".join(lines)


def block_figures(work):
    """Return the block's multiply-adds without and with padding, in millions, and its memory traffic in megabytes."""
    H, V, T = work.shape.hidden_size, work.shape.vocab_size, work.seq_length
    warps, rows, columns = sizes(H)
    weights, readout = warps * rows * 32 * columns, 3 * T * H * V
    return (12 * T * H * H + readout) / 1e6, (3 * T * weights + readout) / 1e6, (6 * 4 * weights + 8 * H * V) / 1e6


if __name__ == "__main__":
    print(table())
