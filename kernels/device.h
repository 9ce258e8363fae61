// What every kernel file starts from: the CUDA language or its stand-in on the host, number types, vectors, reductions.
//
// Rules of the house. Arithmetic is float (f32) whatever the storage. The files are compiled with -fmad=false: what shall be
// one rounding is written fmaf, so the host build and the GPU compute the same bits except where a function says that
// it is approximate. Sums have an order that depends on shapes only; there are no floating-point atomics. A kernel never
// assumes that a pointer is aligned beyond its element or that a size is a multiple of anything; it takes the fast way
// where both hold. Every launch shape comes from src/ops/launch.rs.
// Number formats in names of entry points: f32, f16 (binary16), bf16 (bfloat16).
#pragma once

#ifdef __CUDACC__
#include <cstdint>
#include <cstring>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define SHARED(type, name, count) __shared__ type name[count]
#define DYNAMIC_SHARED(type, name)                                                                                     \
    extern __shared__ __align__(16) unsigned char dynamic_shared_bytes[];                                              \
    type *const name = reinterpret_cast<type *>(dynamic_shared_bytes)
#define EXPORT(kernel)
#define FN __host__ __device__ __forceinline__
#define DEVICE __device__ __forceinline__
#else
#include "host.h"
#define FN inline
#define DEVICE inline
#endif

// Compiled for a GPU, not for the host: hardware approximations and inline PTX are possible.
#if defined(__CUDA_ARCH__)
#define ON_GPU 1
#else
#define ON_GPU 0
#endif

using f16 = __half;
using bf16 = __nv_bfloat16;

constexpr unsigned WHOLE_WARP = 0xffffffffu;
constexpr int LANES = 32;

FN float to_f32(float x) { return x; }
FN float to_f32(f16 x) { return __half2float(x); }
FN float to_f32(bf16 x) { return __bfloat162float(x); }

template <typename T> FN T from_f32(float x);
template <> FN float from_f32<float>(float x) { return x; }
template <> FN f16 from_f32<f16>(float x) { return __float2half_rn(x); }
template <> FN bf16 from_f32<bf16>(float x) { return __float2bfloat16_rn(x); }

// What storing as T and reading again makes of a value.
template <typename T> FN float rounded(float x) { return to_f32(from_f32<T>(x)); }

// As many T as one 16-byte access moves.
template <typename T> struct alignas(16) Pack {
    static constexpr int N = 16 / int(sizeof(T));
    T at[N];
};

template <typename T> DEVICE Pack<T> load_pack(const T *from) {
    uint4 raw = *reinterpret_cast<const uint4 *>(from);
    Pack<T> pack;
    memcpy(&pack, &raw, sizeof(raw));
    return pack;
}

template <typename T> DEVICE void store_pack(T *to, const Pack<T> &pack) {
    uint4 raw;
    memcpy(&raw, &pack, sizeof(raw));
    *reinterpret_cast<uint4 *>(to) = raw;
}

// Eight consecutive values as float: one access of 16-bit numbers, two of f32. `from` is 16-byte aligned.
template <typename T> DEVICE void load_8(const T *from, float (&x)[8]) {
#pragma unroll
    for (int i = 0; i < 8; i += Pack<T>::N) {
        Pack<T> pack = load_pack(from + i);
#pragma unroll
        for (int j = 0; j < Pack<T>::N; j++) x[i + j] = to_f32(pack.at[j]);
    }
}

template <typename T> DEVICE void store_8(T *to, const float (&x)[8]) {
#pragma unroll
    for (int i = 0; i < 8; i += Pack<T>::N) {
        Pack<T> pack;
#pragma unroll
        for (int j = 0; j < Pack<T>::N; j++) pack.at[j] = from_f32<T>(x[i + j]);
        store_pack(to + i, pack);
    }
}

// `count` of eight (0 to 8) consecutive values, one by one; the others read as 0.
template <typename T> DEVICE void load_some(const T *from, int count, float (&x)[8]) {
#pragma unroll
    for (int i = 0; i < 8; i++) x[i] = i < count ? to_f32(from[i]) : 0.0f;
}

template <typename T> DEVICE void store_some(T *to, int count, const float (&x)[8]) {
#pragma unroll
    for (int i = 0; i < 8; i++)
        if (i < count) to[i] = from_f32<T>(x[i]);
}

template <typename T> FN bool is_aligned(const T *p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

// A null pointer is as aligned as any: it is never followed.
template <typename... T> FN bool are_aligned(const T *...p) { return (is_aligned(p) && ...); }

// Up to eight consecutive values from `at` on that a thread takes together.
struct Eight {
    size_t at;
    int count;  // 0 to 8
    bool whole; // eight, and at an address for whole vectors

    // `aligned`: at == 0 would be 16-byte aligned in every array that is used.
    FN Eight(size_t at, size_t end, bool aligned)
        : at(at), count(at >= end ? 0 : end - at < 8 ? int(end - at) : 8), whole(aligned && at % 8 == 0 && count == 8) {}

    template <typename T> DEVICE void load(const T *from, float (&x)[8]) const {
        if (whole) load_8(from + at, x);
        else load_some(from + at, count, x);
    }
    template <typename T> DEVICE void store(T *to, const float (&x)[8]) const {
        if (whole) store_8(to + at, x);
        else store_some(to + at, count, x);
    }
};

// The first value of this thread's eight, if a grid of lines has one thread for each eight.
DEVICE size_t first_of_thread() { return (size_t(blockIdx.x) * blockDim.x + threadIdx.x) * 8; }

// Sum over the lanes of a warp, the same bits in all of them.
DEVICE float warp_sum(float x) {
#pragma unroll
    for (int other = LANES / 2; other > 0; other /= 2) x += __shfl_xor_sync(WHOLE_WARP, x, other);
    return x;
}

// NaN wins.
FN float larger(float a, float b) { return a > b || a != a ? a : b; }

// Sum and maximum over the threads of a block of at most 1024, the same bits in all of them. All threads take part.
template <typename T, typename Join> DEVICE T block_reduce(T x, T neutral, Join join) {
    SHARED(T, of_warps, LANES);
    unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    unsigned warps = (blockDim.x * blockDim.y * blockDim.z + LANES - 1) / LANES;
#pragma unroll
    for (int other = LANES / 2; other > 0; other /= 2) x = join(x, __shfl_xor_sync(WHOLE_WARP, x, other));
    __syncthreads(); // whoever reads an earlier result is done
    if (thread % LANES == 0) of_warps[thread / LANES] = x;
    __syncthreads();
    x = thread % LANES < warps ? of_warps[thread % LANES] : neutral;
#pragma unroll
    for (int other = LANES / 2; other > 0; other /= 2) x = join(x, __shfl_xor_sync(WHOLE_WARP, x, other));
    return x;
}

FN unsigned ceil_div(unsigned a, unsigned b) { return (a + b - 1) / b; }

struct Sum {
    template <typename T> DEVICE T operator()(T a, T b) const { return a + b; }
};
struct Largest {
    DEVICE float operator()(float a, float b) const { return larger(a, b); }
};

template <typename T> DEVICE T block_sum(T x) { return block_reduce(x, T(0), Sum{}); }
DEVICE float block_max(float x) { return block_reduce(x, -INFINITY, Largest{}); }

// Entry points for every number format: ENTRIES is a macro (T, suffix) of declarations.
#define FOR_ALL_FORMATS(ENTRIES) ENTRIES(float, f32) ENTRIES(f16, f16) ENTRIES(bf16, bf16)
