// Layer normalisation over the last dimension, with the residual addition before it and the residual gradient after it.
//
// T is f32, f16 or bf16; weights, biases, mean and rstd are f32. Rows n, width d.
//
// layer_norm_forward_T(x_out, y, mean, rstd, a, b, bias, w, w_bias, n, d, y_stride, eps)
//   x[n,d] = a (+ b) (+ bias[d]), rounded to T; y[n,d] = (x - mean)·rstd·w[d] + w_bias[d]; mean[n], rstd[n] (biased variance).
//   Rows of y lie y_stride ≥ d values apart.
//   b, bias may be null; x_out may be null (then x is not stored) and may be a or b; mean and rstd may both be null.
// layer_norm_again_T(y, x, mean, rstd, w, w_bias, n, d)
//   The y of forward once more, the same bits.
// layer_norm_backward_T(dx, dy, x, mean, rstd, w, residual, every, n, d, dy_stride)
//   dx = residual + rstd·(g - mean(g) - x̂·mean(g·x̂)), g = dy·w. residual may be null (zeros) and may be dx. If `every` is more
//   than 1, only each every-th row has a residual, row i's being residual[i / every] (the gradient of first tokens only).
//   Rows of dy lie dy_stride ≥ d values apart.
//   These three: one warp a row, launch::rows(n).
// layer_norm_weights_partial_T(partial, dy, x, mean, rstd, rows, n, d), launch::layer_norm_weights(n, d)
//   partial[2, parts, d]: sums over `rows` rows each of dy·x̂, then of dy; grid (columns / 256, parts).
// layer_norm_weights_finish(dw, db, partial, parts, d), launch::columns(d)
//   dw[d] += Σ partial[0], db[d] += Σ partial[1], in the order of the parts.
//
// A row of up to 1024 values stays in registers between the passes over it, so device memory is read once.

#include "device.h"

namespace {

// Eights of values per lane that are kept in registers.
constexpr int KEPT = 4;

FN float normalized(float x, float mean, float rstd) { return (x - mean) * rstd; }

FN float layer_norm_dx(float g, float x_hat, float mean_g, float mean_gx, float rstd, float residual) {
    return fmaf(rstd, (g - mean_g) - x_hat * mean_gx, residual);
}

// One row as seen by one lane: eights of values at columns 8·(lane + 32·k).
struct Row {
    int d;
    bool whole; // rows are 16-byte aligned and made of whole eights
    int lane;

