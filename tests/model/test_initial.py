"""Weight initialisers: what each promises."""

import numpy as np
import pytest

from charlstm.model.initial import weights
from kernels import spec
from kernels.spec import Shape

SHAPE = Shape(40, 60, 2, embedding_size=30)


def params(name, shape=SHAPE, seed=1, forget_bias=1.0):
    return spec.params(weights(name, shape, forget_bias, np.random.RandomState(seed), "float64"), shape)


@pytest.mark.parametrize("name", ["uniform", "min-char-lstm", "keras"])
def test_biases_and_embedding(name):
    found = params(name)
    assert found.embedding.mean() == pytest.approx(0, abs=0.1)
    assert found.embedding.std() == pytest.approx(1, abs=0.1)
    for layer in found.layers:
        i, f, g, o = np.split(layer.b, 4)
        assert (f == 1).all()
        assert not np.concatenate([i, g, o]).any()
    assert not found.b_y.any()
    assert params(name, Shape(40, 60, 2)).embedding is None


def test_keras():
    found = params("keras")
    for matrix in (found.layers[0].W_x, found.layers[1].W_x, found.W_y):
        bound = (6 / sum(matrix.shape)) ** 0.5
        assert 0.98 * bound < np.abs(matrix).max() <= bound
        assert matrix.std() == pytest.approx(bound / 3**0.5, rel=0.05)
    for layer in found.layers:
        assert layer.W_h @ layer.W_h.T == pytest.approx(np.eye(60), abs=1e-12)


def test_the_recurrent_rows_of_keras_are_the_q_of_a_normal_matrix_with_a_positive_r():
    shape = Shape(3, 5)
    W_h = params("keras", shape, seed=4).layers[0].W_h
    random = np.random.RandomState(4)
    random.uniform(size=(3, 20))  # W_x comes first
    r = W_h @ random.standard_normal((20, 5))
    assert r == pytest.approx(np.triu(r), abs=1e-12)
    assert (r.diagonal() > 0).all()
