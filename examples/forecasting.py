"""Forecast a noisy series one step ahead, with a band of 95 %, and compare with the last value as a forecast.

    python examples/forecasting.py [--iterations 400] [--backend numba] [--plot forecast.png]

The series is a wave that swells and fades, under noise. The model reads a value a step and gives a mean and a standard
deviation of the next one: a Gaussian, trained by its negative log likelihood. It takes seconds, and half a minute the
first time, when Numba compiles. `--plot` needs matplotlib.
"""

import argparse

import numpy as np

import kernels
from kernels.spec import GATE_F, Shape, num_parameters, params, slots

# ---------------------------------------------------------------------------------------------------------- settings
parser = argparse.ArgumentParser()
parser.add_argument("--iterations", type=int, default=400)
parser.add_argument("--hidden-size", type=int, default=24)
parser.add_argument("--noise", type=float, default=0.3, help="standard deviation; the wave swells from 0.5 to 1.5")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--backend", choices=("numpy", "numba"), default="numba")
parser.add_argument("--plot", metavar="FILE", help="write a picture, PNG or SVG")
settings = parser.parse_args()
ops = kernels.load(settings.backend)
random = np.random.default_rng(settings.seed)
T, B, H = 50, 16, settings.hidden_size

# ------------------------------------------------------------------------------------------------------- the series
t = np.arange(6000)
wave = np.sin(2 * np.pi * t / 23) * (1 + 0.5 * np.sin(2 * np.pi * t / 170))
series = (wave + settings.noise * random.standard_normal(len(t)))[:, None]  # (M, D) with D = 1
past, future = series[:5000], series[5000:]  # trained on, forecast

# --------------------------------------------------------------------------------------------------- initial weights
shape = Shape(vocab_size=2, hidden_size=H, input_size=1)  # two outputs: mean and logarithm of the deviation
theta = random.uniform(-1, 1, num_parameters(shape)) / np.sqrt(H)
layer, W_y, b_y, _ = params(theta, shape)  # views of theta
layer[0].b[...] = 0
layer[0].b[GATE_F * H : (GATE_F + 1) * H] = 1
state, h, c = np.zeros((slots("adam"), len(theta))), np.zeros((1, B, H)), np.zeros((1, B, H))

# ---------------------------------------------------------------------------------------------------------- training
n = settings.iterations
starts = random.integers(len(past) - T, size=(n, B))  # inputs past[s : s+T], targets a step later
learning_rate = 0.02 * np.minimum(1, (np.arange(n) + 1) / 20) * (0.5 + 0.5 * np.cos(np.pi * np.arange(n) / n))
losses = ops.train_steps(
    theta, state, h, c, past, starts, np.ones(n, bool), learning_rate, shape=shape, seq_length=T, loss="gaussian",
    optimizer="adam", grad_scale=1 / (T * B), grad_clip_norm=1.0,
)  # fmt: skip
for at in range(0, n, max(1, n // 5)):
    print(f"iteration {at:4}  {losses[at] / (T * B):6.3f} nats per step")

# ---------------------------------------------------------------------------------- forecasts of what is held out
x, zero = series[4900:-1, None], np.zeros((1, H))  # (T, 1, 1): the hundred steps before the future lead in
outputs = ops.lstm_forward(x, zero, zero, *layer[0])[0][1:, 0] @ W_y + b_y
mean, deviation = outputs[99:, 0], np.exp(outputs[99:, 1])  # of future[k], from all before it
states = zero[None].copy(), zero[None].copy()
log_likelihoods = ops.score(theta, *states, series[4900:, None], shape=shape, loss="gaussian")
truth, last_value = future[:, 0], series[4999:-1, 0]


def error(forecast):
    """The root mean squared error of a forecast of the future."""
    return float(np.sqrt(((forecast - truth) ** 2).mean()))


ours, theirs = error(mean), error(last_value)
inside = np.abs(truth - mean) < 1.96 * deviation
print(f"held out: error {ours:.3f}, last value {theirs:.3f}, the noise alone {error(wave[5000:]):.3f}")
print(f"{100 * inside.mean():.1f} % lie in the band of 95 %; {-log_likelihoods[99:].mean():.3f} nats per step")

# -------------------------------------------------------------------------------------------------------- the picture
if settings.plot:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise SystemExit("--plot needs matplotlib: pip install matplotlib") from None
    figure = Figure((9, 4), layout="constrained")
    axes, part = figure.add_subplot(), slice(0, 200)
    axes.plot(truth[part], ".", color="0.4", label="series")
    axes.plot(mean[part], label=f"forecast, error {ours:.3f}")
    axes.plot(last_value[part], ":", linewidth=1, label=f"last value, error {theirs:.3f}")
    low, high = mean - 1.96 * deviation, mean + 1.96 * deviation
    axes.fill_between(t[part], low[part], high[part], alpha=0.2, label="95 %")
    axes.set(xlabel="step", ylabel="value", ylim=(-2.6, 2.6))
    axes.legend(ncols=4, loc="upper center", frameon=False)
    figure.savefig(settings.plot, dpi=150)
    print(f"wrote {settings.plot}")
