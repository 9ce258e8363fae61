// Softmax attention of short sequences on tensor cores, forward and backward, straight out of packed projections: what
// attention.cu does, for f16 and bf16 with f32 sums (Dao, FlashAttention-2, 2023). Head width 64.
//
// T is f16 or bf16. Views, strides, o, do and log_sums as in attention.cu; every row must be 16-byte aligned (strides that are
// multiples of 8, aligned pointers). A block does one head of one image: grid (1, heads, b), warps and shared memory as
// AttentionShape::tensor says, two tables of all tokens, which limits sq and s to what the GPU's shared memory holds.
//
// attention_tensor_forward_T(o, log_sums, q, k, v, q_image, q_token, kv_image, kv_token, sq, s, scale)
// attention_tensor_backward_T(dq, dk, dv, q, k, v, o, do, log_sums, q_image, q_token, kv_image, kv_token, dq_image, dq_token,
//                             dkv_image, dkv_token, sq, s, scale)
//   Makes the diagonal itself. First every warp takes 16 keys at a time through all queries (dk, dv), then 16 queries through
//   all keys (dq): the probabilities are made twice, and no sum is shared. dk may be null.
//
// Probabilities and their gradients are rounded to T between the two products, as every such kernel does.

#include "mma.h"
#include "normal.h"

namespace {

constexpr int E = 64;
constexpr unsigned CHUNKS = E / 8; // 16-byte vectors in a row
// Seven warps divide the 13 tiles of 197 tokens best; two such blocks share a multiprocessor if a thread has 128 registers.
constexpr int MOST_THREADS = 224;

template <typename T> struct Matrix {
    T *start;
    unsigned token, rows; // the rows of one image are less than 2^32 elements

    // Head blockIdx.y of image blockIdx.z.
    DEVICE Matrix(T *all, size_t image, size_t token, unsigned rows)
        : start(all + blockIdx.z * image + blockIdx.y * E), token(unsigned(token)), rows(rows) {}
    DEVICE T *at(unsigned row, unsigned column) const { return start + (row * token + column); }
};

FN unsigned up_to_16(unsigned n) { return (n + 15) / 16 * 16; }

// Where chunk `chunk` of row `row` lies in a table of shared memory: eight rows of the same chunk fall into different banks.
FN unsigned place(unsigned row, unsigned chunk) { return row * E + (chunk ^ (row & 7)) * 8; }

// All rows of a head into shared memory, zeros behind them up to a multiple of 16.
template <typename T> DEVICE void load_table(T *table, const Matrix<const T> &from) {
    for (unsigned i = threadIdx.x; i < up_to_16(from.rows) * CHUNKS; i += blockDim.x) {
        unsigned row = i / CHUNKS, chunk = i % CHUNKS;
        bool exists = row < from.rows;
        copy_16(table + place(row, chunk), from.at(exists ? row : 0, chunk * 8), exists);
    }
}

// Rows first .. first + 16 as the left factor of a product over all 64 columns; zeros where there are no rows.
template <typename T> DEVICE void load_left(uint32_t (&a)[4][4], const Matrix<const T> &from, unsigned first) {
    unsigned g = threadIdx.x % LANES / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int step = 0; step < 4; step++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            unsigned row = first + g + i % 2 * 8, column = step * 16 + i / 2 * 8 + 2 * t;
            a[step][i] = row < from.rows ? *reinterpret_cast<const uint32_t *>(from.at(row, column)) : 0;
        }
}

// c[tile] += a · (rows first + 8·tile .. of the table)ᵀ: products of rows with rows.
template <typename T, int TILES>
DEVICE void rows_by_rows(float (&c)[TILES][4], const uint32_t (&a)[4][4], const T *table, unsigned first) {
    unsigned lane = threadIdx.x % LANES;
#pragma unroll
    for (int tile = 0; tile < TILES; tile++) {
        unsigned row = first + tile * 8 + lane % 8;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            uint32_t b[4];
            load_matrices(b, table + place(row, half * 4 + lane / 8));
            mma<T>(c[tile], a[half * 2], b[0], b[1]);
            mma<T>(c[tile], a[half * 2 + 1], b[2], b[3]);
        }
    }
}

