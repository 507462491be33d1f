// Samples characters, with one block of 256 threads per stream. Probabilities are double for both types. The sampled
// character becomes the next input through x.

// Returns the sum of 256 threads' numbers to all of them; callers may reuse `parts` after the next barrier.
__device__ double block_sum(double x, double* parts) {
    parts[threadIdx.x] = x;
    for (int half = 128; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) parts[threadIdx.x] += parts[threadIdx.x + half];
    }
    __syncthreads();
    return parts[0];
}

// Returns to all threads the index of the largest of l (V,), the first in a tie.
__device__ int block_argmax(const real* l, int V, int* places) {
    int best = -1;
    for (int v = threadIdx.x; v < V; v += 256)
        if (best < 0 || l[v] > l[best]) best = v;
    places[threadIdx.x] = best;
    for (int half = 128; half > 0; half /= 2) {
        __syncthreads();
        const int mine = places[threadIdx.x], other = threadIdx.x < half ? places[threadIdx.x + half] : -1;
        if (other >= 0 && (mine < 0 || l[other] > l[mine] || (l[other] == l[mine] && other < mine)))
            places[threadIdx.x] = other;
    }
    __syncthreads();
    return places[0];
}

// Sets the weights (V,) that top_k and top_p exclude to zero; overwrites ranked (V,).
__device__ void truncate(const real* l, double* weights, double* ranked, int V, int top_k, double top_p, double* parts) {
    __shared__ int kept;
    for (int v = threadIdx.x; v < V; v += 256) {
        int rank = 0;
        for (int w = 0; w < V; ++w) rank += l[w] > l[v] || (l[w] == l[v] && w < v);
        ranked[rank] = weights[v];
    }
    __syncthreads();
    const int most = top_k > 0 && top_k < V ? top_k : V;
    double sum = 0;
    for (int v = threadIdx.x; v < most; v += 256) sum += ranked[v];
    sum = block_sum(sum, parts);
    if (threadIdx.x == 0) {
        kept = most;
        double reached = 0;
        for (int v = 0; top_p < 1 && v < most; ++v) {
            reached += ranked[v];
            if (reached >= top_p * sum) {
                kept = v + 1;  // the character that reaches top_p stays
                break;
            }
        }
    }
    __syncthreads();
    for (int v = threadIdx.x; v < V; v += 256) {
        int rank = 0;
        for (int w = 0; w < V; ++w) rank += l[w] > l[v] || (l[w] == l[v] && w < v);
        if (rank >= kept) weights[v] = 0;
    }
    __syncthreads();
}

// Reads logits (B, V) and uniforms (B,), and uses scratch (B, 2, V). Writes the sampled ids to x (B,) and drawn (B,),
// and the model's log probabilities to log_probs (B,). Temperature 0 takes the most probable id. If logits are NaN or
// inf, drawn is -1 and x is 0.
KERNEL draw(const real* logits, const double* uniforms, int* x, int* drawn, double* log_probs, double* scratch, int V,
            double temperature, int top_k, double top_p) {
    __shared__ double parts[256];
    __shared__ int places[256];
    __shared__ int first;
    const int stream = blockIdx.x;
    const real* l = logits + (long long)stream * V;
    double *weights = scratch + 2LL * stream * V, *ranked = weights + V;
    const int best = block_argmax(l, V, places);
    const double top = l[best];
    double total = 0;
    for (int v = threadIdx.x; v < V; v += 256) total += exp(l[v] - top);
    total = block_sum(total, parts);
    if (threadIdx.x == 0) first = temperature > 0 ? V - 1 : best;
    if (temperature > 0) {
        for (int v = threadIdx.x; v < V; v += 256) weights[v] = exp((l[v] - top) / temperature);
        __syncthreads();
        if (top_k > 0 || top_p < 1) truncate(l, weights, ranked, V, top_k, top_p, parts);
        if (threadIdx.x == 0) {  // sums in the order of ids, as the other backends do
            double sum = 0;
            for (int v = 0; v < V; ++v) weights[v] = sum += weights[v];
        }
        __syncthreads();
        for (int v = threadIdx.x; v < V; v += 256)
            if (weights[v] / weights[V - 1] > uniforms[stream]) {
                atomicMin(&first, v);
                break;
            }
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        const bool is_known = total == total;  // false for NaN: the total is a sum of exp of at most 0
        x[stream] = is_known ? first : 0;
        drawn[stream] = is_known ? first : -1;
        log_probs[stream] = l[first] - top - log(total);
    }
}
