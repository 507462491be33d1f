"""Dropout masks: how often they drop, and that they follow from seed and iteration alone."""

import numpy as np
import pytest

from charlstm.training.dropout import masks, rounded


def test_rates_are_multiples_of_two_to_the_minus_16():
    assert [rounded(p) for p in (0.0, 0.5, 0.25)] == [0.0, 0.5, 0.25]
    assert rounded(0.2) == 13107 / 65536
    assert rounded(1e-6) == 0
    assert rounded(1 - 1e-9) == 65535 / 65536


@pytest.mark.parametrize("dropout", [0.0, 0.1, 0.5, 0.9])
def test_as_many_are_dropped_as_asked_for(dropout):
    drawn = masks(3, 0, 50, (2, 8, 10, 100), dropout)
    assert drawn.dtype == np.uint8
    assert set(np.unique(drawn)) <= {0, 1}
    deviation = (dropout * (1 - dropout) / drawn.size) ** 0.5
    assert abs(1 - drawn.mean() - dropout) <= 5 * deviation
    each = drawn.mean(axis=0)
    assert abs(each.std() - (dropout * (1 - dropout) / 50) ** 0.5) < 0.005  # every place drops equally often


@pytest.mark.parametrize("dims", [(1,), (3, 7), (2, 16), (1, 50, 50, 60)])  # also larger than one batch
def test_any_split_into_calls_gives_the_same_masks(dims):
    whole = masks(5, 3, 12, dims, 0.4)
    assert whole.shape == (9, *dims)
    assert whole.flags.c_contiguous
    assert np.concatenate(
        [masks(5, 3, 4, dims, 0.4), masks(5, 4, 11, dims, 0.4), masks(5, 11, 12, dims, 0.4)]
    ).tolist() == (whole.tolist())


def test_every_iteration_and_seed_has_masks_of_its_own():
    drawn = [masks(seed, n, n + 1, (300,), 0.5).tobytes() for seed in (0, 1, 2**32 - 1) for n in (0, 1, 2, 10**15)]
    assert len(set(drawn)) == len(drawn)


def test_the_bits_never_change():
    assert "".join(map(str, masks(7, 2, 3, (40,), 0.5)[0])) == "0111011011001101011001000100111001011000"
