"""Functions shared by the layers of all cells: products with the input, dropout.

A row of gates has G blocks. A part of a layer is a range of streams b0:b1 and some of its pieces (threads.py), hidden
units with their G blocks of gates. A thread of a team has either some of the streams and all pieces, and then runs the
whole layer without a barrier, or all streams and some of the pieces, with a barrier at every step.

Weights, gates, dz and cell states are passed as flat arrays, whose layout depends on the piece: see :func:`gates_at`
and :func:`cells_at`. Compiled code allocates nothing.
"""

from kernels.cpu import bfloat16, mixed
from kernels.cpu.compiler import inner, thin
from kernels.cpu.emit.tiles import TILE_ROWS
from kernels.cpu.matmul import add_product, clear_rows, copy_to_rows, product_transposed
from kernels.cpu.threads import column_ranges, is_apart
from kernels.cpu.values import Weights, block, flat


@inner
def gates_at(G, piece, rows, H):
    """Begin and row stride of a piece's matrix of gates, with `rows` rows, in the flat array of all gates."""
    return (G * rows * piece[0], G * piece[1]) if is_apart(piece) else (0, G * H)


@inner
def cells_at(piece, rows, H):
    """Begin and row stride of a piece's cell states, with `rows` rows, in the flat array of all cell states."""
    return (rows * piece[0], piece[1]) if is_apart(piece) else (piece[0], H)


@inner
def stretch_of(T, B):
    """Number of steps whose x W_x is one product: 1 for a batch, which fills the tiles and stays in the cache."""
    return 1 if B >= TILE_ROWS else T


@inner
def stretch_back(T, B, ws):
    """Number of steps whose dz W_x' is one product; one if dz is rounded, because only one step's rows are kept."""
    return stretch_of(T, B) if ws.rounded_dz is None else 1


