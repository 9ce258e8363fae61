// Softmax attention per image and head in f32 arithmetic, forward and backward, straight out of packed projections
// (Dao et al., FlashAttention, 2022): no matrix of scores in memory. Head width 64; others, and a single query (CLS):
// attention_rows.cu. 16-bit numbers
// have a faster way on tensor cores: attention_tensor.cu.
//
// T is f32, f16 or bf16. Operands are views: element e of head h of token t of image i of q lies at
// q + i·q_image + t·q_token + 64·h + e (strides in elements); k and v share strides, so do dk and dv. sq queries, s keys.
// o[b,sq,heads·64] and do are dense; log_sums and diagonal are [b,heads,sq] f32. Blocks of 256 threads.
//
// attention_forward_T(o, log_sums, q, k, v, q_image, q_token, kv_image, kv_token, sq, s, scale), AttentionShape::queries
//   o = softmax(scale·q·kᵀ)·v; log_sums = log Σ exp of the scaled scores
// attention_diagonal_T(diagonal, o, do, sq, heads, e, rows), AttentionShape::diagonal
//   diagonal = Σ over the head's e values of do·o; any head width; rows = b·sq·heads
// attention_backward_q_T(dq, q, k, v, do, log_sums, diagonal, q_image, q_token, kv_image, kv_token, dq_image, dq_token,
//                        sq, s, scale), AttentionShape::queries_backward
// attention_backward_kv_T(dk, dv, q, k, v, do, log_sums, diagonal, q_image, q_token, kv_image, kv_token, dkv_image,
//                         dkv_token, sq, s, scale), AttentionShape::keys_backward
//   With P the probabilities: dv = Pᵀ·do, dS = P∘(do·vᵀ - diagonal)·scale, dq = dS·k, dk = dSᵀ·q. dk may be null.
//   Every sum belongs to one thread: no atomics.

#include "normal.h"
#include "tile.h"

namespace {

constexpr float NO_KEY = -INFINITY;

template <typename T> struct View {
    T *start;
    size_t image, token;

    // Head blockIdx.y of image blockIdx.z.
    DEVICE T *head() const { return start + blockIdx.z * image + blockIdx.y * TILE; }
};

// Row of [b,heads,sq] where this block's head begins.
DEVICE size_t head_rows(unsigned sq) { return (size_t(blockIdx.z) * gridDim.y + blockIdx.y) * sq; }

// Reduces over the sixteen threads that share a row.
template <typename Join> DEVICE float row_reduce(float x, Join join) {
#pragma unroll
    for (int other = 8; other > 0; other /= 2) x = join(x, __shfl_xor_sync(WHOLE_WARP, x, other));
    return x;
}

// Softmax over keys that come in tiles: the largest score so far and the sum of exponentials relative to it, base 2.
struct Running {
    float largest = NO_KEY, sum = 0.0f;

