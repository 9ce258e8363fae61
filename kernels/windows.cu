// Around the products that convolutions are made of: windows of maps as rows of a matrix, weights in the order of these rows, and
// the ways back. Maps are [b,h,w,c], channels innermost.
//
// T is f32, f16 or bf16. Row number r of a matrix of windows belongs to place (image, line, pixel) of b x lines x pixels; its column
// (d·across + a)·c + channel is that channel of pixel (line·stride + y0 + d, pixel·stride + x0 + a) of the image, 0 where there is
// none. Rows are `row` values wide, zeros at their end. A thread takes eight channels: launch::pixels(rows, c).
//
// windows_T(to, x, lines, pixels, h, w, c, down, across, stride, y0, x0, row, first, rows)
//   rows first .. first + rows; for many channels: a thread writes its channels of all pixels of a window
// narrow_windows_T(the same), launch::eights(rows·row), row a multiple of 8
//   the same for few channels: a thread writes eight neighbours of a row
// spread_T(dx, from, lines, pixels, h, w, c, stride, y0, x0, add, first, rows)
//   from[rows,c] into pixels (line·stride + y0, pixel·stride + x0) of dx, added to what is there if `add`
// pack_weights_T(to, w, c, row, down, across, of_row, of_channel, tap, of_down, of_across, count), launch::eights(count)
//   to[count / row, row]: column (d·across + a)·c + channel of row i is w[i·of_row + channel·of_channel + tap + d·of_down + a·of_across]
// add_unpacked(dw, sums, taps, i, row, count), launch::eights(count)    dw[o,i,taps] += sums[o,row], in f32
// channels_inside_T(y, x, c, area, count), launch::eights(count)    y[b,area,c] = x[b,c,area]

#include "device.h"

namespace {

// What windows are taken of, and where they lie.
struct Geometry {
    unsigned lines, pixels, h, w, c, down, across, stride;
    int y0, x0;

    // The first pixel of a window and its image's first value.
    DEVICE void corner(unsigned place, int &line, int &column, size_t &image) const {
        column = int(place % pixels * stride) + x0;
        place /= pixels;
        line = int(place % lines * stride) + y0;
        image = size_t(place / lines) * h * w * c;
    }
    // Negative numbers wrap around, and are no places of an image either.
    DEVICE bool has(int line, int column) const { return unsigned(line) < h && unsigned(column) < w; }
    DEVICE size_t at(int line, int column) const { return (size_t(line) * w + column) * c; }
};

template <typename T> DEVICE void windows(T *to, const T *x, const Geometry &g, unsigned row, unsigned first, unsigned rows) {
    unsigned eights = ceil_div(g.c, 8), thread = blockIdx.x * blockDim.x + threadIdx.x, place = thread / eights;
    if (place >= rows) return;
    Eight channels(size_t(thread % eights) * 8, g.c, g.c % 8 == 0 && row % 8 == 0 && are_aligned(to, x));
    int line, column;
    size_t image;
    g.corner(first + place, line, column, image);
    T *out = to + size_t(place) * row;
    for (unsigned d = 0; d < g.down; d++)
        for (unsigned a = 0; a < g.across; a++, out += g.c) {
            float values[8] = {};
            if (g.has(line + d, column + a)) channels.load(x + image + g.at(line + d, column + a), values);
            channels.store(out, values);
        }
    if (thread % eights != 0) return;
    for (unsigned i = g.down * g.across * g.c; i < row; i++) *out++ = from_f32<T>(0.0f);
}

template <typename T>
DEVICE void narrow_windows(T *to, const T *x, const Geometry &g, unsigned row, unsigned first, unsigned rows) {
    Eight eight(first_of_thread(), size_t(rows) * row, is_aligned(to));
    if (eight.count == 0) return;
    unsigned place = unsigned(eight.at / row), at = unsigned(eight.at % row);
    unsigned channel = at % g.c, a = at / g.c % g.across, d = at / (g.c * g.across);
    int line, column;
    size_t image;
    g.corner(first + place, line, column, image);
    float values[8];
#pragma unroll
    for (int i = 0; i < 8; i++) {
        bool inside = d < g.down && g.has(line + int(d), column + int(a));
        values[i] = inside ? to_f32(x[image + g.at(line + int(d), column + int(a)) + channel]) : 0.0f;
        if (++channel < g.c) continue;
        channel = 0;
        if (++a < g.across) continue;
        a = 0;
        d++;
    }
    eight.store(to, values);
}

template <typename T> DEVICE void spread(T *dx, const T *from, const Geometry &g, unsigned add, unsigned first, unsigned rows) {
    unsigned eights = ceil_div(g.c, 8), thread = blockIdx.x * blockDim.x + threadIdx.x, place = thread / eights;
    if (place >= rows) return;
    Eight channels(size_t(thread % eights) * 8, g.c, g.c % 8 == 0 && are_aligned(dx, from));
    int line, column;
    size_t image;
    g.corner(first + place, line, column, image);
    float values[8], before[8];
    channels.load(from + size_t(place) * g.c, values);
    T *to = dx + image + g.at(line, column);
    if (add) {
        channels.load(to, before);
#pragma unroll
        for (int j = 0; j < 8; j++) values[j] += before[j];
    }
    channels.store(to, values);
}

// Where weights lie that stand side by side in a row.
struct Order {
    unsigned c, row, down, across;
    int of_row, of_channel, tap, of_down, of_across;
};

template <typename T> DEVICE void pack_weights(T *to, const T *w, const Order &order, size_t count) {
    Eight eight(first_of_thread(), count, is_aligned(to));
    if (eight.count == 0) return;
    float values[8];
#pragma unroll
    for (int i = 0; i < 8; i++) {
        size_t at = eight.at + i;
        unsigned column = unsigned(at % order.row), tap = column / order.c, channel = column % order.c;
        ptrdiff_t from = ptrdiff_t(at / order.row) * order.of_row + ptrdiff_t(channel) * order.of_channel + order.tap +
                         int(tap / order.across) * order.of_down + int(tap % order.across) * order.of_across;
        values[i] = i < eight.count && tap < order.down * order.across ? to_f32(w[from]) : 0.0f;
    }
    eight.store(to, values);
}

template <typename T> DEVICE void channels_inside(T *y, const T *x, unsigned c, unsigned area, size_t count) {
    Eight eight(first_of_thread(), count, is_aligned(y));
    if (eight.count == 0) return;
    float values[8];
#pragma unroll
    for (int i = 0; i < 8; i++) {
        size_t at = eight.at + i, pixel = at / c;
        values[i] = i < eight.count ? to_f32(x[(pixel / area * c + at % c) * area + pixel % area]) : 0.0f;
    }
    eight.store(y, values);
}

} // namespace

