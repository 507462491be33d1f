// Training of a small LSTM (one layer, one stream, ids in): one block runs many iterations of forward, backward, clip and
// update, with nothing but its own barriers.
//
// The recurrent matrix stays in registers, each element in one place: warp w has ROWS of its rows, lane l of those the
// columns l, l + 32, ... That serves both ways: a product with h adds up over rows, so over warps, through shared memory;
// one with dz over columns, so over the lanes of one warp, by shuffles.
//
// Known at compile time: HH hidden units, WARPS, RULE (of common.cu).

#define GATES (4 * HH)
#define THREADS (32 * WARPS)
#define ROWS ((HH + WARPS - 1) / WARPS)
#define COLUMNS ((GATES + 31) / 32)
#define PADDED (32 * COLUMNS)
#define AT_ONCE 2  // rows whose gradients are added up together: more would not fit in registers beside the weights

// What lies in shared memory wherever there is room for it, else in `scratch`.
enum { GATES_SHARED = 1, CELLS_SHARED = 2, READOUT_SHARED = 4 };

// Where the blocks of the flat vectors begin; W_x begins at 0.
struct Offsets {
    int W_h, b, W_y, b_y;
};

struct Vectors {
    real *theta, *s0, *s1;
};

// One parameter's update: clipped, and with the memory that lies where the parameter does.
__device__ __forceinline__ real stepped(real theta, real g, const Vectors& flat, long long at, const Rule& rule,
                                        real scale, real limit) {
    return updated<RULE>(theta, clipped(g * scale, limit), flat.s0 + at, flat.s1 + at, rule);
}

// Whether a rule moves parameters whose gradient is zero, so that rows of W_x which no id touches count, too.
__device__ constexpr bool moves_all() { return RULE != SGD && RULE != ADAGRAD; }

__device__ __forceinline__ int row_of(int i) { return threadIdx.x / 32 * ROWS + i; }
__device__ __forceinline__ int column_of(int j) { return 32 * j + threadIdx.x % 32; }
__device__ __forceinline__ bool is_row(int i) { return HH % WARPS == 0 || row_of(i) < HH; }
__device__ __forceinline__ bool is_column(int j) { return 32 * j + 31 < GATES || column_of(j) < GATES; }

// partial[w][r] = what warp w's rows add to z[r], for h of one step.
__device__ __forceinline__ void multiply_by_h(const real (&w)[ROWS][COLUMNS], const real* h, real* partial) {
    real sums[COLUMNS];
#pragma unroll
    for (int j = 0; j < COLUMNS; ++j) sums[j] = 0;
#pragma unroll
    for (int i = 0; i < ROWS; ++i) {
        const real h_k = is_row(i) ? h[row_of(i)] : real(0);
#pragma unroll
        for (int j = 0; j < COLUMNS; ++j) sums[j] += h_k * w[i][j];
    }
#pragma unroll
    for (int j = 0; j < COLUMNS; ++j) partial[threadIdx.x / 32 * PADDED + column_of(j)] = sums[j];
}

// dh_next = dz W_h', each warp its rows.
__device__ __forceinline__ void multiply_by_dz(const real (&w)[ROWS][COLUMNS], const real* dz, real* dh_next) {
#pragma unroll
    for (int i = 0; i < ROWS; ++i) {
        real sum = 0;
#pragma unroll
        for (int j = 0; j < COLUMNS; ++j) sum += is_column(j) ? dz[column_of(j)] * w[i][j] : real(0);
        sum = warp_sum(sum);
        if (threadIdx.x % 32 == 0 && is_row(i)) dh_next[row_of(i)] = sum;
    }
}

// The activated gate that this thread has at one step.
__device__ __forceinline__ real gate_of(real z) {
    return threadIdx.x / HH == 2 ? real(tanh(z)) : sigmoid(z);
}

