// Trains a small LSTM (one layer, one stream, ids as input): one block runs many iterations of forward, backward, clip
// and update, with block barriers only.
//
// During the steps, registers hold the recurrent matrix, each element in one thread: warp w has the rows w, w + WARPS,
// ..., and its lane l has the columns l, l + 32, ... Both products use this layout. A product with h sums over rows,
// hence over warps, through shared memory; a product with dz sums over columns, hence over the lanes of one warp, by
// shuffles. Registers are scarce, so these are compile-time constants: HIDDEN, STEPS, IDS, WARPS, which arrays are in
// SHARED memory, the optimizer RULE (of common.cu) and whether it SKIPS_ZEROS.

constexpr int H = HIDDEN, T = STEPS, V = IDS;
constexpr int GATES = 4 * H, THREADS = 32 * WARPS, ROWS = (H + WARPS - 1) / WARPS, COLUMNS = (GATES + 31) / 32;
// Padding extends rows of h and of gates to all elements that the warps and lanes access; elements beyond H and 4H are
// zero, so the loops need no bounds checks.
constexpr int UNITS = WARPS * ROWS, PADDED = 32 * COLUMNS;
constexpr int AT_ONCE = 7, ROWS_AT_ONCE = 4;  // columns of a product with h, rows of one with dz; limited by registers

// Offsets of the blocks of the flat vectors: W_x, W_h, b, W_y, b_y.
constexpr int W_H = V * GATES, BIAS = W_H + H * GATES, W_Y = BIAS + GATES, B_Y = W_Y + H * V;

// Offsets in shared memory, in numbers; block.py computes the total.
constexpr int WORK_SIZE = WARPS * PADDED > T * (V + H) ? WARPS * PADDED : T * (V + H);
constexpr int STATES = 0;                         // h (T+1, UNITS)
constexpr int WORK = STATES + (T + 1) * UNITS;    // partial sums (WARPS, PADDED); then logits (T, V) and dh (T, H)
constexpr int NEXT = WORK + WORK_SIZE;            // dh_next (UNITS,)
constexpr int LOSSES = NEXT + UNITS;              // (T,)
constexpr int READ = LOSSES + T;                  // ids (T+1,)
constexpr int ROOM = READ + T + 1;
// The next arrays are in shared memory if there is room. Otherwise gates and cells are in `scratch`, and W_y stays in
// theta. In shared memory, W_y has an odd stride, which spreads it over the banks.
constexpr bool GATES_SHARED = SHARED & 1, CELLS_SHARED = SHARED & 2, READOUT_SHARED = SHARED & 4;
constexpr int CELLS = GATES_SHARED == CELLS_SHARED ? T * PADDED : 0;  // after the gates, if both are in the same memory
constexpr int READOUT = ROOM + (GATES_SHARED ? T * PADDED : 0) + (CELLS_SHARED ? (T + 1) * H : 0);
constexpr int STRIDE = READOUT_SHARED ? V | 1 : V;

struct Vectors {
    real *theta, *s0, *s1;
};

// Returns the parameter after its update with the clipped gradient; its optimizer state has the same index `at`.
__device__ __forceinline__ real stepped(real theta, real g, const Vectors& flat, int at, const Rule& rule,
                                        real scale, real limit) {
    return RULE(theta, clipped(g * scale, limit), flat.s0 + at, flat.s1 + at, rule);
}

// Returns whether the optimizer changes parameters with zero gradient; if so, it must update every row of W_x.
__device__ constexpr bool moves_all() { return !SKIPS_ZEROS; }

__device__ __forceinline__ int row_of(int i) { return WARPS * i + threadIdx.x / 32; }
__device__ __forceinline__ int column_of(int j) { return 32 * j + threadIdx.x % 32; }
__device__ __forceinline__ bool is_row(int i) { return WARPS * i + WARPS <= H || row_of(i) < H; }
__device__ __forceinline__ bool is_column(int j) { return 32 * j + 32 <= GATES || column_of(j) < GATES; }

// Loads this thread's part of W_h.
__device__ __forceinline__ void load_recurrent(real (&w)[ROWS][COLUMNS], const real* theta) {
#pragma unroll
    for (int i = 0; i < ROWS; ++i)
#pragma unroll
        for (int j = 0; j < COLUMNS; ++j)
            w[i][j] = is_row(i) && is_column(j) ? theta[W_H + row_of(i) * GATES + column_of(j)] : real(0);
}

