// Makes one update with the optimizer RULE (of common.cu), in one pass over flat vectors (N,); the state is (SLOTS, N).
// The gradient is clipped(grad * scale, limit) * factor[0]; the factor limits the norm.

KERNEL update(real* theta, const real* grad, real* state, const real* factor, long long n, real scale, real limit, real a,
              real b, real c, real d, real rest_a, real rest_b, real learning_rate, real rate, real root) {
    const Rule rule = {a, b, c, d, rest_a, rest_b, learning_rate, rate, root};
    EACH(k, n) {
        const real g = clipped(grad[k] * scale, limit) * factor[0];
        theta[k] = RULE(theta[k], g, state + (SLOTS > 0 ? k : 0), state + (SLOTS > 1 ? n + k : 0), rule);
    }
}