// c[tile] += a · (16 rows first .. of the table, columns 8·tile ..): weighted sums of rows.
template <typename T> DEVICE void weights_by_rows(float (&c)[8][4], const uint32_t (&a)[4], const T *table, unsigned first) {
    unsigned lane = threadIdx.x % LANES;
    // Matrices: rows 0-7 and 8-15 of one chunk, then of the next.
    unsigned row = first + lane % 16;
#pragma unroll
    for (int pair = 0; pair < 4; pair++) {
        uint32_t b[4];
        load_transposed(b, table + place(row, pair * 2 + lane / 16));
        mma<T>(c[pair * 2], a, b[0], b[1]);
        mma<T>(c[pair * 2 + 1], a, b[2], b[3]);
    }
}

// Two neighbouring products of 16 x 8 as one left factor of 16 x 16.
template <typename T> DEVICE void as_left(uint32_t (&a)[4], const float (&first)[4], const float (&second)[4]) {
    a[0] = pack_2<T>(first[0], first[1]);
    a[1] = pack_2<T>(first[2], first[3]);
    a[2] = pack_2<T>(second[0], second[1]);
    a[3] = pack_2<T>(second[2], second[3]);
}

template <typename T> DEVICE void store_rows(const Matrix<T> &to, unsigned first, const float (&c)[8][4]) {
    unsigned g = threadIdx.x % LANES / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        unsigned row = first + g + half * 8;
        if (row >= to.rows) continue;
#pragma unroll
        for (int tile = 0; tile < 8; tile++)
            *reinterpret_cast<uint32_t *>(to.at(row, tile * 8 + 2 * t)) =
                pack_2<T>(c[tile][half * 2], c[tile][half * 2 + 1]);
    }
}

// Over the four lanes that hold a row.
template <typename Join> DEVICE float over_row(float x, Join join) {
    x = join(x, __shfl_xor_sync(WHOLE_WARP, x, 1));
    return join(x, __shfl_xor_sync(WHOLE_WARP, x, 2));
}

DEVICE size_t head_rows(unsigned sq) { return (size_t(blockIdx.z) * gridDim.y + blockIdx.y) * sq; }

// 16 queries over all keys, 32 keys at a time; scores in units of log 2.
template <typename T> struct Online {
    float largest[2], sum[2], out[8][4];

    DEVICE Online() : largest{-INFINITY, -INFINITY}, sum{}, out{} {}

    template <int TILES>
    DEVICE void take(const uint32_t (&q)[4][4], const T *keys, const T *values, unsigned first, unsigned s, float scale) {
        float scores[TILES][4] = {};
        rows_by_rows(scores, q, keys, first);
        unsigned column = first + threadIdx.x % 4 * 2;
        float top[2] = {largest[0], largest[1]};
#pragma unroll
        for (int tile = 0; tile < TILES; tile++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float score = scores[tile][i] * scale;
                if (column + tile * 8 + i % 2 >= s) score = -INFINITY;
                scores[tile][i] = score;
                top[i / 2] = larger(top[i / 2], score);
            }
        float base[2];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            top[half] = over_row(top[half], Largest{});
            base[half] = top[half] == -INFINITY ? 0.0f : top[half];
            float correction = fast_exp2(largest[half] - base[half]);
            largest[half] = top[half];
            sum[half] *= correction;
#pragma unroll
            for (int tile = 0; tile < 8; tile++) {
                out[tile][half * 2] *= correction;
                out[tile][half * 2 + 1] *= correction;
            }
        }
#pragma unroll
        for (int tile = 0; tile < TILES; tile++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                scores[tile][i] = fast_exp2(scores[tile][i] - base[i / 2]);
                sum[i / 2] += scores[tile][i]; // this lane's part; the lanes are added up at the end
            }
#pragma unroll
        for (int tile = 0; tile < TILES; tile += 2) {
            uint32_t weights[4];
            as_left<T>(weights, scores[tile], scores[tile + 1]);
            weights_by_rows(out, weights, values, first + tile * 8);
        }
    }
};