#define ENTRIES(T, suffix)                                                                                             \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        windows_##suffix(T *to, const T *x, unsigned lines, unsigned pixels, unsigned h, unsigned w, unsigned c,       \
                         unsigned down, unsigned across, unsigned stride, int y0, int x0, unsigned row, unsigned first, \
                         unsigned rows) {                                                                              \
        windows<T>(to, x, Geometry{lines, pixels, h, w, c, down, across, stride, y0, x0}, row, first, rows);           \
    }                                                                                                                  \
    EXPORT(windows_##suffix)                                                                                           \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        narrow_windows_##suffix(T *to, const T *x, unsigned lines, unsigned pixels, unsigned h, unsigned w, unsigned c, \
                                unsigned down, unsigned across, unsigned stride, int y0, int x0, unsigned row,         \
                                unsigned first, unsigned rows) {                                                       \
        narrow_windows<T>(to, x, Geometry{lines, pixels, h, w, c, down, across, stride, y0, x0}, row, first, rows);    \
    }                                                                                                                  \
    EXPORT(narrow_windows_##suffix)                                                                                    \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        spread_##suffix(T *dx, const T *from, unsigned lines, unsigned pixels, unsigned h, unsigned w, unsigned c,     \
                        unsigned stride, int y0, int x0, unsigned add, unsigned first, unsigned rows) {                \
        spread<T>(dx, from, Geometry{lines, pixels, h, w, c, 1, 1, stride, y0, x0}, add, first, rows);                 \
    }                                                                                                                  \
    EXPORT(spread_##suffix)                                                                                            \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        pack_weights_##suffix(T *to, const T *w, unsigned c, unsigned row, unsigned down, unsigned across, int of_row, \
                              int of_channel, int tap, int of_down, int of_across, uint64_t count) {                   \
        pack_weights<T>(to, w, Order{c, row, down, across, of_row, of_channel, tap, of_down, of_across}, count);       \
    }                                                                                                                  \
    EXPORT(pack_weights_##suffix)                                                                                      \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        channels_inside_##suffix(T *y, const T *x, unsigned c, unsigned area, uint64_t count) {                        \
        channels_inside<T>(y, x, c, area, count);                                                                      \
    }                                                                                                                  \
    EXPORT(channels_inside_##suffix)

FOR_ALL_FORMATS(ENTRIES)

extern "C" __global__ void __launch_bounds__(256)
    add_unpacked(float *dw, const float *sums, unsigned taps, unsigned i, unsigned row, uint64_t count) {
    Eight eight(first_of_thread(), count, is_aligned(dw));
    if (eight.count == 0) return;
    float values[8];
    eight.load(dw, values);
#pragma unroll
    for (int j = 0; j < 8; j++) {
        size_t at = eight.at + j;
        unsigned tap = unsigned(at % taps), input = unsigned(at / taps % i);
        if (j < eight.count) values[j] += sums[at / (size_t(taps) * i) * row + size_t(tap) * i + input];
    }
    eight.store(dw, values);
}
EXPORT(add_unpacked)
