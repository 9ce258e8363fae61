// Sums, scaling and casts, value by value. T is f32, f16 or bf16; launch::eights(count), a thread eight values.
//
// add_T(y, a, b, bias, count, d)    y = a + b + bias[column]: b [count] T or null, bias [d] f32 or null; y may be a or b
// scale_T(x, factor, on_device, count)    x *= factor·on_device[0], in place; on_device f32 may be null
// cast_f32_to_T(y, x, count), cast_T_to_f32(y, x, count)    T is f16 or bf16; rounds to nearest, ties to even

#include "bias.h"

namespace {

template <typename T> DEVICE void add(T *y, const T *a, const T *b, const float *bias, size_t count, unsigned d) {
    Eight eight(first_of_thread(), count, are_aligned(y, a, b));
    if (eight.count == 0) return;
    float x[8], other[8];
    eight.load(a, x);
    if (b) {
        eight.load(b, other);
#pragma unroll
        for (int i = 0; i < 8; i++) x[i] += other[i];
    }
    if (bias) add_bias<T>(x, bias, eight.at, d);
    eight.store(y, x);
}

template <typename T> DEVICE void scale(T *x, float factor, const float *on_device, size_t count) {
    Eight eight(first_of_thread(), count, is_aligned(x));
    if (eight.count == 0) return;
    if (on_device) factor *= on_device[0];
    float values[8];
    eight.load(x, values);
#pragma unroll
    for (int i = 0; i < 8; i++) values[i] *= factor;
    eight.store(x, values);
}

template <typename To, typename From> DEVICE void cast(To *y, const From *x, size_t count) {
    Eight eight(first_of_thread(), count, is_aligned(y) && is_aligned(x));
    if (eight.count == 0) return;
    float values[8];
    eight.load(x, values);
    eight.store(y, values);
}

} // namespace

#define ENTRIES(T, suffix)                                                                                             \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        add_##suffix(T *y, const T *a, const T *b, const float *bias, uint64_t count, unsigned d) {                    \
        add<T>(y, a, b, bias, count, d);                                                                               \
    }                                                                                                                  \
    EXPORT(add_##suffix)                                                                                               \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        scale_##suffix(T *x, float factor, const float *on_device, uint64_t count) {                                   \
        scale<T>(x, factor, on_device, count);                                                                         \
    }                                                                                                                  \
    EXPORT(scale_##suffix)

FOR_ALL_FORMATS(ENTRIES)

#define CASTS(T, suffix)                                                                                               \
    extern "C" __global__ void __launch_bounds__(256) cast_f32_to_##suffix(T *y, const float *x, uint64_t count) {     \
        cast<T, float>(y, x, count);                                                                                   \
    }                                                                                                                  \
    EXPORT(cast_f32_to_##suffix)                                                                                       \
    extern "C" __global__ void __launch_bounds__(256) cast_##suffix##_to_f32(float *y, const T *x, uint64_t count) {   \
        cast<float, T>(y, x, count);                                                                                   \
    }                                                                                                                  \
    EXPORT(cast_##suffix##_to_f32)

CASTS(f16, f16)
CASTS(bf16, bf16)
