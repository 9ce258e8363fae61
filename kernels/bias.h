// Adding a bias, which repeats from row to row, to a thread's eight values.
#pragma once

#include "device.h"

// x[i] += bias[column of value at + i] in rows of d; rounded to T.
template <typename T> DEVICE void add_bias(float (&x)[8], const float *bias, size_t at, unsigned d) {
    // A division of 64-bit numbers takes as long as all the rest.
    unsigned column = at <= 0xffffffffu ? unsigned(at) % d : unsigned(at % d);
    if (d % 8 == 0 && column % 8 == 0 && is_aligned(bias)) {
        float shift[8];
        load_8(bias + column, shift);
#pragma unroll
        for (int i = 0; i < 8; i++) x[i] = rounded<T>(x[i] + shift[i]);
    } else {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            x[i] = rounded<T>(x[i] + bias[column]);
            column = column + 1 == d ? 0 : column + 1;
        }
    }
}
