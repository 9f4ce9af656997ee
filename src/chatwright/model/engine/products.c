/* Products of few rows with large matrices. `step.c` has the step of the network that is made of them.
 *
 * For the CPU; compiled on the machine it runs on (`native.py`), for that machine's vectors. Each output is one sum over
 * its inputs from the first to the last, whatever rows stand beside it and however many threads share the work: so a
 * row's bits depend on nothing but the row. Not for training.
 *
 * Layout of a matrix: panels of PANEL outputs, input by input: [panel][input][PANEL]. In int8 four inputs of an output
 * stand together, [panel][input / 4][PANEL][4], as the processor's products of bytes want them.
 * Legend: n rows, i inputs, o outputs.
 */
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#define PAUSE() _mm_pause()
#else
#define PAUSE() ((void)0)
#endif

#define LANES 16
#define VECTORS 4
#define PANEL (LANES * VECTORS)
#define AHEAD 16 /* inputs whose weights are fetched before they are needed */
#define GROUP 64 /* inputs that share a scale of an activation in int8 */

typedef float vf __attribute__((vector_size(LANES * 4), aligned(4)));
typedef int32_t vi __attribute__((vector_size(LANES * 4), aligned(4)));
typedef double vd __attribute__((vector_size(LANES * 8), aligned(8)));
typedef uint8_t vu __attribute__((vector_size(LANES), aligned(1)));

/* Lanes in another order. A vector whose address is taken would live in memory, so nothing here looks into one. */
#if defined(__clang__)
#define SHUFFLED(x, ...) __builtin_shufflevector(x, x, __VA_ARGS__)
#else
#define SHUFFLED(x, ...) __builtin_shuffle(x, (vi){__VA_ARGS__})
#endif
#define BY_EIGHT 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7
#define BY_FOUR 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11
#define BY_TWO 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13
#define BY_ONE 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14

static inline float sum_of(vf x) {
    x += SHUFFLED(x, BY_EIGHT);
    x += SHUFFLED(x, BY_FOUR);
    x += SHUFFLED(x, BY_TWO);
    x += SHUFFLED(x, BY_ONE);
    return x[0];
}

static inline vf chosen(vi is_first, vf first, vf second) { return (vf)((is_first & (vi)first) | (~is_first & (vi)second)); }
static inline vf larger(vf a, vf b) { return chosen(a > b, a, b); }

static inline float peak_of(vf x) {
    x = larger(SHUFFLED(x, BY_EIGHT), x);
    x = larger(SHUFFLED(x, BY_FOUR), x);
    x = larger(SHUFFLED(x, BY_TWO), x);
    x = larger(SHUFFLED(x, BY_ONE), x);
    return x[0];
}

/* Fewer numbers than a vector has lanes, the others zero; apart, for the reason above. */
static __attribute__((noinline)) vf part(const float *x, int64_t count) {
    vf found = {0};
    memcpy(&found, x, count * sizeof(float));
    return found;
}

static __attribute__((noinline)) void put_part(vf value, float *x, int64_t count) { memcpy(x, &value, count * sizeof(float)); }

/* ---- A team of threads: the caller, and others that help with what is left when they come. ---- */

typedef void (*task_fn)(void *argument, int64_t index, int worker); /* worker: 0 the caller, then its helpers */

/* Nobody waits for a helper that the system has not woken yet: the caller works on, and waits only for who is inside. */
static struct {
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    _Atomic uint64_t open;   /* number of the task that may be helped with; 0: none */
    _Atomic int inside;      /* helpers that look at the task */
    _Atomic int64_t next;    /* index that nobody has taken yet */
    _Atomic int asleep;
    uint64_t last;
    task_fn task;
    void *argument;
    int64_t count;
    int helpers; /* threads that exist */
    _Atomic int wanted;
} team = {.mutex = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER};

static pthread_mutex_t one_caller = PTHREAD_MUTEX_INITIALIZER;

#define SPINS 5000

static void help(int worker) {
    for (int64_t index; (index = atomic_fetch_add(&team.next, 1)) < team.count;) team.task(team.argument, index, worker);
}

static void *helper(void *number) {
    int own = (int)(intptr_t)number;
    uint64_t seen = 0, now;
    for (;;) {
        for (int spin = 0; (now = atomic_load(&team.open)) == 0 || now == seen; spin++) {
            if (spin < SPINS) {
                PAUSE();
                continue;
            }
            pthread_mutex_lock(&team.mutex);
            atomic_fetch_add(&team.asleep, 1);
            while ((now = atomic_load(&team.open)) == 0 || now == seen) pthread_cond_wait(&team.wake, &team.mutex);
            atomic_fetch_sub(&team.asleep, 1);
            pthread_mutex_unlock(&team.mutex);
        }
        atomic_fetch_add(&team.inside, 1);
        if (atomic_load(&team.open) == now && own < atomic_load(&team.wanted)) help(own + 1);
        atomic_fetch_sub(&team.inside, 1);
        seen = now;
    }
    return NULL;
}

