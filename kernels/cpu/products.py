"""Matrix products that add into their output, as loops the compiler vectorises along contiguous memory.

Eight rows of the matrix are taken at a time: enough arithmetic for each load and store of the output, and few enough
arrays for the compiler's check that they do not overlap (it gives up beyond eight). Rows are sliced and counted from
zero: an index that starts elsewhere is guarded against being negative, which stops vectorisation. R rows, K and N
columns; nothing is allocated.
"""

from kernels.cpu.jit import inner


@inner
def add_product(a, w, out):
    """out (R, N) += a (R, K) @ w (K, N)."""
    R, K = a.shape
    N = w.shape[1]
    for block in range(K // 8):
        k = 8 * block
        w0, w1, w2, w3, w4, w5, w6, w7 = w[k], w[k + 1], w[k + 2], w[k + 3], w[k + 4], w[k + 5], w[k + 6], w[k + 7]
        for r in range(R):
            v, o = a[r], out[r]
            v0, v1, v2, v3, v4, v5, v6, v7 = v[k], v[k + 1], v[k + 2], v[k + 3], v[k + 4], v[k + 5], v[k + 6], v[k + 7]
            for j in range(N):
                o[j] += (v0 * w0[j] + v1 * w1[j] + v2 * w2[j] + v3 * w3[j]) + (
                    v4 * w4[j] + v5 * w5[j] + v6 * w6[j] + v7 * w7[j]
                )
    for rest in range(K % 8):
        k = K - K % 8 + rest
        w0 = w[k]
        for r in range(R):
            v0, o = a[r, k], out[r]
            for j in range(N):
                o[j] += v0 * w0[j]


@inner
def add_product_transposed(a, w, out):
    """out (R, K) += a (R, N) @ w (K, N)'."""
    R, N = a.shape
    K = w.shape[0]
    zero = a.dtype.type(0)
    for block in range(K // 8):
        k = 8 * block
        w0, w1, w2, w3, w4, w5, w6, w7 = w[k], w[k + 1], w[k + 2], w[k + 3], w[k + 4], w[k + 5], w[k + 6], w[k + 7]
        for r in range(R):
            v, o = a[r], out[r]
            s0, s1, s2, s3, s4, s5, s6, s7 = zero, zero, zero, zero, zero, zero, zero, zero
            for j in range(N):
                s0 += v[j] * w0[j]
                s1 += v[j] * w1[j]
                s2 += v[j] * w2[j]
                s3 += v[j] * w3[j]
                s4 += v[j] * w4[j]
                s5 += v[j] * w5[j]
                s6 += v[j] * w6[j]
                s7 += v[j] * w7[j]
            o[k] += s0
            o[k + 1] += s1
            o[k + 2] += s2
            o[k + 3] += s3
            o[k + 4] += s4
            o[k + 5] += s5
            o[k + 6] += s6
            o[k + 7] += s7
    for rest in range(K % 8):
        k = K - K % 8 + rest
        w0 = w[k]
        for r in range(R):
            v = a[r]
            s0 = zero
            for j in range(N):
                s0 += v[j] * w0[j]
            out[r, k] += s0


@inner
def add_outer(a, d, out):
    """out (K, N) += a (R, K)' @ d (R, N): a weight's gradient, summed over the R rows."""
    R, K = a.shape
    N = d.shape[1]
    for block in range(R // 8):
        r = 8 * block
        d0, d1, d2, d3, d4, d5, d6, d7 = d[r], d[r + 1], d[r + 2], d[r + 3], d[r + 4], d[r + 5], d[r + 6], d[r + 7]
        for k in range(K):
            o = out[k]
            v0, v1, v2, v3 = a[r, k], a[r + 1, k], a[r + 2, k], a[r + 3, k]
            v4, v5, v6, v7 = a[r + 4, k], a[r + 5, k], a[r + 6, k], a[r + 7, k]
            for j in range(N):
                o[j] += (v0 * d0[j] + v1 * d1[j] + v2 * d2[j] + v3 * d3[j]) + (
                    v4 * d4[j] + v5 * d5[j] + v6 * d6[j] + v7 * d7[j]
                )
    for rest in range(R % 8):
        r = R - R % 8 + rest
        d0 = d[r]
        for k in range(K):
            v0, o = a[r, k], out[k]
            for j in range(N):
                o[j] += v0 * d0[j]


@inner
def add_rows(d, out):
    """out (N,) += the sum of the rows of d (R, N): a bias's gradient."""
    R, N = d.shape
    for r in range(R):
        row = d[r]
        for j in range(N):
            out[j] += row[j]


@inner
def copy_to_rows(row, out):
    """Each row of out (R, N) becomes row (N,)."""
    R, N = out.shape
    for r in range(R):
        o = out[r]
        for j in range(N):
            o[j] = row[j]
