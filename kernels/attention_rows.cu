// Softmax attention with one block for each query (or key): for a single query per image (CLS in the last layer), where it reads
// each key and value once, and for head widths other than 64, where it is merely right. See attention.cu for the rest.
//
// T is f32, f16 or bf16; views, strides, log_sums and diagonal as in attention.cu, with head width e: element c of head h
// of token t of image i of q lies at q + i·q_image + t·q_token + e·h + c. Blocks of 128 threads; grids and dynamic
// shared memory are AttentionShape::rows, rows_backward_q, rows_backward_kv.
//
// attention_rows_forward_T(o, log_sums, q, k, v, q_image, q_token, kv_image, kv_token, sq, s, e, scale), grid (sq, heads, b)
// attention_rows_backward_q_T(dq, q, k, v, do, log_sums, diagonal, q_image, q_token, kv_image, kv_token, dq_image, dq_token,
//                             sq, s, e, scale), grid (sq, heads, b)
// attention_rows_backward_kv_T(dk, dv, q, k, v, do, log_sums, diagonal, q_image, q_token, kv_image, kv_token, dkv_image,
//                              dkv_token, sq, s, e, scale), grid (s, heads, b); dk may be null
// attention_first_backward_T(dq, dk, dv, q, k, v, o, do, log_sums, q_image, kv_image, kv_token, dq_image, dkv_image, dkv_token,
//                            s, e, scale), grid (1, heads, b)
//   All gradients for one query per image, without attention_diagonal. dk may be null.

#include "normal.h"

