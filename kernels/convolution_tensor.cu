// Convolutions of maps with many channels on tensor cores: products whose left factor, windows of maps, is gathered on the way
// into shared memory and never lies unfolded anywhere.
//
// T is f16 or bf16, sums are f32. Windows are those of windows.cu, with rows of exactly down·across·c values; c is a multiple of 32,
// and all arrays are 16-byte aligned. Weights are packed: w[n, down·across·c], as pack_weights makes them.
//
// convolution_tensor_128_T, convolution_tensor_64_T(y, x, w, rows, n, lines, pixels, h, w, c, down, across, stride, y0, x0, to_h, to_w,
//     to_stride, to_y0, to_x0, add), launch::ConvolutionTiles::new(rows, n)
//   place (image, line, pixel) of b x lines x pixels, of which there are `rows`, gives n channels of pixel
//   (line·to_stride + to_y0, pixel·to_stride + to_x0) of y[b,to_h,to_w,n], added to what is there if `add`
//
// A block makes a tile of 128 places by 128 or 64 channels in steps of 32 values, three of which are on their way at a time; its
// eight warps make 32 places each by half of the channels. Rows of shared memory are 80 bytes apart, so that the eight that a
// matrix load reads lie in different banks.

#include "mma.h"

namespace {

constexpr int PLACES = 128, STEP = 32, STAGES = 3, ROW = STEP + 8;

struct Shape {
    unsigned rows, n, lines, pixels, h, w, c, down, across, stride;
    int y0, x0;
    unsigned to_h, to_w, to_stride, to_y0, to_x0, add;
};

// A place's window: where its image begins, and its first pixel.
struct Window {
    size_t image;
    int line, column;
    bool exists;

    DEVICE Window(const Shape &s, unsigned place) : exists(place < s.rows) {
        column = int(place % s.pixels * s.stride) + s.x0;
        place /= s.pixels;
        line = int(place % s.lines * s.stride) + s.y0;
        image = size_t(place / s.lines) * s.h * s.w * s.c;
    }
};

// The next 32 values of every row: which place of the kernel, and from which channel on.
struct Step {
    unsigned d = 0, a = 0, channel = 0;
    DEVICE void advance(const Shape &s) {
        channel += STEP;
        if (channel < s.c) return;
        channel = 0;
        if (++a < s.across) return;
        a = 0;
        d++;
    }
};

template <typename T, int CHANNELS> struct Tiles {
    static constexpr int WIDE = CHANNELS / 2 / 8; // products side by side of a warp
    static constexpr int STAGE = (PLACES + CHANNELS) * ROW;

    T *shared;

    DEVICE T *places(unsigned stage) const { return shared + stage % STAGES * STAGE; }
    DEVICE T *weights(unsigned stage) const { return places(stage) + PLACES * ROW; }

    DEVICE void load(unsigned stage, const T *x, const T *w, const Shape &s, const Window (&windows)[2], unsigned first, size_t row,
                     unsigned at, const Step &step) const {
        unsigned quarter = threadIdx.x % 4 * 8, of_thread = threadIdx.x / 4;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const Window &window = windows[i];
            int line = window.line + int(step.d), column = window.column + int(step.a);
            bool exists = window.exists && unsigned(line) < s.h && unsigned(column) < s.w;
            size_t from = window.image + (size_t(line) * s.w + column) * s.c + step.channel + quarter;
            copy_16(places(stage) + (of_thread + 64 * i) * ROW + quarter, x + (exists ? from : 0), exists);
        }
#pragma unroll
        for (int i = 0; i < CHANNELS / 64; i++) {
            unsigned channel = first + of_thread + 64 * i;
            bool exists = channel < s.n;
            copy_16(weights(stage) + (of_thread + 64 * i) * ROW + quarter, w + (exists ? channel * row + at + quarter : 0), exists);
        }
    }

    DEVICE void multiply(float (&c)[2][WIDE][4], unsigned stage) const {
        unsigned warp = threadIdx.x / LANES, lane = threadIdx.x % LANES;
        const T *a_rows = places(stage) + (warp / 2 * 32 + lane % 16) * ROW + lane / 16 * 8;
        const T *b_rows = weights(stage) + (warp % 2 * (CHANNELS / 2) + lane / 16 * 8 + lane % 8) * ROW + lane / 8 % 2 * 8;
#pragma unroll
        for (int k = 0; k < STEP; k += 16) {
            uint32_t a[2][4], b[4];
            load_matrices(a[0], a_rows + k);
            load_matrices(a[1], a_rows + 16 * ROW + k);
#pragma unroll
            for (int j = 0; j < WIDE; j += 2) {
                load_matrices(b, b_rows + j * 8 * ROW + k);
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    mma<T>(c[i][j], a[i], b[0], b[1]);
                    mma<T>(c[i][j + 1], a[i], b[2], b[3]);
                }
            }
        }
    }
};