# -------------------------------------------------------------------------------------------------------- forward
@inner
def _project_ids(G, x, W_x, b, z, z_at, t0, t1, share):
    """As :func:`project`, for one kind of input."""
    T, B = x.shape
    pieces = share.pieces
    H = pieces[-1, 0] + pieces[-1, 1]
    for q in range(share.q0, share.q1):
        first, width = gates_at(G, pieces[q], T * B, H)
        w_at, _ = gates_at(G, pieces[q], W_x.shape[0] // (G * H), H)
        b_at, _ = gates_at(G, pieces[q], 1, H)
        count, length, step = column_ranges(G, pieces[q])
        for s in range(count):
            begin = pieces[q, 2] + s * step
            for t in range(t0, t1):
                for r in range(share.b0, share.b1):
                    at, to = w_at + x[t, r] * width + begin, z_at + first + (t * B + r) * width + begin
                    row, w = z[to : to + length], W_x[at : at + length]
                    if b is None:
                        for j in range(length):
                            row[j] = w[j]
                    else:
                        bias = b[b_at + begin : b_at + begin + length]
                        for j in range(length):
                            row[j] = w[j] + bias[j]


@thin
def add_gates(G, a, a_at, weights, z, z_at, R, H, piece):
    """Add a piece's columns of a @ W to R rows of gates z, from z_at on; a has R rows, with as many columns as W rows.

    R is 1 if W is given as bfloat16 pairs.
    """
    if bfloat16.has_added_gates(weights.pairs, a, a_at, z, z_at, H, piece):
        return
    if mixed.has_added_gates(weights.rounded, G, a_at // H, z, z_at, R, H, piece):
        return
    packed, K = weights.packed, weights.flat.shape[0] // (G * H)
    w_at, width = gates_at(G, piece, K, H)
    count, length, step = column_ranges(G, piece)
    region = packed.shape[0] // 4  # of a gate's columns, when packed
    for s in range(count):
        begin = piece[2] + s * step
        if packed.shape[0] > 0:
            add_product(a, a_at, K, packed, s * region + K * piece[0], 0, z, z_at + begin, width, R, K, length)
        else:
            add_product(a, a_at, K, weights.flat, w_at + begin, width, z, z_at + begin, width, R, K, length)


@thin
def _project_floats(G, x, weights, b, z, z_at, t0, t1, share):
    """As :func:`project`, for one kind of input."""
    T, B, D = x.shape
    pieces, b0, b1 = share.pieces, share.b0, share.b1
    H = pieces[-1, 0] + pieces[-1, 1]
    turns, rows = (1, (t1 - t0) * B) if b1 - b0 == B else (t1 - t0, b1 - b0)
    for q in range(share.q0, share.q1):
        first, width = gates_at(G, pieces[q], T * B, H)
        b_at, _ = gates_at(G, pieces[q], 1, H)
        count, length, step = column_ranges(G, pieces[q])
        for t in range(t0, t0 + turns):
            row = t * B + b0
            to = z_at + first + row * width
            for s in range(count):
                begin = pieces[q, 2] + s * step
                if b is None:
                    clear_rows(z, to + begin, width, rows, length)
                else:
                    copy_to_rows(b[b_at + begin : b_at + begin + length], z, to + begin, width, rows)
            add_gates(G, x, row * D, weights, z, to, rows, H, pieces[q])


@thin
def project(G, x, weights, b, z, z_at, t0, t1, share):
    """Write x W_x + b of steps t0:t1 to the part's gates, from z[z_at] on, for ids x (T, B) or floats x (T, B, D).

    For floats this is one product, if all streams belong to the part. b is flat, or None for no bias.
    """
    if x.ndim == 2:
        _project_ids(G, x, weights.flat, b, z, z_at, t0, t1, share)
    else:
        _project_floats(G, x, weights, b, z, z_at, t0, t1, share)


@thin
def read_below(net, b, x, ws, extra, layer, z, z_at, t0, t1, share):
    """As :func:`project`, for a layer of a model; x W_x comes from x, the embedding's table, or the layer below."""
    G, L = ws.gates.shape[4] // ws.h.shape[3], ws.h.shape[0]
    W_x = block(net, (net.offsets.shape[0] - 2) // L * layer)
    if layer == 0:
        if x.ndim == 3:
            project(G, x, Weights(W_x, ws.packed[layer, 2, :0], None, None), b, z, z_at, t0, t1, share)
        else:
            ids = x
            if extra is not None and extra.table.size > 0:
                W_x, ids = flat(extra.table), extra.places
            project(G, ids, Weights(W_x, ws.packed[layer, 2], None, None), b, z, z_at, t0, t1, share)
    else:
        below = ws.h[layer - 1, 1:]
        if extra is not None and extra.dropped.size > 0:
            below = extra.dropped[layer - 1]
        weights = Weights(W_x, ws.packed[layer, 2], None, mixed.of_below(ws.rounded_h, ws, layer))
        project(G, below, weights, b, z, z_at, t0, t1, share)


@inner
def drop(a, mask, scale, out, share):
    """Write the part's out (T, B, H): a times scale where mask is not zero, else 0; out may be a itself."""
    factor, zero = a.dtype.type(scale), a.dtype.type(0)
    for q in range(share.q0, share.q1):
        j0, n = share.pieces[q, 0], share.pieces[q, 1]
        for t in range(a.shape[0]):
            for r in range(share.b0, share.b1):
                row, kept, to = a[t, r, j0 : j0 + n], mask[t, r, j0 : j0 + n], out[t, r, j0 : j0 + n]
                for j in range(n):
                    value = row[j] * factor
                    to[j] = value if kept[j] != 0 else zero


# ------------------------------------------------------------------------------------------------------- backward
@thin
def flow_back(G, dz, row, weights, out, out_row, R, piece):
    """Write a piece's units of R rows of out (..., H), from out_row on: rows of dz, from `row` on, @ W', W (H G H,)."""
    H, packed = out.shape[-1], weights.packed
    N, j0, n = G * H, piece[0], piece[1]
    if mixed.has_flowed_back(weights.rounded, G, row, flat(out), out_row * H, R, H, piece):
        return
    if packed.shape[0] > 0:
        clear_rows(flat(out), out_row * H + j0, H, R, n)
        add_product(dz, row * N, N, packed, N * j0, 0, out, out_row * H + j0, H, R, N, n)
    else:
        product_transposed(dz, row * N, N, weights.flat, j0 * N, N, out, out_row * H + j0, H, R, n, N)


@thin
def flow_below(G, d, weights, dh, t0, steps, share):
    """Overwrite the part's dh (T, B, H), for `steps` steps from t0 on, with the gradient of the input, d W_x'."""
    B, b0, b1 = dh.shape[1], share.b0, share.b1
    turns, rows = (1, steps * B) if b1 - b0 == B else (steps, b1 - b0)
    for q in range(share.q0, share.q1):
        for t in range(t0, t0 + turns):
            flow_back(G, d, t * B + b0, weights, dh, t * B + b0, rows, share.pieces[q])


@inner
def add_gradient_ids(x, d, out, out_at, begin, end):
    """Add each row of the Matrix d to the row of out that its id in x (T, B) selects, in columns begin:end.

    The flat out begins at out_at and has the row stride of d.
    """
    B = x.shape[1]
    for t in range(x.shape[0]):
        for r in range(B):
            to, at = out_at + x[t, r] * d.row, d.at + (t * B + r) * d.row
            g, row = out[to + begin : to + end], d.flat[at + begin : at + end]
            for j in range(end - begin):
                g[j] += row[j]
