"""One LSTM layer beside PyTorch's nn.LSTM and a scan in JAX, and one step beside nn.LSTMCell: ``make bench-layers``.

Each figure is the ratio of the other's time to ours: above 1, ours is faster. Both run in turns in one process, so that
another program slows both; the median of the ratios is shown, and both medians of times. Between two turns is a pause
and a call that is not timed, since threads of the one library go on spinning for a while after its last call and would
take a core from the other. Buffers are passed to our ops, as in a training loop. The first lines tell the processor and
the load.
"""

import statistics
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from itertools import chain
from time import perf_counter, sleep
from typing import Any

import numpy as np

SIZES = ((100, 32, 64, 256), (50, 1, 32, 128), (20, 256, 128, 512), (1000, 1, 8, 64))  # T, B, D, H
STEPS = (16, 128)  # H of one step for one stream, with as many inputs
MODULES = ((50, 1, 128, 128), (50, 32, 128, 128))  # T, B, D, H of training with kernels.torch and kernels.jax
PAUSE = 0.02  # seconds
Calls = tuple[str, Callable[[], Any], Callable[[], Any]]


def in_turns(ours: Callable[[], Any], theirs: Callable[[], Any], seconds: float) -> tuple[float, float, float]:
    """Median times of both calls in seconds, and the median of the ratios theirs / ours."""
    for call in (ours, theirs, ours, theirs):
        call()
    begun = perf_counter()
    ours()
    repeat = max(1, int(0.005 / (perf_counter() - begun)))
    times: list[tuple[float, float]] = []
    while len(times) < 5 or (perf_counter() - begun < seconds and len(times) < 200):
        pair = []
        for call in (ours, theirs):
            sleep(PAUSE)
            call()
            start = perf_counter()
            for _ in range(repeat):
                call()
            pair.append((perf_counter() - start) / repeat)
        times.append((pair[0], pair[1]))
    mine, others = zip(*times, strict=True)
    return statistics.median(mine), statistics.median(others), statistics.median(b / a for a, b in times)


def layers(threads: int) -> Iterator[Calls]:
    """The ops of a layer, forward alone and with backward."""
    import torch

    import kernels

    ops, random = kernels.load("numba"), np.random.default_rng(0)
    for T, B, D, H in SIZES:
        x, dh = (random.standard_normal((T, B, n), np.float32) for n in (D, H))
        weights = [random.standard_normal(dims, np.float32) / 16 for dims in ((D, 4 * H), (H, 4 * H), 4 * H)]
        given = (x, *np.zeros((2, B, H), np.float32), *weights)
        *states, cache = ops.lstm_forward(*given)
        out, grads, dz = (*states, cache.gates), ops.lstm_backward(dh, cache), np.empty_like(cache.gates)
        net, to = torch.nn.LSTM(D, H), torch.from_numpy(dh)
        read, trained = torch.from_numpy(x), torch.from_numpy(x.copy()).requires_grad_()

        def ours(given: Any = given, out: Any = out) -> Any:
            return ops.lstm_forward(*given, threads=threads, out=out)[2]

        def ours_both(ours: Any = ours, dh: Any = dh, grads: Any = grads, dz: Any = dz) -> None:
            ops.lstm_backward(dh, ours(), threads=threads, out=grads, dz=dz)

        def theirs(net: Any = net, read: Any = read) -> None:
            with torch.inference_mode():
                net(read)

        def theirs_both(net: Any = net, trained: Any = trained, to: Any = to) -> None:
            net.zero_grad()
            trained.grad = None
            net(trained)[0].backward(to)

        yield f"layer {T, B, D, H} forward", ours, theirs
        yield f"layer {T, B, D, H} forward and backward", ours_both, theirs_both


