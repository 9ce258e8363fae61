// Softmax cross-entropy with label smoothing: losses, predictions and the gradient of the logits in one pass over each row.
//
// T is f32, f16 or bf16. The target distribution is (1 - smoothing) on the label plus smoothing/c on every class.
//
// cross_entropy_T(losses, predicted, dlogits, logits, labels, c, stride, smoothing, scale, per_sample, loss_scale),
//   launch::cross_entropy(b)
//   logits[b,stride], of which the first c columns are classes; labels[b] u32.
//   losses[b] f32; predicted[b] u32: the first class with the largest logit; may be null.
//   dlogits[b,stride] = (softmax - target)·scale·per_sample[0]·loss_scale[0], 0 in the columns from c on; may be null
//   (evaluation). per_sample and loss_scale (f32 on the device) may be null: 1.
//   A label of c or more makes its row NaN: labels are checked where they are read. One block of 256 threads a row.
// cross_entropy_totals(totals, losses, predicted, labels, b), one block of 256 threads
//   totals[3] f64: [0] += Σ losses, [1] += predictions that are the label, [2] += b.

#include "device.h"

namespace {

// The first index of the largest value; a NaN counts as larger than all.
struct Best {
    float value;
    unsigned index;
};

constexpr unsigned NO_CLASS = 0xffffffffu;

FN Best better(Best a, Best b) {
    bool a_nan = a.value != a.value, b_nan = b.value != b.value;
    if (a_nan != b_nan) return a_nan ? a : b;
    if (a_nan || a.value == b.value) return a.index < b.index ? a : b;
    return a.value > b.value ? a : b;
}

DEVICE Best warp_best(Best best) {
#pragma unroll
    for (int other = LANES / 2; other > 0; other /= 2) {
        Best theirs = {__shfl_xor_sync(WHOLE_WARP, best.value, other), __shfl_xor_sync(WHOLE_WARP, best.index, other)};
        best = better(best, theirs);
    }
    return best;
}

DEVICE Best block_best(Best best) {
    SHARED(float, values, LANES);
    SHARED(unsigned, indices, LANES);
    unsigned warp = threadIdx.x / LANES, lane = threadIdx.x % LANES;
    best = warp_best(best);
    if (lane == 0) {
        values[warp] = best.value;
        indices[warp] = best.index;
    }
    __syncthreads();
    best = lane < blockDim.x / LANES ? Best{values[lane], indices[lane]} : Best{-INFINITY, NO_CLASS};
    return warp_best(best);
}

template <typename T>
DEVICE void row(float *losses, unsigned *predicted, T *dlogits, const T *logits, const unsigned *labels, unsigned c,
                unsigned stride, float smoothing, float scale, const float *per_sample, const float *loss_scale) {
    unsigned i = blockIdx.x, label = labels[i];
    const T *x = logits + size_t(i) * stride;
    Best best{-INFINITY, NO_CLASS};
    float total = 0.0f;
    for (unsigned class_ = threadIdx.x; class_ < c; class_ += blockDim.x) {
        float value = to_f32(x[class_]);
        total += value;
        best = better(best, Best{value, class_});
    }
    best = block_best(best);
    float exponentials = 0.0f;
    for (unsigned class_ = threadIdx.x; class_ < c; class_ += blockDim.x)
        exponentials += expf(to_f32(x[class_]) - best.value);
    exponentials = block_sum(exponentials);
    float mean = smoothing > 0.0f ? block_sum(total) / float(c) : 0.0f;
    if (threadIdx.x == 0) {
        float hit = label < c ? to_f32(x[label]) : NAN;
        // Differences to the largest logit, so that large logits cost no digits.
        float from_mean = smoothing > 0.0f ? smoothing * (best.value - mean) : 0.0f;
        losses[i] = logf(exponentials) + (1.0f - smoothing) * (best.value - hit) + from_mean;
        if (predicted) predicted[i] = best.index;
    }
    if (!dlogits) return;
    float factor = scale * (per_sample ? per_sample[0] : 1.0f) * (loss_scale ? loss_scale[0] : 1.0f);
    if (label >= c) factor = NAN;
    float reciprocal = 1.0f / exponentials, everywhere = smoothing / float(c);
    for (unsigned class_ = threadIdx.x; class_ < stride; class_ += blockDim.x) {
        float gradient = 0.0f;
        if (class_ < c) {
            float target = class_ == label ? 1.0f - smoothing + everywhere : everywhere;
            gradient = factor * (expf(to_f32(x[class_]) - best.value) * reciprocal - target);
        }
        dlogits[size_t(i) * stride + class_] = from_f32<T>(gradient);
    }
}

} // namespace

#define ENTRIES(T, suffix)                                                                                             \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        cross_entropy_##suffix(float *losses, unsigned *predicted, T *dlogits, const T *logits, const unsigned *labels, \
                               unsigned c, unsigned stride, float smoothing, float scale, const float *per_sample,     \
                               const float *loss_scale) {                                                              \
        row<T>(losses, predicted, dlogits, logits, labels, c, stride, smoothing, scale, per_sample, loss_scale);       \
    }                                                                                                                  \
    EXPORT(cross_entropy_##suffix)

FOR_ALL_FORMATS(ENTRIES)

extern "C" __global__ void __launch_bounds__(256)
    cross_entropy_totals(double *totals, const float *losses, const unsigned *predicted, const unsigned *labels, unsigned b) {
    double loss = 0.0, hits = 0.0;
    for (unsigned i = threadIdx.x; i < b; i += blockDim.x) {
        loss += double(losses[i]);
        hits += predicted[i] == labels[i] ? 1.0 : 0.0;
    }
    loss = block_sum(loss);
    hits = block_sum(hits);
    if (threadIdx.x != 0) return;
    totals[0] += loss;
    totals[1] += hits;
    totals[2] += double(b);
}
EXPORT(cross_entropy_totals)
