// Pillow's resampling in whole numbers, four inputs at a time: sums of u8 samples and weights in 22-bit fixed point.
//
// A weight w is cut as w = low + 65536·high with low in 0 .. 65535 and high in -128 .. 127. The weights of four neighbouring
// inputs are one Weights; samples come four to a word, the first in the lowest byte. Sums are modulo 2^32, so cutting loses
// nothing: what a sum is at the end fits 31 bits. Tables of weights come from src/ops/preprocess.rs.
#pragma once

#include "device.h"

constexpr int WEIGHT_BITS = 32 - 8 - 2;

// Low parts of the first two, low parts of the others, high parts of all four, nothing.
using Weights = uint4;

// sum += Σ of two u8 (bytes 2·half, 2·half + 1 of `samples`) times two u16
template <int half> FN uint32_t dot_2(uint32_t lows, uint32_t samples, uint32_t sum) {
#if ON_GPU
    return half ? __dp2a_hi(lows, samples, sum) : __dp2a_lo(lows, samples, sum);
#else
    for (int i = 0; i < 2; i++) sum += (lows >> (16 * i) & 65535) * (samples >> (8 * (2 * half + i)) & 255);
    return sum;
#endif
}

// sum += Σ of four u8 times four s8
FN int dot_4(uint32_t samples, uint32_t highs, int sum) {
#if ON_GPU
    int result;
    asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(result) : "r"(samples), "r"(highs), "r"(sum));
    return result;
#else
    for (int i = 0; i < 4; i++) sum += int(samples >> (8 * i) & 255) * int(int8_t(highs >> (8 * i) & 255));
    return sum;
#endif
}

// A weighted sum of samples, rounded and clipped to a sample at the end.
struct WeightedSum {
    uint32_t low = 1u << (WEIGHT_BITS - 1);
    int high = 0;

    DEVICE void add(uint32_t samples, const Weights &weights) {
        low = dot_2<0>(weights.x, samples, low);
        low = dot_2<1>(weights.y, samples, low);
        high = dot_4(samples, weights.z, high);
    }
    DEVICE uint32_t sample() const {
        int sum = int(low + (uint32_t(high) << 16)) >> WEIGHT_BITS;
#if ON_GPU
        return uint32_t(__vimin_s32_relu(sum, 255));
#else
        return uint32_t(sum < 0 ? 0 : sum > 255 ? 255 : sum);
#endif
    }
};

// Four samples in a word.
FN uint32_t pack_4(uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
    return __byte_perm(__byte_perm(a, b, 0x0040), __byte_perm(c, d, 0x0040), 0x5410);
}

// Four pixels, twelve interleaved bytes, as one word a channel.
DEVICE void to_planes(const uint32_t (&interleaved)[3], uint32_t (&planes)[3]) {
    uint32_t a = interleaved[0], b = interleaved[1], c = interleaved[2];
    planes[0] = __byte_perm(__byte_perm(a, b, 0x0630), c, 0x5210);
    planes[1] = __byte_perm(__byte_perm(a, b, 0x0741), c, 0x6210);
    planes[2] = __byte_perm(__byte_perm(a, b, 0x0052), c, 0x7410);
}

// Byte i of each row as word i.
DEVICE void transpose(const uint32_t (&rows)[4], uint32_t (&columns)[4]) {
    uint32_t low_01 = __byte_perm(rows[0], rows[1], 0x5140), high_01 = __byte_perm(rows[0], rows[1], 0x7362);
    uint32_t low_23 = __byte_perm(rows[2], rows[3], 0x5140), high_23 = __byte_perm(rows[2], rows[3], 0x7362);
    columns[0] = __byte_perm(low_01, low_23, 0x5410);
    columns[1] = __byte_perm(low_01, low_23, 0x7632);
    columns[2] = __byte_perm(high_01, high_23, 0x5410);
    columns[3] = __byte_perm(high_01, high_23, 0x7632);
}