// Sets partial[w][r] to the contribution of warp w's rows to z[r], for h of one step; takes a few columns at a time.
__device__ __forceinline__ void multiply_by_h(const real (&w)[ROWS][COLUMNS], const real* h, real* partial) {
#pragma unroll
    for (int first = 0; first < COLUMNS; first += AT_ONCE) {
        real sums[AT_ONCE];
#pragma unroll
        for (int j = 0; j < AT_ONCE; ++j) sums[j] = 0;
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
            const real h_k = h[row_of(i)];
#pragma unroll
            for (int j = 0; j < AT_ONCE && first + j < COLUMNS; ++j) sums[j] += h_k * w[i][first + j];
        }
#pragma unroll
        for (int j = 0; j < AT_ONCE && first + j < COLUMNS; ++j)
            partial[threadIdx.x / 32 * PADDED + column_of(first + j)] = sums[j];
    }
}

// Computes dh_next = dz W_h'; each warp computes its rows, a few at a time.
__device__ __forceinline__ void multiply_by_dz(const real (&w)[ROWS][COLUMNS], const real* dz, real* dh_next) {
#pragma unroll
    for (int first = 0; first < ROWS; first += ROWS_AT_ONCE) {
        real sums[ROWS_AT_ONCE];
#pragma unroll
        for (int i = 0; i < ROWS_AT_ONCE; ++i) sums[i] = 0;
#pragma unroll
        for (int j = 0; j < COLUMNS; ++j) {
            const real dz_r = dz[column_of(j)];
#pragma unroll
            for (int i = 0; i < ROWS_AT_ONCE && first + i < ROWS; ++i) sums[i] += dz_r * w[first + i][j];
        }
#pragma unroll
        for (int i = 0; i < ROWS_AT_ONCE && first + i < ROWS; ++i) {
            const real sum = warp_sum(sums[i]);
            if (threadIdx.x % 32 == 0) dh_next[row_of(first + i)] = sum;
        }
    }
}

// Returns the activation of this thread's gate.
__device__ __forceinline__ real gate_of(real z) {
    return threadIdx.x / H == 2 ? real(tanh(z)) : sigmoid(z);
}

// Updates W_h. Its gradient, h' dz summed over all steps, takes the weights' registers: there is no room for both.
__device__ __forceinline__ void update_recurrent(real (&w)[ROWS][COLUMNS], const real* h, const real* dz,
                                                 const Vectors& flat, const Rule& rule, real scale, real limit) {
#pragma unroll
    for (int i = 0; i < ROWS; ++i)
#pragma unroll
        for (int j = 0; j < COLUMNS; ++j) w[i][j] = 0;
#pragma unroll 1
    for (int t = 0; t < T; ++t, h += UNITS, dz += PADDED) {
        real h_t[ROWS];
#pragma unroll
        for (int i = 0; i < ROWS; ++i) h_t[i] = h[row_of(i)];
#pragma unroll
        for (int j = 0; j < COLUMNS; ++j) {
            const real dz_r = dz[column_of(j)];
#pragma unroll
            for (int i = 0; i < ROWS; ++i) w[i][j] += h_t[i] * dz_r;
        }
    }
#pragma unroll
    for (int i = 0; i < ROWS; ++i)
#pragma unroll
        for (int j = 0; j < COLUMNS; ++j)
            if (is_row(i) && is_column(j)) {
                const int at = W_H + row_of(i) * GATES + column_of(j);
                flat.theta[at] = stepped(flat.theta[at], w[i][j], flat, at, rule, scale, limit);
            }
}

// Updates W_x and b: thread r owns column r, which no other thread accesses.
__device__ __forceinline__ void update_input(const int* id, const real* dz, const Vectors& flat, const Rule& rule,
                                             real scale, real limit) {
    const int r = threadIdx.x;
    real sum = 0;
    for (int t = 0; t < T; ++t) sum += dz[t * PADDED + r];
    flat.theta[BIAS + r] = stepped(flat.theta[BIAS + r], sum, flat, BIAS + r, rule, scale, limit);
    for (int n = 0; n < (moves_all() ? V : T); ++n) {
        const int row = moves_all() ? n : id[n];
        bool is_done = false;  // true if an earlier, equal id has updated the row already
        for (int t = 0; !moves_all() && t < n; ++t) is_done = is_done || id[t] == row;
        if (is_done) continue;
        real g = 0;
        for (int t = 0; t < T; ++t) g += id[t] == row ? dz[t * PADDED + r] : real(0);
        const int at = row * GATES + r;
        flat.theta[at] = stepped(flat.theta[at], g, flat, at, rule, scale, limit);
    }
}

