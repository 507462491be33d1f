"""Mutations: mistakes to plant in a copy of the kernels, each of which the tests must detect."""

from pathlib import Path
from shutil import copyfile, copytree, ignore_patterns
from typing import NamedTuple

import kernels


class Mutation(NamedTuple):
    """A mistake to plant in a backend's source; the tests must fail with it."""

    name: str
    backend: str
    file: str  # below kernels/
    right: str
    wrong: str


_UPDATES = "cpu/optimizers.py"
_LSTM, _GRADIENTS, _MODEL, _MIXED = "cpu/lstm.py", "cpu/gradients.py", "cpu/model.py", "cpu/mixed.py"
_CUDA_CELLS, _SMALL, _PERSISTENT = "gpu/cuda/cells.cu", "gpu/cuda/small.cu", "gpu/cuda/persistent.cu"
MUTATIONS = (
    Mutation("dropped dc carry", "numpy", "reference/lstm.py", "@ W_h.T, dc_t * f)", "@ W_h.T, dc_t * 0)"),
    Mutation("dropped dc carry", "numba", _LSTM, "row.store(dc_t * f, dc_next)", "row.store(dc_t * 0.0, dc_next)"),
    Mutation("unwritten dW", "numpy", "reference/layer.py", "out.dW_h[...] = operand(", "operand("),
    Mutation("unwritten dW", "numba", _GRADIENTS, "    add_outer(", "    # add_outer("),
    Mutation("wrong tanh branch", "numpy", "reference/lstm.py", "(1 - tanh_c**2)", "(1 - tanh_c)"),
    Mutation("wrong tanh branch", "numba", _LSTM, "(1.0 - tanh_c * tanh_c)", "(1.0 - tanh_c)"),
    Mutation("off-by-one target", "numpy", "reference/model.py", "(logits, targets[first:]", "(logits, np.roll(targets, 1, 0)[first:]"),
    Mutation("off-by-one target", "numba", "cpu/steps.py", "readout(net, y, recipe", "readout(net, x[:T], recipe"),
    Mutation("skipped clip", "numpy", "reference/optimizers.py", "np.clip(grad, -grad_clip, grad_clip", "np.clip(grad, -np.inf, np.inf"),
    Mutation("skipped clip", "numba", _UPDATES, "return g.at_most(limit).at_least(-limit)", "return g"),
)  # fmt: skip

