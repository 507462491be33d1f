// One update with the optimizer RULE (of common.cu), in one pass over flat vectors (N,); the state is (SLOTS, N). The
// gradient is clipped(grad * scale, limit) * factor[0]; the factor limits the norm.

__device__ __forceinline__ void update_all(real* theta, const real* grad, real* state, const real* factor, long long n,
                                           real scale, real limit, const Rule& rule) {
    EACH(k, n) {
        const real g = clipped(grad[k] * scale, limit) * factor[0];
        theta[k] = RULE(theta[k], g, state + (SLOTS > 0 ? k : 0), state + (SLOTS > 1 ? n + k : 0), rule);
    }
}

KERNEL update(real* theta, const real* grad, real* state, const real* factor, long long n, real scale, real limit, real a,
              real b, real c, real d, real rest_a, real rest_b, real learning_rate, real rate, real root) {
    const Rule rule = {a, b, c, d, rest_a, rest_b, learning_rate, rate, root};
    update_all(theta, grad, state, factor, n, scale, limit, rule);
}

// As update, for the iteration that training.cu counts; does nothing once training has ended.
KERNEL update_in_turn(real* theta, const real* grad, real* state, const real* factor, const unsigned long long* plan,
                      const int* progress, long long n, real scale, real limit, real a, real b, real c, real d,
                      real rest_a, real rest_b) {
    if (progress[ENDED]) return;
    const real* rates = (const real*)plan[PLAN_RATES] + 3 * (long long)(progress[DONE] - 1);
    const Rule rule = {a, b, c, d, rest_a, rest_b, rates[0], rates[1], rates[2]};
    update_all(theta, grad, state, factor, n, scale, limit, rule);
}
