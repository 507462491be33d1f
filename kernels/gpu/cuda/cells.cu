// One step of one layer: forward, after the cuBLAS products, and backward, before them.
// One thread computes one hidden unit of one stream. A row of gates has one block of H columns per gate, in the order
// of spec/cells.py.

// The number of a cell. Only with WIDE may there be 2^31 cells or more: with 64 bits, its division and the number of its
// loop's turns, which is a division, too, make these kernels two to five times as long.
#ifdef WIDE
typedef long long number;
#else
typedef unsigned int number;
#endif

#define EACH_CELL(n)                                                                                 \
    for (number n = blockIdx.x * blockDim.x + threadIdx.x; n < (number)B * (number)H;                \
         n += gridDim.x * blockDim.x)

// Where the n-th cell's first gate is in rows of that many gates.
__device__ __forceinline__ long long first_gate(number n, int gates, int H) {
    return n + (long long)(n / H) * (gates - 1) * H;
}

// What products read instead of a gradient dz: with MIXED, in mixed precision, a rounded to bfloat16.
__device__ __forceinline__ real operand(real a) {
#ifdef MIXED
    return to_bfloat16(a);
#else
    return a;
#endif
}

// Writes a unit's output, and with MIXED what products read instead of it (else h_read is h_after).
__device__ __forceinline__ void put(real h, real* h_after, real* h_read, number n) {
    h_after[n] = h;
#ifdef MIXED
    h_read[n] = to_bfloat16(h);
#endif
}

// Replaces z (B, 4H), the gate pre-activations, with the activated gates.
KERNEL lstm_cell(real* z, const real* c_before, real* c_after, real* h_after, real* h_read, int B, int H) {
    EACH_CELL(n) {
        real* row = z + first_gate(n, 4, H);
        const real i = sigmoid(row[0]), f = sigmoid(row[H]), g = tanh(row[2 * H]), o = sigmoid(row[3 * H]);
        row[0] = i, row[H] = f, row[2 * H] = g, row[3 * H] = o;
        const real c = f * c_before[n] + i * g;
        c_after[n] = c;
        put(o * tanh(c), h_after, h_read, n);
    }
}

// dh is the gradient from the layer above; dh_next and dc (B, H) are those from the next step. dc is overwritten with
// the gradient for the previous step.
KERNEL lstm_cell_back(const real* dh, const real* dh_next, real* dc, const real* gates, const real* c_before,
                      const real* c_after, real* dz, int B, int H) {
    EACH_CELL(n) {
        const long long at = first_gate(n, 4, H);
        const real i = gates[at], f = gates[at + H], g = gates[at + 2 * H], o = gates[at + 3 * H];
        const real tanh_c = tanh(c_after[n]);
        const real dh_t = dh[n] + dh_next[n];
        const real dc_t = dc[n] + dh_t * o * (1 - tanh_c * tanh_c);
        dz[at] = operand(dc_t * g * i * (1 - i));
        dz[at + H] = operand(dc_t * c_before[n] * f * (1 - f));
        dz[at + 2 * H] = operand(dc_t * i * (1 - g * g));
        dz[at + 3 * H] = operand(dh_t * tanh_c * o * (1 - o));
        dc[n] = dc_t * f;
    }
}

// Replaces a (B, 3H) with the activated gates, and s, which holds h W_h, with h W_h + b_h.
KERNEL gru_cell(real* a, real* s, const real* b_h, const real* h_before, real* h_after, real* h_read, int B,
                int H) {
    EACH_CELL(n) {
        const int j = n % H;
        const long long at = first_gate(n, 3, H);
        real *from_x = a + at, *from_h = s + at;
        for (int gate = 0; gate < 3; ++gate) from_h[gate * H] += b_h[gate * H + j];
        const real r = sigmoid(from_x[0] + from_h[0]), z = sigmoid(from_x[H] + from_h[H]);
        const real candidate = tanh(from_x[2 * H] + r * from_h[2 * H]);
        from_x[0] = r, from_x[H] = z, from_x[2 * H] = candidate;
        put((1 - z) * candidate + z * h_before[n], h_after, h_read, n);
    }
}

// Sets dh_next to dh z; the launcher then adds the product ds W_h'.
KERNEL gru_cell_back(const real* dh, real* dh_next, const real* gates, const real* s, const real* h_before, real* da,
                     real* ds, int B, int H) {
    EACH_CELL(n) {
        const long long at = first_gate(n, 3, H);
        const real r = gates[at], z = gates[at + H], candidate = gates[at + 2 * H];
        const real dh_t = dh[n] + dh_next[n];
        const real da_n = dh_t * (1 - z) * (1 - candidate * candidate);
        const real da_z = dh_t * (h_before[n] - candidate) * z * (1 - z);
        const real da_r = da_n * s[at + 2 * H] * r * (1 - r);
        da[at] = ds[at] = operand(da_r);
        da[at + H] = ds[at + H] = operand(da_z);
        da[at + 2 * H] = operand(da_n), ds[at + 2 * H] = operand(da_n * r);
        dh_next[n] = dh_t * z;
    }
}

KERNEL rnn_cell(real* h, real* h_read, int B, int H) {
    EACH_CELL(n) put(tanh(h[n]), h, h_read, n);
}

KERNEL rnn_cell_back(const real* dh, const real* dh_next, const real* h_after, real* dz, int B, int H) {
    EACH_CELL(n) dz[n] = operand((dh[n] + dh_next[n]) * (1 - h_after[n] * h_after[n]));
}