/* `task` for every index below `count`, by at most so many threads; in no order. */
static void share(task_fn task, void *argument, int64_t count, int threads) {
    if (threads < 2 || count < 2) {
        for (int64_t index = 0; index < count; index++) task(argument, index, 0);
        return;
    }
    for (pthread_t thread; team.helpers < threads - 1; team.helpers++) {
        if (pthread_create(&thread, NULL, helper, (void *)(intptr_t)team.helpers) != 0) break;
        pthread_detach(thread);
    }
    team.task = task;
    team.argument = argument;
    team.count = count;
    atomic_store(&team.next, 0);
    atomic_store(&team.wanted, threads - 1);
    atomic_store(&team.open, ++team.last);
    if (atomic_load(&team.asleep)) {
        pthread_mutex_lock(&team.mutex);
        pthread_cond_broadcast(&team.wake);
        pthread_mutex_unlock(&team.mutex);
    }
    help(0);
    atomic_store(&team.open, 0);
    for (int spin = 0; atomic_load(&team.inside) != 0; spin++) {
        if (spin < SPINS) PAUSE();
        else sched_yield();
    }
}

/* ---- Matrices ---- */

typedef struct {
    const void *weights;  /* as laid out by `pack_*` */
    const float *scales;  /* int8: of each output, padded to whole panels; NULL: float32 */
    const int32_t *sums;  /* int8: of each output's numbers, for each group: [panel][group][PANEL] */
    const float *bias;    /* NULL: none */
    int64_t inputs, outputs;
} matrix;

static inline int64_t panels_of(const matrix *m) { return (m->outputs + PANEL - 1) / PANEL; }
static inline int64_t groups_of(int64_t inputs) { return (inputs + GROUP - 1) / GROUP; }

/* float32 [outputs][inputs] into panels; the last one is filled with zeros. */
void pack_float32(const float *from, int64_t outputs, int64_t inputs, float *to) {
    for (int64_t o = 0; o < (outputs + PANEL - 1) / PANEL * PANEL; o++)
        for (int64_t i = 0; i < inputs; i++)
            to[o / PANEL * PANEL * inputs + i * PANEL + o % PANEL] = o < outputs ? from[o * inputs + i] : 0;
}

/* int8 [outputs][inputs] into panels of groups of four, with the sums of each group of inputs. */
void pack_int8(const int8_t *from, int64_t outputs, int64_t inputs, int8_t *to, int32_t *sums) {
    int64_t groups = groups_of(inputs), wide = groups * GROUP;
    for (int64_t o = 0; o < (outputs + PANEL - 1) / PANEL * PANEL; o++) {
        int64_t panel = o / PANEL, place = o % PANEL;
        for (int64_t g = 0; g < groups; g++) {
            int32_t sum = 0;
            for (int64_t i = g * GROUP; i < (g + 1) * GROUP; i++) {
                int8_t value = o < outputs && i < inputs ? from[o * inputs + i] : 0;
                to[panel * PANEL * wide + i / 4 * PANEL * 4 + place * 4 + i % 4] = value;
                sum += value;
            }
            sums[(panel * groups + g) * PANEL + place] = sum;
        }
    }
}

enum { STORE, ADD }; /* what comes of the sums */

static inline void finish(const matrix *m, int64_t panel, int64_t row, const float *sums, float *y, int mode) {
    int64_t begin = panel * PANEL, count = m->outputs - begin < PANEL ? m->outputs - begin : PANEL;
    float *to = y + row * m->outputs + begin;
    for (int64_t o = 0; o < count; o++) {
        float value = sums[o] + (m->bias ? m->bias[begin + o] : 0);
        to[o] = mode == ADD ? to[o] + value : value;
    }
}

#define FLOAT_ROWS(NAME, ROWS)                                                                                      \
    static void NAME(const matrix *m, int64_t panel, const float *x, int64_t row, float *y, int mode) { \
        const float *w = (const float *)m->weights + panel * PANEL * m->inputs;                                     \
        const float *from = x + row * m->inputs;                                                                    \
        vf sum[ROWS][VECTORS] = {0};                                                                                \
        for (int64_t i = 0; i < m->inputs; i++, w += PANEL) {                                                       \
            vf weight[VECTORS];                                                                                     \
            for (int v = 0; v < VECTORS; v++) weight[v] = *(const vf *)(w + v * LANES);                             \
            for (int v = 0; v < VECTORS; v++) __builtin_prefetch(w + AHEAD * PANEL + v * LANES);                    \
            for (int r = 0; r < ROWS; r++) {                                                                        \
                float value = from[r * m->inputs + i];                                                              \
                for (int v = 0; v < VECTORS; v++) sum[r][v] += weight[v] * value;                                   \
            }                                                                                                       \
        }                                                                                                           \
        for (int r = 0; r < ROWS; r++) finish(m, panel, row + r, (const float *)sum[r], y, mode);           \
    }
