"""Learning-rate schedules; the rate depends on the iteration alone, not on how calls are split or on the clock.

``constant``; ``decay``: times decay_factor every decay_every epochs from decay_after on, but at least decay_floor;
``cosine``: half a cosine, down to zero at the last iteration; ``plateau``: times decay_factor whenever plateau_patience
evaluations in a row have brought no improvement; the trainer keeps that factor. In the first `warmup` iterations the
rate rises linearly.
"""

import numpy as np

from charlstm.settings.config import Config


def learning_rates(config: Config, begin: int, end: int, iterations: int, per_epoch: int, factor: float) -> np.ndarray:
    """The learning rates of iterations begin to end - 1, (n,) float64.

    Parameters
    ----------
    iterations : total of the run
    per_epoch : iterations in an epoch
    factor : the factor that plateaus have put on the rate so far
    """
    n = np.arange(begin, end)
    rates = np.full(end - begin, config.learning_rate * factor)
    if config.schedule == "cosine":
        left = np.maximum(n - config.warmup, 0) / max(iterations - config.warmup, 1)
        rates = rates * 0.5 * (1 + np.cos(np.pi * left))
    elif config.schedule == "decay":
        times = np.floor((n / per_epoch - config.decay_after) / config.decay_every)
        rates = np.maximum(rates * config.decay_factor ** np.maximum(times, 0), config.decay_floor)
    if config.warmup:
        rates = rates * np.minimum((n + 1) / config.warmup, 1)
    return rates
