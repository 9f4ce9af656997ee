/* One step of the network: rows read their next tokens, one or many. For the CPU; compiled as one piece with `products.c`.
 *
 * A token's numbers depend on its own position and what its row holds before it, on nothing else: not on the rows beside
 * it, nor on what is read in the same step, nor on the number of threads.
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
    const place *places;      /* of the rows in this layer */
    const int64_t *rows;      /* [tokens] each one's row */
    const int64_t *positions; /* [tokens] */
    const float *turns;       /* [tokens][head_width / 2][2]: cosine and sine */
    float *qkv, *y;
    float *scores;            /* [workers][longest + LANES] */
    int64_t longest, tokens;
    int is_alone;             /* no two tokens are of one row, so each may store its keys when it reads */
} reading;

static void normalise(const float *x, int64_t width, norm n, float epsilon, float *y) {
    double sum = 0, mean = 0;
    int64_t i = 0;
    vd lanes = {0};
    if (n.bias) {
        for (int64_t k = 0; k < width; k++) mean += x[k];
        mean /= (double)width;
    }
    for (; i + LANES <= width; i += LANES) {
        vd apart = __builtin_convertvector(*(const vf *)(x + i), vd) - mean;
        lanes += apart * apart;
    }
    for (; i < width; i++) sum += (x[i] - mean) * (x[i] - mean);
    for (int lane = 0; lane < LANES; lane++) sum += lanes[lane];
    float factor = (float)(1 / sqrt(sum / (double)width + epsilon)), centre = (float)mean;
    for (i = 0; i < width; i++) y[i] = (x[i] - centre) * factor * n.weight[i] + (n.bias ? n.bias[i] : 0);
}

typedef struct {
    const float *x;
    int64_t width;
    norm n;
    float epsilon;
    float *y;
} normed;

static void normalise_row(void *argument, int64_t row, int worker) {
    const normed *n = argument;
    (void)worker;
    normalise(n->x + row * n->width, n->width, n->n, n->epsilon, n->y + row * n->width);
}

static void normalise_rows(const shape *s, const float *x, int64_t rows, norm n, float *y, int threads) {
    normed all = {x, s->width, n, s->epsilon, y};
    share(normalise_row, &all, rows, rows * s->width < WORTH_SHARING ? 1 : threads);
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
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) lanes += *(const vf *)(a + i) * *(const vf *)(b + i);
    if (i < count) lanes += part(a + i, count - i) * part(b + i, count - i);
    return sum_of(lanes);
}