    DEVICE Row(int d, bool aligned) : d(d), whole(aligned && d % 8 == 0), lane(int(threadIdx.x) % LANES) {}
    DEVICE int steps() const { return (d + 8 * LANES - 1) / (8 * LANES); }
    DEVICE Eight eight(int k) const { return Eight(8 * (lane + LANES * k), d, whole); }
    DEVICE int count(int k) const { return eight(k).count; }
    template <typename T> DEVICE void load(const T *row, int k, float (&x)[8]) const { eight(k).load(row, x); }
    template <typename T> DEVICE void store(T *row, int k, const float (&x)[8]) const { eight(k).store(row, x); }
};

// The row of this warp; n or more: nothing to do.
DEVICE unsigned row_of_warp() { return blockIdx.x * (blockDim.x / LANES) + threadIdx.x / LANES; }

template <typename T> struct Forward {
    T *x_out, *y;
    const T *a, *b;
    const float *bias, *w, *w_bias;
    int d;
    float eps;

    DEVICE void sum(const Row &row, size_t at, int k, float (&x)[8]) const {
        row.load(a + at, k, x);
        float other[8];
        if (b) {
            row.load(b + at, k, other);
#pragma unroll
            for (int i = 0; i < 8; i++) x[i] += other[i];
        }
        if (bias) {
            row.load(bias, k, other);
#pragma unroll
            for (int i = 0; i < 8; i++) x[i] += other[i];
        }
        if (b || bias) {
#pragma unroll
            for (int i = 0; i < 8; i++) x[i] = rounded<T>(x[i]);
        }
        if (x_out) row.store(x_out + at, k, x);
    }

    DEVICE void scale(const Row &row, size_t to, int k, const float (&x)[8], float mean, float rstd) const {
        float weight[8], shift[8], out[8];
        row.load(w, k, weight);
        row.load(w_bias, k, shift);
#pragma unroll
        for (int i = 0; i < 8; i++) out[i] = fmaf(normalized(x[i], mean, rstd), weight[i], shift[i]);
        row.store(y + to, k, out);
    }

    DEVICE void deviation(const Row &row, int k, const float (&x)[8], float mean, float &total) const {
        int count = row.count(k);
#pragma unroll
        for (int i = 0; i < 8; i++)
            if (i < count) total = fmaf(x[i] - mean, x[i] - mean, total);
    }

    DEVICE float reciprocal_deviation(float total) const { return 1.0f / sqrtf(warp_sum(total) / float(d) + eps); }

    DEVICE void kept(const Row &row, size_t at, size_t to, float &mean, float &rstd) const {
        float x[KEPT][8], total = 0.0f, squares = 0.0f;
#pragma unroll
        for (int k = 0; k < KEPT; k++) {
            sum(row, at, k, x[k]);
#pragma unroll
            for (int i = 0; i < 8; i++) total += x[k][i];
        }
        mean = warp_sum(total) / float(d);
#pragma unroll
        for (int k = 0; k < KEPT; k++) deviation(row, k, x[k], mean, squares);
        rstd = reciprocal_deviation(squares);
#pragma unroll
        for (int k = 0; k < KEPT; k++) scale(row, to, k, x[k], mean, rstd);
    }

    // Reads the row again for each pass. x_out may be a or b, so x is stored in the last pass only.
    DEVICE void streamed(const Row &row, size_t at, size_t to, float &mean, float &rstd) const {
        Forward quiet = *this;
        quiet.x_out = nullptr;
        float x[8], total = 0.0f, squares = 0.0f;
        for (int k = 0; k < row.steps(); k++) {
            quiet.sum(row, at, k, x);
#pragma unroll
            for (int i = 0; i < 8; i++) total += x[i];
        }
        mean = warp_sum(total) / float(d);
        for (int k = 0; k < row.steps(); k++) {
            quiet.sum(row, at, k, x);
            deviation(row, k, x, mean, squares);
        }
        rstd = reciprocal_deviation(squares);
        for (int k = 0; k < row.steps(); k++) {
            sum(row, at, k, x);
            scale(row, to, k, x, mean, rstd);
        }
    }
};

template <typename T>
DEVICE void forward(T *x_out, T *y, float *mean_n, float *rstd_n, const T *a, const T *b, const float *bias, const float *w,
                    const float *w_bias, unsigned n, unsigned d, unsigned y_stride, float eps) {
    unsigned i = row_of_warp();
    if (i >= n) return;
    Row row(int(d), are_aligned(x_out, y, a, b) && are_aligned(bias, w, w_bias) && y_stride % 8 == 0);
    Forward<T> f{x_out, y, a, b, bias, w, w_bias, int(d), eps};
    float mean, rstd;
    size_t at = size_t(i) * d, to = size_t(i) * y_stride;
    if (row.steps() <= KEPT) f.kept(row, at, to, mean, rstd);
    else f.streamed(row, at, to, mean, rstd);
    if (mean_n && row.lane == 0) {
        mean_n[i] = mean;
        rstd_n[i] = rstd;
    }
}

template <typename T>
DEVICE void again(T *y, const T *x, const float *mean_n, const float *rstd_n, const float *w, const float *w_bias, unsigned n,
                  unsigned d) {
    unsigned i = row_of_warp();
    if (i >= n) return;
    Row row(int(d), are_aligned(y, x) && are_aligned(w, w_bias));
    Forward<T> f{nullptr, y, x, nullptr, nullptr, w, w_bias, int(d), 0.0f};
    float mean = mean_n[i], rstd = rstd_n[i], values[8];
    for (int k = 0; k < row.steps(); k++) {
        f.sum(row, size_t(i) * d, k, values);
        f.scale(row, size_t(i) * d, k, values, mean, rstd);
    }
}

template <typename T> struct Backward {
    T *dx;
    const T *dy, *x, *residual;
    const float *w;
    float mean, rstd;

    // g and x̂ of an eight; beyond the row both are 0.
    DEVICE void load(const Row &row, size_t at, size_t dy_at, int k, float (&g)[8], float (&x_hat)[8]) const {
        float weight[8];
        row.load(dy + dy_at, k, g);
        row.load(x + at, k, x_hat);
        row.load(w, k, weight);
        int count = row.count(k);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            g[i] *= weight[i];
            x_hat[i] = i < count ? normalized(x_hat[i], mean, rstd) : 0.0f;
        }
    }