FLOAT_ROWS(float_1, 1)
FLOAT_ROWS(float_2, 2)
FLOAT_ROWS(float_4, 4)
FLOAT_ROWS(float_6, 6)

/* Activations in int8: each as 128 * high + low with high and low from 0 to 127 around an offset, so that two exact
 * products of bytes carry 14 bits. `x = scale * (128 * high + low - OFFSET)`. */
#define OFFSET 8192
#define NEAREST 12582912.0f /* 1.5 * 2^23: added and taken away, nothing behind the point is left */
typedef struct {
    uint8_t *high, *low; /* [row][wide] */
    float *scale;        /* [row][group] */
} bytes_of;

/* Floats that are not negative are in the order of their bits, and whole numbers have a largest one in any order. */
static inline float largest_of(const float *x) {
    int32_t bits[GROUP], most = 0;
    memcpy(bits, x, sizeof bits);
    for (int i = 0; i < GROUP; i++) bits[i] &= INT32_MAX;
    for (int i = 0; i < GROUP; i++) most = bits[i] > most ? bits[i] : most;
    float found;
    memcpy(&found, &most, sizeof found);
    return found;
}

static void quantise(const float *x, int64_t inputs, int64_t row, bytes_of to) {
    int64_t groups = groups_of(inputs), wide = groups * GROUP;
    for (int64_t g = 0; g < groups; g++) {
        float filled[GROUP] = {0};
        int64_t count = inputs - g * GROUP < GROUP ? inputs - g * GROUP : GROUP;
        memcpy(filled, x + row * inputs + g * GROUP, count * sizeof(float));
        float largest = largest_of(filled), inverse = largest > 0 ? (OFFSET - 1) / largest : 0;
        uint8_t *high = to.high + row * wide + g * GROUP, *low = to.low + row * wide + g * GROUP;
        to.scale[row * groups + g] = largest / (OFFSET - 1);
        for (int i = 0; i < GROUP; i += LANES) {
            vf rounded = *(const vf *)(filled + i) * inverse + NEAREST - NEAREST;
            vi whole = __builtin_convertvector(rounded, vi) + OFFSET;
            *(vu *)(high + i) = __builtin_convertvector(whole >> 7, vu);
            *(vu *)(low + i) = __builtin_convertvector(whole & 127, vu);
        }
    }
}

static inline vi dot4(vi sum, const int8_t *w, const uint8_t *x) {
#if defined(__AVX512VNNI__)
    int32_t four;
    memcpy(&four, x, 4);
    return (vi)_mm512_dpbusd_epi32((__m512i)sum, _mm512_set1_epi32(four), _mm512_loadu_si512(w));
#else
    for (int lane = 0; lane < LANES; lane++)
        for (int k = 0; k < 4; k++) sum[lane] += (int32_t)w[lane * 4 + k] * x[k];
    return sum;
#endif
}

