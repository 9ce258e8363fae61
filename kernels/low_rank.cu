// Low-rank adapters beside packed projections, on tensor cores: y += scale·dropout_i(h)·A_iᵀ·B_iᵀ for each of `count` adapters
// with masks of their own (Hu et al., LoRA, 2021).
//
// The tokens lie in rows of d + R values, R = count·r: first h[d], then u_i = dropout_i(h)·A_iᵀ [r] of each adapter. The
// projections' weights lie in rows of the same length, behind the weights of each output its row of scale·B_i, or zeros. So
// one product gives the projections with their adapters, and backward one gives dh and du_i = scale·dy_i·B_i in such rows.
// These kernels do what is left, and read the tokens once for all adapters.
//
// T is f16 or bf16; sums are f32. d is a multiple of 64, r one of 16, R at most 64; everything is 16-byte aligned. A_i lies
// `a_apart` values behind A_{i-1}, [r,d]. Masks as in dropout.cu: an image is s rows of d values, adapter i's stream has purpose
// first_purpose + i·purpose_apart; threshold 0: nothing is dropped. n rows in all. Blocks of 128 threads.
//
// low_rank_forward_T(h, u, a, samples, epoch, seed, first_purpose, purpose_apart, threshold, keep, n, s, d, count, r, a_apart)
//   Writes u_i behind h in its rows, and once more into u[n,R]. launch::LowRank::rows
// low_rank_backward_T(dh, a, …the same from samples on)
//   dh += Σ mask_i∘(du_i·A_i)·keep, with du_i behind dh in its rows. launch::LowRank::rows
// low_rank_gradient_T(partial, h, du, rows, stride, …the same from samples on, without a_apart)
//   partial[parts, R, d] f32: du_iᵀ·dropout_i(h) of `rows` rows each; h[n,d]; du[n,stride]. launch::LowRank::gradient
// low_rank_gradient_finish(da, partial, parts, d, r, count, da_apart)
//   da_i[r,d] f32 += Σ partial, in the order of the parts. launch::columns(R·d)
// low_rank_place_T(w, b, scale, rows, r, stride, w_apart, b_apart, w_layer, b_layer), launch::place(rows·r, count, layers)
//   w[o·stride + j] = scale·b[o,j] of `count` adapters in each of `layers` layers, so many values apart.

#include "mma.h"
#include "philox.h"

namespace {

constexpr unsigned THREADS = 128, WARPS = THREADS / LANES;
constexpr unsigned ROWS = 64;             // of a tile, 16 a warp
constexpr unsigned COLUMNS = 64;          // of a tile
constexpr unsigned CHUNKS = COLUMNS / 8;  // 16-byte vectors in a row of a tile
constexpr unsigned TILE = ROWS * COLUMNS; // values
constexpr unsigned VECTORS = ROWS * CHUNKS / THREADS;
constexpr int MOST = 64; // values of R

// Where chunk `chunk` of row `row` lies in a tile: eight rows of the same chunk fall into different banks.
FN unsigned place(unsigned row, unsigned chunk) { return row * COLUMNS + (chunk ^ (row & 7)) * 8; }

struct Masks {
    const uint64_t *samples;
    const uint32_t *epoch;
    uint64_t seed;
    uint32_t first_purpose, purpose_apart, threshold;
    float keep;
    unsigned n, s, d, count, r;

    DEVICE unsigned wide() const { return d + count * r; }

