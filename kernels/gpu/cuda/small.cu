// Trains small LSTMs (one layer, one stream, ids as input): a block has one model, and runs many iterations of forward,
// backward, clip and update, with block barriers only. The blocks of a launch have nothing to do with each other.
//
// During the steps, registers hold the recurrent matrix, each element in one thread: warp w has the rows w, w + WARPS,
// ..., and its lane l has the columns at places l, l + 32, ... Both products use this layout. A product with h sums over
// rows, hence over warps, through shared memory; a product with dz sums over columns, hence over the lanes of one warp,
// by shuffles. Between the products, four neighbouring threads have the gates of a unit. Registers are scarce, so these
// are compile-time constants: HIDDEN, STEPS, IDS, WARPS, which arrays are in SHARED memory, the optimizer RULE (of
// common.cu), its SLOTS and whether it SKIPS_ZEROS.

constexpr int H = HIDDEN, T = STEPS, V = IDS;
constexpr int GATES = 4 * H, THREADS = 32 * WARPS, ROWS = (H + WARPS - 1) / WARPS, COLUMNS = (GATES + 31) / 32;
// Padding extends rows of h and of gates to all elements that the warps and lanes access; elements beyond H and 4H are
// zero, so the loops need no bounds checks.
constexpr int UNITS = WARPS * ROWS, PADDED = 32 * COLUMNS;
// Returns how far apart the gates of a unit are in a row of gates: H, or a little more if the four gates of eight units
// then are in different banks and no columns are added.
constexpr int spread() {
    for (int apart = H; (4 * apart + 31) / 32 == COLUMNS; ++apart)
        if (apart % 32 == 8 || apart % 32 == 24) return apart;
    return H;
}
constexpr int APART = spread(), GAP = APART - H;
// Whether W_h leaves so few registers that each step finds out anew which thread it is in.
constexpr bool CROWDED = ROWS * COLUMNS * sizeof(real) >= 91 * 4;
constexpr int AT_ONCE = SLOTS > 1 ? 4 : 7;  // columns of a product with h; more would spill
constexpr int UPDATES = SLOTS > 1 ? 1 : sizeof(real) > 4 ? 4 : 5;  // columns of W_h that are updated at once
constexpr int TILE = 4;                     // steps (or rows of W_y) that share what is read from W_y (or dlogits)
constexpr int TILES = (T + TILE - 1) / TILE;
constexpr int LOGITS = (V + 3) / 4 * 4;     // length of a row of logits, so that four can be read at once
constexpr int INPUT_ROWS = 9;               // of W_x, and the bias, that are updated at once

// Offsets of the blocks of the flat vectors: W_x, W_h, b, W_y, b_y.
constexpr int W_H = V * GATES, BIAS = W_H + H * GATES, W_Y = BIAS + GATES, B_Y = W_Y + H * V, N = B_Y + V;

// Offsets in shared memory, in numbers; block.py computes the total. The first two are multiples of four.
constexpr int WORK_SIZE = WARPS * PADDED > T * (LOGITS + H) ? WARPS * PADDED : T * (LOGITS + H);
constexpr int STATES = 0;                         // h (T+1, UNITS)
constexpr int WORK = STATES + (T + 1) * UNITS;    // partial sums (WARPS, PADDED); then logits (T, LOGITS) and dh (T, H)
constexpr int NEXT = WORK + WORK_SIZE;            // dh_next (UNITS,)
constexpr int CELLS = NEXT + UNITS;               // c before the first and after the last step (2, H)
constexpr int LOSSES = CELLS + 2 * H;             // (T,)
constexpr int READ = LOSSES + T;                  // ids (T+1,); then whether each is the first of its kind (T,)
constexpr int ROOM = READ + 2 * T + 1;
// The next arrays are in shared memory if there is room. Otherwise dz and the factors are in `scratch`, and W_y stays in
// theta. In shared memory, W_y has an odd stride, which spreads it over the banks.
constexpr bool DZ_SHARED = SHARED & 1, FACTORS_SHARED = SHARED & 2, READOUT_SHARED = SHARED & 4;
constexpr int FACTORS = DZ_SHARED == FACTORS_SHARED ? T * PADDED : 0;  // after dz, if both are in the same memory
constexpr int READOUT = ROOM + (DZ_SHARED ? T * PADDED : 0) + (FACTORS_SHARED ? 2 * T * H : 0);
constexpr int STRIDE = READOUT_SHARED ? V | 1 : V;
constexpr int SCRATCH = (DZ_SHARED ? 0 : T * PADDED) + (FACTORS_SHARED ? 0 : 2 * T * H);