/* TOGETHER: vectors of outputs whose sums are held at once, as many as there are registers for. */
#define INT8_ROWS(NAME, ROWS, TOGETHER)                                                                             \
    static void NAME(const matrix *m, int64_t panel, bytes_of x, int64_t row, float *y, int mode) {                 \
        int64_t groups = groups_of(m->inputs), wide = groups * GROUP;                                               \
        const int8_t *w = (const int8_t *)m->weights + panel * PANEL * wide;                                        \
        const int32_t *offsets = m->sums + panel * groups * PANEL;                                                  \
        vf total[ROWS][VECTORS] = {0};                                                                              \
        for (int64_t g = 0; g < groups; g++) {                                                                      \
            for (int begin = 0; begin < VECTORS; begin += TOGETHER) {                                               \
                vi high[ROWS][TOGETHER] = {0}, low[ROWS][TOGETHER] = {0};                                           \
                for (int i = 0; i < GROUP; i += 4) {                                                                \
                    const int8_t *four = w + i * PANEL + begin * LANES * 4;                                         \
                    for (int v = 0; v < TOGETHER; v++) __builtin_prefetch(four + GROUP * PANEL + v * LANES * 4);    \
                    for (int r = 0; r < ROWS; r++) {                                                                \
                        int64_t at = (row + r) * wide + g * GROUP + i;                                              \
                        for (int v = 0; v < TOGETHER; v++) {                                                        \
                            high[r][v] = dot4(high[r][v], four + v * LANES * 4, x.high + at);                       \
                            low[r][v] = dot4(low[r][v], four + v * LANES * 4, x.low + at);                          \
                        }                                                                                           \
                    }                                                                                               \
                }                                                                                                   \
                for (int v = 0; v < TOGETHER; v++) {                                                                \
                    vi offset = *(const vi *)(offsets + g * PANEL + (begin + v) * LANES) * OFFSET;                  \
                    for (int r = 0; r < ROWS; r++)                                                                  \
                        total[r][begin + v] += __builtin_convertvector(high[r][v] * 128 + low[r][v] - offset, vf)   \
                                               * x.scale[(row + r) * groups + g];                                   \
                }                                                                                                   \
            }                                                                                                       \
            w += GROUP * PANEL;                                                                                     \
        }                                                                                                           \
        for (int r = 0; r < ROWS; r++) {                                                                            \
            for (int v = 0; v < VECTORS; v++) total[r][v] *= *(const vf *)(m->scales + panel * PANEL + v * LANES);  \
            finish(m, panel, row + r, (const float *)total[r], y, mode);                                            \
        }                                                                                                           \
    }
INT8_ROWS(int8_1, 1, 4)
INT8_ROWS(int8_2, 2, 4)
INT8_ROWS(int8_4, 4, 1)

/* All rows of one panel. */
static void one_panel(const matrix *m, int64_t panel, const float *x, bytes_of bytes, int64_t rows, float *y, int mode) {
    int64_t row = 0;
    if (m->scales) {
        for (; row + 4 <= rows; row += 4) int8_4(m, panel, bytes, row, y, mode);
        for (; row + 2 <= rows; row += 2) int8_2(m, panel, bytes, row, y, mode);
        for (; row < rows; row++) int8_1(m, panel, bytes, row, y, mode);
    } else {
        for (; row + 6 <= rows; row += 6) float_6(m, panel, x, row, y, mode);
        for (; row + 4 <= rows; row += 4) float_4(m, panel, x, row, y, mode);
        for (; row + 2 <= rows; row += 2) float_2(m, panel, x, row, y, mode);
        for (; row < rows; row++) float_1(m, panel, x, row, y, mode);
    }
}

typedef struct {
    const matrix *m;
    const float *x;
    bytes_of bytes;
    int64_t rows;
    float *y;
    int mode;
} product;

static void panel_of(void *argument, int64_t panel, int worker) {
    (void)worker;
    const product *p = argument;
    one_panel(p->m, panel, p->x, p->bytes, p->rows, p->y, p->mode);
}

static void row_of(void *argument, int64_t row, int worker) {
    (void)worker;
    const product *p = argument;
    quantise(p->x, p->m->inputs, row, p->bytes);
}

#define WORTH_SHARING 16384 /* numbers; for fewer another thread comes too late */

/* The rows as the matrix wants them: in int8 as bytes, the same for all matrices that read them. */
static void take_in(product *p, int threads) {
    if (p->m->scales) share(row_of, p, p->rows, p->rows * p->m->inputs < WORTH_SHARING ? 1 : threads);
}

static void multiply(const matrix *m, const float *x, bytes_of bytes, int64_t rows, float *y, int mode, int threads) {
    product p = {m, x, bytes, rows, y, mode};
    take_in(&p, threads);
    share(panel_of, &p, panels_of(m), threads);
}

static int take_bytes(bytes_of *bytes, int64_t rows, int64_t inputs) {
    int64_t wide = groups_of(inputs) * GROUP;
    bytes->high = malloc(rows * wide);
    bytes->low = malloc(rows * wide);
    bytes->scale = malloc(rows * groups_of(inputs) * sizeof(float));
    return bytes->high && bytes->low && bytes->scale;
}

static void give_bytes(bytes_of *bytes) {
    free(bytes->high);
    free(bytes->low);
    free(bytes->scale);
}

/* y = x @ weights.T + bias. Returns 0, or 1 where there is no memory. */
int times(const matrix *m, const float *x, int64_t rows, float *y, int threads) {
    bytes_of bytes = {0};
    int is_ready = !m->scales || take_bytes(&bytes, rows, m->inputs);
    if (is_ready) {
        pthread_mutex_lock(&one_caller);
        multiply(m, x, bytes, rows, y, STORE, threads);
        pthread_mutex_unlock(&one_caller);
    }
    give_bytes(&bytes);
    return !is_ready;
}
