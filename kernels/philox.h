// Philox4x32-10 (Salmon, Moraes, Dror, Shaw, SC 2011) and the naming of its streams, as in src/rng.rs.
#pragma once

#include "device.h"

struct Four {
    uint32_t at[4];
};

FN uint32_t high_product(uint32_t a, uint32_t b) {
#if ON_GPU
    return __umulhi(a, b);
#else
    return uint32_t((uint64_t(a) * b) >> 32);
#endif
}

FN Four philox4x32_10(uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3, uint32_t k0, uint32_t k1) {
#pragma unroll
    for (int round = 0; round < 10; round++) {
        uint32_t high0 = high_product(0xD2511F53u, c0), low0 = 0xD2511F53u * c0;
        uint32_t high1 = high_product(0xCD9E8D57u, c2), low1 = 0xCD9E8D57u * c2;
        c0 = high1 ^ c1 ^ k0;
        c1 = low1;
        c2 = high0 ^ c3 ^ k1;
        c3 = low0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return {{c0, c1, c2, c3}};
}

// A stream of random numbers: all of its name but the index.
struct Stream {
    uint64_t seed, sample;
    uint32_t epoch, purpose;

    FN Four block(uint32_t index) const {
        return philox4x32_10(index, uint32_t(sample), epoch, purpose, uint32_t(seed),
                             uint32_t(seed >> 32) ^ uint32_t(sample >> 32));
    }
};
