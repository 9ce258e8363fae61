// Sums over the rows of a matrix, column by column, in two stages with a fixed order: a dense layer's bias gradient.
//
// T is f32, f16 or bf16; launch::RowSums::new(n, d) says rows and parts.
//
// column_sums_partial_T(partial, x, rows, n, d)    partial[parts,d] f32: sums over `rows` rows each of x[n,d]
// column_sums_finish(sums, partial, parts, d), launch::columns(d)    sums[d] f32 += Σ partial in the order of the parts

#include "device.h"

namespace {

// Block (32, 8): a warp takes every eighth row of the part, a lane eight columns.
template <typename T> DEVICE void partial_sums(float *partial, const T *x, unsigned rows, unsigned n, unsigned d) {
    constexpr int WARPS = 8;
    SHARED(float, sums, WARPS * 8 * LANES);
    unsigned column = (blockIdx.x * LANES + threadIdx.x) * 8, part = blockIdx.y;
    unsigned end = min(n, (part + 1) * rows);
    Eight eight(column, d, d % 8 == 0 && is_aligned(x));
    float total[8] = {};
    for (unsigned i = part * rows + threadIdx.y; i < end; i += WARPS) {
        float values[8];
        eight.load(x + size_t(i) * d, values);
#pragma unroll
        for (int j = 0; j < 8; j++) total[j] += values[j];
    }
    // [warp][j][lane]: neighbouring lanes in neighbouring banks.
#pragma unroll
    for (int j = 0; j < 8; j++) sums[(threadIdx.y * 8 + j) * LANES + threadIdx.x] = total[j];
    __syncthreads();
    // Warp j adds up value j of all warps.
    unsigned j = threadIdx.y;
    if (column + j >= d) return;
    float sum = 0.0f;
#pragma unroll
    for (int warp = 0; warp < WARPS; warp++) sum += sums[(warp * 8 + j) * LANES + threadIdx.x];
    partial[size_t(part) * d + column + j] = sum;
}

} // namespace

#define ENTRIES(T, suffix)                                                                                             \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        column_sums_partial_##suffix(float *partial, const T *x, unsigned rows, unsigned n, unsigned d) {              \
        partial_sums<T>(partial, x, rows, n, d);                                                                       \
    }                                                                                                                  \
    EXPORT(column_sums_partial_##suffix)

FOR_ALL_FORMATS(ENTRIES)

extern "C" __global__ void __launch_bounds__(256)
    column_sums_finish(float *sums, const float *partial, unsigned parts, unsigned d) {
    unsigned column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= d) return;
    float total = 0.0f;
    for (unsigned part = 0; part < parts; part++) total += partial[size_t(part) * d + column];
    sums[column] += total;
}
EXPORT(column_sums_finish)
