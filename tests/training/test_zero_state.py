"""A model samples and is scored from a zero state, so training must include zero states."""

import numpy as np
import pytest
from conftest import made_up_text

from charlstm.settings import presets
from charlstm.settings.config import from_preset
from charlstm.text.batches import Resets
from charlstm.text.corpus import Corpus
from charlstm.training.trainer import Trainer
from kernels import spec

SMALL = {"hidden_size": 16, "seq_length": 8, "batch_size": 4, "learning_rate": 0.05, "sample_every": 0, "threads": 1}


def lost_from_zero(corpus, **options):
    """A trainer whose model does well from its carried state but writes noise from a zero state.

    Its first unit keeps a large value in every stream; the biases cancel what this unit adds to the logits, so the error
    shows only from a zero state.
    """
    trainer = Trainer(
        from_preset(iterations=200, validation=0.2, validate_every=40, dropout=0, weight_drop=0, **SMALL, **options),
        corpus,
    )
    params = spec.params(trainer.theta, trainer.shape)
    [layer] = params.layers
    unit = slice(0, None, trainer.shape.hidden_size)  # the unit's four gates
    layer.W_x[:, unit] = layer.W_h[:, unit] = 0
    layer.b[unit] = -20, 20, 0, 20  # input closed, forget gate open, candidate zero, output open
    params.W_y[0] = 6 * np.random.RandomState(1).standard_normal(trainer.shape.vocab_size)
    params.b_y[:] = -params.W_y[0]
    trainer.iteration = 1  # after the first reset of the streams
    trainer.c[..., 0] = 20
    return trainer


def measured(trainer):
    return [p.val_bits_per_char for p in trainer.run() if p.kind == "evaluation"]


def test_streams_that_begin_anew_lead_a_model_out_of_noise_and_others_never_do():
    corpus = Corpus.from_text(made_up_text(30_000))
    guess = np.log2(len(corpus.vocabulary))
    assert max(measured(lost_from_zero(corpus))[1:]) < guess
    assert min(measured(lost_from_zero(corpus, reset_every=0))) > 2 * guess


@pytest.mark.parametrize("threads", [1, 3])
def test_what_begins_anew_is_what_is_to(corpus, threads, backend):
    config = from_preset(**{**SMALL, "threads": threads}, iterations=150, reset_every=2, backend=backend)
    trainer, plain = (Trainer(config, corpus) for _ in "ab")
    resets = Resets(2, 4, config.seed)
    assert {resets.distance(n) for n in range(150)} == {2, 4, 8}
    for n in range(150):
        plain.iteration = n
        streams = resets.at(n)
        plain.h[:, streams] = plain.c[:, streams] = 0
        plain.train(n, n + 1, trainer.learning_rates(n, n + 1) if trainer.config.iterations else np.empty(0))
    list(trainer.run())
    for name in ("theta", "state", "h", "c"):
        assert getattr(trainer, name).tobytes() == getattr(plain, name).tobytes()


def test_presets_of_ours_have_it_and_those_of_originals_do_not():
    for name in presets.PRESETS:
        assert (from_preset(name).reset_every > 0) == presets.is_ours(name), name