def modules() -> Iterator[Calls]:
    """An iteration of training around kernels.torch.LSTM, with SGD."""
    import torch

    from kernels.torch import LSTM

    for T, B, D, H in MODULES:
        calls = []
        for kind in (LSTM, torch.nn.LSTM):
            net, x = kind(D, H), torch.randn(T, B, D)
            optimizer = torch.optim.SGD(net.parameters(), lr=1e-4)

            def call(net: Any = net, x: Any = x, optimizer: Any = optimizer) -> None:
                optimizer.zero_grad()
                (net(x)[0] ** 2).sum().backward()
                optimizer.step()

            calls.append(call)
        yield f"kernels.torch.LSTM {T, B, D, H} training", calls[0], calls[1]


def in_jax() -> Iterator[Calls]:
    """An iteration of training around kernels.jax.lstm, with SGD, beside a scan: JAX has no LSTM of its own."""
    import jax
    import jax.numpy as jnp

    from kernels.jax import lstm

    def scanned(x: Any, h: Any, c: Any, W_x: Any, W_h: Any, b: Any) -> Any:
        def cell(state: Any, z: Any) -> Any:
            h, c = state
            i, f, g, o = jnp.split(z + h @ W_h, 4, axis=1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        last, out = jax.lax.scan(cell, (h, c), x @ W_x + b)
        return out, last

    random = np.random.default_rng(0)
    for T, B, D, H in MODULES:
        x, zero = jnp.asarray(random.standard_normal((T, B, D), np.float32)), jnp.zeros((B, H))
        weights = [
            jnp.asarray(random.standard_normal(dims, np.float32) / 16) for dims in ((D, 4 * H), (H, 4 * H), 4 * H)
        ]
        calls = []
        for layer in (lstm, scanned):

            @jax.jit
            def trained(weights: Any, x: Any = x, zero: Any = zero, layer: Any = layer) -> Any:
                grads = jax.grad(lambda weights: (layer(x, zero, zero, *weights)[0] ** 2).sum())(weights)
                return [W - 1e-4 * dW for W, dW in zip(weights, grads, strict=True)]

            calls.append(lambda trained=trained, weights=weights: jax.block_until_ready(trained(weights)))
        yield f"kernels.jax.lstm {T, B, D, H} training, in JAX", calls[0], calls[1]


def steps() -> Iterator[Calls]:
    """One step of one stream, in inference mode."""
    import torch

    import kernels

    ops, random = kernels.load("numba"), np.random.default_rng(0)
    for H in STEPS:
        x, h, c = random.standard_normal((3, 1, H), np.float32)
        weights = [random.standard_normal(dims, np.float32) / 16 for dims in ((H, 4 * H), (H, 4 * H), 4 * H)]
        out = np.empty_like(h), np.empty_like(c), np.empty((1, 4 * H), np.float32)
        cell, read = torch.nn.LSTMCell(H, H), [torch.from_numpy(each) for each in (x, h, c)]

        def ours(given: Any = (x, h, c, *weights), out: Any = out) -> None:
            ops.lstm_step(*given, out=out)

        def theirs(cell: Any = cell, read: Any = read) -> None:
            with torch.inference_mode():
                cell(read[0], (read[1], read[2]))

        yield f"step of H = {H}", ours, theirs


def main(seconds: float = 1.0) -> None:
    import torch

    from charlstm.host import machine
    from charlstm.measure.bench import load_average

    print(f"{machine.processor()}, {machine.usable_cores()} usable cores, load {load_average()}")
    print(f"PyTorch {torch.__version__}\n{'work':50} {'threads':>7} {'ours':>10} {'other':>10} {'ratio':>6}")
    counts = sorted({1, min(2, machine.usable_cores())})
    for threads in counts:
        torch.set_num_threads(threads)
        works = [layers(threads), modules()]
        if threads == 1:
            works.append(steps())
        if threads == counts[-1] and find_spec("jax"):
            works.append(in_jax())  # JAX takes all cores, always
        for name, ours, theirs in chain.from_iterable(works):
            mine, other, ratio = in_turns(ours, theirs, seconds)
            print(f"{name:50} {threads:7} {mine * 1e6:8.1f}us {other * 1e6:8.1f}us {ratio:6.2f}", flush=True)


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 1.0)
