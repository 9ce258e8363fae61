// Tiles of 64 columns of f32 in shared memory, and the products that a block of 16 x 16 threads makes of them.
//
// A tile's row takes 68 floats, so that sixteen threads that read 16 bytes each of sixteen rows hit all banks evenly. Thread
// (ty, tx) = (threadIdx.x / 16, threadIdx.x % 16) owns R rows ty·R.. of a result and four columns: 4·tx.. where columns lie
// side by side in the operand, tx + 16·j where they are rows of it.
#pragma once

#include "device.h"

constexpr int TILE = 64;
constexpr int TILE_STRIDE = TILE + 4;

FN float4 at_4(const float *p) { return *reinterpret_cast<const float4 *>(p); }

// Rows first.. of a matrix of `token` elements from row to row, of which 64 columns are wanted; rows from `end` on are 0.
template <int ROWS, typename T>
DEVICE void load_tile(float *tile, const T *from, size_t token, unsigned first, unsigned end, float factor) {
    bool aligned = token % 8 == 0 && is_aligned(from);
    for (int i = int(threadIdx.x); i < ROWS * 8; i += 256) {
        int row = i / 8, column = i % 8 * 8;
        float x[8] = {};
        if (first + row < end) Eight(column, TILE, aligned).load(from + (first + row) * token, x);
        float *to = tile + row * TILE_STRIDE + column;
#pragma unroll
        for (int j = 0; j < 8; j++) to[j] = x[j] * factor;
    }
}

// c[i][j] += Σ over 64 columns of a[ty·R + i][·]·b[tx + 16·j][·]
template <int R> DEVICE void add_rows_by_rows(float (&c)[R][4], const float *a, const float *b) {
    int ty = int(threadIdx.x) / 16, tx = int(threadIdx.x) % 16;
#pragma unroll 4
    for (int e = 0; e < TILE; e += 4) {
        float4 x[R], y[4];
#pragma unroll
        for (int i = 0; i < R; i++) x[i] = at_4(a + (ty * R + i) * TILE_STRIDE + e);
#pragma unroll
        for (int j = 0; j < 4; j++) y[j] = at_4(b + (tx + 16 * j) * TILE_STRIDE + e);
#pragma unroll
        for (int i = 0; i < R; i++)
#pragma unroll
            for (int j = 0; j < 4; j++) {
                c[i][j] = fmaf(x[i].x, y[j].x, c[i][j]);
                c[i][j] = fmaf(x[i].y, y[j].y, c[i][j]);
                c[i][j] = fmaf(x[i].z, y[j].z, c[i][j]);
                c[i][j] = fmaf(x[i].w, y[j].w, c[i][j]);
            }
    }
}

DEVICE void add_outer(float (&c)[4], float x, float4 y) {
    c[0] = fmaf(x, y.x, c[0]);
    c[1] = fmaf(x, y.y, c[1]);
    c[2] = fmaf(x, y.z, c[2]);
    c[3] = fmaf(x, y.w, c[3]);
}

// c[i][j] += Σ over k < 64 of a[ty·4 + i][k]·b[k][4·tx + j]
DEVICE void add_rows_by_columns(float (&c)[4][4], const float *a, const float *b) {
    int ty = int(threadIdx.x) / 16, tx = int(threadIdx.x) % 16;
#pragma unroll 4
    for (int k = 0; k < TILE; k += 4) {
        float4 x[4];
#pragma unroll
        for (int i = 0; i < 4; i++) x[i] = at_4(a + (ty * 4 + i) * TILE_STRIDE + k);
#pragma unroll
        for (int step = 0; step < 4; step++) {
            float4 y = at_4(b + (k + step) * TILE_STRIDE + 4 * tx);
#pragma unroll
            for (int i = 0; i < 4; i++)
                add_outer(c[i], step == 0 ? x[i].x : step == 1 ? x[i].y : step == 2 ? x[i].z : x[i].w, y);
        }
    }
}

// c[i][j] += Σ over k < K of a[k][ty·4 + i]·b[k][4·tx + j]
template <int K> DEVICE void add_columns_by_columns(float (&c)[4][4], const float *a, const float *b) {
    int ty = int(threadIdx.x) / 16, tx = int(threadIdx.x) % 16;
#pragma unroll 8
    for (int k = 0; k < K; k++) {
        float4 x = at_4(a + k * TILE_STRIDE + 4 * ty), y = at_4(b + k * TILE_STRIDE + 4 * tx);
        add_outer(c[0], x.x, y);
        add_outer(c[1], x.y, y);
        add_outer(c[2], x.z, y);
        add_outer(c[3], x.w, y);
    }
}

// The result's rows ty·4.. as columns 4·tx.. of rows first.. of a matrix.
template <typename T>
DEVICE void store_columns(T *to, size_t token, unsigned first, unsigned end, const float (&c)[4][4]) {
    int ty = int(threadIdx.x) / 16, tx = int(threadIdx.x) % 16;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        unsigned row = first + ty * 4 + i;
        if (row >= end) continue;
#pragma unroll
        for (int j = 0; j < 4; j++) to[row * token + 4 * tx + j] = from_f32<T>(c[i][j]);
    }
}