struct Vectors {
    real *theta, *s0, *s1;
};

// Four neighbours in shared memory, read at once.
struct alignas(16) Four {
    real x[4];
};
__device__ __forceinline__ Four four(const real* at) { return *(const Four*)at; }

// Updates N parameters with their gradients; their optimizer state has the indices `at`. All reads come before the first
// write, so that a thread waits for memory once and not N times.
template <int N>
__device__ __forceinline__ void update(real* parameters, const int (&own)[N], const int (&at)[N], const bool (&is_there)[N],
                                       const real (&g)[N], const Vectors& flat, const Rule& rule, real scale, real limit) {
    real p[N], s0[N], s1[N];
#pragma unroll
    for (int k = 0; k < N; ++k) {
        p[k] = is_there[k] ? parameters[own[k]] : real(0);
        s0[k] = SLOTS > 0 && is_there[k] ? flat.s0[at[k]] : real(0);
        s1[k] = SLOTS > 1 && is_there[k] ? flat.s1[at[k]] : real(0);
    }
#pragma unroll
    for (int k = 0; k < N; ++k) {
        p[k] = RULE(p[k], clipped(g[k] * scale, limit), &s0[k], &s1[k], rule);
        if (is_there[k]) {
            parameters[own[k]] = p[k];
            if (SLOTS > 0) flat.s0[at[k]] = s0[k];
            if (SLOTS > 1) flat.s1[at[k]] = s1[k];
        }
    }
}

// Returns whether the optimizer changes parameters with zero gradient; if so, it must update every row of W_x.
__device__ constexpr bool moves_all() { return !SKIPS_ZEROS; }

// Returns threadIdx.x in a way that the compiler cannot see through. Each phase of an iteration asks again, so that what
// follows from it (addresses, predicates) occupies no registers in the other phases, which need all of them.
__device__ __forceinline__ int this_thread() {
#ifdef ON_PROCESSOR
    return threadIdx.x;
#else
    int thread;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
    return thread;
#endif
}

// Returns the number of this block's model.
__device__ __forceinline__ long long this_model() { return blockIdx.x; }

// Returns the index of this block's first parameter in theta of all models, in a way that the compiler cannot see through
// either. An index chooses the model, because addresses for each model would take twice as many registers.
__device__ __forceinline__ int first_parameter() {
#ifdef ON_PROCESSOR
    return blockIdx.x * N;
#else
    unsigned int model;
    asm volatile("mov.u32 %0, %%ctaid.x;" : "=r"(model));
    return model * N;
#endif
}

__device__ __forceinline__ int row_of(int thread, int i) { return WARPS * i + thread / 32; }
__device__ __forceinline__ int place_of(int thread, int j) { return 32 * j + thread % 32; }
__device__ __forceinline__ bool is_row(int thread, int i) { return WARPS * i + WARPS <= H || row_of(thread, i) < H; }

// Returns which gate the place of this thread's column j belongs to; mostly known when compiled.
__device__ __forceinline__ int gate_of(int thread, int j) {
    int gate = 32 * j / APART;
#pragma unroll
    for (int next = 32 * j / APART + 1; next <= (32 * j + 31) / APART; ++next)
        gate += place_of(thread, j) >= next * APART;
    return gate;
}
__device__ __forceinline__ bool has_column(int thread, int j) {
    if (GAP == 0) return 32 * j + 32 <= GATES || place_of(thread, j) < GATES;
    const int first = 32 * j / APART, last = (32 * j + 31) / APART;
    if (first == last && 32 * j + 31 < first * APART + H && first < 4) return true;
    const int gate = gate_of(thread, j);
    return gate < 4 && place_of(thread, j) - gate * APART < H;
}