// Updates W_y (in theta or in its copy) and b_y.
__device__ __forceinline__ void update_readout(real* W_y, const real* h_after, const real* dlogits, const Vectors& flat,
                                               const Rule& rule, real scale, real limit) {
    for (int n = threadIdx.x; n < H * V; n += THREADS) {
        const int k = n / V, v = n % V;
        real g = 0;
        for (int t = 0; t < T; ++t) g += h_after[t * UNITS + k] * dlogits[t * V + v];
        W_y[k * STRIDE + v] = stepped(W_y[k * STRIDE + v], g, flat, W_Y + n, rule, scale, limit);
    }
    for (int v = threadIdx.x; v < V; v += THREADS) {
        real g = 0;
        for (int t = 0; t < T; ++t) g += dlogits[t * V + v];
        flat.theta[B_Y + v] = stepped(flat.theta[B_Y + v], g, flat, B_Y + v, rule, scale, limit);
    }
}

// Replaces logits (T, V) with their gradient and writes the losses to row_loss (T,), one warp per step.
__device__ __forceinline__ void cross_entropy(real* logits, const int* targets, real* row_loss) {
    const int lane = threadIdx.x % 32;
    for (int t = threadIdx.x / 32; t < T; t += WARPS) {
        real *at = logits + t * V, top = minus_infinity(), total = 0, at_target = 0;
        for (int v = lane; v < V; v += 32) top = at[v] > top ? at[v] : top;
        top = warp_max(top);
        for (int v = lane; v < V; v += 32) {
            const real shifted = at[v] - top;
            if (v == targets[t]) at_target = shifted;
            at[v] = exp(shifted);
            total += at[v];
        }
        total = warp_sum(total);
        for (int v = lane; v < V; v += 32) at[v] = at[v] / total - (v == targets[t] ? real(1) : real(0));
        if (lane == targets[t] % 32) row_loss[t] = log(total) - at_target;
    }
}