#: Mistakes in features that only some models or backends have, and mistakes in the CUDA source.
MORE_MUTATIONS = (
    Mutation("dropped dc carry", "cupy", _CUDA_CELLS, "dc[n] = dc_t * f;", "dc[n] = 0;"),
    Mutation("unwritten dW", "cupy", "gpu/layers.py",
             "calls = [product(flat(read.h[:-1]), from_h, grads[1], turn_a=True, rounded=read.mixed)]", "calls = []"),
    Mutation("dz not rounded in mixed precision", "cupy", _CUDA_CELLS, "return to_bfloat16(a);", "return a;"),
    Mutation("wrong tanh branch", "cupy", _CUDA_CELLS, "(1 - tanh_c * tanh_c)", "(1 - tanh_c)"),
    Mutation("off-by-one target", "cupy", "gpu/model.py", "self.x[1:][self._first :]", "self.x[:-1][self._first :]"),
    Mutation("skipped clip", "cupy", "gpu/cuda/common.cu", "g > limit ? limit : g < -limit ? -limit : g;", "g;"),
    Mutation("dropped dc carry of a block", "cupy", _SMALL, "dc *= factor[H];", "dc = 0;"),
    Mutation("a repeated id updated twice", "cupy", _SMALL, "id[T + 1 + t] = first == t;", "id[T + 1 + t] = 1;"),
    Mutation("state kept where it is to be zero", "cupy", _SMALL, "cells[tid] = is_reset ? real(0) : cells[H + tid]",
             "cells[tid] = cells[H + tid]"),
    Mutation("last rows of a product left out", "cupy", _SMALL, "(32 / SUMS) == 0 && i < ROWS", "(32 / SUMS) == 0 && i < 1"),
    Mutation("training that does not end", "cupy", "gpu/cuda/training.cu", "watch[0] < watch[1] ? 1", "false ? 1"),
    Mutation("the rates of the iteration before", "cupy", "gpu/cuda/optimizers.cu", "(progress[DONE] - 1)",
             "(progress[DONE] > 1 ? progress[DONE] - 2 : 0)"),
    Mutation("dropped dc carry of steps in one launch", "cupy", _PERSISTENT, "dc_t[i] *= f;", "dc_t[i] = 0;"),
    Mutation("streams after the first eight left out", "cupy", _PERSISTENT, "if (b < B) sums", "if (b < 8) sums"),
    Mutation("a factor turned the wrong way", "cupy", "gpu/matmul.py", "(turn_b, turn_a)", "(not turn_b, turn_a)"),
    Mutation("dropped dh z of the GRU", "cupy", _CUDA_CELLS, "dh_next[n] = dh_t * z;", "dh_next[n] = 0;"),
    Mutation("dropout's gradient unscaled", "cupy", "gpu/model.py", "*self._drop(k, dh, dh), _cleared", "_cleared"),
    Mutation("dropped dh z of the GRU", "numpy", "reference/gru.py", "@ W_h.T + dh_t * z", "@ W_h.T"),
    Mutation("dropped dh z of the GRU", "numba", "cpu/gru.py", "row.store(dh_t * z, kept)", "row.store(dh_t * 0.0, kept)"),
    Mutation("reset gate left out of ds", "numpy", "reference/gru.py", "[da_r, da_z, da_n * r]", "[da_r, da_z, da_n]"),
    Mutation("reset gate left out of ds", "numba", "cpu/gru.py", "row.store(da_n * r, ds,", "row.store(da_n, ds,"),
    Mutation("panel left out", "numba", _LSTM, "p in range(1, partial", "p in range(2, partial"),
    Mutation("panels by no turns", "numba", _LSTM, "(layer * T + t + 1) % 2", "(layer * T + t) % 2"),
    Mutation("packed gates on top of each other", "numba", "cpu/layers.py", "s * region + K * piece[0]", "K * piece[0]"),
    Mutation("half of a pair forgotten", "numba", "cpu/bfloat16.py", "builder.and_(upper,", "builder.and_(lower,"),
    Mutation("readout of the first steps", "numba", _GRADIENTS, "first * B, passed_up", "0, passed_up"),
    Mutation("bias of one side for both", "numba", _GRADIENTS, "d_at + plane * R * N", "d_at"),
    Mutation("state of one step for the next", "numba", "cpu/rnn.py", "(row + B) * H), rows * H)", "row * H), rows * H)"),
    Mutation("memory of another column", "numba", _UPDATES, "builder.mul(r, row), span.at)", "builder.mul(r, row), I64(0))"),
    Mutation("dropout's gradient unscaled", "numpy", "reference/model.py", "](_dropped(dh, mask, dropout)", "](_dropped(dh, mask, 0)"),
    Mutation("dropout's gradient unscaled", "numba", _MODEL, "drop(ws.dh, extra.masks[n, layer], extra.scale",
             "drop(ws.dh, extra.masks[n, layer], 1.0"),
    Mutation("gradient of weights that were left out", "numba", "cpu/weight_drop.py", "grad[j] *= _factor(",
             "grad[j] += 0 * _factor("),
    Mutation("kept weights not scaled", "numpy", "spec/weight_drop.py", "_LEVELS - 1), 1 / (1 - rate))", "_LEVELS - 1), 1.0)"),
    Mutation("embedding overwritten, not added to", "numpy", "reference/model.py", "np.add.at(grads.embedding, x, dh)",
             "grads.embedding[x] = dh"),
    Mutation("table's gradient added to the table", "numba", _MODEL, "clear_rows(out, n0",
             "out  # clear_rows(out, n0"),
    Mutation("layer norm's mean forgotten", "numpy", "reference/lnlstm.py", "scale * (d - d.mean(axis=-1, keepdims=True) -",
             "scale * (d -"),
    Mutation("layer norm's mean forgotten", "numba", "cpu/lnlstm.py", "scale * (d[j] - total -", "scale * (d[j] -"),
    Mutation("gain of one side for both", "numpy", "reference/lnlstm.py", "dz[2, t] * gain_h, normal_h",
             "dz[2, t] * gain_x, normal_h"),
    Mutation("gain of one side for both", "numba", "cpu/lnlstm.py", "ds[j] = dz[j] * gain_h[j]", "ds[j] = dz[j] * gain_x[j]"),
    Mutation("numbers cut off, not rounded", "numba", "cpu/emit/rounding.py", "self.word(0x7FFF)", "self.word(0)"),
    Mutation("half of a word forgotten", "numba", "cpu/emit/rounding.py", "self.b.and_(upper, self.word(0xFFFF0000))",
             "self.word(0)"),
    Mutation("state before the first step not rounded", "numba", _MIXED, "round_state(of_state(rounded_h, ws, layer)",
             "round_state(None"),
    Mutation("pairs of one step for all", "numba", _MIXED, "pairs, (t * even(B) + share.b0) // 2", "pairs, share.b0 // 2"),
    Mutation("gradient kept beyond the end of a stream", "numpy", "reference/layer.py", "dz[..., t, over, :] = 0", "pass"),
    Mutation("gradient lost beyond the end of a stream", "numba", "cpu/lstm.py", "put_back(dh_next", "set_aside(dh_next"),
    Mutation("reverse begun from the wrong state", "numba", "cpu/order.py", "return 0 if t == T - 1 else t + 2", "return t"),
    *(
        Mutation(name, backend, f"{folder}/loss.py", right, wrong)
        for name, *places in (
            ("half of the gradient of a square", ("2 * error\n", "error\n"), ("real(2.0 * error)", "real(error)")),
            ("Huber's gradient without a limit", ("np.clip(error, -delta, delta)", "error"),
             ("math.copysign(aim.delta, error)", "error")),
            ("a Gaussian's deviation that only grows", ("1 - squares\n", "0 - squares\n"), ("1.0 - square)", "0.0 - square)")),
            ("gradient of an ignored target", ("dlogits[~counts] = 0", "pass"), ("            d[j] = 0\n", "            pass\n")),
        )
        for backend, folder, (right, wrong) in zip(("numpy", "numba"), ("reference", "cpu"), places, strict=True)
    ),
    Mutation("first row of a series for all", "numba", _GRADIENTS, "Matrix(flat(x), 0, x.shape[2])",
             "Matrix(flat(x), 0, 0)"),
    Mutation("weight decay left out", "numpy", "reference/optimizers.py", "real(learning_rate * weight_decay)", "real(0)"),
    Mutation("weight decay left out", "numba", _UPDATES, "theta - k.learning_rate * k.d * theta", "theta"),
    Mutation("weight decay left out", "cupy", "gpu/cuda/common.cu", "theta - rule.learning_rate * rule.d * theta", "theta"),
)  # fmt: skip


def copied(folder: Path) -> Path:
    """Copy the kernels to `folder` and return the writable copy, even if the installed package is read-only."""
    package = Path(kernels.__file__).parent
    copy = copytree(package, folder / package.name, ignore=ignore_patterns("__pycache__"), copy_function=copyfile)
    for place in (copy, *copy.rglob("*/")):
        place.chmod(place.stat().st_mode | 0o700)
    return copy


def plant(mutation: Mutation, folder: Path) -> None:
    """Copy the kernels to `folder` and plant the mistake in the copy.

    Raises
    ------
    ValueError
        If the file does not contain the text to be replaced: the mutation must be adapted to the source.
    """
    file = copied(folder) / mutation.file
    source = file.read_text()
    if mutation.right not in source:
        raise ValueError(f"{mutation.name}: {mutation.file} has no {mutation.right!r}")
    file.write_text(source.replace(mutation.right, mutation.wrong))
