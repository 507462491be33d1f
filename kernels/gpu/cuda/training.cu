// Begins and ends a training iteration inside a CUDA graph, which is launched many times without a change.
//
// plan: addresses of the ids of n iterations x (n, T+1, B), reset (n,), dropout masks (n, ...), losses (n,), the rates
// (n, 3) and the keys of weight drop (n, 2). progress: the number of iterations with a loss; why training has ended (0:
// it has not, 1: smoothed loss below the limit, 2: loss not finite); whether the last iteration counts. Once training
// has ended, nothing more is written.

// Copies the iteration's ids and masks, and sets the first row of h and c (L, T+1, B, H) to the carried state or to zero.
KERNEL begin_iteration(const unsigned long long* plan, const int* progress, int* x, unsigned char* masks, const real* h_carried,
                       const real* c_carried, real* h, real* c, int num_ids, long long num_masks, int layers,
                       int layers_of_c, int row, int rows) {
    if (progress[ENDED]) return;
    const long long k = progress[DONE];
    EACH(n, num_ids) x[n] = ((const int*)plan[PLAN_IDS])[k * num_ids + n];
    EACH(n, num_masks) masks[n] = ((const unsigned char*)plan[PLAN_MASKS])[k * num_masks + n];
    const bool reset = ((const bool*)plan[PLAN_RESET])[k];
    EACH(n, (long long)layers * row) {
        const long long at = n / row * rows * row + n % row;
        h[at] = reset ? real(0) : h_carried[n];
        if (n < (long long)layers_of_c * row) c[at] = reset ? real(0) : c_carried[n];
    }
}

// One thread: records the loss, summed over B streams, and decides whether training goes on. watch: the smoothed loss,
// and the value below which training ends.
KERNEL judge(const unsigned long long* plan, int* progress, double* watch, const double* loss, double smoothing, int B) {
    progress[IS_NEW] = !progress[ENDED];
    if (progress[ENDED]) return;
    watch[0] = smoothing * watch[0] + (1 - smoothing) * loss[0] / B;
    ((double*)plan[PLAN_LOSSES])[progress[DONE]] = loss[0];
    progress[DONE] += 1;
    progress[ENDED] = watch[0] < watch[1] ? 1 : loss[0] - loss[0] == 0 ? 0 : 2;
}

// Carries the last state on, or, where the smoothed loss ended training, the state before the iteration.
KERNEL carry(const int* progress, const real* h, const real* c, real* h_carried, real* c_carried, int layers,
             int layers_of_c, int row, int rows) {
    if (!progress[IS_NEW]) return;
    const int last = progress[ENDED] == 1 ? 0 : rows - 1;
    EACH(n, (long long)layers * row) {
        const long long at = (n / row * rows + last) * row + n % row;
        h_carried[n] = h[at];
        if (n < (long long)layers_of_c * row) c_carried[n] = c[at];
    }
}

// --------------------------------------------------------------------------------------------------------- weight drop
__device__ __forceinline__ unsigned mixed(unsigned x) {
    x = (x ^ (x >> 16)) * 0x21F0AAADu;
    x = (x ^ (x >> 15)) * 0xD35A2D97u;
    return x ^ (x >> 15);
}

// Keeps a recurrent matrix, `count` weights from theta[begin] on, and replaces it by what the iteration reads: weights
// whose hash is below the threshold become zero, the others are scaled (kernels/spec/weight_drop.py).
KERNEL hide_weights(const unsigned long long* plan, const int* progress, real* theta, real* kept, real* factors,
                    long long begin, long long count, unsigned threshold, real scale) {
    if (progress[ENDED]) return;
    const unsigned* keys = (const unsigned*)plan[PLAN_KEYS] + 2 * (long long)progress[DONE];
    EACH(n, count) {
        const unsigned place = (unsigned)(begin + n);
        factors[n] = mixed(mixed(place + keys[0]) ^ keys[1]) < threshold ? real(0) : scale;
        kept[n] = theta[begin + n];
        theta[begin + n] = kept[n] * factors[n];
    }
}

// Puts the matrix back, and makes the gradient that of its weights.
KERNEL put_weights_back(const int* progress, real* theta, real* grad, const real* kept, const real* factors,
                        long long begin, long long count) {
    if (!progress[IS_NEW]) return;
    EACH(n, count) {
        theta[begin + n] = kept[n];
        grad[begin + n] *= factors[n];
    }
}