template <typename T>
DEVICE void forward(const Matrix<T> &o, float *log_sums, const Matrix<const T> &q, const Matrix<const T> &k,
                    const Matrix<const T> &v, float scale) {
    DYNAMIC_SHARED(T, shared);
    T *keys = shared, *values = keys + up_to_16(k.rows) * E;
    load_table(keys, k);
    load_table(values, v);
    wait_for_copies();
    __syncthreads();
    unsigned s = k.rows;
    for (unsigned first = threadIdx.x / LANES * 16; first < q.rows; first += blockDim.x / LANES * 16) {
        uint32_t queries[4][4];
        load_left(queries, q, first);
        Online<T> online;
        unsigned key = 0;
        for (; key + 16 < s; key += 32) online.template take<4>(queries, keys, values, key, s, scale * LOG2_E);
        for (; key < s; key += 16) online.template take<2>(queries, keys, values, key, s, scale * LOG2_E);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float sum = over_row(online.sum[half], Sum{}), reciprocal = 1.0f / sum;
#pragma unroll
            for (int tile = 0; tile < 8; tile++) {
                online.out[tile][half * 2] *= reciprocal;
                online.out[tile][half * 2 + 1] *= reciprocal;
            }
            unsigned row = first + threadIdx.x % LANES / 4 + half * 8;
            if (threadIdx.x % 4 == 0 && row < q.rows)
                log_sums[head_rows(q.rows) + row] = online.largest[half] * LN_2 + logf(sum);
        }
        store_rows(o, first, online.out);
    }
}

// Scores and gradients of probabilities become probabilities and gradients of unscaled scores.
FN void scores_backward(float &score, float &gradient, float log_sum, float diagonal, float scale) {
    float probability = fast_exp2(fmaf(score, scale * LOG2_E, -log_sum));
    gradient = probability * fmaf(gradient, scale, -diagonal);
    score = probability;
}

template <typename T> struct Head {
    Matrix<const T> q, k, v, o, d_o;
    const float *log_sums;
    float scale;

    // In shared memory: two tables of rows, then two numbers for each query.
    DEVICE static T *first_table() {
        DYNAMIC_SHARED(T, shared);
        return shared;
    }
    DEVICE unsigned most_rows() const { return up_to_16(max(q.rows, k.rows)); }
    DEVICE T *second_table() const { return first_table() + most_rows() * E; }
    // x: log Σ exp in units of log 2; infinite behind the last query, which makes probabilities 0. y: the diagonal.
    DEVICE float2 *numbers() const { return reinterpret_cast<float2 *>(second_table() + most_rows() * E); }

    // Eight lanes a row.
    DEVICE void rows_of_numbers() const {
        for (unsigned i = threadIdx.x; i < up_to_16(q.rows) * CHUNKS; i += blockDim.x) {
            unsigned row = i / CHUNKS, chunk = i % CHUNKS;
            float total = 0.0f;
            if (row < q.rows) {
                float x[8], y[8];
                load_8(o.at(row, chunk * 8), x);
                load_8(d_o.at(row, chunk * 8), y);
#pragma unroll
                for (int j = 0; j < 8; j++) total = fmaf(x[j], y[j], total);
            }
#pragma unroll
            for (int other = 4; other > 0; other /= 2) total += __shfl_xor_sync(WHOLE_WARP, total, other);
            if (chunk == 0) {
                numbers()[row].x = row < q.rows ? log_sums[head_rows(q.rows) + row] * LOG2_E : INFINITY;
                numbers()[row].y = total * scale;
            }
        }
    }

    // Gradients of 16 keys and values: the tables hold queries and gradients of outputs. Keys are the rows of products.
    DEVICE void of_keys(const Matrix<T> &dk, const Matrix<T> &dv, unsigned first) const {
        const T *queries = first_table(), *gradients = second_table();
        uint32_t keys[4][4], values[4][4];
        load_left(keys, k, first);
        load_left(values, v, first);
        float sum_k[8][4] = {}, sum_v[8][4] = {};
        for (unsigned query = 0; query < q.rows; query += 16) {
            float scores[2][4] = {}, products[2][4] = {};
            rows_by_rows(scores, keys, queries, query);
            rows_by_rows(products, values, gradients, query);
#pragma unroll
            for (int tile = 0; tile < 2; tile++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    unsigned column = query + tile * 8 + threadIdx.x % 4 * 2 + i % 2;
                    float2 of = numbers()[column];
                    scores_backward(scores[tile][i], products[tile][i], of.x, of.y, scale);
                }
            uint32_t left[4];
            as_left<T>(left, scores[0], scores[1]);
            weights_by_rows(sum_v, left, gradients, query);
            if (dk.start) {
                as_left<T>(left, products[0], products[1]);
                weights_by_rows(sum_k, left, queries, query);
            }
        }
        store_rows(dv, first, sum_v);
        if (dk.start) store_rows(dk, first, sum_k);
    }

    // Gradient of 16 queries: the tables hold keys and values.
    DEVICE void of_queries(const Matrix<T> &dq, unsigned first) const {
        const T *keys = first_table(), *values = second_table();
        uint32_t queries[4][4], gradients[4][4];
        load_left(queries, q, first);
        load_left(gradients, d_o, first);
        unsigned row = first + threadIdx.x % LANES / 4;
        float2 of[2] = {numbers()[row], numbers()[row + 8]};
        float sum[8][4] = {};
        for (unsigned key = 0; key < k.rows; key += 16) {
            float scores[2][4] = {}, products[2][4] = {};
            rows_by_rows(scores, queries, keys, key);
            rows_by_rows(products, gradients, values, key);
#pragma unroll
            for (int tile = 0; tile < 2; tile++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    unsigned column = key + tile * 8 + threadIdx.x % 4 * 2 + i % 2;
                    scores_backward(scores[tile][i], products[tile][i], of[i / 2].x, of[i / 2].y, scale);
                    if (column >= k.rows) products[tile][i] = 0.0f;
                }
            uint32_t left[4];
            as_left<T>(left, products[0], products[1]);
            weights_by_rows(sum, left, keys, key);
        }
        store_rows(dq, first, sum);
    }

    DEVICE void backward(const Matrix<T> &dq, const Matrix<T> &dk, const Matrix<T> &dv) const {
        load_table(first_table(), q);
        load_table(second_table(), d_o);
        rows_of_numbers();
        wait_for_copies();
        __syncthreads();
        for (unsigned first = threadIdx.x / LANES * 16; first < k.rows; first += blockDim.x / LANES * 16) of_keys(dk, dv, first);
        __syncthreads();
        load_table(first_table(), k);
        load_table(second_table(), v);
        wait_for_copies();
        __syncthreads();
        for (unsigned first = threadIdx.x / LANES * 16; first < q.rows; first += blockDim.x / LANES * 16) of_queries(dq, first);
    }
};

} // namespace

