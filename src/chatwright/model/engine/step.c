/* One step of the network: every row reads one token. For the CPU; compiled as one piece with `products.c`.
 *
 * A row's numbers depend on its own tokens and positions alone, not on the rows beside it nor on the number of threads.
 */
#include "products.c"

typedef struct {
    const float *weight, *bias; /* bias: of a layer normalisation; NULL: by root mean square */
} norm;

typedef struct {
    norm before, between;
    const float *heads_norm; /* [heads + key_heads][width]; NULL: none */
    matrix into, out, gate, up, down; /* gate.weights NULL: GELU instead of a gate */
    int32_t is_rotated;
    int32_t window; /* tokens that are read, the reader too; 0: all */
} layer;

typedef struct {
    int64_t width, heads, key_heads, head_width, mlp_width, layers;
    float epsilon;
    const layer *layer;
    norm last;
} shape;

typedef struct {
    float *keys; /* of this row in one layer: [2 * key_heads][capacity][head_width], keys then values */
    int64_t capacity;
} place;

typedef struct {
    const shape *s;
    const layer *l;
    const place *places;      /* [rows] of this layer */
    const int64_t *positions; /* [rows] */
    const float *turns;       /* [rows][head_width / 2][2]: cosine and sine */
    float *qkv, *y;
    float *scores;            /* [rows * key_heads][longest] */
    int64_t longest;
} reading;

static void normalise(const float *x, int64_t width, norm n, float epsilon, float *y) {
    double sum = 0, mean = 0;
    if (n.bias) {
        for (int64_t i = 0; i < width; i++) mean += x[i];
        mean /= (double)width;
    }
    for (int64_t i = 0; i < width; i++) sum += (x[i] - mean) * (x[i] - mean);
    float factor = (float)(1 / sqrt(sum / (double)width + epsilon)), centre = (float)mean;
    for (int64_t i = 0; i < width; i++) y[i] = (x[i] - centre) * factor * n.weight[i] + (n.bias ? n.bias[i] : 0);
}

/* Normalise and turn one head, neighbours being a pair. */
static void prepare_head(const reading *r, float *head, const float *weight, const float *turns) {
    int64_t width = r->s->head_width;
    if (weight) normalise(head, width, (norm){weight, NULL}, r->s->epsilon, head);
    if (r->l->is_rotated)
        for (int64_t k = 0; k < width; k += 2) {
            float a = head[k], b = head[k + 1], c = turns[k], s = turns[k + 1];
            head[k] = a * c - b * s;
            head[k + 1] = a * s + b * c;
        }
}

static inline float dot(const float *a, const float *b, int64_t count) {
    vf lanes = {0};
    float sum = 0;
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) lanes += *(const vf *)(a + i) * *(const vf *)(b + i);
    for (; i < count; i++) sum += a[i] * b[i];
    for (int lane = 0; lane < LANES; lane++) sum += lanes[lane];
    return sum;
}

static inline vf chosen(vi is_first, vf first, vf second) { return (vf)((is_first & (vi)first) | (~is_first & (vi)second)); }

/* exp of each lane, to about one unit in the last place (range reduction and polynomial of Cephes' expf). */
static inline vf exps(vf x) {
    x = chosen(x < -87.0f, (vf){0} - 87.0f, x);
    x = chosen(x > 88.0f, (vf){0} + 88.0f, x);
    vf n = x * 1.44269504f + 12582912.0f - 12582912.0f; /* 1.5 * 2^23: nothing behind the point is left */
    vi whole = __builtin_convertvector(n, vi);
    vf r = x - n * 0.693359375f + n * 2.12194440e-4f;
    vf y = r * 1.9875691500e-4f + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * r * r + r + 1.0f;
    return y * (vf)((whole + 127) << 23);
}

/* One row and one key head with the queries that share it: store what is new, read what was. */
static void read_head(void *argument, int64_t index) {
    const reading *r = argument;
    int64_t key_heads = r->s->key_heads, width = r->s->head_width, shared = r->s->heads / key_heads;
    int64_t row = index / key_heads, g = index % key_heads, position = r->positions[row];
    int64_t begin = r->l->window && position >= r->l->window ? position - r->l->window + 1 : 0;
    const place *p = &r->places[row];
    float *keys = p->keys + g * p->capacity * width, *values = keys + key_heads * p->capacity * width;
    float *own = r->qkv + row * (r->s->heads + 2 * key_heads) * width;
    const float *turns = r->turns + row * width, *weights = r->l->heads_norm;
    float *key = own + (r->s->heads + g) * width, *value = key + key_heads * width;
    prepare_head(r, key, weights ? weights + (r->s->heads + g) * width : NULL, turns);
    memcpy(keys + position * width, key, width * sizeof(float));
    memcpy(values + position * width, value, width * sizeof(float));
    float *shares = r->scores + index * r->longest;
    for (int64_t h = g * shared; h < (g + 1) * shared; h++) {
        float *query = own + h * width, *y = r->y + (row * r->s->heads + h) * width;
        memset(y, 0, width * sizeof(float));
        prepare_head(r, query, weights ? weights + h * width : NULL, turns);
        float most = -INFINITY, sum = 0, scale = 1 / sqrtf((float)width);
        for (int64_t s = begin; s <= position; s++) {
            float score = dot(query, keys + s * width, width) * scale;
            shares[s] = score;
            most = fmaxf(most, score);
        }
        for (int64_t s = begin; s <= position; s += LANES) {
            int64_t count = position + 1 - s < LANES ? position + 1 - s : LANES;
            vf x = {0};
            memcpy(&x, shares + s, count * sizeof(float));
            x = exps(x - most);
            memcpy(shares + s, &x, count * sizeof(float));
        }
        for (int64_t s = begin; s <= position; s++) sum += shares[s];
        for (int64_t s = begin; s <= position; s++) {
            float share = shares[s] / sum;
            for (int64_t k = 0; k < width; k++) y[k] += share * values[s * width + k];
        }
    }
}

