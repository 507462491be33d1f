// Runs all steps of an LSTM layer in one cooperative launch. Each block computes UNITS hidden units (4 or 8) and keeps
// their part of W_h in shared memory. Blocks exchange only h (or dz), through global memory, with one grid barrier per
// step; each then copies all of it into shared memory.
//
// A warp multiplies four vectors of weights (a unit's gates forward, four units backward) with eight streams at a time,
// over a part of the inner axis; its lanes split that part, and shuffles sum the 32 products so that each lane ends with
// one. Then each thread computes the cells of fixed units and streams. All sums have a fixed order.

constexpr int THREADS = 256, ROWS = 8, OWN = 4;
constexpr int STREAMS = 64;                      // at most
constexpr int CELLS = STREAMS * UNITS / THREADS; // per thread
constexpr int SPAN = STREAMS + 1;                // a row of sums; odd, which spreads it over the banks
constexpr int PARTS = 8 / UNITS;                 // parts of the inner axis (of each gate, backward), one warp each

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

// Copies n numbers to shared memory; many are on their way at the same time.
__device__ __forceinline__ void copy(real* to, const real* from, int n) {
#pragma unroll 8
    for (int k = threadIdx.x; k < n; k += THREADS) to[k] = from[k];
}

// Returns to lane ROWS * o + r the product of the o-th of four vectors of weights, `apart` numbers apart, with row
// first + r of `rows` (of `count` rows of that length), over the elements from begin to end.
__device__ __forceinline__ real product(const real* weights, int apart, const real* rows, int length, int first,
                                        int count, int begin, int end) {
    const int lane = threadIdx.x % 32;
    const real* row[ROWS];
    real sums[OWN * ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; ++r) row[r] = rows + (first + r < count ? first + r : count - 1) * length;
#pragma unroll
    for (int n = 0; n < OWN * ROWS; ++n) sums[n] = 0;
#pragma unroll 2
    for (int k = begin + lane; k < end; k += 32) {
        real own[OWN];
#pragma unroll
        for (int o = 0; o < OWN; ++o) own[o] = weights[o * apart + k];
#pragma unroll
        for (int r = 0; r < ROWS; ++r) {
            const real x = row[r][k];
#pragma unroll
            for (int o = 0; o < OWN; ++o) sums[o * ROWS + r] += x * own[o];
        }
    }
    return sum_each<OWN * ROWS>(sums, lane, 16);
}

// The unit, within its block, and the stream of this thread's i-th cell: neighbours in memory belong to neighbouring
// threads.
__device__ __forceinline__ int unit_of(int i) { return (threadIdx.x + THREADS * i) % UNITS; }
__device__ __forceinline__ int stream_of(int i) { return (threadIdx.x + THREADS * i) / UNITS; }

// gates (T, B, 4H) hold x W_x + b; the kernel replaces them with the activated gates. It reads h[0] and c[0] and writes
// the rest of h and c (T+1, B, H).
KERNEL __launch_bounds__(THREADS, 1) lstm_steps(const real* W_h, real* gates, real* c, real* h, unsigned int* arrived,
                                                int T, int B, int H) {
    extern __shared__ real memory[];
    real *weights = memory, *rows = weights + UNITS * 4 * H, *sums = rows + B * H;  // (UNITS, 4, H), (B, H), (PARTS, 4
                                                                                    // UNITS, SPAN)
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, unit = warp % UNITS, part = warp / UNITS;
    const int first_unit = blockIdx.x * UNITS, step = B * H, share = (H + PARTS - 1) / PARTS;
    for (int n = threadIdx.x; n < UNITS * 4 * H; n += THREADS) {
        const int u = n % UNITS, gate = n / UNITS % 4, k = n / UNITS / 4;
        weights[(u * 4 + gate) * H + k] = first_unit + u < H ? W_h[(long long)k * 4 * H + gate * H + first_unit + u] : real(0);
    }
    real c_t[CELLS], z[CELLS][4];
#pragma unroll
    for (int i = 0; i < CELLS; ++i) {
        const int u = first_unit + unit_of(i), b = stream_of(i);
        c_t[i] = u < H && b < B ? c[b * H + u] : real(0);
        for (int gate = 0; gate < 4; ++gate) z[i][gate] = u < H && b < B ? gates[4 * b * H + gate * H + u] : real(0);
    }
    for (int t = 0; t < T; ++t) {
        copy(rows, h + (long long)t * step, step);
        __syncthreads();  // the weights and the states before this step are complete
        for (int first = 0; first < B; first += ROWS) {
            const int begin = part * share, end = begin + share < H ? begin + share : H;
            const real sum = product(weights + unit * 4 * H, H, rows, H, first, B, begin, end);
            const int gate = lane / ROWS, b = first + lane % ROWS;
            if (b < B) sums[((part * 4 + gate) * UNITS + unit) * SPAN + b] = sum;
        }
        __syncthreads();  // all products are complete
#pragma unroll
        for (int i = 0; i < CELLS; ++i) {
            const int u = first_unit + unit_of(i), b = stream_of(i);
            if (u >= H || b >= B) continue;
            for (int k = 0; k < PARTS * 4; ++k) z[i][k % 4] += sums[(k * UNITS + unit_of(i)) * SPAN + b];
            const real in = sigmoid(z[i][0]), f = sigmoid(z[i][1]), g = tanh(z[i][2]), o = sigmoid(z[i][3]);
            real* row = gates + 4 * ((long long)t * step + b * H) + u;
            row[0] = in, row[H] = f, row[2 * H] = g, row[3 * H] = o;
            c_t[i] = f * c_t[i] + in * g;
            const long long at = (long long)(t + 1) * step + b * H + u;
            c[at] = c_t[i];
            h[at] = o * tanh(c_t[i]);
            if (t + 1 < T)  // read before the wait
                for (int gate = 0; gate < 4; ++gate) z[i][gate] = row[4LL * step + gate * H];
        }
        if (t + 1 < T) grid_barrier(arrived);
    }
}

