// Batch normalisation over the rows of a matrix (the pixels of all images), with what residual networks put around it: an
// addition and a rectifier in the same pass, forward and backward.
//
// T is f32, f16 or bf16. Rows n, channels c. launch::ChannelRows::new(n, c) says the grid, `rows` and `parts`: a thread owns eight
// channels and goes down some rows, so what belongs to channels stays in registers. Sums are f32 over a part's rows, of
// differences from the first row, and f64 over parts; ranks that normalise together add the f64 sums.
// `moments` is [4,c] f32: mean, reciprocal deviation, scale and shift; y = x·scale + shift.
//
// batch_norm_partial_T(partial, x, rows, n, c)
//   partial[2,parts,c] f32: sums over each part's rows of x - x[0], then of its square
// batch_norm_sums_T(sums, partial, x, parts, n, c), launch::rows(c)    sums[1+2c] f64: n, Σ x, Σ x²
// batch_norm_moments(moments, running_mean, running_variance, sums, weight, bias, eps, momentum, c), launch::columns(c)
//   moments from sums over n = sums[0] > 0 rows, which the running statistics take in; those of the running ones if n is 0
// batch_norm_running(moments, running_mean, running_variance, weight, bias, eps, c), launch::columns(c)
// batch_norm_normalize_T(y, x, moments, other, other_moments, rectified, rows, n, c)
//   y = x·scale + shift (+ other, or other·scale + shift with other_moments), not below 0 if rectified; other and other_moments may
//   be null
// batch_norm_gradient_partial_T(partial, g, y, x, moments, rectified, rows, n, c)
//   partial[2,parts,c] f32: sums of g, then of g·(x - mean). With y, g first becomes 0 in place where y is not positive; where
//   rectified, only g with x·scale + shift > 0 counts. y may be null.
// batch_norm_gradient_sums(sums, partial, parts, c), launch::rows(c)    sums[2c] f64
// batch_norm_weights(dw, db, sums, moments, c), launch::columns(c)    dw += Σ g·(x - mean)·rstd, db += Σ g
// batch_norm_factors(factors, sums, count, moments, weight, c), launch::columns(c)
//   factors[3,c] f32 from sums over count[0] f64 rows: of g, the constant, and of x - mean, in
// batch_norm_backward_T(dx, g, x, moments, factors, rectified, rows, n, c)
//   dx = factors[0]·g - factors[1] - factors[2]·(x - mean), g as for gradient_partial; dx may be g

#include "device.h"

namespace {

// Not below 0; what is no number stays so.
FN float rectify(float x) { return x < 0.0f ? 0.0f : x; }

DEVICE double warp_sum_f64(double x) {
#pragma unroll
    for (int other = LANES / 2; other > 0; other /= 2) x += __shfl_xor_sync(WHOLE_WARP, x, other);
    return x;
}

// The eight channels of a thread and the rows that it goes down, of a block of (lanes, groups) threads.
struct Channels {
    unsigned n, c, row, end;
    Eight eight;

    DEVICE Channels(unsigned rows, unsigned n, unsigned c, bool aligned)
        : n(n), c(c), row(blockIdx.y * rows + threadIdx.y), end(min(n, (blockIdx.y + 1) * rows)),
          eight(size_t(blockIdx.x * blockDim.x + threadIdx.x) * 8, c, aligned && c % 8 == 0) {}

