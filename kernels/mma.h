// The tensor-core instructions that we use, and what they do lane by lane for the host: products of 16 x 16 by 16 x 8 matrices
// of 16-bit numbers with f32 sums, loads of 8 x 8 matrices from shared memory, and copies into it that pass no register.
//
// Fragments (PTX ISA, mma.m16n8k16): with g = lane / 4 and t = lane % 4,
//   a[0] holds row g, columns 2t and 2t+1; a[1] row g+8; a[2] row g, columns 2t+8 and 2t+9; a[3] row g+8, the same columns;
//   b[0] rows 2t and 2t+1 of column g; b[1] rows 2t+8 and 2t+9; c[0], c[1] row g, columns 2t and 2t+1; c[2], c[3] row g+8.
// So the c of two neighbouring products is, rounded, the a of the next.
#pragma once

#include "device.h"

#include <type_traits>

// Two 16-bit numbers in a register, the first in the low half.
template <typename T> FN uint32_t pack_2(float low, float high) {
    T pair[2] = {from_f32<T>(low), from_f32<T>(high)};
    uint32_t bits;
    memcpy(&bits, pair, 4);
    return bits;
}

#if !ON_GPU
template <typename T> FN float unpack(uint32_t bits, int which) {
    uint16_t half = uint16_t(bits >> (16 * which));
    T x;
    memcpy(&x, &half, 2);
    return to_f32(x);
}
#endif

// c += a·b
template <typename T> DEVICE void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if ON_GPU
    if (std::is_same<T, f16>::value)
        asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    else
        asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#elif !defined(__CUDACC__)
    const uint64_t *given;
    uint32_t all_a[32][4], all_b[32][2];
    given = host::warp_exchange(10, uint64_t(a[1]) << 32 | a[0]);
    for (int i = 0; i < 32; i++) all_a[i][0] = uint32_t(given[i]), all_a[i][1] = uint32_t(given[i] >> 32);
    given = host::warp_exchange(11, uint64_t(a[3]) << 32 | a[2]);
    for (int i = 0; i < 32; i++) all_a[i][2] = uint32_t(given[i]), all_a[i][3] = uint32_t(given[i] >> 32);
    given = host::warp_exchange(12, uint64_t(b1) << 32 | b0);
    for (int i = 0; i < 32; i++) all_b[i][0] = uint32_t(given[i]), all_b[i][1] = uint32_t(given[i] >> 32);
    int lane = int(host::lane());
    for (int i = 0; i < 4; i++) {
        int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        for (int k = 0; k < 16; k++) {
            uint32_t x = all_a[row % 8 * 4 + k % 8 / 2][row / 8 + k / 8 * 2];
            uint32_t y = all_b[column * 4 + k % 8 / 2][k / 8];
            c[i] += unpack<T>(x, k % 2) * unpack<T>(y, k % 2);
        }
    }
#endif
}

// Four 8 x 8 matrices of 16-bit numbers: lane 8i + j names where row j of matrix i lies, 16-byte aligned, in shared memory.
// Lane (g, t) gets elements [g][2t] and [g][2t+1] of each.
DEVICE void load_matrices(uint32_t (&to)[4], const void *row) {
#if ON_GPU
    unsigned address = unsigned(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address)
                 : "memory");
#elif !defined(__CUDACC__)
    const uint64_t *rows = host::warp_exchange(13, reinterpret_cast<uint64_t>(row));
    int g = int(host::lane()) / 4, t = int(host::lane()) % 4;
    for (int i = 0; i < 4; i++) memcpy(&to[i], reinterpret_cast<const char *>(rows[8 * i + g]) + 4 * t, 4);
#endif
}

// The same, transposed: lane (g, t) gets elements [2t][g] and [2t+1][g].
DEVICE void load_transposed(uint32_t (&to)[4], const void *row) {
#if ON_GPU
    unsigned address = unsigned(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address)
                 : "memory");
#elif !defined(__CUDACC__)
    const uint64_t *rows = host::warp_exchange(14, reinterpret_cast<uint64_t>(row));
    int g = int(host::lane()) / 4, t = int(host::lane()) % 4;
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 2; j++)
            memcpy(reinterpret_cast<char *>(&to[i]) + 2 * j,
                   reinterpret_cast<const char *>(rows[8 * i + 2 * t + j]) + 2 * g, 2);
#endif
}

// 16 bytes from device memory to shared memory, both aligned; zeros if there is nothing to copy.
DEVICE void copy_16(void *to, const void *from, bool exists) {
#if ON_GPU
    unsigned address = unsigned(__cvta_generic_to_shared(to));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(exists ? 16 : 0) : "memory");
#else
    if (exists) memcpy(to, from, 16);
    else memset(to, 0, 16);
#endif
}

// All copies of this thread have arrived. Others see them after a barrier.
DEVICE void wait_for_copies() {
#if ON_GPU
    asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

// The copies that this thread asked for since the last time are a group.
DEVICE void commit_copies() {
#if ON_GPU
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// All groups of copies of this thread but its last N have arrived. Others see them after a barrier.
template <int N> DEVICE void wait_for_copies_but() {
#if ON_GPU
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#endif
}
