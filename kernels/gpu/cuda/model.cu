// Kernels around the layers: ids, table rows, dropout, the loss, sums. Each sum has a fixed order, so that the same
// input gives the same bits.

// ------------------------------------------------------------------------------------------------------------ the text
// Sets x (n, T+1, B) to ids[starts[n][b] + t], for texts with one, two or four bytes per id. If any id is not below V,
// sets `bad` to its lowest position.
template <class id> __device__ void gather(const id* ids, const long long* starts, int* x, unsigned long long* bad,
                                           int n, int steps, int B, int V) {
    EACH(k, (long long)n * steps * B) {
        const int b = k % B, t = k / B % steps;
        const unsigned long long at = starts[k / B / steps * B + b] + t;
        const unsigned int found = ids[at];
        if (found >= (unsigned int)V) atomicMin(bad, at);
        x[k] = (int)found;
    }
}

KERNEL gather_ids_1(const unsigned char* ids, const long long* starts, int* x, unsigned long long* bad, int n,
                    int steps, int B, int V) {
    gather(ids, starts, x, bad, n, steps, B, V);
}

KERNEL gather_ids_2(const unsigned short* ids, const long long* starts, int* x, unsigned long long* bad, int n,
                    int steps, int B, int V) {
    gather(ids, starts, x, bad, n, steps, B, V);
}

KERNEL gather_ids_4(const unsigned int* ids, const long long* starts, int* x, unsigned long long* bad, int n, int steps,
                    int B, int V) {
    gather(ids, starts, x, bad, n, steps, B, V);
}

// ------------------------------------------------------------------------------------------------------ rows and masks
// Sets each row of out (rows, columns) to the id's row of the table plus a bias.
KERNEL table_rows(const int* ids, const real* table, const real* bias, real* out, int rows, int columns) {
    EACH(n, (long long)rows * columns) {
        const int column = n % columns;
        out[n] = table[(long long)ids[n / columns] * columns + column] + bias[column];
    }
}

KERNEL embedded(const int* ids, const real* embedding, real* out, int rows, int columns) {
    EACH(n, (long long)rows * columns) out[n] = embedding[(long long)ids[n / columns] * columns + n % columns];
}

KERNEL repeated(const real* row, real* out, int rows, int columns) {
    EACH(n, (long long)rows * columns) out[n] = row[n % columns];
}

KERNEL cleared(real* out, long long n) {
    EACH(k, n) out[k] = 0;
}

// Writes one-hot rows to out (rows, V), so that a matrix product can sum rows by id.
KERNEL one_hot(const int* ids, real* out, int rows, int V) {
    EACH(n, (long long)rows * V) out[n] = ids[n / V] == n % V ? real(1) : real(0);
}

KERNEL dropped(const real* in, const unsigned char* mask, real* out, real scale, long long n) {
    EACH(k, n) out[k] = mask[k] ? in[k] * scale : real(0);
}

KERNEL rounded_to_bfloat16(const float* in, float* out, long long n) {
    EACH(k, n) out[k] = to_bfloat16(in[k]);
}

// ------------------------------------------------------------------------------------------------------------ the loss
// Replaces logits (rows, V) with their gradient; each warp takes one row, and each lane accesses only its own elements.
KERNEL cross_entropy(real* logits, const int* targets, real* row_loss, int rows, int V) {
    const int lane = threadIdx.x % 32, warps = gridDim.x * blockDim.x / 32;
    for (int row = (blockIdx.x * blockDim.x + threadIdx.x) / 32; row < rows; row += warps) {
        real* at = logits + (long long)row * V;
        const int target = targets[row];
        real top = minus_infinity(), total = 0, at_target = 0;
        for (int v = lane; v < V; v += 32) top = at[v] > top ? at[v] : top;
        top = warp_max(top);
        for (int v = lane; v < V; v += 32) {
            const real shifted = at[v] - top;
            if (v == target) at_target = shifted;
            at[v] = exp(shifted);
            total += at[v];
        }
        total = warp_sum(total);
        for (int v = lane; v < V; v += 32) at[v] = at[v] / total - (v == target ? real(1) : real(0));
        if (lane == target % 32) row_loss[row] = log(total) - at_target;
    }
}

// Computes log softmax(logits)[target], in double for both types.
KERNEL log_probs(const real* logits, const int* targets, double* out, int rows, int V) {
    const int lane = threadIdx.x % 32, warps = gridDim.x * blockDim.x / 32;
    for (int row = (blockIdx.x * blockDim.x + threadIdx.x) / 32; row < rows; row += warps) {
        const real* at = logits + (long long)row * V;
        double top = minus_infinity(), total = 0;
        for (int v = lane; v < V; v += 32) top = at[v] > top ? at[v] : top;
        top = warp_max(top);
        for (int v = lane; v < V; v += 32) total += exp(at[v] - top);
        total = warp_sum(total);
        if (lane == 0) out[row] = at[targets[row]] - top - log(total);
    }
}

// ---------------------------------------------------------------------------------------------------------------- sums
// One block of 256 threads: out[0] = sum of x (n,), in double.
KERNEL sum_in_double(const real* x, double* out, int n) {
    __shared__ double parts[256];
    double sum = 0;
    for (int k = threadIdx.x; k < n; k += 256) sum += x[k];
    parts[threadIdx.x] = sum;
    for (int half = 128; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) parts[threadIdx.x] += parts[threadIdx.x + half];
    }
    if (threadIdx.x == 0) out[0] = parts[0];
}

// Blocks of 32 columns by 8 rows of threads: out (columns,) = a (rows, columns) summed over rows.
KERNEL column_sums(const real* a, real* out, int rows, int columns) {
    __shared__ real parts[8][32];
    const int lane = threadIdx.x % 32, part = threadIdx.x / 32, column = blockIdx.x * 32 + lane;
    real sum = 0;
    if (column < columns)
        for (int row = part; row < rows; row += 8) sum += a[(long long)row * columns + column];
    parts[part][lane] = sum;
    __syncthreads();
    if (part == 0 && column < columns) {
        for (int k = 1; k < 8; ++k) sum += parts[k][lane];
        out[column] = sum;
    }
}