    DEVICE size_t at(unsigned row) const { return size_t(row) * c; }
};

// partial[which][part][channel] from every thread's two times eight sums.
DEVICE void join(float *partial, const Channels &channels, const float (&first)[8], const float (&second)[8]) {
    SHARED(float, sums, 2 * 8 * 256);
    unsigned lanes = blockDim.x, groups = blockDim.y, lane = threadIdx.x, group = threadIdx.y;
#pragma unroll
    for (int j = 0; j < 8; j++) {
        sums[(group * 8 + j) * lanes + lane] = first[j];
        sums[((groups + group) * 8 + j) * lanes + lane] = second[j];
    }
    __syncthreads();
    for (unsigned i = group * lanes + lane; i < 2 * 8 * lanes; i += lanes * groups) {
        unsigned which = i / (8 * lanes), j = i / lanes % 8, column = (blockIdx.x * lanes + i % lanes) * 8 + j;
        if (column >= channels.c) continue;
        float total = 0.0f;
        for (unsigned from = 0; from < groups; from++) total += sums[((which * groups + from) * 8 + j) * lanes + i % lanes];
        partial[(size_t(which) * gridDim.y + blockIdx.y) * channels.c + column] = total;
    }
}

template <typename T> DEVICE void partial_sums(float *partial, const T *x, unsigned rows, unsigned n, unsigned c) {
    Channels channels(rows, n, c, is_aligned(x));
    float pivot[8], sum[8] = {}, square[8] = {}, values[8];
    channels.eight.load(x, pivot);
    for (unsigned row = channels.row; row < channels.end; row += blockDim.y) {
        channels.eight.load(x + channels.at(row), values);
#pragma unroll
        for (int j = 0; j < 8; j++) {
            float difference = values[j] - pivot[j];
            sum[j] += difference;
            square[j] = fmaf(difference, difference, square[j]);
        }
    }
    join(partial, channels, sum, square);
}

// Both sums of the channel of this warp over all parts.
DEVICE void over_parts(const float *partial, unsigned parts, unsigned c, unsigned channel, double &first, double &second) {
    first = second = 0.0;
    if (channel < c)
        for (unsigned part = threadIdx.x % LANES; part < parts; part += LANES) {
            first += double(partial[size_t(part) * c + channel]);
            second += double(partial[size_t(parts + part) * c + channel]);
        }
    first = warp_sum_f64(first);
    second = warp_sum_f64(second);
}

DEVICE unsigned channel_of_warp() { return blockIdx.x * (blockDim.x / LANES) + threadIdx.x / LANES; }

template <typename T>
DEVICE void sums(double *sums, const float *partial, const T *x, unsigned parts, unsigned n, unsigned c) {
    unsigned channel = channel_of_warp();
    double sum, square;
    over_parts(partial, parts, c, channel, sum, square);
    if (channel >= c || threadIdx.x % LANES != 0) return;
    double count = double(n), pivot = n > 0 ? double(to_f32(x[channel])) : 0.0;
    if (channel == 0) sums[0] = count;
    sums[1 + channel] = sum + count * pivot;
    sums[1 + c + channel] = square + 2.0 * pivot * sum + count * pivot * pivot;
}

DEVICE void store_moments(float *moments, unsigned c, unsigned channel, float mean, double variance, double eps,
                          const float *weight, const float *bias) {
    float rstd = float(1.0 / sqrt(variance + eps)), scale = weight[channel] * rstd;
    moments[channel] = mean;
    moments[c + channel] = rstd;
    moments[2 * c + channel] = scale;
    moments[3 * c + channel] = bias[channel] - mean * scale;
}

template <typename T>
DEVICE void normalize(T *y, const T *x, const float *moments, const T *other, const float *other_moments, unsigned rectified,
                      unsigned rows, unsigned n, unsigned c) {
    Channels channels(rows, n, c, are_aligned(y, x, other));
    Eight columns(channels.eight.at, c, c % 8 == 0 && are_aligned(moments, other_moments));
    float scale[8], shift[8], other_scale[8], other_shift[8], values[8], beside[8];
    columns.load(moments + 2 * c, scale);
    columns.load(moments + 3 * c, shift);
    if (other_moments) {
        columns.load(other_moments + 2 * c, other_scale);
        columns.load(other_moments + 3 * c, other_shift);
    }
    for (unsigned row = channels.row; row < channels.end; row += blockDim.y) {
        channels.eight.load(x + channels.at(row), values);
        if (other) channels.eight.load(other + channels.at(row), beside);
#pragma unroll
        for (int j = 0; j < 8; j++) {
            values[j] = fmaf(values[j], scale[j], shift[j]);
            if (other) values[j] += other_moments ? fmaf(beside[j], other_scale[j], other_shift[j]) : beside[j];
            if (rectified) values[j] = rectify(values[j]);
        }
        channels.eight.store(y + channels.at(row), values);
    }
}

template <typename T>
DEVICE void gradient_partial(float *partial, T *g, const T *y, const T *x, const float *moments, unsigned rectified,
                             unsigned rows, unsigned n, unsigned c) {
    Channels channels(rows, n, c, are_aligned(g, y, x));
    Eight columns(channels.eight.at, c, c % 8 == 0 && is_aligned(moments));
    float mean[8], scale[8], shift[8], sum[8] = {}, product[8] = {}, gradient[8], values[8], results[8];
    columns.load(moments, mean);
    columns.load(moments + 2 * c, scale);
    columns.load(moments + 3 * c, shift);
    for (unsigned row = channels.row; row < channels.end; row += blockDim.y) {
        channels.eight.load(g + channels.at(row), gradient);
        channels.eight.load(x + channels.at(row), values);
        if (y) {
            channels.eight.load(y + channels.at(row), results);
#pragma unroll
            for (int j = 0; j < 8; j++) gradient[j] = results[j] > 0.0f ? gradient[j] : 0.0f;
            channels.eight.store(g + channels.at(row), gradient);
        }
#pragma unroll
        for (int j = 0; j < 8; j++) {
            if (rectified && !(fmaf(values[j], scale[j], shift[j]) > 0.0f)) gradient[j] = 0.0f;
            sum[j] += gradient[j];
            product[j] = fmaf(gradient[j], values[j] - mean[j], product[j]);
        }
    }
    join(partial, channels, sum, product);
}

template <typename T>
DEVICE void backward(T *dx, const T *g, const T *x, const float *moments, const float *factors, unsigned rectified,
                     unsigned rows, unsigned n, unsigned c) {
    Channels channels(rows, n, c, are_aligned(dx, g, x));
    Eight columns(channels.eight.at, c, c % 8 == 0 && are_aligned(moments, factors));
    float mean[8], scale[8], shift[8], of_g[8], constant[8], of_x[8], gradient[8], values[8];
    columns.load(moments, mean);
    columns.load(moments + 2 * c, scale);
    columns.load(moments + 3 * c, shift);
    columns.load(factors, of_g);
    columns.load(factors + c, constant);
    columns.load(factors + 2 * c, of_x);
    for (unsigned row = channels.row; row < channels.end; row += blockDim.y) {
        channels.eight.load(g + channels.at(row), gradient);
        channels.eight.load(x + channels.at(row), values);
#pragma unroll
        for (int j = 0; j < 8; j++) {
            if (rectified && !(fmaf(values[j], scale[j], shift[j]) > 0.0f)) gradient[j] = 0.0f;
            gradient[j] = fmaf(of_g[j], gradient[j], -fmaf(values[j] - mean[j], of_x[j], constant[j]));
        }
        channels.eight.store(dx + channels.at(row), gradient);
    }
}

} // namespace