/* x times a share of it: SwiGLU's swish, or GELU in its tanh form (Hendrycks and Gimpel 2016), which is
 * x * sigmoid(2 z), for (1 + tanh z) / 2 is sigmoid(2 z). */
static inline vf activated(vf x, int is_gelu) {
    vf t = is_gelu ? 1.5957691216f * (x + 0.044715f * x * x * x) : x;
    return x / (1.0f + exps(-t));
}

typedef struct {
    const float *gate; /* NULL: GELU of `up` alone */
    float *up;
    int64_t width;
} meeting;

/* up = swish(gate) * up of one row; the last lanes of a row are computed as all others are. */
static void meet(void *argument, int64_t row) {
    const meeting *m = argument;
    float *up = m->up + row * m->width;
    const float *gate = m->gate ? m->gate + row * m->width : up;
    for (int64_t i = 0; i < m->width; i += LANES) {
        int64_t count = m->width - i < LANES ? m->width - i : LANES;
        vf x = {0}, value = {0};
        memcpy(&x, gate + i, count * sizeof(float));
        memcpy(&value, up + i, count * sizeof(float));
        x = activated(x, !m->gate);
        if (m->gate) x *= value;
        memcpy(up + i, &x, count * sizeof(float));
    }
}

/* up = swish(gate) * up, or gelu(up) without a gate, for many rows. */
void activate(const float *gate, float *up, int64_t rows, int64_t width, int threads) {
    meeting m = {gate, up, width};
    pthread_mutex_lock(&one_caller);
    share(meet, &m, rows, rows * width < 16384 ? 1 : threads);
    pthread_mutex_unlock(&one_caller);
}

typedef struct {
    float *normed, *qkv, *read, *gate, *up, *scores;
    bytes_of bytes;
} workspace;

static int take_workspace(workspace *w, const shape *s, int64_t rows, int64_t longest) {
    int64_t inner = s->heads * s->head_width, most = inner > s->mlp_width ? inner : s->mlp_width;
    w->normed = malloc(rows * s->width * sizeof(float));
    w->qkv = malloc(rows * (s->heads + 2 * s->key_heads) * s->head_width * sizeof(float));
    w->read = malloc(rows * inner * sizeof(float));
    w->gate = malloc(rows * s->mlp_width * sizeof(float));
    w->up = malloc(rows * s->mlp_width * sizeof(float));
    w->scores = malloc(rows * s->key_heads * longest * sizeof(float));
    int has_bytes = take_bytes(&w->bytes, rows, most > s->width ? most : s->width);
    return has_bytes && w->normed && w->qkv && w->read && w->gate && w->up && w->scores;
}

static void give_workspace(workspace *w) {
    free(w->normed);
    free(w->qkv);
    free(w->read);
    free(w->gate);
    free(w->up);
    free(w->scores);
    give_bytes(&w->bytes);
}

static void one_layer(reading *r, workspace *w, float *x, int64_t rows, int threads) {
    const shape *s = r->s;
    const layer *l = r->l;
    for (int64_t row = 0; row < rows; row++)
        normalise(x + row * s->width, s->width, l->before, s->epsilon, w->normed + row * s->width);
    multiply(&l->into, w->normed, w->bytes, rows, w->qkv, STORE, threads);
    share(read_head, r, rows * s->key_heads, threads);
    multiply(&l->out, w->read, w->bytes, rows, x, ADD, threads);
    for (int64_t row = 0; row < rows; row++)
        normalise(x + row * s->width, s->width, l->between, s->epsilon, w->normed + row * s->width);
    if (l->gate.weights) multiply(&l->gate, w->normed, w->bytes, rows, w->gate, STORE, threads);
    multiply(&l->up, w->normed, w->bytes, rows, w->up, STORE, threads);
    meeting m = {l->gate.weights ? w->gate : NULL, w->up, s->mlp_width};
    share(meet, &m, rows, rows * s->mlp_width < 16384 ? 1 : threads);
    multiply(&l->down, w->up, w->bytes, rows, x, ADD, threads);
}

/* Read one token in each row: `x` (rows, width) goes in as embeddings and comes out as normalised states.
 *
 * places: [layers][rows]. Returns 0, or 1 where there is no memory; then nothing was changed.
 */
int read_tokens(const shape *s, const place *places, const int64_t *positions, const float *turns, float *x, int64_t rows, int threads) {
    workspace w;
    int64_t longest = 1;
    for (int64_t row = 0; row < rows; row++) longest = positions[row] >= longest ? positions[row] + 1 : longest;
    int is_ready = take_workspace(&w, s, rows, longest);
    if (is_ready) {
        pthread_mutex_lock(&one_caller);
        for (int64_t number = 0; number < s->layers; number++) {
            reading r = {s, &s->layer[number], places + number * rows, positions, turns, w.qkv, w.read, w.scores, longest};
            one_layer(&r, &w, x, rows, threads);
        }
        for (int64_t row = 0; row < rows; row++)
            normalise(x + row * s->width, s->width, s->last, s->epsilon, x + row * s->width);
        pthread_mutex_unlock(&one_caller);
    }
    give_workspace(&w);
    return !is_ready;
}