    // Takes in a row's four scores of this thread, makes them exponentials; returns what the earlier sums are multiplied by.
    DEVICE float take(float (&scores)[4]) {
        float top = largest;
#pragma unroll
        for (float score : scores) top = larger(top, score);
        top = row_reduce(top, Largest{});
        float base = top == NO_KEY ? 0.0f : top;
        float correction = fast_exp2(largest - base), added = 0.0f;
#pragma unroll
        for (float &score : scores) {
            score = fast_exp2(score - base);
            added += score;
        }
        sum = fmaf(sum, correction, row_reduce(added, Sum{}));
        largest = top;
        return correction;
    }
};

template <typename T>
DEVICE void forward(T *o, float *log_sums, View<const T> q, View<const T> k, View<const T> v, unsigned sq, unsigned s,
                    float scale) {
    DYNAMIC_SHARED(float, shared);
    float *queries = shared, *keys = queries + TILE * TILE_STRIDE, *scores = keys + TILE * TILE_STRIDE;
    int ty = int(threadIdx.x) / 16, tx = int(threadIdx.x) % 16;
    unsigned first = blockIdx.x * TILE;
    load_tile<TILE>(queries, q.head(), q.token, first, sq, scale * LOG2_E);
    Running running[4];
    float out[4][4] = {};
    for (unsigned key = 0; key < s; key += TILE) {
        __syncthreads(); // the values of the tile before are read
        load_tile<TILE>(keys, k.head(), k.token, key, s, 1.0f);
        __syncthreads();
        float c[4][4] = {};
        add_rows_by_rows<4>(c, queries, keys);
#pragma unroll
        for (int i = 0; i < 4; i++) {
#pragma unroll
            for (int j = 0; j < 4; j++)
                if (key + tx + 16 * j >= s) c[i][j] = NO_KEY;
            float correction = running[i].take(c[i]);
#pragma unroll
            for (int j = 0; j < 4; j++) {
                out[i][j] *= correction;
                scores[(ty * 4 + i) * TILE_STRIDE + tx + 16 * j] = c[i][j];
            }
        }
        __syncthreads(); // the keys are read, the exponentials are there
        float *values = keys;
        load_tile<TILE>(values, v.head(), v.token, key, s, 1.0f);
        __syncthreads();
        add_rows_by_columns(out, scores, values);
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
#pragma unroll
        for (int j = 0; j < 4; j++) out[i][j] /= running[i].sum;
        unsigned query = first + ty * 4 + i;
        if (tx == 0 && query < sq) log_sums[head_rows(sq) + query] = running[i].largest * LN_2 + logf(running[i].sum);
    }
    size_t d = size_t(gridDim.y) * TILE;
    store_columns(o + blockIdx.z * sq * d + blockIdx.y * TILE, d, first, sq, out);
}

template <typename T>
DEVICE void diagonal(float *sums, const T *o, const T *d_o, unsigned sq, unsigned heads, unsigned e, unsigned rows) {
    unsigned row = blockIdx.x * (blockDim.x / LANES) + threadIdx.x / LANES, lane = threadIdx.x % LANES;
    if (row >= rows) return;
    float total = 0.0f;
    for (unsigned i = lane; i < e; i += LANES)
        total = fmaf(to_f32(o[size_t(row) * e + i]), to_f32(d_o[size_t(row) * e + i]), total);
    total = warp_sum(total);
    unsigned head = row % heads, token = row / heads;
    if (lane == 0) sums[(size_t(token / sq) * heads + head) * sq + token % sq] = total;
}

// Scores (base 2) and gradients of probabilities become probabilities and gradients of unscaled scores.
FN void scores_backward(float &score, float &gradient, float log_sum, float diagonal, float scale, bool exists) {
    float probability = exists ? fast_exp2(score - log_sum) : 0.0f;
    gradient = exists ? probability * (gradient - diagonal) * scale : 0.0f;
    score = probability;
}

template <typename T> struct Given {
    View<const T> q, k, v, d_o;
    const float *log_sums, *diagonal;
    unsigned sq, s;
    float scale;
};

template <typename T> DEVICE void backward_q(View<T> dq, const Given<T> &given) {
    DYNAMIC_SHARED(float, shared);
    float *queries = shared, *d_out = queries + TILE * TILE_STRIDE, *keys = d_out + TILE * TILE_STRIDE;
    float *gradients = keys + TILE * TILE_STRIDE;
    int ty = int(threadIdx.x) / 16, tx = int(threadIdx.x) % 16;
    unsigned first = blockIdx.x * TILE, sq = given.sq, s = given.s;
    load_tile<TILE>(queries, given.q.head(), given.q.token, first, sq, given.scale * LOG2_E);
    load_tile<TILE>(d_out, given.d_o.head(), given.d_o.token, first, sq, 1.0f);
    float log_sum[4], diagonal[4], out[4][4] = {};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        unsigned query = first + ty * 4 + i;
        log_sum[i] = query < sq ? given.log_sums[head_rows(sq) + query] * LOG2_E : 0.0f;
        diagonal[i] = query < sq ? given.diagonal[head_rows(sq) + query] : 0.0f;
    }
    for (unsigned key = 0; key < s; key += TILE) {
        float scores[4][4] = {}, products[4][4] = {};
        __syncthreads(); // the keys of the tile before are read
        load_tile<TILE>(keys, given.v.head(), given.v.token, key, s, 1.0f);
        __syncthreads();
        add_rows_by_rows<4>(products, d_out, keys);
        __syncthreads();
        load_tile<TILE>(keys, given.k.head(), given.k.token, key, s, 1.0f);
        __syncthreads();
        add_rows_by_rows<4>(scores, queries, keys);
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int j = 0; j < 4; j++) {
                bool exists = key + tx + 16 * j < s && first + ty * 4 + i < sq;
                scores_backward(scores[i][j], products[i][j], log_sum[i], diagonal[i], given.scale, exists);
                gradients[(ty * 4 + i) * TILE_STRIDE + tx + 16 * j] = products[i][j];
            }
        __syncthreads();
        add_rows_by_columns(out, gradients, keys);
    }
    store_columns(dq.head(), dq.token, first, sq, out);
}

