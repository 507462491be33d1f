"""The layouts of other libraries: each is undone by its inverse, and the page has the table."""

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.spec import CELLS, LAYERS, LAYOUTS, from_layout, layouts, to_layout

PAIRS = [(library, cell) for library, layout in LAYOUTS.items() for cell in layout.orders]


def made(cell, D, H, dtype="float64"):
    """A layer whose numbers are all different."""
    row, numbers = CELLS[cell], iter(range(1, 100_000))
    shapes = [(D, row.gates * H), (H, row.gates * H), *((each.width * H,) for each in row.vectors.values())]
    fill = [np.array([next(numbers) for _ in range(int(np.prod(dims)))], dtype).reshape(dims) for dims in shapes]
    return LAYERS[cell].params(*fill)


@pytest.mark.parametrize(("library", "cell"), PAIRS)
@settings(max_examples=10, deadline=None)
@given(D=st.integers(1, 6), H=st.integers(1, 6), dtype=st.sampled_from(["float32", "float64"]))
def test_there_and_back(library, cell, D, H, dtype):
    layer = made(cell, D, H, dtype)
    there = to_layout(layer, cell, library)
    columns = CELLS[cell].gates * H
    turned = LAYOUTS[library].is_transposed
    assert (there.W_x.shape, there.W_h.shape) == (
        ((columns, D), (columns, H)) if turned else ((D, columns), (H, columns))
    )
    assert (there.b_h is None) == (LAYOUTS[library].biases[cell] == 1)
    back = from_layout(there, cell, library)
    for name, array, wanted in zip(layer._fields, back, layer, strict=True):
        assert array.dtype == wanted.dtype
        assert np.array_equal(array, wanted), name
        assert not np.shares_memory(array, wanted)


@pytest.mark.parametrize(("library", "cell"), PAIRS)
def test_each_gate_goes_to_its_block(library, cell):
    here, there = LAYOUTS["kernels"].orders[cell], LAYOUTS[library].orders[cell]
    assert sorted(here) == sorted(there)
    layer = made(cell, 2, 3)
    moved = to_layout(layer, cell, library)
    W_h = moved.W_h.T if LAYOUTS[library].is_transposed else moved.W_h
    for gate in here:
        ours, theirs = (slice(3 * order.index(gate), 3 * order.index(gate) + 3) for order in (here, there))
        assert np.array_equal(W_h[:, theirs], layer.W_h[:, ours]), gate
        assert np.array_equal(moved.b_x[theirs], layer[2][ours]), gate


def test_two_biases_become_one():
    layer = made("lstm", 2, 3)
    there = to_layout(layer, "lstm", "pytorch")
    assert not there.b_h.any()
    back = from_layout(there._replace(b_h=there.b_x * 2), "lstm", "pytorch")
    assert np.array_equal(back.b, 3 * layer.b)
    none = from_layout(there._replace(b_x=None, b_h=None), "lstm", "pytorch")
    assert not none.b.any()


def test_a_cell_that_a_library_lacks():
    with pytest.raises(ValueError, match=r"^cell: expected one of lstm, rnn for torch-rnn, got 'gru'$"):
        to_layout(made("gru", 2, 3), "gru", "torch-rnn")
    with pytest.raises(ValueError, match=r"^cell: expected one of lstm, gru, rnn for onnx, got 'lnlstm'$"):
        from_layout(None, "lnlstm", "onnx")


def test_the_page_has_the_table():
    assert layouts.table() in (ROOT / "docs" / "travel.md").read_text("utf-8"), (
        "python -m kernels.spec.layouts prints it"
    )
