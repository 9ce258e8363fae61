// Dropout whose masks are a function of names, forward and backward: no mask is kept, both draw it again (ops::dropout).
//
// T is f32, f16 or bf16. An image is `block` consecutive values; x, dx of image i start at i·stride. Element e of an image
// looks at 16 bits: lane e mod 8 of Philox block e / 8 of the stream (seed, epoch, samples[i], purpose); below `threshold`
// it is dropped, else multiplied by `keep`. samples[b] u64 and epoch (u32) lie on the device, so that a captured step can be
// replayed with others. A thread takes eight values; launch::dropout(b, block).
//
// dropout_T(y, x, samples, epoch, seed, purpose, threshold, keep, block, stride)       y[b,block] = mask∘x·keep
// add_dropped_T(dx, dy, samples, epoch, seed, purpose, threshold, keep, block, stride)
//   dx += mask∘dy·keep, dy[b,block]

#include "philox.h"

namespace {

struct Mask {
    const uint64_t *samples;
    const uint32_t *epoch;
    uint64_t seed;
    uint32_t purpose, threshold;
    float keep;

    // 0 or `keep` for the eight values from `at` on.
    DEVICE void factors(unsigned image, size_t at, float (&factor)[8]) const {
        Four words = Stream{seed, samples[image], *epoch, purpose}.block(uint32_t(at / 8));
#pragma unroll
        for (int i = 0; i < 8; i++) {
            uint32_t bits = words.at[i / 2] >> (16 * (i % 2)) & 0xffff;
            factor[i] = bits < threshold ? 0.0f : keep;
        }
    }
};

template <typename T> DEVICE void forward(T *y, const T *x, const Mask &mask, size_t block, size_t stride) {
    unsigned image = blockIdx.y;
    y += image * block;
    x += image * stride;
    Eight eight(first_of_thread(), block, are_aligned(y, x));
    if (eight.count == 0) return;
    float values[8], factor[8];
    eight.load(x, values);
    mask.factors(image, eight.at, factor);
#pragma unroll
    for (int i = 0; i < 8; i++) values[i] *= factor[i];
    eight.store(y, values);
}

template <typename T> DEVICE void add(T *dx, const T *dy, const Mask &mask, size_t block, size_t stride) {
    unsigned image = blockIdx.y;
    dx += image * stride;
    dy += image * block;
    Eight eight(first_of_thread(), block, are_aligned(dx, dy));
    if (eight.count == 0) return;
    float sum[8], gradient[8], factor[8];
    eight.load(dx, sum);
    eight.load(dy, gradient);
    mask.factors(image, eight.at, factor);
#pragma unroll
    for (int i = 0; i < 8; i++) sum[i] = fmaf(gradient[i], factor[i], sum[i]);
    eight.store(dx, sum);
}

} // namespace

#define ENTRIES(T, suffix)                                                                                             \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        dropout_##suffix(T *y, const T *x, const uint64_t *samples, const uint32_t *epoch, uint64_t seed,              \
                         uint32_t purpose, uint32_t threshold, float keep, uint64_t block, uint64_t stride) {          \
        forward<T>(y, x, Mask{samples, epoch, seed, purpose, threshold, keep}, block, stride);                         \
    }                                                                                                                  \
    EXPORT(dropout_##suffix)                                                                                           \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        add_dropped_##suffix(T *dx, const T *dy, const uint64_t *samples, const uint32_t *epoch, uint64_t seed,        \
                             uint32_t purpose, uint32_t threshold, float keep, uint64_t block, uint64_t stride) {      \
        add<T>(dx, dy, Mask{samples, epoch, seed, purpose, threshold, keep}, block, stride);                           \
    }                                                                                                                  \
    EXPORT(add_dropped_##suffix)

FOR_ALL_FORMATS(ENTRIES)