#define ENTRIES(T, suffix)                                                                                             \
    extern "C" __global__ void __launch_bounds__(MOST_THREADS, 2)                                                                \
        attention_tensor_forward_##suffix(T *o, float *log_sums, const T *q, const T *k, const T *v, uint64_t q_image, \
                                          uint64_t q_token, uint64_t kv_image, uint64_t kv_token, unsigned sq,         \
                                          unsigned s, float scale) {                                                   \
        size_t d = size_t(gridDim.y) * E;                                                                              \
        forward<T>({o, sq * d, d, sq}, log_sums, {q, q_image, q_token, sq}, {k, kv_image, kv_token, s},                \
                   {v, kv_image, kv_token, s}, scale);                                                                 \
    }                                                                                                                  \
    EXPORT(attention_tensor_forward_##suffix)                                                                          \
    extern "C" __global__ void __launch_bounds__(MOST_THREADS, 2)                                                                \
        attention_tensor_backward_##suffix(T *dq, T *dk, T *dv, const T *q, const T *k, const T *v, const T *o,        \
                                           const T *d_o, const float *log_sums, uint64_t q_image, uint64_t q_token,    \
                                           uint64_t kv_image, uint64_t kv_token, uint64_t dq_image, uint64_t dq_token, \
                                           uint64_t dkv_image, uint64_t dkv_token, unsigned sq, unsigned s,            \
                                           float scale) {                                                              \
        size_t d = size_t(gridDim.y) * E;                                                                              \
        Head<T> head{{q, q_image, q_token, sq}, {k, kv_image, kv_token, s}, {v, kv_image, kv_token, s},                \
                     {o, sq * d, d, sq}, {d_o, sq * d, d, sq}, log_sums, scale};                                       \
        Matrix<T> none(nullptr, 0, 0, s);                                                                              \
        none.start = nullptr;                                                                                          \
        head.backward({dq, dq_image, dq_token, sq}, dk ? Matrix<T>(dk, dkv_image, dkv_token, s) : none,                \
                      {dv, dkv_image, dkv_token, s});                                                                  \
    }                                                                                                                  \
    EXPORT(attention_tensor_backward_##suffix)

ENTRIES(f16, f16)
ENTRIES(bf16, bf16)
