"""The contract of the kernels: layout of the flat vector, op signatures, argument checks."""

import inspect

import numpy as np
import pytest

import kernels
from kernels import spec
from kernels.spec import Shape


def test_layout_covers_the_vector_once_and_in_order():
    shape = Shape(7, 3, 2)
    flat = np.arange(spec.num_parameters(shape))
    assert len(flat) == 4 * 3 * (7 + 3 + 1) + 4 * 3 * (3 + 3 + 1) + 3 * 7 + 7
    views = spec.named(flat, shape)
    assert list(views) == ["W_x_l0", "W_h_l0", "b_l0", "W_x_l1", "W_h_l1", "b_l1", "W_y", "b_y"]
    assert np.concatenate([view.ravel() for view in views.values()]).tolist() == flat.tolist()
    assert spec.offsets(shape).tolist() == [int(view.flat[0]) for view in views.values()]
    params = spec.params(flat, shape)
    assert params.layers[1].W_h is not views["W_h_l1"]
    assert (params.layers[1].W_h == views["W_h_l1"]).all()
    params.b_y[0] = -1
    assert flat[-7] == -1  # views, not copies


@pytest.mark.parametrize(
    ("cell", "names", "size"),
    [
        ("rnn", ["W_x_l0", "W_h_l0", "b_l0", "W_x_l1", "W_h_l1", "b_l1"], 3 * (7 + 3 + 1) + 3 * (3 + 3 + 1)),
        (
            "gru",
            ["W_x_l0", "W_h_l0", "b_x_l0", "b_h_l0", "W_x_l1", "W_h_l1", "b_x_l1", "b_h_l1"],
            9 * (7 + 3 + 2) + 9 * (3 + 3 + 2),
        ),
    ],
)
def test_layout_of_the_other_cells(cell, names, size):
    shape = Shape(7, 3, 2, cell)
    flat = np.arange(spec.num_parameters(shape))
    assert len(flat) == size + 3 * 7 + 7
    views = spec.named(flat, shape)
    assert list(views) == [*names, "W_y", "b_y"]
    assert np.concatenate([view.ravel() for view in views.values()]).tolist() == flat.tolist()
    params = spec.params(flat, shape)
    assert [name for layer in params.layers for name in layer._fields] == [name[:-3] for name in names]
    assert np.shares_memory(params.layers[1].W_h, views["W_h_l1"])
    assert (params.layers[1][-1] == views[names[-1]]).all()


def test_an_embedding_lies_before_all_else():
    plain, shape = Shape(7, 3, 2), Shape(7, 3, 2, embedding_size=5)
    flat = np.arange(spec.num_parameters(shape))
    assert len(flat) == spec.num_parameters(plain) + 7 * 5 + (5 - 7) * 12
    views = spec.named(flat, shape)
    assert list(views)[:2] == ["embedding", "W_x_l0"]
    assert (views["embedding"].shape, views["W_x_l0"].shape, views["W_x_l1"].shape) == ((7, 5), (5, 12), (3, 12))
    assert spec.offsets(shape).tolist() == [int(view.flat[0]) for view in list(views.values())[1:]]
    params = spec.params(flat, shape)
    assert (params.embedding == views["embedding"]).all()
    assert (params.layers[1].b == views["b_l1"]).all()
    assert spec.params(np.zeros(spec.num_parameters(plain)), plain).embedding is None


def test_what_is_cut_into_panels_is_not_packed():
    shape = Shape(5, 3000, 2)
    plain, rounded = (spec.workspace_layout(shape, 1, 1, "float32", 0.0, bfloat16) for bfloat16 in (False, True))
    assert plain["packed"][0][2] > 0 == plain["partial"][0][2]
    assert rounded["packed"][0][2] == 0 < rounded["partial"][0][2]


def test_momentum_needs_memory():
    assert [spec.slots(name) for name in spec.OPTIMIZERS] == [row.slots for row in spec.OPTIMIZERS.values()]
    assert (spec.slots("sgd", {"momentum": 0.9}), spec.slots("sgd", {"momentum": 0.0})) == (1, 0)


def test_parameters_of_the_original_sizes():
    assert [spec.num_parameters(Shape(V, 100)) for V in (65, 54, 96)] == [72_965, 67_454, 88_496]
    assert spec.num_parameters(Shape(71, 100, cell="rnn")) == 2 * 71 * 100 + 100 * 100 + 100 + 71


def test_aligned_zeros():
    for dims in (5, (3, 7), (0, 4)):
        array = spec.aligned_zeros(dims, "float32")
        assert array.ctypes.data % 64 == 0 or array.size == 0
        assert array.flags.c_contiguous
        assert not array.any()


@pytest.mark.parametrize("name", [name for name in kernels.BACKENDS if kernels.missing(name) is None])
def test_every_backend_has_every_op_with_the_same_signature(name):
    ops = kernels.load(name)
    assert sorted(ops.__all__) == sorted([*spec.OPS, "workspace"])
    for op, signature in spec.OPS.items():
        plain = inspect.signature(getattr(ops, op))
        bare = plain.replace(
            parameters=[p.replace(annotation=p.empty) for p in plain.parameters.values()],
            return_annotation=plain.empty,
        )
        assert str(bare) == signature, op
        assert getattr(ops, op).__doc__


def test_unknown_optimizers_and_constants():
    with pytest.raises(ValueError, match=f"optimizer: expected one of {', '.join(spec.OPTIMIZERS)}, got 'adm'"):
        spec.hyper_values("adm", None)
    with pytest.raises(ValueError, match="hyper: adagrad takes epsilon, got beta1"):
        spec.hyper_values("adagrad", {"beta1": 0.5})
    assert spec.hyper_values("adam", {"beta2": 0.99}) == {"beta1": 0.9, "beta2": 0.99, "epsilon": 1e-8}


def test_backends_by_name():
    assert kernels.BACKENDS == ("numpy", "numba", "cupy")
    assert "numpy" in kernels.available()
    assert ("cupy" in kernels.available()) == (kernels.missing("cupy") is None)
    with pytest.raises(ValueError, match="backend: expected one of numpy, numba, cupy, got 'torch'"):
        kernels.load("torch")