// W_h after its update, in registers; dW_h = h' dz over all steps, a few rows at a time.
__device__ __forceinline__ void update_recurrent(real (&w)[ROWS][COLUMNS], const real* h, const real* dz, int T,
                                                 const Vectors& flat, int W_h, const Rule& rule, real scale,
                                                 real limit) {
#pragma unroll
    for (int first = 0; first < ROWS; first += AT_ONCE) {
        real g[AT_ONCE][COLUMNS];
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i)
#pragma unroll
            for (int j = 0; j < COLUMNS; ++j) g[i][j] = 0;
        for (int t = 0; t < T; ++t) {
            real h_k[AT_ONCE];
#pragma unroll
            for (int i = 0; i < AT_ONCE; ++i)
                h_k[i] = first + i < ROWS && is_row(first + i) ? h[t * HH + row_of(first + i)] : real(0);
#pragma unroll
            for (int j = 0; j < COLUMNS; ++j) {
                const real dz_r = is_column(j) ? dz[t * GATES + column_of(j)] : real(0);
#pragma unroll
                for (int i = 0; i < AT_ONCE; ++i) g[i][j] += h_k[i] * dz_r;
            }
        }
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i)
            if (first + i < ROWS) {
#pragma unroll
                for (int j = 0; j < COLUMNS; ++j)
                    if (is_row(first + i) && is_column(j)) {
                        const long long at = W_h + row_of(first + i) * GATES + column_of(j);
                        w[first + i][j] = stepped(w[first + i][j], g[i][j], flat, at, rule, scale, limit);
                    }
            }
    }
}

// W_x and b after their update: thread r has their column r, so no other ever sees them.
__device__ __forceinline__ void update_input(const int* id, const real* dz, int T, int V, const Vectors& flat, int b,
                                             const Rule& rule, real scale, real limit) {
    const int r = threadIdx.x;
    real sum = 0;
    for (int t = 0; t < T; ++t) sum += dz[t * GATES + r];
    flat.theta[b + r] = stepped(flat.theta[b + r], sum, flat, b + r, rule, scale, limit);
    for (int n = 0; n < (moves_all() ? V : T); ++n) {
        const int row = moves_all() ? n : id[n];
        bool is_done = false;  // an id that came before has been seen to
        for (int t = 0; !moves_all() && t < n; ++t) is_done = is_done || id[t] == row;
        if (is_done) continue;
        real g = 0;
        for (int t = 0; t < T; ++t) g += id[t] == row ? dz[t * GATES + r] : real(0);
        const long long at = (long long)row * GATES + r;
        flat.theta[at] = stepped(flat.theta[at], g, flat, at, rule, scale, limit);
    }
}

// W_y (in theta or in its copy) and b_y after their update.
__device__ __forceinline__ void update_readout(real* W_y, int stride, const real* h_after, const real* dlogits, int T,
                                               int V, const Vectors& flat, const Offsets& begin, const Rule& rule,
                                               real scale, real limit) {
    for (int n = threadIdx.x; n < HH * V; n += THREADS) {
        const int k = n / V, v = n % V;
        real g = 0;
        for (int t = 0; t < T; ++t) g += h_after[t * HH + k] * dlogits[t * V + v];
        W_y[k * stride + v] = stepped(W_y[k * stride + v], g, flat, begin.W_y + n, rule, scale, limit);
    }
    for (int v = threadIdx.x; v < V; v += THREADS) {
        real g = 0;
        for (int t = 0; t < T; ++t) g += dlogits[t * V + v];
        flat.theta[begin.b_y + v] = stepped(flat.theta[begin.b_y + v], g, flat, begin.b_y + v, rule, scale, limit);
    }
}