namespace {

constexpr unsigned THREADS = 128;
constexpr unsigned LANES_A_ROW = 8; // a row of 64 16-bit numbers is 8 vectors
constexpr unsigned GROUPS = THREADS / LANES_A_ROW;

// A row of e values of this block's head.
template <typename T> struct Rows {
    const T *start;
    size_t token;
    unsigned e;
    bool aligned;

    DEVICE Rows(const T *all, size_t image, size_t token, unsigned e)
        : start(all + blockIdx.z * image + size_t(blockIdx.y) * e), token(token), e(e),
          aligned(token % 8 == 0 && is_aligned(start)) {}

    DEVICE void load(unsigned row, unsigned column, float (&x)[8]) const {
        Eight(column, e, aligned).load(start + row * token, x);
    }
};

DEVICE size_t head_row(unsigned sq, unsigned query) { return (size_t(blockIdx.z) * gridDim.y + blockIdx.y) * sq + query; }

// One row, times a factor, into shared memory.
template <typename T> DEVICE void keep_row(float *to, const Rows<T> &rows, unsigned row, float factor) {
    for (unsigned i = threadIdx.x; i < rows.e; i += THREADS) to[i] = to_f32(rows.start[row * rows.token + i]) * factor;
}

// products[r] = Σ row r · vector, for all of `count` rows. Eight lanes share a row.
template <typename T>
DEVICE void products_with_rows(float *products, const Rows<T> &rows, unsigned count, const float *vector) {
    unsigned lane = threadIdx.x % LANES_A_ROW, group = threadIdx.x / LANES_A_ROW;
    // All lanes of a warp make the same number of turns, because they meet in the shuffles.
    for (unsigned base = 0; base < count; base += GROUPS) {
        unsigned row = base + group;
        float total = 0.0f;
        for (unsigned column = lane * 8; column < rows.e; column += LANES_A_ROW * 8) {
            float x[8] = {};
            if (row < count) rows.load(row, column, x);
#pragma unroll
            for (int i = 0; i < 8; i++)
                if (column + i < rows.e) total = fmaf(x[i], vector[column + i], total);
        }
#pragma unroll
        for (int other = 4; other > 0; other /= 2) total += __shfl_xor_sync(WHOLE_WARP, total, other);
        if (lane == 0 && row < count) products[row] = total;
    }
}

// to[c] = factor · Σ over r of weights[r]·row r [c]. `partial` is shared memory of GROUPS x 64 values.
template <typename T>
DEVICE void weighted_rows(T *to, const Rows<T> &rows, unsigned count, const float *weights, float *partial, float factor) {
    unsigned lane = threadIdx.x % LANES_A_ROW, group = threadIdx.x / LANES_A_ROW;
    for (unsigned base = 0; base < rows.e; base += LANES_A_ROW * 8) {
        unsigned column = base + lane * 8;
        float total[8] = {};
        for (unsigned row = group; row < count; row += GROUPS) {
            float x[8], weight = weights[row];
            rows.load(row, column, x);
#pragma unroll
            for (int i = 0; i < 8; i++) total[i] = fmaf(weight, x[i], total[i]);
        }
        __syncthreads(); // the partial sums of the columns before are read
#pragma unroll
        for (int i = 0; i < 8; i++) partial[group * 64 + lane * 8 + i] = total[i];
        __syncthreads();
        if (threadIdx.x < 64 && base + threadIdx.x < rows.e) {
            float sum = 0.0f;
            for (unsigned g = 0; g < GROUPS; g++) sum += partial[g * 64 + threadIdx.x];
            to[base + threadIdx.x] = from_f32<T>(factor * sum);
        }
    }
}

template <typename T> struct Operands {
    const T *q, *k, *v;
    size_t q_image, q_token, kv_image, kv_token;
    unsigned sq, s, e;
    float scale;

    DEVICE Rows<T> queries() const { return Rows<T>(q, q_image, q_token, e); }
    DEVICE Rows<T> keys() const { return Rows<T>(k, kv_image, kv_token, e); }
    DEVICE Rows<T> values() const { return Rows<T>(v, kv_image, kv_token, e); }
    // The heads' outputs, or their gradients.
    DEVICE Rows<T> outputs(const T *o) const {
        size_t d = size_t(gridDim.y) * e;
        return Rows<T>(o, sq * d, d, e);
    }
};

template <typename T> DEVICE T *head_of(T *all, size_t image, size_t token, unsigned row, unsigned e) {
    return all + blockIdx.z * image + row * token + size_t(blockIdx.y) * e;
}

template <typename T> DEVICE void forward(T *o, float *log_sums, const Operands<T> &a) {
    DYNAMIC_SHARED(float, shared);
    float *query = shared, *scores = query + a.e, *partial = scores + a.s;
    unsigned row = blockIdx.x;
    keep_row(query, a.queries(), row, a.scale * LOG2_E);
    __syncthreads();
    products_with_rows(scores, a.keys(), a.s, query);
    __syncthreads();
    float largest = -INFINITY, sum = 0.0f;
    for (unsigned key = threadIdx.x; key < a.s; key += THREADS) largest = larger(largest, scores[key]);
    largest = block_max(largest);
    for (unsigned key = threadIdx.x; key < a.s; key += THREADS) {
        scores[key] = fast_exp2(scores[key] - largest);
        sum += scores[key];
    }
    sum = block_sum(sum); // its barriers make the exponentials visible too
    size_t d = size_t(gridDim.y) * a.e;
    weighted_rows(head_of(o, a.sq * d, d, row, a.e), a.values(), a.s, scores, partial, 1.0f / sum);
    if (threadIdx.x == 0) log_sums[head_row(a.sq, row)] = largest * LN_2 + logf(sum);
}

// Scores (base 2) and gradients of probabilities become probabilities and gradients of unscaled scores.
FN void scores_backward(float &score, float &gradient, float log_sum, float diagonal, float scale) {
    float probability = fast_exp2(score - log_sum * LOG2_E);
    gradient = probability * (gradient - diagonal) * scale;
    score = probability;
}

template <typename T>
DEVICE void backward_q(T *dq, const T *d_o, const float *log_sums, const float *diagonals, size_t dq_image, size_t dq_token,
                       const Operands<T> &a) {
    DYNAMIC_SHARED(float, shared);
    float *query = shared, *d_out = query + a.e, *scores = d_out + a.e, *gradients = scores + a.s;
    float *partial = gradients + a.s;
    unsigned row = blockIdx.x;
    keep_row(query, a.queries(), row, a.scale * LOG2_E);
    keep_row(d_out, a.outputs(d_o), row, 1.0f);
    __syncthreads();
    products_with_rows(scores, a.keys(), a.s, query);
    products_with_rows(gradients, a.values(), a.s, d_out);
    __syncthreads();
    float log_sum = log_sums[head_row(a.sq, row)], diagonal = diagonals[head_row(a.sq, row)];
    for (unsigned key = threadIdx.x; key < a.s; key += THREADS)
        scores_backward(scores[key], gradients[key], log_sum, diagonal, a.scale);
    __syncthreads();
    weighted_rows(head_of(dq, dq_image, dq_token, row, a.e), a.keys(), a.s, gradients, partial, 1.0f);
}

template <typename T>
DEVICE void backward_kv(T *dk, T *dv, const T *d_o, const float *log_sums, const float *diagonals, size_t dkv_image,
                        size_t dkv_token, const Operands<T> &a) {
    DYNAMIC_SHARED(float, shared);
    float *key = shared, *value = key + a.e, *scores = value + a.e, *gradients = scores + a.sq;
    float *partial = gradients + a.sq;
    unsigned row = blockIdx.x;
    keep_row(key, a.keys(), row, a.scale * LOG2_E);
    keep_row(value, a.values(), row, 1.0f);
    __syncthreads();
    products_with_rows(scores, a.queries(), a.sq, key);
    products_with_rows(gradients, a.outputs(d_o), a.sq, value);
    __syncthreads();
    for (unsigned query = threadIdx.x; query < a.sq; query += THREADS) {
        float log_sum = log_sums[head_row(a.sq, query)], diagonal = diagonals[head_row(a.sq, query)];
        scores_backward(scores[query], gradients[query], log_sum, diagonal, a.scale);
    }
    __syncthreads();
    weighted_rows(head_of(dv, dkv_image, dkv_token, row, a.e), a.outputs(d_o), a.sq, scores, partial, 1.0f);
    if (dk) weighted_rows(head_of(dk, dkv_image, dkv_token, row, a.e), a.queries(), a.sq, gradients, partial, 1.0f);
}

// to[r][c] = weights[r]·vector[c] for all of `count` rows.
template <typename T>
DEVICE void outer_product(T *to, size_t token, unsigned count, unsigned e, const float *weights, const float *vector) {
    unsigned lane = threadIdx.x % LANES_A_ROW, group = threadIdx.x / LANES_A_ROW;
    bool aligned = token % 8 == 0 && is_aligned(to);
    for (unsigned row = group; row < count; row += GROUPS)
        for (unsigned column = lane * 8; column < e; column += LANES_A_ROW * 8) {
            Eight eight(column, e, aligned);
            float x[8];
#pragma unroll
            for (int i = 0; i < 8; i++) x[i] = i < eight.count ? weights[row] * vector[column + i] : 0.0f;
            eight.store(to + row * token, x);
        }
}

template <typename T>
DEVICE void first_backward(T *dq, T *dk, T *dv, const T *o, const T *d_o, const float *log_sums, size_t dq_image,
                           size_t dkv_image, size_t dkv_token, const Operands<T> &a) {
    DYNAMIC_SHARED(float, shared);
    float *query = shared, *d_out = query + a.e, *scores = d_out + a.e, *gradients = scores + a.s;
    float *partial = gradients + a.s;
    keep_row(query, a.queries(), 0, 1.0f);
    keep_row(d_out, a.outputs(d_o), 0, 1.0f);
    __syncthreads();
    Rows<T> out = a.outputs(o);
    float diagonal = 0.0f;
    for (unsigned i = threadIdx.x; i < a.e; i += THREADS) diagonal = fmaf(to_f32(out.start[i]), d_out[i], diagonal);
    diagonal = block_sum(diagonal);
    products_with_rows(scores, a.keys(), a.s, query);
    products_with_rows(gradients, a.values(), a.s, d_out);
    __syncthreads();
    float log_sum = log_sums[head_row(1, 0)];
    for (unsigned key = threadIdx.x; key < a.s; key += THREADS) {
        scores[key] *= a.scale * LOG2_E;
        scores_backward(scores[key], gradients[key], log_sum, diagonal, a.scale);
    }
    __syncthreads();
    weighted_rows(head_of(dq, dq_image, 0, 0, a.e), a.keys(), a.s, gradients, partial, 1.0f);
    outer_product(head_of(dv, dkv_image, dkv_token, 0, a.e), dkv_token, a.s, a.e, scores, d_out);
    if (dk) outer_product(head_of(dk, dkv_image, dkv_token, 0, a.e), dkv_token, a.s, a.e, gradients, query);
}

} // namespace

