// Bias and exact GELU of a dense layer's output, forward and backward.
//
// T is f32, f16 or bf16; bias is f32. Both: n rows of width d, launch::eights(n·d): a thread an eight of values.
//
// gelu_forward_T(y, pre, x, bias, count, d)
//   pre = x + bias[column], rounded to T; y = gelu(pre). bias may be null. pre may be null (not stored) and may be x.
// gelu_backward_T(dx, dy, pre, count)
//   dx = dy·gelu'(pre). dx may be dy.
// count = n·d.

#include "bias.h"
#include "normal.h"

namespace {

template <typename T> DEVICE void forward(T *y, T *pre, const T *x, const float *bias, size_t count, unsigned d) {
    Eight eight(first_of_thread(), count, are_aligned(y, pre, x));
    if (eight.count == 0) return;
    float in[8], out[8];
    eight.load(x, in);
    if (bias) add_bias<T>(in, bias, eight.at, d);
#pragma unroll
    for (int i = 0; i < 8; i++) out[i] = gelu(in[i]);
    if (pre) eight.store(pre, in);
    eight.store(y, out);
}

template <typename T> DEVICE void backward(T *dx, const T *dy, const T *pre, size_t count) {
    Eight eight(first_of_thread(), count, are_aligned(dx, dy, pre));
    if (eight.count == 0) return;
    float g[8], x[8];
    eight.load(dy, g);
    eight.load(pre, x);
#pragma unroll
    for (int i = 0; i < 8; i++) g[i] *= gelu_derivative(x[i]);
    eight.store(dx, g);
}

} // namespace

#define ENTRIES(T, suffix)                                                                                             \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        gelu_forward_##suffix(T *y, T *pre, const T *x, const float *bias, uint64_t count, unsigned d) {               \
        forward<T>(y, pre, x, bias, count, d);                                                                         \
    }                                                                                                                  \
    EXPORT(gelu_forward_##suffix)                                                                                      \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        gelu_backward_##suffix(T *dx, const T *dy, const T *pre, uint64_t count) {                                     \
        backward<T>(dx, dy, pre, count);                                                                               \
    }                                                                                                                  \
    EXPORT(gelu_backward_##suffix)

FOR_ALL_FORMATS(ENTRIES)