// theta (N,) and its optimizer state s0, s1; x (count, T+1) ids; reset and the rates (count,); h, c (H,) the state;
// watch: the smoothed loss, and the value below which training stops. Writes theta, s0, s1, h, c, watch[0], losses
// (count,), and status: the number of losses, and the reason for the end (0: all iterations done, 1: smoothed loss
// below the limit, 2: loss not finite).
extern "C" __global__ void __launch_bounds__(THREADS, 1)
train_small(real* theta, real* s0, real* s1, const int* x, const bool* reset, const real* learning_rates,
            const real* rates, const real* roots, real* h_carried, real* c_carried, double* watch, double* losses,
            int* status, real* scratch, int count, real scale, real limit, real rule_a, real rule_b, real rule_c,
            real rule_d, real rest_a, real rest_b) {
    extern __shared__ real memory[];
    __shared__ int verdict;
    const int tid = threadIdx.x;
    const Vectors flat = {theta, s0, s1};
    real *h = memory + STATES, *partial = memory + WORK, *logits = partial, *dh = partial + T * V;
    real *dh_next = memory + NEXT, *row_loss = memory + LOSSES;
    int* id = (int*)(memory + READ);
    real* gates = GATES_SHARED ? memory + ROOM : scratch;                  // (T, PADDED), then dz
    real* c = (CELLS_SHARED ? memory + ROOM : scratch) + CELLS;            // (T+1, H)
    real* W_y = READOUT_SHARED ? memory + READOUT : theta + W_Y;           // (H, V)

    real w[ROWS][COLUMNS];
    if (READOUT_SHARED)
        for (int n = tid; n < H * V; n += THREADS) W_y[n / V * STRIDE + n % V] = theta[W_Y + n];
    for (int k = tid; k < (T + 1) * UNITS; k += THREADS) h[k] = 0;
    for (int k = tid; k < T * PADDED; k += THREADS) gates[k] = 0;
    __syncthreads();  // the buffers are zero
    if (tid < H) h[T * UNITS + tid] = h_carried[tid], c[T * H + tid] = c_carried[tid];
    if (tid == 0) verdict = 0;

    int n = 0, last = T;  // the row of h and c that is carried on
    for (; n < count; ++n) {
        for (int t = tid; t <= T; t += THREADS) id[t] = x[(long long)n * (T + 1) + t];
        if (tid < H) {
            h[tid] = reset[n] ? real(0) : h[T * UNITS + tid];
            c[tid] = reset[n] ? real(0) : c[T * H + tid];
        }
        __syncthreads();  // the initial state, the ids and the updated W_y are complete

        load_recurrent(w, theta);
#pragma unroll 1
        for (int t = 0; t < T; ++t) {
            multiply_by_h(w, h + t * UNITS, partial);
            __syncthreads();  // all partial sums are complete
            if (tid < GATES) {
                real z = theta[id[t] * GATES + tid] + theta[BIAS + tid];
                for (int warp = 0; warp < WARPS; ++warp) z += partial[warp * PADDED + tid];
                gates[t * PADDED + tid] = gate_of(z);
            }
            __syncthreads();  // all gates are complete, and the partial sums have been read
            if (tid < H) {
                const real* gate = gates + t * PADDED + tid;
                const real c_t = gate[H] * c[t * H + tid] + gate[0] * gate[2 * H];
                c[(t + 1) * H + tid] = c_t;
                h[(t + 1) * UNITS + tid] = gate[3 * H] * tanh(c_t);
            }
            __syncthreads();  // the next state is complete
        }

        for (int k = tid; k < T * V; k += THREADS) {
            const real* h_after = h + (k / V + 1) * UNITS;
            const int v = k % V;
            real sum = theta[B_Y + v];
            for (int j = 0; j < H; ++j) sum += h_after[j] * W_y[j * STRIDE + v];
            logits[k] = sum;
        }
        __syncthreads();  // all logits are complete
        cross_entropy(logits, id + 1, row_loss);
        __syncthreads();  // their gradients and the losses are complete
        if (tid == 0) {
            real loss = 0;
            for (int t = 0; t < T; ++t) loss += row_loss[t];
            watch[0] = SMOOTHING * watch[0] + (1 - SMOOTHING) * loss;
            losses[n] = loss;
            verdict = watch[0] < watch[1] ? 1 : loss - loss == 0 ? 0 : 2;
        }
        for (int k = tid; k < T * H; k += THREADS) {
            const real *dlogits = logits + k / H * V, *row = W_y + k % H * STRIDE;
            real sum = 0;
            for (int v = 0; v < V; ++v) sum += dlogits[v] * row[v];
            dh[k] = sum;
        }
        if (tid < H) dh_next[tid] = 0;
        __syncthreads();  // the verdict and dh are complete
        if (verdict) {
            last = verdict == 1 ? 0 : T;
            break;
        }

        load_recurrent(w, theta);  // reloads w, because the loops above need its registers
        real dc = 0;
#pragma unroll 1
        for (int t = T - 1; t >= 0; --t) {
            if (tid < H) {
                real* gate = gates + t * PADDED + tid;
                const real i = gate[0], f = gate[H], g = gate[2 * H], o = gate[3 * H];
                const real tanh_c = tanh(c[(t + 1) * H + tid]), dh_t = dh[t * H + tid] + dh_next[tid];
                dc += dh_t * o * (1 - tanh_c * tanh_c);
                gate[0] = dc * g * i * (1 - i);
                gate[H] = dc * c[t * H + tid] * f * (1 - f);
                gate[2 * H] = dc * i * (1 - g * g);
                gate[3 * H] = dh_t * tanh_c * o * (1 - o);
                dc *= f;
            }
            __syncthreads();  // dz of this step is complete
            if (t > 0) {
                multiply_by_dz(w, gates + t * PADDED, dh_next);
                __syncthreads();  // dh_next for the step before is complete
            }
        }

        const Rule rule = {rule_a, rule_b, rule_c, rule_d, rest_a, rest_b, learning_rates[n], rates[n], roots[n]};
        if (tid < GATES) update_input(id, gates, flat, rule, scale, limit);  // the registers of w are free here
        update_readout(W_y, h + UNITS, logits, flat, rule, scale, limit);
        update_recurrent(w, h, gates, flat, rule, scale, limit);
        __syncthreads();  // all threads have read the ids, the states and dlogits
    }

    if (READOUT_SHARED)
        for (int k = tid; k < H * V; k += THREADS) theta[W_Y + k] = W_y[k / V * STRIDE + k % V];
    if (tid < H) h_carried[tid] = h[last * UNITS + tid], c_carried[tid] = c[last * H + tid];
    if (tid == 0) status[0] = n < count ? n + 1 : count, status[1] = verdict;
}