// Returns how far this thread's element (i, j) of W_h is from its first row's first number.
__device__ __forceinline__ int weight(int thread, int i, int j) {
    return WARPS * i * GATES + 32 * j - GAP * gate_of(thread, j);
}
__device__ __forceinline__ int first_weight(int thread) {
    return first_parameter() + W_H + thread / 32 * GATES + thread % 32;
}

// Loads this thread's part of W_h.
__device__ __forceinline__ void load_recurrent(int thread, real (&w)[ROWS][COLUMNS], const real* theta) {
    const real* own = theta + first_weight(thread);
#pragma unroll
    for (int i = 0; i < ROWS; ++i)
#pragma unroll
        for (int j = 0; j < COLUMNS; ++j)
            w[i][j] = is_row(thread, i) && has_column(thread, j) ? own[weight(thread, i, j)] : real(0);
}

// Sets partial[w][p] to the contribution of warp w's rows to place p of z, for h of one step; takes a few columns at a
// time.
__device__ __forceinline__ void multiply_by_h(int thread, const real (&w)[ROWS][COLUMNS], const real* h,
                                              real* partial) {
#pragma unroll
    for (int first = 0; first < COLUMNS; first += AT_ONCE) {
        real sums[AT_ONCE];
#pragma unroll
        for (int j = 0; j < AT_ONCE; ++j) sums[j] = 0;
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
            const real h_k = h[row_of(thread, i)];
#pragma unroll
            for (int j = 0; j < AT_ONCE && first + j < COLUMNS; ++j) sums[j] += h_k * w[i][first + j];
        }
#pragma unroll
        for (int j = 0; j < AT_ONCE && first + j < COLUMNS; ++j)
            partial[thread / 32 * PADDED + place_of(thread, first + j)] = sums[j];
    }
}

// Computes dh_next = dz W_h'; each warp computes its rows.
__device__ __forceinline__ void multiply_by_dz(int thread, const real (&w)[ROWS][COLUMNS], const real* dz,
                                               real* dh_next) {
    constexpr int SUMS = ROWS > 4 ? 8 : ROWS > 2 ? 4 : ROWS;  // a power of two
    const int lane = thread % 32;
    real sums[SUMS];
#pragma unroll
    for (int i = 0; i < SUMS; ++i) sums[i] = 0;
#pragma unroll
    for (int j = 0; j < COLUMNS; ++j) {
        const real dz_p = dz[place_of(thread, j)];
#pragma unroll
        for (int i = 0; i < ROWS; ++i) sums[i] += dz_p * w[i][j];
    }
    const real sum = sum_each<SUMS>(sums, lane, 16);
    const int i = lane / (32 / SUMS);
    if (lane % (32 / SUMS) == 0 && i < ROWS) dh_next[row_of(thread, i)] = sum;
}

// Returns the value that gate `which` of this thread's unit has.
__device__ __forceinline__ real of_gate(real mine, int which) {
    return __shfl_sync(ALL_LANES, mine, threadIdx.x % 32 / 4 * 4 + which);
}

