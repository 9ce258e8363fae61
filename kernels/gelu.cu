// Bias and exact GELU of a dense layer's output, forward and backward.
//
// T is f32, f16 or bf16; bias is f32. Both: n rows of width d, launch::eights(n·d): a thread an eight of values.
//
// gelu_forward_T(y, pre, x, bias, count, d)
//   pre = x + bias[column], rounded to T; y = gelu(pre). bias may be null. pre may be null (not stored) and may be x.
// gelu_backward_T(dx, dy, pre, count)
//   dx = dy·gelu'(pre). dx may be dy.
// count = n·d.

#include "normal.h"

namespace {

template <typename T> DEVICE void forward(T *y, T *pre, const T *x, const float *bias, size_t count, unsigned d) {
    size_t at = (size_t(blockIdx.x) * blockDim.x + threadIdx.x) * 8;
    if (at >= count) return;
    int have = count - at < 8 ? int(count - at) : 8;
    bool whole = have == 8 && are_aligned(y, pre, x);
    float in[8], out[8];
    if (whole) load_8(x + at, in);
    else load_some(x + at, have, in);
    if (bias) {
        unsigned column = unsigned(at % d);
        if (d % 8 == 0 && is_aligned(bias)) {
            float shift[8];
            load_8(bias + column, shift);
#pragma unroll
            for (int i = 0; i < 8; i++) in[i] = rounded<T>(in[i] + shift[i]);
        } else {
#pragma unroll
            for (int i = 0; i < 8; i++) {
                in[i] = rounded<T>(in[i] + bias[column]);
                column = column + 1 == d ? 0 : column + 1;
            }
        }
    }
#pragma unroll
    for (int i = 0; i < 8; i++) out[i] = gelu(in[i]);
    if (whole) {
        if (pre) store_8(pre + at, in);
        store_8(y + at, out);
    } else {
        if (pre) store_some(pre + at, have, in);
        store_some(y + at, have, out);
    }
}

template <typename T> DEVICE void backward(T *dx, const T *dy, const T *pre, size_t count) {
    size_t at = (size_t(blockIdx.x) * blockDim.x + threadIdx.x) * 8;
    if (at >= count) return;
    int have = count - at < 8 ? int(count - at) : 8;
    bool whole = have == 8 && are_aligned(dx, dy, pre);
    float g[8], x[8];
    if (whole) {
        load_8(dy + at, g);
        load_8(pre + at, x);
    } else {
        load_some(dy + at, have, g);
        load_some(pre + at, have, x);
    }
#pragma unroll
    for (int i = 0; i < 8; i++) g[i] *= gelu_derivative(x[i]);
    if (whole) store_8(dx + at, g);
    else store_some(dx + at, have, g);
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