    // 0 or `keep` for eight values of a row from `column` on.
    DEVICE void factors(unsigned adapter, unsigned row, unsigned column, float (&factor)[8]) const {
        if (threshold == 0) {
#pragma unroll
            for (int i = 0; i < 8; i++) factor[i] = 1.0f;
            return;
        }
        unsigned image = row / s;
        size_t at = size_t(row - image * s) * d + column;
        uint32_t purpose = first_purpose + adapter * purpose_apart;
        Four words = Stream{seed, samples[image], *epoch, purpose}.block(uint32_t(at / 8));
#pragma unroll
        for (int i = 0; i < 8; i++) factor[i] = (words.at[i / 2] >> (16 * (i % 2)) & 0xffff) < threshold ? 0.0f : keep;
    }
};

// This thread's vectors of a tile: rows first .. of `from`, zeros behind row n.
template <typename T> struct Vectors {
    Pack<T> at[VECTORS];

    DEVICE static unsigned row(unsigned i) { return (i * THREADS + threadIdx.x) / CHUNKS; }
    DEVICE static unsigned chunk() { return threadIdx.x % CHUNKS; }

    DEVICE void load(const T *from, unsigned stride, unsigned first, unsigned column, unsigned n) {
#pragma unroll
        for (unsigned i = 0; i < VECTORS; i++) {
            unsigned r = first + row(i);
            if (r < n) at[i] = load_pack(from + size_t(r) * stride + column + chunk() * 8);
            else memset(&at[i], 0, sizeof(at[i]));
        }
    }

    // With the mask of an adapter, rounded as dropout.cu stores it.
    DEVICE void store_dropped(T *tile, const Masks &masks, unsigned adapter, unsigned first, unsigned column) const {
#pragma unroll
        for (unsigned i = 0; i < VECTORS; i++) {
            float factor[8];
            Pack<T> dropped = at[i];
            if (first + row(i) < masks.n) {
                masks.factors(adapter, first + row(i), column + chunk() * 8, factor);
#pragma unroll
                for (int j = 0; j < 8; j++) dropped.at[j] = from_f32<T>(to_f32(at[i].at[j]) * factor[j]);
            }
            store_pack(tile + place(row(i), chunk()), dropped);
        }
    }
};

// Rows of a matrix, 64 columns of each, into a tile.
template <typename T> DEVICE void copy_rows(T *tile, const T *from, unsigned rows, unsigned stride) {
    for (unsigned i = threadIdx.x; i < rows * CHUNKS; i += THREADS)
        copy_16(tile + place(i / CHUNKS, i % CHUNKS), from + size_t(i / CHUNKS) * stride + i % CHUNKS * 8, true);
}

template <typename T> DEVICE void forward(T *h, T *u, const T *a, size_t a_apart, const Masks &m) {
    SHARED(T, dropped, TILE);
    SHARED(T, weights, MOST *COLUMNS);
    unsigned lane = threadIdx.x % LANES, warp = threadIdx.x / LANES, first = blockIdx.x * ROWS, wide = m.wide();
    // [adapter's eight outputs][fragment]
    float sums[MOST / 8][4] = {};
    Vectors<T> next;
    next.load(h, wide, first, 0, m.n);
    for (unsigned column = 0; column < m.d; column += COLUMNS) {
        Vectors<T> now = next;
        if (column + COLUMNS < m.d) next.load(h, wide, first, column + COLUMNS, m.n);
#pragma unroll
        for (unsigned adapter = 0; adapter < unsigned(MOST) / 16; adapter++) {
            if (adapter >= m.count) continue;
            __syncthreads(); // the tiles were read
            if (adapter == 0 || m.threshold != 0) now.store_dropped(dropped, m, adapter, first, column);
            copy_rows(weights, a + adapter * a_apart + column, m.r, m.d);
            wait_for_copies();
            __syncthreads();
#pragma unroll
            for (unsigned half = 0; half < 2; half++) { // 32 of the columns
                uint32_t left[2][4];
#pragma unroll
                for (unsigned step = 0; step < 2; step++)
                    load_matrices(left[step], dropped + place(warp * 16 + lane % 16, half * 4 + step * 2 + lane / 16));
#pragma unroll
                for (unsigned tile = 0; tile < unsigned(MOST) / 8; tile++) {
                    unsigned eights = m.r / 8, own = tile - adapter * eights;
                    if (tile < adapter * eights || own >= eights) continue;
                    uint32_t b[4];
                    load_matrices(b, weights + place(own * 8 + lane % 8, half * 4 + lane / 8));
                    mma<T>(sums[tile], left[0], b[0], b[1]);
                    mma<T>(sums[tile], left[1], b[2], b[3]);
                }
            }
        }
    }
    unsigned all = m.count * m.r;
#pragma unroll
    for (unsigned half = 0; half < 2; half++) {
        unsigned row = first + warp * 16 + lane / 4 + half * 8;
        if (row >= m.n) continue;
#pragma unroll
        for (unsigned tile = 0; tile < unsigned(MOST) / 8; tile++) {
            if (tile * 8 >= all) continue;
            unsigned column = tile * 8 + lane % 4 * 2;
            uint32_t pair = pack_2<T>(sums[tile][half * 2], sums[tile][half * 2 + 1]);
            *reinterpret_cast<uint32_t *>(h + size_t(row) * wide + m.d + column) = pair;
            *reinterpret_cast<uint32_t *>(u + size_t(row) * all + column) = pair;
        }
    }
}

template <typename T> DEVICE void backward(T *dh, const T *a, size_t a_apart, const Masks &m) {
    SHARED(T, products, TILE);
    SHARED(T, weights, MOST *COLUMNS);
    unsigned lane = threadIdx.x % LANES, warp = threadIdx.x / LANES, first = blockIdx.x * ROWS, wide = m.wide();
    // du of this warp's 16 rows, 16 columns each.
    uint32_t left[MOST / 16][4];
#pragma unroll
    for (unsigned step = 0; step < unsigned(MOST) / 16; step++)
#pragma unroll
        for (unsigned i = 0; i < 4; i++) {
            unsigned row = first + warp * 16 + lane / 4 + i % 2 * 8, column = step * 16 + i / 2 * 8 + lane % 4 * 2;
            bool exists = row < m.n && column < m.count * m.r;
            left[step][i] = exists ? *reinterpret_cast<const uint32_t *>(dh + size_t(row) * wide + m.d + column) : 0;
        }
    for (unsigned column = 0; column < m.d; column += COLUMNS) {
        Vectors<T> old;
        old.load(dh, wide, first, column, m.n);
        float sum[VECTORS][8];
#pragma unroll
        for (unsigned i = 0; i < VECTORS; i++)
#pragma unroll
            for (int j = 0; j < 8; j++) sum[i][j] = to_f32(old.at[i].at[j]);
        for (unsigned adapter = 0; adapter < m.count; adapter++) {
            __syncthreads(); // the tiles were read
            copy_rows(weights, a + adapter * a_apart + column, m.r, m.d);
            wait_for_copies();
            __syncthreads();
            float c[CHUNKS][4] = {};
#pragma unroll
            for (unsigned step = 0; step < unsigned(MOST) / 16; step++) {
                unsigned steps = m.r / 16, own = step - adapter * steps;
                if (step < adapter * steps || own >= steps) continue;
#pragma unroll
                for (unsigned pair = 0; pair < CHUNKS / 2; pair++) {
                    uint32_t b[4];
                    load_transposed(b, weights + place(own * 16 + lane % 16, pair * 2 + lane / 16));
                    mma<T>(c[pair * 2], left[step], b[0], b[1]);
                    mma<T>(c[pair * 2 + 1], left[step], b[2], b[3]);
                }
            }
#pragma unroll
            for (unsigned tile = 0; tile < CHUNKS; tile++)
#pragma unroll
                for (unsigned half = 0; half < 2; half++) {
                    T *to = products + place(warp * 16 + lane / 4 + half * 8, tile) + lane % 4 * 2;
                    *reinterpret_cast<uint32_t *>(to) = pack_2<T>(c[tile][half * 2], c[tile][half * 2 + 1]);
                }
            __syncthreads();
#pragma unroll
            for (unsigned i = 0; i < VECTORS; i++) {
                unsigned row = Vectors<T>::row(i), chunk = Vectors<T>::chunk();
                if (first + row >= m.n) continue;
                float factor[8];
                m.factors(adapter, first + row, column + chunk * 8, factor);
                Pack<T> product = load_pack(products + place(row, chunk));
#pragma unroll
                for (int j = 0; j < 8; j++) sum[i][j] = fmaf(to_f32(product.at[j]), factor[j], sum[i][j]);
            }
        }
#pragma unroll
        for (unsigned i = 0; i < VECTORS; i++) {
            unsigned row = first + Vectors<T>::row(i);
            if (row < m.n) store_8(dh + size_t(row) * wide + column + Vectors<T>::chunk() * 8, sum[i]);
        }
    }
}

// Grid (d / 64, parts): a block takes 64 columns of `rows` rows, a warp 16 of the columns.
template <typename T> DEVICE void gradient(float *partial, const T *h, const T *du, unsigned rows, unsigned stride, const Masks &m) {
    SHARED(T, dropped, TILE);
    SHARED(T, left, ROWS *MOST);
    unsigned lane = threadIdx.x % LANES, warp = threadIdx.x / LANES, column = blockIdx.x * COLUMNS, all = m.count * m.r;
    unsigned begin = blockIdx.y * rows, end = min(m.n, begin + rows);
    float sums[MOST / 16][2][4] = {};
    for (unsigned first = begin; first < end; first += ROWS) {
        Vectors<T> now;
        now.load(h, m.d, first, column, end);
        for (unsigned adapter = 0; adapter < m.count; adapter++) {
            __syncthreads(); // the tiles were read
            if (adapter == 0) {
                for (unsigned i = threadIdx.x; i < ROWS * all / 8; i += THREADS) {
                    unsigned row = i / (all / 8), chunk = i % (all / 8);
                    bool exists = first + row < end;
                    copy_16(left + place(row, chunk), du + size_t(exists ? first + row : begin) * stride + chunk * 8, exists);
                }
            }
            if (adapter == 0 || m.threshold != 0) now.store_dropped(dropped, m, adapter, first, column);
            wait_for_copies();
            __syncthreads();
#pragma unroll
            for (unsigned step = 0; step < ROWS / 16; step++) {
                uint32_t b[4];
                load_transposed(b, dropped + place(step * 16 + lane % 16, warp * 2 + lane / 16));
#pragma unroll
                for (unsigned tile = 0; tile < unsigned(MOST) / 16; tile++) {
                    unsigned tiles = m.r / 16;
                    if (tile < adapter * tiles || tile >= (adapter + 1) * tiles) continue;
                    // duᵀ: matrices of rows 0-7 and 8-15 of du, of the first eight columns and the next.
                    uint32_t a[4];
                    load_transposed(a, left + place(step * 16 + lane % 8 + lane / 16 * 8, tile * 2 + lane / 8 % 2));
                    mma<T>(sums[tile][0], a, b[0], b[1]);
                    mma<T>(sums[tile][1], a, b[2], b[3]);
                }
            }
        }
    }
#pragma unroll
    for (unsigned tile = 0; tile < unsigned(MOST) / 16; tile++) {
        if (tile * 16 >= all) continue;
#pragma unroll
        for (unsigned i = 0; i < 8; i++) {
            unsigned row = tile * 16 + lane / 4 + i % 4 / 2 * 8, at = column + warp * 16 + i / 4 * 8 + lane % 4 * 2 + i % 2;
            partial[(size_t(blockIdx.y) * all + row) * m.d + at] = sums[tile][i / 4][i % 4];
        }
    }
}

} // namespace