    DEVICE void add(const float (&g)[8], const float (&x_hat)[8], float &sum_g, float &sum_gx) const {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            sum_g += g[i];
            sum_gx = fmaf(g[i], x_hat[i], sum_gx);
        }
    }

    DEVICE void store(const Row &row, size_t at, const T *residual_row, int k, const float (&g)[8], const float (&x_hat)[8],
                      float mean_g, float mean_gx) const {
        float out[8];
        if (residual_row) row.load(residual_row, k, out);
        else
            for (float &o : out) o = 0.0f;
#pragma unroll
        for (int i = 0; i < 8; i++) out[i] = layer_norm_dx(g[i], x_hat[i], mean_g, mean_gx, rstd, out[i]);
        row.store(dx + at, k, out);
    }
};

template <typename T>
DEVICE void backward(T *dx, const T *dy, const T *x, const float *mean_n, const float *rstd_n, const float *w,
                     const T *residual, unsigned every, unsigned n, unsigned d, unsigned dy_stride) {
    unsigned i = row_of_warp();
    if (i >= n) return;
    Row row(int(d), are_aligned(dx, dy, x, residual) && is_aligned(w) && dy_stride % 8 == 0);
    Backward<T> b{dx, dy, x, residual, w, mean_n[i], rstd_n[i]};
    size_t at = size_t(i) * d, dy_at = size_t(i) * dy_stride;
    const T *residual_row = residual && i % every == 0 ? residual + size_t(i / every) * d : nullptr;
    float sum_g = 0.0f, sum_gx = 0.0f;
    if (row.steps() <= KEPT) {
        float g[KEPT][8], x_hat[KEPT][8];
#pragma unroll
        for (int k = 0; k < KEPT; k++) {
            b.load(row, at, dy_at, k, g[k], x_hat[k]);
            b.add(g[k], x_hat[k], sum_g, sum_gx);
        }
        float mean_g = warp_sum(sum_g) / float(d), mean_gx = warp_sum(sum_gx) / float(d);
#pragma unroll
        for (int k = 0; k < KEPT; k++) b.store(row, at, residual_row, k, g[k], x_hat[k], mean_g, mean_gx);
        return;
    }
    float g[8], x_hat[8];
    for (int k = 0; k < row.steps(); k++) {
        b.load(row, at, dy_at, k, g, x_hat);
        b.add(g, x_hat, sum_g, sum_gx);
    }
    float mean_g = warp_sum(sum_g) / float(d), mean_gx = warp_sum(sum_gx) / float(d);
    for (int k = 0; k < row.steps(); k++) {
        b.load(row, at, dy_at, k, g, x_hat);
        b.store(row, at, residual_row, k, g, x_hat, mean_g, mean_gx);
    }
}