#define ENTRIES(T, suffix)                                                                                             \
    extern "C" __global__ void __launch_bounds__(128)                                                                  \
        attention_rows_forward_##suffix(T *o, float *log_sums, const T *q, const T *k, const T *v, uint64_t q_image,   \
                                        uint64_t q_token, uint64_t kv_image, uint64_t kv_token, unsigned sq,           \
                                        unsigned s, unsigned e, float scale) {                                         \
        forward<T>(o, log_sums, {q, k, v, q_image, q_token, kv_image, kv_token, sq, s, e, scale});                     \
    }                                                                                                                  \
    EXPORT(attention_rows_forward_##suffix)                                                                            \
    extern "C" __global__ void __launch_bounds__(128)                                                                  \
        attention_rows_backward_q_##suffix(T *dq, const T *q, const T *k, const T *v, const T *d_o,                    \
                                           const float *log_sums, const float *diagonal, uint64_t q_image,             \
                                           uint64_t q_token, uint64_t kv_image, uint64_t kv_token, uint64_t dq_image,  \
                                           uint64_t dq_token, unsigned sq, unsigned s, unsigned e, float scale) {      \
        backward_q<T>(dq, d_o, log_sums, diagonal, dq_image, dq_token,                                                 \
                      {q, k, v, q_image, q_token, kv_image, kv_token, sq, s, e, scale});                               \
    }                                                                                                                  \
    EXPORT(attention_rows_backward_q_##suffix)                                                                         \
    extern "C" __global__ void __launch_bounds__(128)                                                                  \
        attention_rows_backward_kv_##suffix(T *dk, T *dv, const T *q, const T *k, const T *v, const T *d_o,            \
                                            const float *log_sums, const float *diagonal, uint64_t q_image,            \
                                            uint64_t q_token, uint64_t kv_image, uint64_t kv_token,                    \
                                            uint64_t dkv_image, uint64_t dkv_token, unsigned sq, unsigned s,           \
                                            unsigned e, float scale) {                                                 \
        backward_kv<T>(dk, dv, d_o, log_sums, diagonal, dkv_image, dkv_token,                                          \
                       {q, k, v, q_image, q_token, kv_image, kv_token, sq, s, e, scale});                              \
    }                                                                                                                  \
    EXPORT(attention_rows_backward_kv_##suffix)                                                                        \
    extern "C" __global__ void __launch_bounds__(128)                                                                  \
        attention_first_backward_##suffix(T *dq, T *dk, T *dv, const T *q, const T *k, const T *v, const T *o,         \
                                          const T *d_o, const float *log_sums, uint64_t q_image, uint64_t kv_image,    \
                                          uint64_t kv_token, uint64_t dq_image, uint64_t dkv_image,                    \
                                          uint64_t dkv_token, unsigned s, unsigned e, float scale) {                   \
        first_backward<T>(dq, dk, dv, o, d_o, log_sums, dq_image, dkv_image, dkv_token,                                \
                          {q, k, v, q_image, 0, kv_image, kv_token, 1, s, e, scale});                                  \
    }                                                                                                                  \
    EXPORT(attention_first_backward_##suffix)

FOR_ALL_FORMATS(ENTRIES)
