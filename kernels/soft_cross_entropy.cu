// Softmax cross-entropy against weighted and mixed targets: losses and the gradient of the logits in one pass over each row.
//
// T is f32, f16 or bf16. The target of row i gives class c the value
//   weights[c]·((1 - smoothing)·(share on labels[i], 1 - share on second[i]) + smoothing/c).
//
// soft_cross_entropy_T(losses, dlogits, logits, labels, second, shares, weights, c, stride, smoothing, scale, per_sample,
//                      loss_scale), launch::cross_entropy(b)
//   logits[b,stride], of which the first c columns are classes; labels[b] u32; second[b] u32 and shares[b] f32, both may
//   be null: nothing is mixed; weights[c] f32, may be null: 1.
//   losses[b] f32; dlogits[b,stride] = (softmax·Σ target - target)·scale·per_sample[0]·loss_scale[0], 0 in the columns from c
//   on; per_sample and loss_scale (f32 on the device) may be null: 1.
//   Labels of c or more make their row NaN: labels are checked where they are read. One block of 256 threads a row.

#include "device.h"

namespace {

struct Target {
    unsigned first, second;
    float share, hit, everywhere;
    const float *weights;

    DEVICE float of(unsigned class_) const {
        float on_labels = (class_ == first ? share : 0.0f) + (class_ == second ? 1.0f - share : 0.0f);
        float target = hit * on_labels + everywhere;
        return weights ? weights[class_] * target : target;
    }
};

template <typename T>
DEVICE void row(float *losses, T *dlogits, const T *logits, const unsigned *labels, const unsigned *second,
                const float *shares, const float *weights, unsigned c, unsigned stride, float smoothing, float scale,
                const float *per_sample, const float *loss_scale) {
    unsigned i = blockIdx.x;
    const T *x = logits + size_t(i) * stride;
    Target target{labels[i], second ? second[i] : labels[i], shares ? shares[i] : 1.0f, 1.0f - smoothing,
                  smoothing / float(c), weights};
    float largest = -INFINITY;
    for (unsigned class_ = threadIdx.x; class_ < c; class_ += blockDim.x) largest = larger(largest, to_f32(x[class_]));
    largest = block_max(largest);
    float exponentials = 0.0f, total = 0.0f, below = 0.0f;
    for (unsigned class_ = threadIdx.x; class_ < c; class_ += blockDim.x) {
        float value = to_f32(x[class_]), share = target.of(class_);
        exponentials += expf(value - largest);
        total += share;
        // Differences to the largest logit, so that large logits cost no digits; an impossible class costs nothing without a share.
        if (share > 0.0f) below += share * (largest - value);
    }
    exponentials = block_sum(exponentials);
    total = block_sum(total);
    below = block_sum(below);
    bool known = target.first < c && target.second < c;
    if (threadIdx.x == 0) losses[i] = known ? total * logf(exponentials) + below : NAN;
    float factor = scale * (per_sample ? per_sample[0] : 1.0f) * (loss_scale ? loss_scale[0] : 1.0f);
    float softmax = total / exponentials;
    if (!known) factor = NAN;
    for (unsigned class_ = threadIdx.x; class_ < stride; class_ += blockDim.x) {
        float gradient = 0.0f;
        if (class_ < c) gradient = factor * (expf(to_f32(x[class_]) - largest) * softmax - target.of(class_));
        dlogits[size_t(i) * stride + class_] = from_f32<T>(gradient);
    }
}

} // namespace

#define ENTRIES(T, suffix)                                                                                             \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        soft_cross_entropy_##suffix(float *losses, T *dlogits, const T *logits, const unsigned *labels,                \
                                    const unsigned *second, const float *shares, const float *weights, unsigned c,     \
                                    unsigned stride, float smoothing, float scale, const float *per_sample,            \
                                    const float *loss_scale) {                                                         \
        row<T>(losses, dlogits, logits, labels, second, shares, weights, c, stride, smoothing, scale, per_sample,      \
               loss_scale);                                                                                            \
    }                                                                                                                  \
    EXPORT(soft_cross_entropy_##suffix)

FOR_ALL_FORMATS(ENTRIES)