// Block (32, 8): a warp takes every eighth row of the part, a lane eight columns.
template <typename T>
DEVICE void weights_partial(float *partial, const T *dy, const T *x, const float *mean_n, const float *rstd_n, unsigned rows,
                            unsigned n, unsigned d) {
    constexpr int WARPS = 8;
    SHARED(float, sums, 2 * WARPS * 8 * LANES);
    unsigned column = (blockIdx.x * LANES + threadIdx.x) * 8, part = blockIdx.y;
    unsigned end = min(n, (part + 1) * rows);
    Eight eight(column, d, d % 8 == 0 && are_aligned(dy, x));
    float dw[8] = {}, db[8] = {};
    for (unsigned i = part * rows + threadIdx.y; i < end; i += WARPS) {
        float g[8], x_hat[8], mean = mean_n[i], rstd = rstd_n[i];
        eight.load(dy + size_t(i) * d, g);
        eight.load(x + size_t(i) * d, x_hat);
#pragma unroll
        for (int j = 0; j < 8; j++) {
            dw[j] = fmaf(g[j], normalized(x_hat[j], mean, rstd), dw[j]);
            db[j] += g[j];
        }
    }
    // [dw or db][warp][j][lane]: neighbouring lanes in neighbouring banks.
#pragma unroll
    for (int j = 0; j < 8; j++) {
        sums[(threadIdx.y * 8 + j) * LANES + threadIdx.x] = dw[j];
        sums[((WARPS + threadIdx.y) * 8 + j) * LANES + threadIdx.x] = db[j];
    }
    __syncthreads();
    // Warp j adds up value j of all warps.
    unsigned j = threadIdx.y;
    if (column + j >= d) return;
#pragma unroll
    for (int which = 0; which < 2; which++) {
        float total = 0.0f;
#pragma unroll
        for (int warp = 0; warp < WARPS; warp++) total += sums[((which * WARPS + warp) * 8 + j) * LANES + threadIdx.x];
        partial[(size_t(which) * gridDim.y + part) * d + column + j] = total;
    }
}

} // namespace

#define ENTRIES(T, suffix)                                                                                             \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        layer_norm_forward_##suffix(T *x_out, T *y, float *mean, float *rstd, const T *a, const T *b, const float *bias, \
                                    const float *w, const float *w_bias, unsigned n, unsigned d, unsigned y_stride,    \
                                    float eps) {                                                                       \
        forward<T>(x_out, y, mean, rstd, a, b, bias, w, w_bias, n, d, y_stride, eps);                                  \
    }                                                                                                                  \
    EXPORT(layer_norm_forward_##suffix)                                                                                \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        layer_norm_again_##suffix(T *y, const T *x, const float *mean, const float *rstd, const float *w,              \
                                  const float *w_bias, unsigned n, unsigned d) {                                       \
        again<T>(y, x, mean, rstd, w, w_bias, n, d);                                                                   \
    }                                                                                                                  \
    EXPORT(layer_norm_again_##suffix)                                                                                  \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        layer_norm_backward_##suffix(T *dx, const T *dy, const T *x, const float *mean, const float *rstd,             \
                                     const float *w, const T *residual, unsigned every, unsigned n, unsigned d,        \
                                     unsigned dy_stride) {                                                             \
        backward<T>(dx, dy, x, mean, rstd, w, residual, every, n, d, dy_stride);                                       \
    }                                                                                                                  \
    EXPORT(layer_norm_backward_##suffix)                                                                               \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        layer_norm_weights_partial_##suffix(float *partial, const T *dy, const T *x, const float *mean,                \
                                            const float *rstd, unsigned rows, unsigned n, unsigned d) {                \
        weights_partial<T>(partial, dy, x, mean, rstd, rows, n, d);                                                    \
    }                                                                                                                  \
    EXPORT(layer_norm_weights_partial_##suffix)

FOR_ALL_FORMATS(ENTRIES)

extern "C" __global__ void __launch_bounds__(256)
    layer_norm_weights_finish(float *dw, float *db, const float *partial, unsigned parts, unsigned d) {
    unsigned column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= d) return;
    float w = 0.0f, b = 0.0f;
    for (unsigned part = 0; part < parts; part++) {
        w += partial[size_t(part) * d + column];
        b += partial[size_t(parts + part) * d + column];
    }
    dw[column] += w;
    db[column] += b;
}
EXPORT(layer_norm_weights_finish)
