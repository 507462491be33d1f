// Clips flat vectors (N,). Updates use the gradient clipped(grad * scale, limit) * factor[0]; the factor limits its
// norm.

// Each block of 256 threads sums the squares of one panel of spec.NORM_PANEL elements in double and writes panels[k].
KERNEL norm_panels(const real* grad, double* panels, long long n, int panel, real scale, real limit) {
    __shared__ double parts[256];
    const long long begin = blockIdx.x * (long long)panel;
    double sum = 0;
    for (int k = threadIdx.x; k < panel && begin + k < n; k += 256) {
        const double g = clipped(grad[begin + k] * scale, limit);
        sum += g * g;
    }
    parts[threadIdx.x] = sum;
    for (int half = 128; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) parts[threadIdx.x] += parts[threadIdx.x + half];
    }
    if (threadIdx.x == 0) panels[blockIdx.x] = parts[0];
}

// One block of 256 threads: factor[0] = limit / norm, or 1 if the norm is not above the limit.
KERNEL norm_factor(const double* panels, real* factor, int count, double limit) {
    __shared__ double parts[256];
    double sum = 0;
    for (int k = threadIdx.x; k < count; k += 256) sum += panels[k];
    parts[threadIdx.x] = sum;
    for (int half = 128; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) parts[threadIdx.x] += parts[threadIdx.x + half];
    }
    if (threadIdx.x == 0) {
        const double norm = sqrt(parts[0]);
        factor[0] = norm > limit ? (real)(limit / norm) : real(1);
    }
}

KERNEL clip(real* grad, const real* factor, long long n, real limit) {
    EACH(k, n) grad[k] = clipped(grad[k], limit) * factor[0];
}
