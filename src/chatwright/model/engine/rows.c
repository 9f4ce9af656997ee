/* What whole rows need between their products: norms, turned heads, logarithms of sums. Compiled as one piece with
 * `step.c`. Each call is one thread's; several threads may call at once.
 */
#include "step.c"

/* y = x / root mean square of x, times a weight; y may be x. */
static inline void unit(const float *x, int64_t width, const float *weight, float epsilon, float *y) {
    float factor = 1 / sqrtf(dot(x, x, width) / (float)width + epsilon);
    for (int64_t i = 0; i < width; i++) y[i] = x[i] * factor * weight[i];
}

void unit_rows(const float *x, int64_t rows, int64_t width, const float *weight, float epsilon, float *y) {
    for (int64_t row = 0; row < rows; row++) unit(x + row * width, width, weight, epsilon, y + row * width);
}

/* Normalise (weights: [heads][width], or NULL) and turn (turns: [time][width / 2][2], or NULL) the first heads of each
 * token in place; a token's numbers begin `stride` behind those of the token before, its position is its rank modulo
 * `time`. */
void turn_heads(float *x, int64_t tokens, int64_t heads, int64_t stride, int64_t width, const float *weights,
                float epsilon, const float *turns, int64_t time) {
    for (int64_t token = 0; token < tokens; token++) {
        const float *turn = turns ? turns + token % time * width : NULL;
        for (int64_t h = 0; h < heads; h++) {
            float *head = x + token * stride + h * width;
            if (weights) unit(head, width, weights + h * width, epsilon, head);
            if (turn)
                for (int64_t k = 0; k < width; k += 2) {
                    float a = head[k], b = head[k + 1], c = turn[k], s = turn[k + 1];
                    head[k] = a * c - b * s;
                    head[k + 1] = a * s + b * c;
                }
        }
    }
}

#define QUERIES 6 /* read together */
#define COLUMNS (2 * LANES)

/* sums[r] += a[r] times the first `count` rows of b: QUERIES rows by COLUMNS columns, held in registers. */
static inline __attribute__((always_inline)) void tile(const float *a, int64_t stride_a, const float *b,
                                                       int64_t stride_b, int64_t count, vf sums[QUERIES][2]) {
    vf held[QUERIES][2] = {0};
    for (int64_t k = 0; k < count; k++) {
        vf first = *(const vf *)(b + k * stride_b), second = *(const vf *)(b + k * stride_b + LANES);
#pragma GCC unroll 6
        for (int r = 0; r < QUERIES; r++) {
            held[r][0] += a[r * stride_a + k] * first;
            held[r][1] += a[r * stride_a + k] * second;
        }
    }
    memcpy(sums, held, sizeof held);
}

/* Scores become shares that are yet to be divided by their sum, which is returned; none before `begin` or from `end`. */
static float shares_of(float *x, int64_t from, int64_t until, int64_t begin, int64_t end) {
    for (int64_t i = from; i < begin; i++) x[i] = -INFINITY;
    for (int64_t i = end; i < until; i++) x[i] = -INFINITY;
    float sum = weigh(x, from, until);
    for (int64_t i = from; i < begin; i++) x[i] = 0;
    for (int64_t i = end; i < until; i++) x[i] = 0;
    return sum;
}

/* One head of one row of the batch. keys: [width][padded], turned over; shares: [QUERIES][padded]. */
static void attend_head(const float *queries, const float *values, int64_t stride, int64_t time, int64_t width,
                        int64_t window, const float *keys, int64_t padded, float *shares, float *y, int64_t stride_y) {
    float scale = 1 / sqrtf((float)width), own[QUERIES * width], sum[QUERIES];
    vf sums[QUERIES][2];
    for (int64_t t = 0; t < time; t += QUERIES) {
        int64_t count = time - t < QUERIES ? time - t : QUERIES, end = t + count;
        int64_t begin = window && t >= window ? t - window + 1 : 0;
        int64_t from = begin / COLUMNS * COLUMNS, until = (end + COLUMNS - 1) / COLUMNS * COLUMNS;
        for (int64_t r = 0; r < QUERIES; r++)
            for (int64_t k = 0; k < width; k++)
                own[r * width + k] = r < count ? queries[(t + r) * stride + k] * scale : 0;
        for (int64_t s = from; s < until; s += COLUMNS) {
            tile(own, width, keys + s, padded, width, sums);
            for (int64_t r = 0; r < QUERIES; r++) memcpy(shares + r * padded + s, sums[r], sizeof sums[r]);
        }
        for (int64_t r = 0; r < QUERIES; r++) {
            int64_t position = r < count ? t + r : t, first = window && position >= window ? position - window + 1 : 0;
            sum[r] = shares_of(shares + r * padded, from, until, first, position + 1);
        }
        for (int64_t k = 0; k < width; k += COLUMNS) {
            tile(shares + from, padded, values + from * stride + k, stride, end - from, sums);
            for (int64_t r = 0; r < count; r++)
                for (int64_t i = 0; i < COLUMNS; i++)
                    y[(t + r) * stride_y + k + i] = sums[r][i / LANES][i % LANES] / sum[r];
        }
    }
}

/* Causal attention of whole rows.
 *
 * qkv: [batch][time][heads + 2 * key_heads][width], queries, keys, values; width: a multiple of COLUMNS.
 * window: positions that are read, the reader's own too; 0: all before. y: [batch][time][heads][width].
 * Returns 0, or 1 where there is no memory.
 */
int attend(const float *qkv, int64_t batch, int64_t time, int64_t heads, int64_t key_heads, int64_t width,
           int64_t window, float *y) {
    int64_t stride = (heads + 2 * key_heads) * width, padded = (time + COLUMNS - 1) / COLUMNS * COLUMNS;
    float *keys = calloc((size_t)(padded * width), sizeof(float));
    float *shares = malloc((size_t)(QUERIES * padded) * sizeof(float));
    int is_ready = keys && shares;
    for (int64_t row = 0; is_ready && row < batch; row++) {
        const float *x = qkv + row * time * stride;
        for (int64_t g = 0; g < key_heads; g++) {
            const float *own = x + (heads + g) * width, *values = own + key_heads * width;
            for (int64_t s = 0; s < time; s++)
                for (int64_t k = 0; k < width; k++) keys[k * padded + s] = own[s * stride + k];
            for (int64_t h = g * heads / key_heads; h < (g + 1) * heads / key_heads; h++)
                attend_head(x + h * width, values, stride, time, width, window, keys, padded, shares,
                            y + (row * time * heads + h) * width, heads * width);
        }
    }
    free(keys);
    free(shares);
    return !is_ready;
}

/* The logarithm of the sum of exponentials of each row. */
void log_sums(const float *scores, int64_t rows, int64_t width, float *found) {
    int64_t whole = width / LANES * LANES;
    for (int64_t row = 0; row < rows; row++) {
        const float *x = scores + row * width;
        vf last = (vf){0} - INFINITY, most = last, sums = {0};
        memcpy(&last, x + whole, (width - whole) * sizeof(float));
        for (int64_t i = 0; i < whole; i += LANES) most = larger(*(const vf *)(x + i), most);
        float peak = peak_of(larger(last, most));
        for (int64_t i = 0; i < whole; i += LANES) sums += exps(*(const vf *)(x + i) - peak);
        double sum = 0;
        vf rest = exps(last - peak);
        for (int lane = 0; lane < LANES; lane++) sum += sums[lane] + (lane < width - whole ? rest[lane] : 0);
        found[row] = peak + (float)log(sum);
    }
}