template <typename T, int CHANNELS> DEVICE void convolve(T *y, const T *x, const T *w, const Shape &s) {
    using Tile = Tiles<T, CHANNELS>;
    DYNAMIC_SHARED(T, shared);
    Tile tile{shared};
    unsigned across = ceil_div(s.n, CHANNELS), first_place = blockIdx.x / across * PLACES, first = blockIdx.x % across * CHANNELS;
    unsigned steps = s.down * s.across * (s.c / STEP);
    size_t row = size_t(steps) * STEP;
    const Window windows[2] = {Window(s, first_place + threadIdx.x / 4), Window(s, first_place + threadIdx.x / 4 + 64)};
    Step next;
    float c[2][Tile::WIDE][4] = {};
    for (unsigned stage = 0; stage < STAGES - 1; stage++) {
        if (stage < steps) tile.load(stage, x, w, s, windows, first, row, stage * STEP, next);
        next.advance(s);
        commit_copies();
    }
    for (unsigned stage = 0; stage < steps; stage++) {
        wait_for_copies_but<STAGES - 2>();
        __syncthreads(); // all have multiplied what the next copies replace
        unsigned ahead = stage + STAGES - 1;
        if (ahead < steps) tile.load(ahead, x, w, s, windows, first, row, ahead * STEP, next);
        next.advance(s);
        commit_copies();
        tile.multiply(c, stage);
    }
    unsigned warp = threadIdx.x / LANES, lane = threadIdx.x % LANES;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        unsigned place = first_place + warp / 2 * 32 + i * 8 + lane / 4;
        if (place >= s.rows) continue;
        unsigned pixel = place % s.pixels, line = place / s.pixels % s.lines, image = place / (s.pixels * s.lines);
        size_t at = (size_t(image) * s.to_h + line * s.to_stride + s.to_y0) * s.to_w + pixel * s.to_stride + s.to_x0;
#pragma unroll
        for (int j = 0; j < Tile::WIDE; j++) {
            unsigned channel = first + warp % 2 * (CHANNELS / 2) + j * 8 + lane % 4 * 2;
            if (channel >= s.n) continue;
            float low = c[i / 2][j][i % 2 * 2], high = c[i / 2][j][i % 2 * 2 + 1];
            T *to = y + at * s.n + channel;
            if (s.n % 2 == 0) {
                uint32_t *pair = reinterpret_cast<uint32_t *>(to);
                if (s.add) {
                    uint32_t before = *pair;
                    T old[2];
                    memcpy(old, &before, 4);
                    low += to_f32(old[0]);
                    high += to_f32(old[1]);
                }
                *pair = pack_2<T>(low, high);
                continue;
            }
            to[0] = from_f32<T>(low + (s.add ? to_f32(to[0]) : 0.0f));
            if (channel + 1 < s.n) to[1] = from_f32<T>(high + (s.add ? to_f32(to[1]) : 0.0f));
        }
    }
}

} // namespace

#define ENTRY(T, suffix, channels)                                                                                     \
    extern "C" __global__ void __launch_bounds__(256, 2) convolution_tensor_##channels##_##suffix(                     \
        T *y, const T *x, const T *weights, unsigned rows, unsigned n, unsigned lines, unsigned pixels, unsigned h,    \
        unsigned w, unsigned c, unsigned down, unsigned across, unsigned stride, int y0, int x0, unsigned to_h,        \
        unsigned to_w, unsigned to_stride, unsigned to_y0, unsigned to_x0, unsigned add) {                             \
        convolve<T, channels>(y, x, weights,                                                                           \
                              Shape{rows, n, lines, pixels, h, w, c, down, across, stride, y0, x0, to_h, to_w,         \
                                    to_stride, to_y0, to_x0, add});                                                    \
    }                                                                                                                  \
    EXPORT(convolution_tensor_##channels##_##suffix)

ENTRY(f16, f16, 128)
ENTRY(bf16, bf16, 128)
ENTRY(f16, f16, 64)
ENTRY(bf16, bf16, 64)