// logits (T, V) become their gradient, row_loss (T,) the losses; a warp has a step.
__device__ __forceinline__ void cross_entropy(real* logits, const int* targets, real* row_loss, int T, int V) {
    const int lane = threadIdx.x % 32;
    for (int t = threadIdx.x / 32; t < T; t += WARPS) {
        real *at = logits + t * V, top = -INFINITY, total = 0, at_target = 0;
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

// theta (N,) and its memory s0, s1; x (count, T+1) ids; reset, rates, roots (count,); h, c (H,) the state; watch: the
// smoothed loss, and that below which training stops. Written: theta, s0, s1, h, c, watch[0], losses (count,), and
// status: iterations whose loss is known, and why it ended (0: all done, 1: the smoothed loss, 2: one not finite).
extern "C" __global__ void __launch_bounds__(THREADS)
train_small(real* theta, real* s0, real* s1, const int* x, const bool* reset, const real* rates, const real* roots,
            real* h_carried, real* c_carried, double* watch, double* losses, int* status, real* scratch, int W_h, int b,
            int W_y_begin, int b_y, int T, int V, int count, int shared, real scale, real limit, real rule_a,
            real rule_b, real rule_c) {
    extern __shared__ real memory[];
    __shared__ int verdict;
    const int tid = threadIdx.x;
    const int work_size = WARPS * PADDED > T * (V + HH) ? WARPS * PADDED : T * (V + HH);
    const Vectors flat = {theta, s0, s1};
    const Offsets begin = {W_h, b, W_y_begin, b_y};

    // Shared memory, in this order; small.py adds it up.
    real* h = memory;                       // (T+1, HH)
    real* work = h + (T + 1) * HH;          // partial sums (WARPS, PADDED); then logits (T, V) and dh (T, HH)
    real* dh_next = work + work_size;       // (HH,)
    real* row_loss = dh_next + HH;          // (T,)
    int* id = (int*)(row_loss + T);         // (T+1,)
    real* room = row_loss + T + T + 1;
    real *logits = work, *dh = work + T * V;
    real* gates = shared & GATES_SHARED ? room : scratch;  // (T, GATES), then dz
    (shared & GATES_SHARED ? room : scratch) += T * GATES;
    real* c = shared & CELLS_SHARED ? room : scratch;  // (T+1, HH)
    (shared & CELLS_SHARED ? room : scratch) += (T + 1) * HH;
    real* W_y = shared & READOUT_SHARED ? room : theta + W_y_begin;  // (HH, V); an odd stride spreads it over banks
    const int stride = shared & READOUT_SHARED ? V | 1 : V;

    real w[ROWS][COLUMNS];
#pragma unroll
    for (int i = 0; i < ROWS; ++i)
#pragma unroll
        for (int j = 0; j < COLUMNS; ++j)
            w[i][j] = is_row(i) && is_column(j) ? theta[W_h + row_of(i) * GATES + column_of(j)] : real(0);
    if (shared & READOUT_SHARED)
        for (int n = tid; n < HH * V; n += THREADS) W_y[n / V * stride + n % V] = theta[W_y_begin + n];
    if (tid < HH) h[T * HH + tid] = h_carried[tid], c[T * HH + tid] = c_carried[tid];
    if (tid == 0) verdict = 0;

    int n = 0, last = T;  // the row of h and c that is carried on
    for (; n < count; ++n) {
        for (int t = tid; t <= T; t += THREADS) id[t] = x[(long long)n * (T + 1) + t];
        if (tid < HH) {
            h[tid] = reset[n] ? real(0) : h[T * HH + tid];
            c[tid] = reset[n] ? real(0) : c[T * HH + tid];
        }
        __syncthreads();  // the first state and the ids are there; W_y is as the last update left it

        for (int t = 0; t < T; ++t) {
            multiply_by_h(w, h + t * HH, work);
            __syncthreads();  // all partial sums are there
            if (tid < GATES) {
                real z = theta[id[t] * GATES + tid] + theta[b + tid];
                for (int warp = 0; warp < WARPS; ++warp) z += work[warp * PADDED + tid];
                gates[t * GATES + tid] = gate_of(z);
            }
            __syncthreads();  // all gates are there, and the partial sums have been read
            if (tid < HH) {
                const real* gate = gates + t * GATES + tid;
                const real c_t = gate[HH] * c[t * HH + tid] + gate[0] * gate[2 * HH];
                c[(t + 1) * HH + tid] = c_t;
                h[(t + 1) * HH + tid] = gate[3 * HH] * tanh(c_t);
            }
            __syncthreads();  // the next state is there
        }

        for (int k = tid; k < T * V; k += THREADS) {
            const real* h_after = h + (k / V + 1) * HH;
            const int v = k % V;
            real sum = theta[b_y + v];
            for (int j = 0; j < HH; ++j) sum += h_after[j] * W_y[j * stride + v];
            logits[k] = sum;
        }
        __syncthreads();  // all logits are there
        cross_entropy(logits, id + 1, row_loss, T, V);
        __syncthreads();  // so are their gradients and the losses
        if (tid == 0) {
            real loss = 0;
            for (int t = 0; t < T; ++t) loss += row_loss[t];
            watch[0] = SMOOTHING * watch[0] + (1 - SMOOTHING) * loss;
            losses[n] = loss;
            verdict = watch[0] < watch[1] ? 1 : loss - loss == 0 ? 0 : 2;
        }
        for (int k = tid; k < T * HH; k += THREADS) {
            const real *dlogits = logits + k / HH * V, *row = W_y + k % HH * stride;
            real sum = 0;
            for (int v = 0; v < V; ++v) sum += dlogits[v] * row[v];
            dh[k] = sum;
        }
        if (tid < HH) dh_next[tid] = 0;
        __syncthreads();  // the verdict and what comes down from the readout are there
        if (verdict) {
            last = verdict == 1 ? 0 : T;
            break;
        }

        real dc = 0;
        for (int t = T - 1; t >= 0; --t) {
            if (tid < HH) {
                real* gate = gates + t * GATES + tid;
                const real i = gate[0], f = gate[HH], g = gate[2 * HH], o = gate[3 * HH];
                const real tanh_c = tanh(c[(t + 1) * HH + tid]), dh_t = dh[t * HH + tid] + dh_next[tid];
                dc += dh_t * o * (1 - tanh_c * tanh_c);
                gate[0] = dc * g * i * (1 - i);
                gate[HH] = dc * c[t * HH + tid] * f * (1 - f);
                gate[2 * HH] = dc * i * (1 - g * g);
                gate[3 * HH] = dh_t * tanh_c * o * (1 - o);
                dc *= f;
            }
            __syncthreads();  // dz of this step is there
            if (t > 0) {
                multiply_by_dz(w, gates + t * GATES, dh_next);
                __syncthreads();  // what it gives the step before is there
            }
        }

        const Rule rule = {rule_a, rule_b, rule_c, rates[n], roots[n]};
        update_recurrent(w, h, gates, T, flat, W_h, rule, scale, limit);
        if (tid < GATES) update_input(id, gates, T, V, flat, b, rule, scale, limit);
        update_readout(W_y, stride, h + HH, logits, T, V, flat, begin, rule, scale, limit);
        __syncthreads();  // all have read the ids, the states and W_y's gradient
    }

#pragma unroll
    for (int i = 0; i < ROWS; ++i)
#pragma unroll
        for (int j = 0; j < COLUMNS; ++j)
            if (is_row(i) && is_column(j)) theta[W_h + row_of(i) * GATES + column_of(j)] = w[i][j];
    if (shared & READOUT_SHARED)
        for (int k = tid; k < HH * V; k += THREADS) theta[W_y_begin + k] = W_y[k / V * stride + k % V];
    if (tid < HH) h_carried[tid] = h[last * HH + tid], c_carried[tid] = c[last * HH + tid];
    if (tid == 0) status[0] = n < count ? n + 1 : count, status[1] = verdict;
}
