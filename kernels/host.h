// The CUDA execution model on an ordinary processor, as far as our kernels use it: their sources, built by a C++17
// compiler, run here block by block, every thread of a block a fiber of its own.
//
// Barriers and warp exchanges really wait, so a kernel that forgets one, or that only some threads reach, is caught: a
// launch can run its threads in several orders (results must not differ), shared memory starts as 0xff bytes in every block, and
// a deadlock, an overrun of shared memory or diverged collectives come back as an error text. Tensor-core instructions are
// spelled out in mma.h. What is left to a GPU: speed. Blocks run one after the other; floating-point atomics are left out on purpose,
// because their sums depend on the order.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <utility>

namespace host {

struct Index {
    unsigned x, y, z;
};

// Where the running fiber is. Only the runtime (host.cpp) writes these.
extern __thread Index thread_index, block_index, block_size, grid_size;

constexpr unsigned WARP = 32;

// All threads of the block (that have not returned) arrive; a block in which one returned before is refused.
void block_barrier();

// All lanes of the warp give eight bytes; returns those of all, valid until the warp's next exchange.
// `kind` must be the same in all lanes.
const uint64_t *warp_exchange(int kind, uint64_t given);

unsigned lane();

// The same bytes for all threads of the block and the same `tag`; 16-byte aligned, 0xff at the start of the block.
void *static_shared(const void *tag, size_t bytes);
void *dynamic_shared();

// Ends the launch with an error text.
[[noreturn]] void refuse(const char *what);

struct Work {
    void (*run)(void *context);
    void *context;
};

// Runs a grid. `order` says in which order the threads of a block take turns: 0 ascending, each warp as far ahead as barriers
// let it; 1 the same, descending; other numbers are the seeds of orders drawn anew at each turn, all threads advancing side
// by side. Returns null, or what went wrong.
const char *launch(const unsigned grid[3], const unsigned block[3], unsigned shared_bytes, unsigned order, Work work);

// Calls a kernel whose arguments lie behind `args` as they do for cuLaunchKernel.
template <typename... A, size_t... I>
const char *call(void (*kernel)(A...), const unsigned *grid, const unsigned *block, unsigned shared_bytes, void **args,
                 unsigned order, std::index_sequence<I...>) {
    auto bound = std::make_tuple(kernel, *static_cast<A *>(args[I])...);
    Work work;
    work.context = &bound;
    work.run = [](void *context) {
        auto &all = *static_cast<decltype(bound) *>(context);
        std::get<0>(all)(std::get<I + 1>(all)...);
    };
    return launch(grid, block, shared_bytes, order, work);
}

template <typename... A>
const char *call(void (*kernel)(A...), const unsigned *grid, const unsigned *block, unsigned shared_bytes, void **args,
                 unsigned order) {
    return call(kernel, grid, block, shared_bytes, args, order, std::index_sequence_for<A...>{});
}

template <typename... A> constexpr unsigned count_arguments(void (*)(A...)) { return sizeof...(A); }

template <typename T> uint64_t to_bits(T value) {
    static_assert(sizeof(T) <= 8, "a lane exchanges at most eight bytes");
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof(T));
    return bits;
}

template <typename T> T from_bits(uint64_t bits) {
    T value;
    std::memcpy(&value, &bits, sizeof(T));
    return value;
}

inline void whole_warp(unsigned mask) {
    if (mask != 0xffffffffu) refuse("a warp exchange without all lanes");
}

} // namespace host

#define threadIdx (host::thread_index)
#define blockIdx (host::block_index)
#define blockDim (host::block_size)
#define gridDim (host::grid_size)

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

// A shared array. Under nvcc these are __shared__ declarations.
#define SHARED(type, name, count)                                                                                      \
    static const char name##_tag = 0;                                                                                  \
    type *const name = static_cast<type *>(host::static_shared(&name##_tag, sizeof(type) * (count)))
#define DYNAMIC_SHARED(type, name) type *const name = static_cast<type *>(host::dynamic_shared())

// Beside a kernel, for whoever has to keep its arguments: how many there are.
#define EXPORT(kernel)                                                                                                 \
    extern "C" __attribute__((visibility("default"))) const unsigned kernel##_host_arguments;                          \
    const unsigned kernel##_host_arguments = host::count_arguments(kernel);                                            \
    extern "C" const char *kernel##_host(const unsigned *grid, const unsigned *block, unsigned shared_bytes,           \
                                         void **args, unsigned order) {                                                \
        return host::call(kernel, grid, block, shared_bytes, args, order);                                             \
    }

inline void __syncthreads() { host::block_barrier(); }

inline void __syncwarp(unsigned mask = 0xffffffffu) {
    host::whole_warp(mask);
    host::warp_exchange(1, 0);
}

template <typename T> T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
    host::whole_warp(mask);
    int lane = int(host::lane());
    return host::from_bits<T>(host::warp_exchange(2, host::to_bits(value))[(lane & ~(width - 1)) | (source & (width - 1))]);
}

template <typename T> T __shfl_xor_sync(unsigned mask, T value, int other, int width = 32) {
    host::whole_warp(mask);
    int lane = int(host::lane()), source = lane ^ other;
    const uint64_t *all = host::warp_exchange(3, host::to_bits(value));
    return host::from_bits<T>(all[(source & ~(width - 1)) <= (lane & ~(width - 1)) ? source : lane]);
}

template <typename T> T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32) {
    host::whole_warp(mask);
    unsigned lane = host::lane(), source = lane + by;
    const uint64_t *all = host::warp_exchange(4, host::to_bits(value));
    return host::from_bits<T>(all[source / unsigned(width) == lane / unsigned(width) ? source : lane]);
}

inline unsigned __ballot_sync(unsigned mask, int predicate) {
    host::whole_warp(mask);
    const uint64_t *all = host::warp_exchange(5, predicate != 0);
    unsigned bits = 0;
    for (unsigned i = 0; i < host::WARP; i++) bits |= unsigned(all[i] & 1) << i;
    return bits;
}

inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }

using std::isfinite;
using std::max;
using std::min;

inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }

inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
    return unsigned((uint64_t(high) << 32 | low) >> (shift & 31));
}

// Four of the eight bytes of two words; only the plain selectors 0 to 7.
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
    uint64_t both = uint64_t(b) << 32 | a;
    unsigned result = 0;
    for (int i = 0; i < 4; i++) result |= unsigned(both >> (8 * (selector >> (4 * i) & 7)) & 255) << (8 * i);
    return result;
}

struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};

// IEEE binary16 and bfloat16 as they lie in memory; arithmetic is in float.
struct __half {
    uint16_t bits;
};
struct __nv_bfloat16 {
    uint16_t bits;
};

float __half2float(__half x);
__half __float2half_rn(float x);
float __bfloat162float(__nv_bfloat16 x);
__nv_bfloat16 __float2bfloat16_rn(float x);