#define ENTRIES(T, suffix)                                                                                             \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        batch_norm_partial_##suffix(float *partial, const T *x, unsigned rows, unsigned n, unsigned c) {               \
        partial_sums<T>(partial, x, rows, n, c);                                                                       \
    }                                                                                                                  \
    EXPORT(batch_norm_partial_##suffix)                                                                                \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        batch_norm_sums_##suffix(double *to, const float *partial, const T *x, unsigned parts, unsigned n,             \
                                 unsigned c) {                                                                         \
        sums<T>(to, partial, x, parts, n, c);                                                                          \
    }                                                                                                                  \
    EXPORT(batch_norm_sums_##suffix)                                                                                   \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        batch_norm_normalize_##suffix(T *y, const T *x, const float *moments, const T *other,                          \
                                      const float *other_moments, unsigned rectified, unsigned rows, unsigned n,       \
                                      unsigned c) {                                                                    \
        normalize<T>(y, x, moments, other, other_moments, rectified, rows, n, c);                                      \
    }                                                                                                                  \
    EXPORT(batch_norm_normalize_##suffix)                                                                              \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        batch_norm_gradient_partial_##suffix(float *partial, T *g, const T *y, const T *x, const float *moments,       \
                                             unsigned rectified, unsigned rows, unsigned n, unsigned c) {              \
        gradient_partial<T>(partial, g, y, x, moments, rectified, rows, n, c);                                         \
    }                                                                                                                  \
    EXPORT(batch_norm_gradient_partial_##suffix)                                                                       \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        batch_norm_backward_##suffix(T *dx, const T *g, const T *x, const float *moments, const float *factors,        \
                                     unsigned rectified, unsigned rows, unsigned n, unsigned c) {                      \
        backward<T>(dx, g, x, moments, factors, rectified, rows, n, c);                                                \
    }                                                                                                                  \
    EXPORT(batch_norm_backward_##suffix)

FOR_ALL_FORMATS(ENTRIES)

extern "C" __global__ void __launch_bounds__(256)
    batch_norm_moments(float *moments, float *running_mean, float *running_variance, const double *sums, const float *weight,
                       const float *bias, double eps, double momentum, unsigned c) {
    unsigned channel = blockIdx.x * blockDim.x + threadIdx.x;
    if (channel >= c) return;
    double n = sums[0], variance;
    float mean;
    if (n > 0.0) {
        double of_all = sums[1 + channel] / n;
        variance = sums[1 + c + channel] / n - of_all * of_all;
        if (!(variance > 0.0)) variance = 0.0;
        mean = float(of_all);
        double unbiased = n > 1.0 ? variance * (n / (n - 1.0)) : variance, kept = 1.0 - momentum;
        running_mean[channel] = float(kept * double(running_mean[channel]) + momentum * double(mean));
        running_variance[channel] = float(kept * double(running_variance[channel]) + momentum * unbiased);
    } else {
        mean = running_mean[channel];
        variance = double(running_variance[channel]);
    }
    store_moments(moments, c, channel, mean, variance, eps, weight, bias);
}
EXPORT(batch_norm_moments)

extern "C" __global__ void __launch_bounds__(256)
    batch_norm_running(float *moments, const float *running_mean, const float *running_variance, const float *weight,
                       const float *bias, double eps, unsigned c) {
    unsigned channel = blockIdx.x * blockDim.x + threadIdx.x;
    if (channel >= c) return;
    store_moments(moments, c, channel, running_mean[channel], double(running_variance[channel]), eps, weight, bias);
}
EXPORT(batch_norm_running)

extern "C" __global__ void __launch_bounds__(256)
    batch_norm_gradient_sums(double *to, const float *partial, unsigned parts, unsigned c) {
    unsigned channel = channel_of_warp();
    double sum, product;
    over_parts(partial, parts, c, channel, sum, product);
    if (channel >= c || threadIdx.x % LANES != 0) return;
    to[channel] = sum;
    to[c + channel] = product;
}
EXPORT(batch_norm_gradient_sums)

extern "C" __global__ void __launch_bounds__(256)
    batch_norm_weights(float *dw, float *db, const double *sums, const float *moments, unsigned c) {
    unsigned channel = blockIdx.x * blockDim.x + threadIdx.x;
    if (channel >= c) return;
    dw[channel] += float(sums[c + channel] * double(moments[c + channel]));
    db[channel] += float(sums[channel]);
}
EXPORT(batch_norm_weights)

extern "C" __global__ void __launch_bounds__(256)
    batch_norm_factors(float *factors, const double *sums, const double *count, const float *moments, const float *weight,
                       unsigned c) {
    unsigned channel = blockIdx.x * blockDim.x + threadIdx.x;
    if (channel >= c) return;
    double n = count[0], rstd = double(moments[c + channel]), of_g = double(weight[channel]) * rstd;
    factors[channel] = float(of_g);
    factors[c + channel] = float(of_g * sums[channel] / n);
    factors[2 * c + channel] = float(of_g * rstd * rstd * sums[c + channel] / n);
}
EXPORT(batch_norm_factors)