/* exp of each lane, to about one unit in the last place (range reduction and polynomial of Cephes' expf). */
static inline vf exps(vf x) {
    x = chosen(x < -87.0f, (vf){0} - 87.0f, x);
    x = chosen(x > 88.0f, (vf){0} + 88.0f, x);
    vf n = x * 1.44269504f + NEAREST - NEAREST;
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

/* Numbers become shares that are yet to be divided by their sum, which is returned; as many as whole vectors hold. */
static float weigh(float *x, int64_t begin, int64_t end) {
    vf peaks = (vf){0} - INFINITY, sums = {0};
    for (int64_t s = begin; s < end; s += LANES) peaks = larger(*(const vf *)(x + s), peaks);
    float most = peak_of(peaks);
    for (int64_t s = begin; s < end; s += LANES) {
        vf share = exps(*(const vf *)(x + s) - most);
        *(vf *)(x + s) = share;
        sums += share;
    }
    return sum_of(sums);
}

/* y = the sum of rows by their shares, as many numbers at once as stay in registers. */
static inline void mix(const float *shares, const float *rows, int64_t begin, int64_t end, int64_t width, float factor, float *y) {
    int64_t k = 0;
    for (; k + PANEL <= width; k += PANEL) {
        vf sums[VECTORS] = {0};
        for (int64_t s = begin; s < end; s++)
            for (int v = 0; v < VECTORS; v++) sums[v] += shares[s] * *(const vf *)(rows + s * width + k + v * LANES);
        for (int v = 0; v < VECTORS; v++) *(vf *)(y + k + v * LANES) = sums[v] * factor;
    }
    for (; k + LANES <= width; k += LANES) {
        vf sum = {0};
        for (int64_t s = begin; s < end; s++) sum += shares[s] * *(const vf *)(rows + s * width + k);
        *(vf *)(y + k) = sum * factor;
    }
    for (; k < width; k++) {
        float sum = 0;
        for (int64_t s = begin; s < end; s++) sum += shares[s] * rows[s * width + k];
        y[k] = sum * factor;
    }
}

static inline float *own_of(const reading *r, int64_t token) {
    return r->qkv + token * (r->s->heads + 2 * r->s->key_heads) * r->s->head_width;
}

/* Where a token's row keeps the keys of one head; the values' heads stand behind the keys'. */
static inline float *keys_of(const reading *r, int64_t token, int64_t g) {
    const place *p = &r->places[r->rows[token]];
    return p->keys + g * p->capacity * r->s->head_width;
}

static inline float *values_of(const reading *r, int64_t token, int64_t g) {
    return keys_of(r, token, g + r->s->key_heads);
}

static void store_head(const reading *r, int64_t token, int64_t g) {
    int64_t width = r->s->head_width, heads = r->s->heads, at = r->positions[token] * width;
    const float *weights = r->l->heads_norm;
    float *key = own_of(r, token) + (heads + g) * width, *value = key + r->s->key_heads * width;
    prepare_head(r, key, weights ? weights + (heads + g) * width : NULL, r->turns + token * width);
    memcpy(keys_of(r, token, g) + at, key, width * sizeof(float));
    memcpy(values_of(r, token, g) + at, value, width * sizeof(float));
}

static void store_token(void *argument, int64_t token, int worker) {
    const reading *r = argument;
    (void)worker;
    for (int64_t g = 0; g < r->s->key_heads; g++) store_head(r, token, g);
}

/* One token and one key head with the queries that share it. */
static void read_head(void *argument, int64_t index, int worker) {
    const reading *r = argument;
    int64_t width = r->s->head_width, shared = r->s->heads / r->s->key_heads;
    int64_t token = index % r->tokens, g = index / r->tokens, position = r->positions[token];
    int64_t begin = r->l->window && position >= r->l->window ? position - r->l->window + 1 : 0;
    const float *turns = r->turns + token * width, *weights = r->l->heads_norm;
    float *shares = r->scores + worker * (r->longest + LANES), scale = 1 / sqrtf((float)width);
    if (r->is_alone) store_head(r, token, g);
    const float *keys = keys_of(r, token, g), *values = values_of(r, token, g);
    for (int64_t h = g * shared; h < (g + 1) * shared; h++) {
        float *query = own_of(r, token) + h * width;
        prepare_head(r, query, weights ? weights + h * width : NULL, turns);
        for (int64_t s = begin; s <= position; s++) shares[s] = dot(query, keys + s * width, width) * scale;
        for (int64_t s = 1; s < LANES; s++) shares[position + s] = -INFINITY; /* whose share is nothing beside others */
        float sum = weigh(shares, begin, position + 1);
        mix(shares, values, begin, position + 1, width, 1 / sum, r->y + (token * r->s->heads + h) * width);
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

/* up = swish(gate) * up in some columns of one row; the last lanes of a row are computed as all others are. */
static void meet_columns(const meeting *m, int64_t row, int64_t begin, int64_t end) {
    float *up = m->up + row * m->width;
    const float *gate = m->gate ? m->gate + row * m->width : up;
    int64_t i = begin;
    for (; i + LANES <= end; i += LANES) {
        vf x = activated(*(const vf *)(gate + i), !m->gate);
        *(vf *)(up + i) = m->gate ? x * *(const vf *)(up + i) : x;
    }
    if (i < end) {
        vf x = activated(part(gate + i, end - i), !m->gate);
        put_part(m->gate ? x * part(up + i, end - i) : x, up + i, end - i);
    }
}

typedef struct {
    float *normed, *qkv, *read, *gate, *up, *scores;
    bytes_of bytes;
} workspace;

static int take_workspace(workspace *w, const shape *s, int64_t rows, int64_t longest, int threads) {
    int64_t inner = s->heads * s->head_width, most = inner > s->mlp_width ? inner : s->mlp_width;
    w->normed = malloc(rows * s->width * sizeof(float));
    w->qkv = malloc(rows * (s->heads + 2 * s->key_heads) * s->head_width * sizeof(float));
    w->read = malloc(rows * inner * sizeof(float));
    w->gate = malloc(rows * s->mlp_width * sizeof(float));
    w->up = malloc(rows * s->mlp_width * sizeof(float));
    w->scores = malloc((threads > 1 ? threads : 1) * (longest + LANES) * sizeof(float));
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

typedef struct {
    product gate, up; /* gate.m NULL: none */
    meeting meeting;
} inner;

/* A panel of the MLP's inner width, from its products to what they give together. */
static void inner_panel_of(void *argument, int64_t panel, int worker) {
    const inner *i = argument;
    int64_t begin = panel * PANEL, left = i->meeting.width - begin;
    if (i->gate.m) panel_of((void *)&i->gate, panel, worker);
    panel_of((void *)&i->up, panel, worker);
    for (int64_t row = 0; row < i->up.rows; row++)
        meet_columns(&i->meeting, row, begin, begin + (left < PANEL ? left : PANEL));
}

static void one_layer(reading *r, workspace *w, float *x, int threads) {
    const shape *s = r->s;
    const layer *l = r->l;
    int64_t rows = r->tokens;
    normalise_rows(s, x, rows, l->before, w->normed, threads);
    multiply(&l->into, w->normed, w->bytes, rows, w->qkv, STORE, threads);
    if (!r->is_alone) share(store_token, r, rows, threads);
    share(read_head, r, rows * s->key_heads, threads);
    multiply(&l->out, w->read, w->bytes, rows, x, ADD, threads);
    normalise_rows(s, x, rows, l->between, w->normed, threads);
    const matrix *gate = l->gate.weights ? &l->gate : NULL;
    inner i = {{gate, w->normed, w->bytes, rows, w->gate, STORE}, {&l->up, w->normed, w->bytes, rows, w->up, STORE},
               {gate ? w->gate : NULL, w->up, s->mlp_width}};
    take_in(&i.up, threads);
    share(inner_panel_of, &i, panels_of(&l->up), threads);
    multiply(&l->down, w->up, w->bytes, rows, x, ADD, threads);
}

/* Read tokens into their rows: `x` (tokens, width) goes in as embeddings and comes out as normalised states.
 *
 * places: [layers][held], of the rows that are read into; rows: [tokens] each one's among them; the tokens of one row
 * follow each other without a gap in its positions. is_alone: no two tokens are of one row.
 * Returns 0, or 1 where there is no memory; then nothing was changed.
 */
int read_tokens(const shape *s, const place *places, int64_t held, const int64_t *rows, const int64_t *positions,
                const float *turns, float *x, int64_t tokens, int is_alone, int threads) {
    workspace w;
    int64_t longest = 1;
    for (int64_t token = 0; token < tokens; token++) longest = positions[token] >= longest ? positions[token] + 1 : longest;
    int is_ready = take_workspace(&w, s, tokens, longest, threads);
    if (is_ready) {
        pthread_mutex_lock(&one_caller);
        for (int64_t number = 0; number < s->layers; number++) {
            reading r = {s, &s->layer[number], places + number * held, rows, positions, turns, w.qkv, w.read, w.scores,
                         longest, tokens, is_alone};
            one_layer(&r, &w, x, threads);
        }
        normalise_rows(s, x, tokens, s->last, x, threads);
        pthread_mutex_unlock(&one_caller);
    }
    give_workspace(&w);
    return !is_ready;
}