#define ENTRIES(T, suffix)                                                                                             \
    extern "C" __global__ void __launch_bounds__(128)                                                                  \
        low_rank_forward_##suffix(T *h, T *u, const T *a, const uint64_t *samples, const uint32_t *epoch, uint64_t seed, \
                                  uint32_t first_purpose, uint32_t purpose_apart, uint32_t threshold, float keep,      \
                                  unsigned n, unsigned s, unsigned d, unsigned count, unsigned r, uint64_t a_apart) {  \
        forward<T>(h, u, a, a_apart,                                                                                   \
                   {samples, epoch, seed, first_purpose, purpose_apart, threshold, keep, n, s, d, count, r});          \
    }                                                                                                                  \
    EXPORT(low_rank_forward_##suffix)                                                                                  \
    extern "C" __global__ void __launch_bounds__(128)                                                                  \
        low_rank_backward_##suffix(T *dh, const T *a, const uint64_t *samples, const uint32_t *epoch, uint64_t seed,   \
                                   uint32_t first_purpose, uint32_t purpose_apart, uint32_t threshold, float keep,     \
                                   unsigned n, unsigned s, unsigned d, unsigned count, unsigned r, uint64_t a_apart) { \
        backward<T>(dh, a, a_apart,                                                                                    \
                    {samples, epoch, seed, first_purpose, purpose_apart, threshold, keep, n, s, d, count, r});         \
    }                                                                                                                  \
    EXPORT(low_rank_backward_##suffix)                                                                                 \
    extern "C" __global__ void __launch_bounds__(128)                                                                  \
        low_rank_gradient_##suffix(float *partial, const T *h, const T *du, unsigned rows, unsigned stride,            \
                                   const uint64_t *samples, const uint32_t *epoch, uint64_t seed,                      \
                                   uint32_t first_purpose, uint32_t purpose_apart, uint32_t threshold, float keep,     \
                                   unsigned n, unsigned s, unsigned d, unsigned count, unsigned r) {                   \
        gradient<T>(partial, h, du, rows, stride,                                                                      \
                    {samples, epoch, seed, first_purpose, purpose_apart, threshold, keep, n, s, d, count, r});         \
    }                                                                                                                  \
    EXPORT(low_rank_gradient_##suffix)                                                                                 \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        low_rank_place_##suffix(T *w, const T *b, float scale, unsigned rows, unsigned r, unsigned stride,             \
                                uint64_t w_apart, uint64_t b_apart, uint64_t w_layer, uint64_t b_layer) {              \
        w += blockIdx.y * w_apart + blockIdx.z * w_layer;                                                              \
        b += blockIdx.y * b_apart + blockIdx.z * b_layer;                                                              \
        unsigned i = blockIdx.x * blockDim.x + threadIdx.x;                                                            \
        if (i < rows * r) w[size_t(i / r) * stride + i % r] = from_f32<T>(scale * to_f32(b[i]));                       \
    }                                                                                                                  \
    EXPORT(low_rank_place_##suffix)

ENTRIES(f16, f16)
ENTRIES(bf16, bf16)

extern "C" __global__ void __launch_bounds__(256)
    low_rank_gradient_finish(float *da, const float *partial, unsigned parts, unsigned d, unsigned r, unsigned count,
                             uint64_t da_apart) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x, all = count * r * d;
    if (i >= all) return;
    float total = 0.0f;
    for (unsigned part = 0; part < parts; part++) total += partial[size_t(part) * all + i];
    da[i / (r * d) * da_apart + i % (r * d)] += total;
}
EXPORT(low_rank_gradient_finish)