// Updates W_h. Its gradient, h' dz summed over all steps, takes the weights' registers: there is no room for both.
__device__ __forceinline__ void update_recurrent(real (&w)[ROWS][COLUMNS], const real* h, const real* dz,
                                                 const Vectors& flat, const Rule& rule, real scale, real limit) {
    const int thread = this_thread();
#pragma unroll
    for (int i = 0; i < ROWS; ++i)
#pragma unroll
        for (int j = 0; j < COLUMNS; ++j) w[i][j] = 0;
#pragma unroll 1
    for (int t = 0; t < T; ++t, h += UNITS, dz += PADDED) {
        real h_t[ROWS];
#pragma unroll
        for (int i = 0; i < ROWS; ++i) h_t[i] = h[row_of(thread, i)];
#pragma unroll
        for (int j = 0; j < COLUMNS; ++j) {
            const real dz_p = dz[place_of(thread, j)];
#pragma unroll
            for (int i = 0; i < ROWS; ++i) w[i][j] += h_t[i] * dz_p;
        }
    }
    const int begin = first_weight(thread);
#pragma unroll
    for (int i = 0; i < ROWS; ++i)
#pragma unroll
        for (int first = 0; first < COLUMNS; first += UPDATES) {
            int at[UPDATES];
            bool is_there[UPDATES];
            real g[UPDATES];
#pragma unroll
            for (int k = 0; k < UPDATES; ++k) {
                const int j = first + k < COLUMNS ? first + k : 0;
                is_there[k] = first + k < COLUMNS && is_row(thread, i) && has_column(thread, j);
                at[k] = begin + weight(thread, i, j);
                g[k] = w[i][j];
            }
            update(flat.theta, at, at, is_there, g, flat, rule, scale, limit);
        }
}

// Updates b and W_x: this thread owns one column, which no other thread accesses. Of equal ids, the first counts.
__device__ __forceinline__ void update_input(const int* id, const real* dz, const Vectors& flat, const Rule& rule,
                                             real scale, real limit) {
    constexpr int COUNT = 1 + (moves_all() ? V : T);  // the bias is updated like a row that every step reads
    const int thread = this_thread(), begin = first_parameter() + thread;
    dz += thread / H * APART + thread % H;
    for (int first = 0; first < COUNT; first += INPUT_ROWS) {
        int row[INPUT_ROWS], at[INPUT_ROWS];
        bool is_there[INPUT_ROWS];
        real g[INPUT_ROWS];
#pragma unroll
        for (int k = 0; k < INPUT_ROWS; ++k) {
            const int n = first + k - 1;
            is_there[k] = n + 1 < COUNT && (n < 0 || moves_all() || id[T + 1 + n]);
            row[k] = n < 0 || !is_there[k] ? -1 : moves_all() ? n : id[n];
            at[k] = begin + (n < 0 ? BIAS : row[k] * GATES);
            g[k] = 0;
        }
#pragma unroll 4
        for (int t = 0; t < T; ++t) {
            const real dz_t = dz[t * PADDED];
            const int read = id[t];
#pragma unroll
            for (int k = 0; k < INPUT_ROWS; ++k)
                if (read == row[k] || first + k == 0) g[k] += dz_t;
        }
        update(flat.theta, at, at, is_there, g, flat, rule, scale, limit);
    }
}

// Updates W_y (in theta or in its copy) and b_y.
__device__ __forceinline__ void update_readout(real* W_y, const real* h_after, const real* dlogits, const Vectors& flat,
                                               const Rule& rule, real scale, real limit) {
    const int thread = this_thread(), begin = first_parameter();
    for (int n = thread; n < (H + TILE - 1) / TILE * V; n += THREADS) {
        const int k = n / V * TILE, v = n % V;
        int own[TILE], at[TILE];
        bool is_there[TILE];
        real g[TILE];
#pragma unroll
        for (int i = 0; i < TILE; ++i) {
            is_there[i] = H % TILE == 0 || k + i < H;
            own[i] = (k + i) * STRIDE + v, at[i] = begin + W_Y + (k + i) * V + v, g[i] = 0;
        }
#pragma unroll 4
        for (int t = 0; t < T; ++t) {
            const real dlogit = dlogits[t * LOGITS + v];
            const Four h_t = four(h_after + t * UNITS + k);
#pragma unroll
            for (int i = 0; i < TILE; ++i) g[i] += h_t.x[i] * dlogit;
        }
        update(W_y, own, at, is_there, g, flat, rule, scale, limit);
    }
    for (int v = thread; v < V; v += THREADS) {
        const int at[1] = {begin + B_Y + v};
        real g[1] = {0};
        for (int t = 0; t < T; ++t) g[0] += dlogits[t * LOGITS + v];
        update(flat.theta, at, at, {true}, g, flat, rule, scale, limit);
    }
}

