/* An LSTM trained in plain loops, as someone who knows C and the algorithm would write it in an hour.

   One stream, float32, truncated backpropagation through time, Adagrad with clipping by element. H, V and T are given
   on the compiler's command line. One-hot inputs select rows of W_x; weight gradients are computed after the loop over
   time, row by row, and applied at once, so that no gradient is stored. */
#include <math.h>
#include <string.h>

#define G (4 * H)

typedef struct { float x[V][G], h[H][G], b[G], y[H][V], by[V]; } Weights;

static void update(float *w, float *s, const float *d, int n, float rate, float clip, float epsilon) {
    for (int j = 0; j < n; j++) {
        float g = d[j] > clip ? clip : d[j] < -clip ? -clip : d[j];
        s[j] += g * g;
        w[j] -= rate * g / sqrtf(s[j] + epsilon);
    }
}

/* One iteration on text[0..T]; h and c are carried. Returns the loss. */
static double iterate(Weights *w, Weights *s, float *h_in, float *c_in, const unsigned char *text, float rate,
                      float clip, float epsilon) {
    static float h[T + 1][H], c[T + 1][H], a[T][G], dz[T][G], dy[T][V], tanh_c[T][H];
    double loss = 0;
    memcpy(h[0], h_in, sizeof h[0]);
    memcpy(c[0], c_in, sizeof c[0]);
    for (int t = 0; t < T; t++) {
        float *z = a[t], *y = dy[t];
        for (int j = 0; j < G; j++) z[j] = w->x[text[t]][j] + w->b[j];
        for (int k = 0; k < H; k++)
            for (int j = 0; j < G; j++) z[j] += h[t][k] * w->h[k][j];
        for (int j = 0; j < 2 * H; j++) z[j] = 1 / (1 + expf(-z[j]));
        for (int j = 2 * H; j < 3 * H; j++) z[j] = tanhf(z[j]);
        for (int j = 3 * H; j < G; j++) z[j] = 1 / (1 + expf(-z[j]));
        for (int j = 0; j < H; j++) {
            c[t + 1][j] = z[H + j] * c[t][j] + z[j] * z[2 * H + j];
            tanh_c[t][j] = tanhf(c[t + 1][j]);
            h[t + 1][j] = z[3 * H + j] * tanh_c[t][j];
        }
        float top = -INFINITY, sum = 0;
        for (int j = 0; j < V; j++) y[j] = w->by[j];
        for (int k = 0; k < H; k++)
            for (int j = 0; j < V; j++) y[j] += h[t + 1][k] * w->y[k][j];
        for (int j = 0; j < V; j++) top = y[j] > top ? y[j] : top;
        float at_target = y[text[t + 1]] - top;
        for (int j = 0; j < V; j++) sum += y[j] = expf(y[j] - top);
        for (int j = 0; j < V; j++) y[j] /= sum;
        y[text[t + 1]] -= 1;
        loss += logf(sum) - at_target;
    }
    float dh[H] = {0}, dc[H] = {0}, d[G];
    for (int t = T - 1; t >= 0; t--) {
        for (int k = 0; k < H; k++) {
            float sum = 0;
            for (int j = 0; j < V; j++) sum += dy[t][j] * w->y[k][j];
            dh[k] += sum;
        }
        for (int j = 0; j < H; j++) {
            float i = a[t][j], f = a[t][H + j], g = a[t][2 * H + j], o = a[t][3 * H + j], tc = tanh_c[t][j];
            float dcj = dc[j] + dh[j] * o * (1 - tc * tc);
            dz[t][j] = dcj * g * i * (1 - i);
            dz[t][H + j] = dcj * c[t][j] * f * (1 - f);
            dz[t][2 * H + j] = dcj * i * (1 - g * g);
            dz[t][3 * H + j] = dh[j] * tc * o * (1 - o);
            dc[j] = dcj * f;
        }
        for (int k = 0; k < H; k++) {
            float sum = 0;
            for (int j = 0; j < G; j++) sum += dz[t][j] * w->h[k][j];
            dh[k] = sum;
        }
    }
    for (int k = 0; k < H; k++) {
        memset(d, 0, sizeof d);
        for (int t = 0; t < T; t++)
            for (int j = 0; j < G; j++) d[j] += h[t][k] * dz[t][j];
        update(w->h[k], s->h[k], d, G, rate, clip, epsilon);
        memset(d, 0, sizeof d);
        for (int t = 0; t < T; t++)
            for (int j = 0; j < V; j++) d[j] += h[t + 1][k] * dy[t][j];
        update(w->y[k], s->y[k], d, V, rate, clip, epsilon);
    }
    for (int v = 0; v < V; v++) { /* rows of characters that were read; Adagrad does not change the others */
        int seen = 0;
        memset(d, 0, sizeof d);
        for (int t = 0; t < T; t++)
            if (text[t] == v) {
                seen = 1;
                for (int j = 0; j < G; j++) d[j] += dz[t][j];
            }
        if (seen) update(w->x[v], s->x[v], d, G, rate, clip, epsilon);
    }
    memset(d, 0, sizeof d);
    for (int t = 0; t < T; t++)
        for (int j = 0; j < G; j++) d[j] += dz[t][j];
    update(w->b, s->b, d, G, rate, clip, epsilon);
    memset(d, 0, sizeof d);
    for (int t = 0; t < T; t++)
        for (int j = 0; j < V; j++) d[j] += dy[t][j];
    update(w->by, s->by, d, V, rate, clip, epsilon);
    memcpy(h_in, h[T], sizeof h[T]);
    memcpy(c_in, c[T], sizeof c[T]);
    return loss;
}

/* Iterations begin .. begin + count - 1; returns the last loss. */
double train(Weights *w, Weights *s, float *h, float *c, const unsigned char *text, long per_pass, long begin,
             long count, float rate, float clip, float epsilon) {
    double loss = 0;
    for (long n = begin; n < begin + count; n++) {
        if (n % per_pass == 0) memset(h, 0, H * sizeof *h), memset(c, 0, H * sizeof *c);
        loss = iterate(w, s, h, c, text + n % per_pass * T, rate, clip, epsilon);
    }
    return loss;
}