// Queries come in tiles of 32, so that all fits in the shared memory of every GPU since 8.0.
template <typename T> DEVICE void backward_kv(T *dk, T *dv, size_t dkv_image, size_t dkv_token, const Given<T> &given) {
    constexpr int QUERIES = 32;
    DYNAMIC_SHARED(float, shared);
    float *keys = shared, *values = keys + TILE * TILE_STRIDE, *queries = values + TILE * TILE_STRIDE;
    float *d_out = queries + QUERIES * TILE_STRIDE, *probabilities = d_out + QUERIES * TILE_STRIDE;
    float *gradients = probabilities + QUERIES * TILE_STRIDE;
    int ty = int(threadIdx.x) / 16, tx = int(threadIdx.x) % 16;
    unsigned first = blockIdx.x * TILE, sq = given.sq, s = given.s;
    load_tile<TILE>(keys, given.k.head(), given.k.token, first, s, 1.0f);
    load_tile<TILE>(values, given.v.head(), given.v.token, first, s, 1.0f);
    float sum_k[4][4] = {}, sum_v[4][4] = {};
    for (unsigned query = 0; query < sq; query += QUERIES) {
        __syncthreads(); // the queries of the tile before are read
        load_tile<QUERIES>(queries, given.q.head(), given.q.token, query, sq, 1.0f);
        load_tile<QUERIES>(d_out, given.d_o.head(), given.d_o.token, query, sq, 1.0f);
        __syncthreads();
        float scores[2][4] = {}, products[2][4] = {};
        add_rows_by_rows<2>(scores, queries, keys);
        add_rows_by_rows<2>(products, d_out, values);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            unsigned row = query + ty * 2 + i;
            bool in = row < sq;
            float log_sum = in ? given.log_sums[head_rows(sq) + row] * LOG2_E : 0.0f;
            float diagonal = in ? given.diagonal[head_rows(sq) + row] : 0.0f;
#pragma unroll
            for (int j = 0; j < 4; j++) {
                bool exists = in && first + tx + 16 * j < s;
                float score = scores[i][j] * (given.scale * LOG2_E);
                scores_backward(score, products[i][j], log_sum, diagonal, given.scale, exists);
                probabilities[(ty * 2 + i) * TILE_STRIDE + tx + 16 * j] = score;
                gradients[(ty * 2 + i) * TILE_STRIDE + tx + 16 * j] = products[i][j];
            }
        }
        __syncthreads();
        add_columns_by_columns<QUERIES>(sum_v, probabilities, d_out);
        if (dk) add_columns_by_columns<QUERIES>(sum_k, gradients, queries);
    }
    store_columns(View<T>{dv, dkv_image, dkv_token}.head(), dkv_token, first, s, sum_v);
    if (dk) store_columns(View<T>{dk, dkv_image, dkv_token}.head(), dkv_token, first, s, sum_k);
}

template <typename T>
DEVICE Given<T> given(const T *q, const T *k, const T *v, const T *d_o, const float *log_sums, const float *diagonal,
                      size_t q_image, size_t q_token, size_t kv_image, size_t kv_token, unsigned sq, unsigned s,
                      float scale) {
    size_t d = size_t(gridDim.y) * TILE;
    return {{q, q_image, q_token}, {k, kv_image, kv_token}, {v, kv_image, kv_token}, {d_o, sq * d, d}, log_sums, diagonal,
            sq, s, scale};
}

} // namespace

#define ENTRIES(T, suffix)                                                                                             \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        attention_forward_##suffix(T *o, float *log_sums, const T *q, const T *k, const T *v, uint64_t q_image,        \
                                   uint64_t q_token, uint64_t kv_image, uint64_t kv_token, unsigned sq, unsigned s,    \
                                   float scale) {                                                                      \
        forward<T>(o, log_sums, {q, q_image, q_token}, {k, kv_image, kv_token}, {v, kv_image, kv_token}, sq, s, scale); \
    }                                                                                                                  \
    EXPORT(attention_forward_##suffix)                                                                                 \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        attention_diagonal_##suffix(float *sums, const T *o, const T *d_o, unsigned sq, unsigned heads, unsigned e,    \
                                    unsigned rows) {                                                                   \
        diagonal<T>(sums, o, d_o, sq, heads, e, rows);                                                                 \
    }                                                                                                                  \
    EXPORT(attention_diagonal_##suffix)                                                                                \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        attention_backward_q_##suffix(T *dq, const T *q, const T *k, const T *v, const T *d_o, const float *log_sums,  \
                                      const float *diagonal, uint64_t q_image, uint64_t q_token, uint64_t kv_image,    \
                                      uint64_t kv_token, uint64_t dq_image, uint64_t dq_token, unsigned sq,            \
                                      unsigned s, float scale) {                                                       \
        backward_q<T>({dq, dq_image, dq_token}, given(q, k, v, d_o, log_sums, diagonal, q_image, q_token, kv_image,    \
                                                      kv_token, sq, s, scale));                                        \
    }                                                                                                                  \
    EXPORT(attention_backward_q_##suffix)                                                                              \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        attention_backward_kv_##suffix(T *dk, T *dv, const T *q, const T *k, const T *v, const T *d_o,                 \
                                       const float *log_sums, const float *diagonal, uint64_t q_image,                 \
                                       uint64_t q_token, uint64_t kv_image, uint64_t kv_token, uint64_t dkv_image,     \
                                       uint64_t dkv_token, unsigned sq, unsigned s, float scale) {                     \
        backward_kv<T>(dk, dv, dkv_image, dkv_token, given(q, k, v, d_o, log_sums, diagonal, q_image, q_token,         \
                                                           kv_image, kv_token, sq, s, scale));                         \
    }                                                                                                                  \
    EXPORT(attention_backward_kv_##suffix)

FOR_ALL_FORMATS(ENTRIES)
