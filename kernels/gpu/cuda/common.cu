// Code that all kernels share; the launcher prepends it to each of the other files. It needs no CUDA toolkit header.
// REAL is float or double. T is the number of steps, B of streams, V of ids and H of hidden units; D is the width of a
// layer's input. kernels/spec/cells.py defines the equations and layouts.

typedef REAL real;

#define KERNEL extern "C" __global__ void
#define ALL_LANES 0xffffffffu

// Grid-stride loop over n elements, for a grid of any size.
#define EACH(i, n)                                                                                  \
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < (long long)(n);        \
         i += (long long)gridDim.x * blockDim.x)

// 1 / (1 + exp(-x)); the argument of exp is never positive, so it cannot overflow.
__device__ __forceinline__ real sigmoid(real x) {
    const real e = exp(-fabs(x));
    return (x >= 0 ? real(1) : e) / (1 + e);
}

// Rounds like spec.round_to_bfloat16: to nearest, ties to even. NaN stays NaN: that of a GPU has all bits of its fraction
// set, and the sum would carry into the sign.
__device__ __forceinline__ float to_bfloat16(float x) {
    const unsigned int bits = __float_as_uint(x);
    const unsigned int nearest = x != x ? bits | 0x400000u : bits + 0x7fffu + (bits >> 16 & 1u);
    return __uint_as_float(nearest & 0xffff0000u);
}

// Initial value of a search for the largest number.
__device__ __forceinline__ real minus_infinity() { return log(real(0)); }

template <class number> __device__ __forceinline__ number warp_sum(number x) {
    for (int other = 16; other > 0; other /= 2) x += __shfl_xor_sync(ALL_LANES, x, other);
    return x;
}

template <class number> __device__ __forceinline__ number warp_max(number x) {
    for (int other = 16; other > 0; other /= 2) {
        const number y = __shfl_xor_sync(ALL_LANES, x, other);
        x = y > x ? y : x;
    }
    return x;
}

// Sums N numbers (a power of two, at most 32) over the lanes of a warp; lane l returns the sum of number l / (32 / N).
// Lanes exchange halves of what they still have to sum: first of the numbers, then of the lanes. A recursion, because
// the compiler puts the numbers into memory when a loop has this shape.
template <int N> __device__ __forceinline__ real sum_each(real* x, int lane, int other) {
    if constexpr (N > 1) {
#pragma unroll
        for (int n = 0; n < N / 2; ++n) {
            const bool is_upper = lane & other;
            const real kept = is_upper ? x[n + N / 2] : x[n], given = is_upper ? x[n] : x[n + N / 2];
            x[n] = kept + __shfl_xor_sync(ALL_LANES, given, other);
        }
        return sum_each<N / 2>(x, lane, other / 2);
    }
#pragma unroll
    for (int step = 16; step > 0; step /= 2)
        if (step <= other) x[0] += __shfl_xor_sync(ALL_LANES, x[0], step);
    return x[0];
}

// Keeps NaN, so that clipping does not hide a broken gradient.
__device__ __forceinline__ real clipped(real g, real limit) { return g > limit ? limit : g < -limit ? -limit : g; }

// ------------------------------------------------------------------------------------------------------------ training
// What a graph of one iteration finds out for itself, so that it can be launched again and again: plan holds addresses
// (training.cu says of what), progress three ints.
enum Plan { PLAN_IDS, PLAN_RESET, PLAN_MASKS, PLAN_LOSSES, PLAN_RATES, PLAN_KEYS };
enum Progress { DONE, ENDED, IS_NEW };

// ---------------------------------------------------------------------------------------------------------- optimizers
// The parameters of an optimizer step: its constants, in the order of its row in spec.OPTIMIZERS; 1 - a and 1 - b,
// computed in double because float would lose digits; the learning rate; `rate`, the learning rate times the bias
// correction of the first state array, if the optimizer has one; and `root`, the bias correction of the second, or 1.
struct Rule {
    real a, b, c, d, rest_a, rest_b, learning_rate, rate, root;
};

// Each optimizer has one function, named like its row. It returns the parameter after an update with the gradient g and
// writes the state s0, s1, if the optimizer has state.
#define OPTIMIZER(name) \
    __device__ __forceinline__ real name(real theta, real g, real* s0, real* s1, const Rule& rule)

OPTIMIZER(sgd) { return theta - rule.rate * g; }

OPTIMIZER(momentum) {
    const real v = rule.a * *s0 + g;
    *s0 = v;
    return theta - rule.rate * v;
}

OPTIMIZER(adagrad) {
    const real s = *s0 + g * g;
    *s0 = s;
    return theta - rule.rate * g * rsqrt(s + rule.a);
}

OPTIMIZER(rmsprop) {
    const real s = rule.a * *s0 + rule.rest_a * g * g;
    *s0 = s;
    return theta - rule.rate * g / (sqrt(s) + rule.b);
}

OPTIMIZER(adam) {
    const real m = rule.a * *s0 + rule.rest_a * g;
    const real v = rule.b * *s1 + rule.rest_b * g * g;
    *s0 = m;
    *s1 = v;
    return theta - rule.rate * m / (sqrt(v * rule.root) + rule.c);
}

OPTIMIZER(adamw) { return adam(theta - rule.learning_rate * rule.d * theta, g, s0, s1, rule); }
