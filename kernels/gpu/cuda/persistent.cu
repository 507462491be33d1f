// Runs all steps of an LSTM layer in one cooperative launch. Each block computes UNITS hidden units and keeps their
// part of W_h in shared memory. Blocks exchange only h (or dz), through global memory, with one grid barrier per step.
//
// One warp computes one unit: its lanes split the product's inner axis, and lane b computes the cell of stream b, so B
// is at most 32. Each thread sums first, then its warp, always in the same order. The grid barrier is the only barrier,
// because a lane reads only those weights that it has written to shared memory itself.

#define UNITS 8  // per block
#define ROWS 4   // streams that are summed at once

// Waits until all blocks have arrived. The first block adds 2^31 minus the number of the other blocks, which add 1
// each. The highest bit therefore flips when the last block arrives, and the other bits are zero again, so the next
// launch can use the same counter with any number of blocks.
__device__ __forceinline__ void meet(unsigned int* arrived) {
#ifdef ON_PROCESSOR
    device::blocks_meet();
#else
    const unsigned int mine = blockIdx.x == 0 ? 0x80000000u - (gridDim.x - 1) : 1u;
    unsigned int before, now;
    asm volatile("atom.add.release.gpu.u32 %0, [%1], %2;" : "=r"(before) : "l"(arrived), "r"(mine) : "memory");
    do asm volatile("ld.acquire.gpu.u32 %0, [%1];" : "=r"(now) : "l"(arrived) : "memory");
    while (((before ^ now) & 0x80000000u) == 0);
#endif
}

__device__ __forceinline__ void grid_barrier(unsigned int* arrived) {
    __syncthreads();  // all threads of the block have written their results
    if (threadIdx.x == 0) meet(arrived);
    __syncthreads();  // all blocks have arrived
}

// gates (T, B, 4H) hold x W_x + b; the kernel replaces them with the activated gates. It reads h[0] and c[0] and writes
// the rest of h and c (T+1, B, H).
KERNEL __launch_bounds__(32 * UNITS, 1) lstm_steps(const real* W_h, real* gates, real* c, real* h, unsigned int* arrived,
                                                int T, int B, int H) {
    extern __shared__ real weights[];  // (UNITS, 4, H)
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, unit = blockIdx.x * UNITS + warp;
    const bool has_cell = unit < H && lane < B;
    const long long cells = (long long)B * H, at = lane * H + unit;
    real* own = weights + warp * 4 * H;
    if (unit < H)
        for (int gate = 0; gate < 4; ++gate)
            for (int k = lane; k < H; k += 32) own[gate * H + k] = W_h[(long long)k * 4 * H + gate * H + unit];
    real c_t = has_cell ? c[at] : real(0);
    for (int t = 0; t < T; ++t) {
        const real* h_before = h + t * cells;
        real z[4] = {0, 0, 0, 0};
        for (int first = 0; unit < H && first < B; first += ROWS) {
            real sum[4][ROWS] = {};
            for (int k = lane; k < H; k += 32) {
                real row[ROWS];
                for (int r = 0; r < ROWS; ++r) row[r] = first + r < B ? h_before[(first + r) * H + k] : real(0);
                for (int gate = 0; gate < 4; ++gate)
                    for (int r = 0; r < ROWS; ++r) sum[gate][r] += row[r] * own[gate * H + k];
            }
            for (int r = 0; r < ROWS; ++r)
                for (int gate = 0; first + r < B && gate < 4; ++gate) {
                    const real total = warp_sum(sum[gate][r]);
                    if (lane == first + r) z[gate] = total;
                }
        }
        if (has_cell) {
            real* row = gates + 4 * (t * cells + lane * H) + unit;
            const real i = sigmoid(row[0] + z[0]), f = sigmoid(row[H] + z[1]);
            const real g = tanh(row[2 * H] + z[2]), o = sigmoid(row[3 * H] + z[3]);
            row[0] = i, row[H] = f, row[2 * H] = g, row[3 * H] = o;
            c_t = f * c_t + i * g;
            c[(t + 1) * cells + at] = c_t;
            h[(t + 1) * cells + at] = o * tanh(c_t);
        }
        if (t + 1 < T) grid_barrier(arrived);
    }
}

// dh (T, B, H) is the gradient from the layer above; gates and c are as lstm_steps leaves them. The kernel writes dz
// (T, B, 4H) and replaces dh_next and dc (B, H), the gradients of the final state, with those of the initial state.
KERNEL __launch_bounds__(32 * UNITS, 1) lstm_steps_back(const real* W_h, const real* dh, const real* gates, const real* c,
                                                     real* dz, real* dh_next, real* dc, unsigned int* arrived, int T,
                                                     int B, int H) {
    extern __shared__ real weights[];  // (UNITS, 4H)
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, unit = blockIdx.x * UNITS + warp;
    const bool has_cell = unit < H && lane < B;
    const long long cells = (long long)B * H, at = lane * H + unit;
    real* own = weights + warp * 4 * H;
    if (unit < H)
        for (int k = lane; k < 4 * H; k += 32) own[k] = W_h[(long long)unit * 4 * H + k];
    real from_after = has_cell ? dh_next[at] : real(0), dc_t = has_cell ? dc[at] : real(0);
    for (int t = T - 1; t >= 0; --t) {
        if (has_cell) {
            const long long row = 4 * (t * cells + lane * H) + unit;
            const real i = gates[row], f = gates[row + H], g = gates[row + 2 * H], o = gates[row + 3 * H];
            const real tanh_c = tanh(c[(t + 1) * cells + at]), dh_t = dh[t * cells + at] + from_after;
            dc_t += dh_t * o * (1 - tanh_c * tanh_c);
            dz[row] = dc_t * g * i * (1 - i);
            dz[row + H] = dc_t * c[t * cells + at] * f * (1 - f);
            dz[row + 2 * H] = dc_t * i * (1 - g * g);
            dz[row + 3 * H] = dh_t * tanh_c * o * (1 - o);
            dc_t *= f;
        }
        grid_barrier(arrived);
        for (int first = 0; unit < H && first < B; first += ROWS) {
            real sum[ROWS] = {};
            const real* rows = dz + 4 * (t * cells + first * H);
            for (int k = lane; k < 4 * H; k += 32)
                for (int r = 0; r < ROWS; ++r) sum[r] += first + r < B ? rows[r * 4 * H + k] * own[k] : real(0);
            for (int r = 0; first + r < B && r < ROWS; ++r) {
                const real total = warp_sum(sum[r]);
                if (lane == first + r) from_after = total;
            }
        }
    }
    if (has_cell) dh_next[at] = from_after, dc[at] = dc_t;
}