// Computes the logits of all steps, those of TILE steps at a time.
__device__ __forceinline__ void read_out(const real* h_after, const real* W_y, const real* b_y, real* logits) {
    const int thread = this_thread();
    for (int n = thread; n < V * TILES; n += THREADS) {
        const int v = n % V, first = n / V * TILE;
        const real* row[TILE];
        real sum[TILE];
#pragma unroll
        for (int i = 0; i < TILE; ++i) {
            row[i] = h_after + (first + i < T ? first + i : T - 1) * UNITS;
            sum[i] = b_y[v];
        }
#pragma unroll 2
        for (int k = 0; k + 4 <= H; k += 4) {
            real y[4];
#pragma unroll
            for (int l = 0; l < 4; ++l) y[l] = W_y[(k + l) * STRIDE + v];
#pragma unroll
            for (int i = 0; i < TILE; ++i) {
                const Four h_k = four(row[i] + k);
#pragma unroll
                for (int l = 0; l < 4; ++l) sum[i] += h_k.x[l] * y[l];
            }
        }
        for (int k = H / 4 * 4; k < H; ++k)
#pragma unroll
            for (int i = 0; i < TILE; ++i) sum[i] += row[i][k] * W_y[k * STRIDE + v];
#pragma unroll
        for (int i = 0; i < TILE; ++i)
            if (first + i < T) logits[(first + i) * LOGITS + v] = sum[i];
    }
}

// Computes dh (T, H), the gradient of h as the readout sees it, for TILE steps at a time.
__device__ __forceinline__ void read_out_back(const real* dlogits, const real* W_y, real* dh) {
    const int thread = this_thread();
    for (int n = thread; n < H * TILES; n += THREADS) {
        const int k = n % H, first = n / H * TILE;
        const real *own = W_y + k * STRIDE, *row[TILE];
        real sum[TILE];
#pragma unroll
        for (int i = 0; i < TILE; ++i) {
            row[i] = dlogits + (first + i < T ? first + i : T - 1) * LOGITS;
            sum[i] = 0;
        }
#pragma unroll 2
        for (int v = 0; v + 4 <= V; v += 4) {
            real y[4];
#pragma unroll
            for (int l = 0; l < 4; ++l) y[l] = own[v + l];
#pragma unroll
            for (int i = 0; i < TILE; ++i) {
                const Four d = four(row[i] + v);
#pragma unroll
                for (int l = 0; l < 4; ++l) sum[i] += d.x[l] * y[l];
            }
        }
        for (int v = V / 4 * 4; v < V; ++v)
#pragma unroll
            for (int i = 0; i < TILE; ++i) sum[i] += row[i][v] * own[v];
#pragma unroll
        for (int i = 0; i < TILE; ++i)
            if (first + i < T) dh[(first + i) * H + k] = sum[i];
    }
}