// What a cell needs for its step backward, besides what comes from the step after.
struct Kept {
    real i, f, g, o, c, c_before, dh;
};

__device__ __forceinline__ Kept kept(const real* gates, const real* c, const real* dh, long long cell, int step, int H,
                                     long long row) {
    return {gates[row], gates[row + H], gates[row + 2 * H], gates[row + 3 * H], c[cell + step], c[cell], dh[cell]};
}

// dh (T, B, H) is the gradient from the layer above; gates and c are as lstm_steps leaves them. The kernel writes dz
// (T, B, 4H) and replaces dh_next and dc (B, H), the gradients of the final state, with those of the initial state. It
// copies dz of `at_once` streams at a time.
KERNEL __launch_bounds__(THREADS, 1) lstm_steps_back(const real* W_h, const real* dh, const real* gates, const real* c,
                                                     real* dz, real* dh_next, real* dc, unsigned int* arrived, int T,
                                                     int B, int H, int at_once) {
    extern __shared__ real memory[];
    real *weights = memory, *rows = weights + UNITS * 4 * H, *sums = rows + at_once * 4 * H;  // (UNITS, 4H), (at_once,
                                                                                              // 4H), (4 PARTS, UNITS, SPAN)
    constexpr int GROUPS = UNITS / OWN;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, group = warp % GROUPS;
    const int gate = warp / GROUPS % 4, part = warp / GROUPS / 4;
    const int first_unit = blockIdx.x * UNITS, step = B * H, share = (H + PARTS - 1) / PARTS;
    for (int n = threadIdx.x; n < UNITS * 4 * H; n += THREADS)
        weights[n] = first_unit + n / (4 * H) < H ? W_h[(long long)first_unit * 4 * H + n] : real(0);
    real from_after[CELLS], dc_t[CELLS];
    Kept now[CELLS];
#pragma unroll
    for (int i = 0; i < CELLS; ++i) {
        const int u = first_unit + unit_of(i), b = stream_of(i), at = b * H + u;
        if (u >= H || b >= B) continue;
        const long long cell = (long long)(T - 1) * step + at;
        from_after[i] = dh_next[at], dc_t[i] = dc[at];
        now[i] = kept(gates, c, dh, cell, step, H, 4 * (cell - u) + u);
    }
    for (int t = T - 1; t >= 0; --t) {
#pragma unroll
        for (int i = 0; i < CELLS; ++i) {
            const int u = first_unit + unit_of(i), b = stream_of(i);
            if (u >= H || b >= B) continue;
            const long long cell = (long long)t * step + b * H + u;
            const real tanh_c = tanh(now[i].c), dh_t = now[i].dh + from_after[i];
            const real in = now[i].i, f = now[i].f, g = now[i].g, o = now[i].o;
            dc_t[i] += dh_t * o * (1 - tanh_c * tanh_c);
            real* row = dz + 4 * (cell - u) + u;
            row[0] = dc_t[i] * g * in * (1 - in);
            row[H] = dc_t[i] * now[i].c_before * f * (1 - f);
            row[2 * H] = dc_t[i] * in * (1 - g * g);
            row[3 * H] = dh_t * tanh_c * o * (1 - o);
            dc_t[i] *= f;
            if (t > 0) now[i] = kept(gates, c, dh, cell - step, step, H, 4 * (cell - step - u) + u);  // before the wait
        }
        grid_barrier(arrived);
        for (int begin = 0; begin < B; begin += at_once) {
            const int count = B - begin < at_once ? B - begin : at_once;
            if (begin > 0) __syncthreads();  // the copies of the streams before have been read
            copy(rows, dz + 4 * ((long long)t * step + begin * H), count * 4 * H);
            __syncthreads();  // the copies are complete
            for (int first = 0; first < count; first += ROWS) {
                const int k = part * share, end = k + share < H ? k + share : H;
                const real sum = product(weights + group * OWN * 4 * H + gate * H, 4 * H, rows + gate * H, 4 * H, first,
                                         count, k, end);
                const int unit = group * OWN + lane / ROWS, b = first + lane % ROWS;
                if (b < count) sums[((part * 4 + gate) * UNITS + unit) * SPAN + begin + b] = sum;
            }
        }
        __syncthreads();  // all products are complete
#pragma unroll
        for (int i = 0; i < CELLS; ++i) {
            real sum = 0;
            if (stream_of(i) < B)
                for (int k = 0; k < 4 * PARTS; ++k) sum += sums[(k * UNITS + unit_of(i)) * SPAN + stream_of(i)];
            from_after[i] = sum;
        }
    }
#pragma unroll
    for (int i = 0; i < CELLS; ++i) {
        const int u = first_unit + unit_of(i), b = stream_of(i);
        if (u < H && b < B) dh_next[b * H + u] = from_after[i], dc[b * H + u] = dc_t[i];
    }
}