// Replaces logits (T, LOGITS) with their gradient and writes the losses to row_loss (T,), one warp per step.
__device__ __forceinline__ void cross_entropy(real* logits, const int* targets, real* row_loss) {
    const int lane = threadIdx.x % 32;
    for (int t = threadIdx.x / 32; t < T; t += WARPS) {
        real *at = logits + t * LOGITS, top = minus_infinity(), total = 0, at_target = 0;
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

// For each model: theta (N,) and its optimizer state (SLOTS, N); x (count, T+1) ids; reset and the rates (count,); h, c
// (H,) the state; watch: the smoothed loss, and the value below which training stops. Writes theta, state, h, c, watch[0],
// losses (count,), and status: the number of losses, and the reason for the end (0: all iterations done, 1: smoothed loss
// below the limit, 2: loss not finite). A model that has ended in an earlier launch is left as it is, with no losses.
//
// From one model to the next it is `chunk` iterations in x, `apart` in the rates (0: all models have the same), and
// `total` in reset and losses.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
train_small(real* theta, real* state, const int* x, const bool* reset, const real* learning_rates, const real* rates,
            const real* roots, real* h_carried, real* c_carried, double* watch, double* losses, int* status,
            real* scratch, int count, int chunk, int apart, long long total, real scale, real limit, real rule_a,
            real rule_b, real rule_c, real rule_d, real rest_a, real rest_b) {
    extern __shared__ real memory[];
    __shared__ int verdict;
    const int tid = threadIdx.x;
    if (status[2 * this_model() + 1]) {
        if (tid == 0) status[2 * this_model()] = 0;
        return;
    }
    if (SCRATCH) scratch += this_model() * SCRATCH;
    real *h = memory + STATES, *partial = memory + WORK, *logits = partial, *dh = partial + T * LOGITS;
    real *dh_next = memory + NEXT, *cells = memory + CELLS, *row_loss = memory + LOSSES;
    int* id = (int*)(memory + READ);
    real* dz = DZ_SHARED ? memory + ROOM : scratch;                        // (T, PADDED): first its factors
    real* factors = (FACTORS_SHARED ? memory + ROOM : scratch) + FACTORS;  // (T, 2, H): of dc from dh, and the forget gates
    real* W_y = READOUT_SHARED ? memory + READOUT : theta + first_parameter() + W_Y;  // (H, V)

    real w[ROWS][COLUMNS];
    if (READOUT_SHARED) {
        const real* own = theta + first_parameter() + W_Y;
        for (int n = tid; n < H * V; n += THREADS) W_y[n / V * STRIDE + n % V] = own[n];
    }
    for (int k = tid; k < (T + 1) * UNITS; k += THREADS) h[k] = 0;
    for (int k = tid; k < T * PADDED; k += THREADS) dz[k] = 0;
    __syncthreads();  // the buffers are zero
    if (tid < H) {
        const long long at = this_model() * H + tid;
        h[T * UNITS + tid] = h_carried[at], cells[H + tid] = c_carried[at];
    }
    if (tid == 0) verdict = 0;

    int n = 0, last = 1;  // whether the state after the last step is carried on, or that before the first
    for (; n < count; ++n) {
        for (int t = tid; t <= T; t += THREADS) id[t] = x[(this_model() * chunk + n) * (T + 1) + t];
        if (tid < H) {
            const bool is_reset = reset[this_model() * total + n];
            h[tid] = is_reset ? real(0) : h[T * UNITS + tid];
            cells[tid] = is_reset ? real(0) : cells[H + tid];
        }
        __syncthreads();  // the initial state, the ids and the updated W_y are complete

        {
            const int now = this_thread();
            load_recurrent(now, w, theta);
            const real bias = now < GATES ? theta[first_parameter() + BIAS + now % 4 * H + now / 4] : real(0);
            real c = now < GATES ? cells[now / 4] : real(0);  // the same in the four threads of a unit
#pragma unroll 1
            for (int t = 0; t < T; ++t) {
                const int thread = CROWDED ? this_thread() : now, unit = thread / 4, gate = thread % 4;
                const int column = gate * H + unit, place = gate * APART + unit;
                const bool has_gate = thread < GATES;
                const real input = has_gate ? theta[first_parameter() + id[t] * GATES + column] : real(0);  // comes during the product
                multiply_by_h(thread, w, h + t * UNITS, partial);
                __syncthreads();  // all partial sums are complete
                if (thread / 32 * 32 < GATES) {  // whole warps, because of the shuffles
                    real z = input + bias;
                    for (int warp = 0; has_gate && warp < WARPS; ++warp) z += partial[warp * PADDED + place];
                    const real a = gate == 2 ? real(tanh(z)) : sigmoid(z);
                    const real i = of_gate(a, 0), f = of_gate(a, 1), g = of_gate(a, 2), o = of_gate(a, 3);
                    const real c_before = c;
                    c = f * c + i * g;
                    const real tanh_c = tanh(c);
                    if (has_gate) {
                        real* factor = factors + 2 * t * H + unit;
                        dz[t * PADDED + place] = gate == 0   ? g * i * (1 - i)
                                               : gate == 1 ? c_before * f * (1 - f)
                                               : gate == 2 ? i * (1 - g * g)
                                                           : tanh_c * o * (1 - o);
                        if (gate == 0) h[(t + 1) * UNITS + unit] = o * tanh_c;
                        if (gate == 1) factor[0] = o * (1 - tanh_c * tanh_c);
                        if (gate == 2) factor[H] = f;
                    }
                }
                __syncthreads();  // the next state is complete, and the partial sums have been read
            }
            if (now < GATES && now % 4 == 0) cells[H + now / 4] = c;
        }

        for (int t = THREADS - 1 - tid; t < T; t += THREADS) {  // by the last threads, which have nothing to read out
            int first = 0;
            while (id[first] != id[t]) ++first;
            id[T + 1 + t] = first == t;
        }
        read_out(h + UNITS, W_y, theta + first_parameter() + B_Y, logits);
        __syncthreads();  // all logits are complete
        cross_entropy(logits, id + 1, row_loss);
        __syncthreads();  // their gradients and the losses are complete
        if (tid == 0) {
            real loss = 0;
            for (int t = 0; t < T; ++t) loss += row_loss[t];
            double* own = watch + 2 * this_model();
            own[0] = SMOOTHING * own[0] + (1 - SMOOTHING) * loss;
            losses[this_model() * total + n] = loss;
            verdict = own[0] < own[1] ? 1 : loss - loss == 0 ? 0 : 2;
        }
        read_out_back(logits, W_y, dh);
        if (tid < UNITS) dh_next[tid] = 0;
        __syncthreads();  // the verdict and dh are complete
        if (verdict) {
            last = verdict != 1;
            break;
        }

        {
            const int now = this_thread();
            load_recurrent(now, w, theta);  // reloads w, because the loops above need its registers
            real dc = 0;
#pragma unroll 1
            for (int t = T - 1; t >= 0; --t) {
                const int thread = CROWDED ? this_thread() : now, unit = thread / 4, gate = thread % 4;
                if (thread < GATES) {
                    const real *factor = factors + 2 * t * H + unit, dh_t = dh[t * H + unit] + dh_next[unit];
                    dc += dh_t * factor[0];
                    dz[t * PADDED + gate * APART + unit] *= gate == 3 ? dh_t : dc;
                    dc *= factor[H];
                }
                __syncthreads();  // dz of this step is complete
                if (t > 0) {
                    multiply_by_dz(thread, w, dz + t * PADDED, dh_next);
                    __syncthreads();  // dh_next for the step before is complete
                }
            }
        }

        const long long at = this_model() * apart + n;
        const Rule rule = {rule_a, rule_b, rule_c, rule_d, rest_a, rest_b, learning_rates[at], rates[at], roots[at]};
        real* s0 = SLOTS > 1 ? state + first_parameter() : state;  // with one state, it has theta's indices
        const Vectors flat = {theta, s0, s0 + (SLOTS > 1 ? N : 0)};
        if (tid < GATES) update_input(id, dz, flat, rule, scale, limit);  // the registers of w are free here
        update_readout(W_y, h + UNITS, logits, flat, rule, scale, limit);
        update_recurrent(w, h, dz, flat, rule, scale, limit);
        __syncthreads();  // all threads have read the ids, the states and dlogits
    }

    const long long model = this_model();
    if (READOUT_SHARED)
        for (int k = tid; k < H * V; k += THREADS) theta[first_parameter() + W_Y + k] = W_y[k / V * STRIDE + k % V];
    if (tid < H) {
        h_carried[model * H + tid] = h[last * T * UNITS + tid];
        c_carried[model * H + tid] = cells[last * H + tid];
    }
    if (tid == 0) status[2 * model] = n < count ? n + 1 : count, status[2 * model + 1] = verdict;
}
