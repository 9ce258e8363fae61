// Pooling of maps, channels innermost: the largest of 3x3 pixels at every second place, padded by one; the mean of an image.
//
// T is f32, f16 or bf16. A thread takes eight channels of a pixel: launch::pixels(pixels, c).
//
// max_pool_T(y, places, x, b, lines, pixels, h, w, c)
//   y[b,lines,pixels,c] of x[b,h,w,c]; places, u8, says which of a window's nine was the largest. The first of equal ones wins, and
//   what is no number stays.
// max_pool_backward_T(dx, dy, places, b, lines, pixels, h, w, c)    every result's gradient goes to where its value came from
// mean_pool_T(y, x, b, area, c)    y[b,c] of x[b,area,c]; of pixels there are b
// mean_pool_backward_T(dx, dy, b, area, c)    dx[b,area,c]

#include "device.h"

namespace {

constexpr int SIDE = 3, STRIDE = 2;

// The eight channels and the pixel (of all images) of this thread.
struct Place {
    unsigned pixel;
    Eight eight;
    DEVICE Place(unsigned c, bool aligned) : Place(c, aligned, blockIdx.x * blockDim.x + threadIdx.x, ceil_div(c, 8)) {}
    DEVICE Place(unsigned c, bool aligned, unsigned thread, unsigned eights)
        : pixel(thread / eights), eight(size_t(thread % eights) * 8, c, aligned && c % 8 == 0) {}
};

template <typename T>
DEVICE void max_pool(T *y, uint8_t *places, const T *x, unsigned b, unsigned lines, unsigned pixels, unsigned h, unsigned w,
                     unsigned c) {
    Place place(c, are_aligned(y, x));
    if (place.pixel >= b * lines * pixels) return;
    unsigned across = place.pixel % pixels, down = place.pixel / pixels % lines, image = place.pixel / (pixels * lines);
    float largest[8], values[8];
    uint8_t largest_place[8] = {};
    for (float &value : largest) value = -INFINITY;
#pragma unroll
    for (int i = 0; i < SIDE * SIDE; i++) {
        // Before the image the difference wraps around, and is no place in it either.
        unsigned line = down * STRIDE + i / SIDE - 1, column = across * STRIDE + i % SIDE - 1;
        if (line >= h || column >= w) continue;
        place.eight.load(x + (size_t(image) * h * w + line * w + column) * c, values);
#pragma unroll
        for (int j = 0; j < 8; j++)
            if (values[j] > largest[j] || values[j] != values[j]) {
                largest[j] = values[j];
                largest_place[j] = uint8_t(i);
            }
    }
    place.eight.store(y + size_t(place.pixel) * c, largest);
    uint8_t *to = places + size_t(place.pixel) * c + place.eight.at;
    if (place.eight.whole && reinterpret_cast<uintptr_t>(places) % 8 == 0) {
        uint2 raw;
        memcpy(&raw, largest_place, 8);
        *reinterpret_cast<uint2 *>(to) = raw;
    } else {
#pragma unroll
        for (int j = 0; j < 8; j++)
            if (j < place.eight.count) to[j] = largest_place[j];
    }
}

template <typename T>
DEVICE void max_pool_backward(T *dx, const T *dy, const uint8_t *places, unsigned b, unsigned lines, unsigned pixels, unsigned h,
                              unsigned w, unsigned c) {
    Place place(c, are_aligned(dx, dy));
    if (place.pixel >= b * h * w) return;
    unsigned column = place.pixel % w, line = place.pixel / w % h, image = place.pixel / (w * h);
    float total[8] = {}, values[8];
    // Windows down and across that see the pixel, in order: place i of window (line + 1 - i) / 2.
#pragma unroll
    for (int i = SIDE - 1; i >= 0; i--) {
        unsigned down = (line + 1 - i) / STRIDE;
        if (line + 1 < unsigned(i) || (line + 1 - i) % STRIDE != 0 || down >= lines) continue;
#pragma unroll
        for (int k = SIDE - 1; k >= 0; k--) {
            unsigned across = (column + 1 - k) / STRIDE;
            if (column + 1 < unsigned(k) || (column + 1 - k) % STRIDE != 0 || across >= pixels) continue;
            size_t at = (size_t(image) * lines * pixels + down * pixels + across) * c;
            place.eight.load(dy + at, values);
            const uint8_t *from = places + at + place.eight.at;
            uint8_t largest[8] = {};
            if (place.eight.whole && reinterpret_cast<uintptr_t>(places) % 8 == 0) {
                uint2 raw = *reinterpret_cast<const uint2 *>(from);
                memcpy(largest, &raw, 8);
            } else {
#pragma unroll
                for (int j = 0; j < 8; j++)
                    if (j < place.eight.count) largest[j] = from[j];
            }
#pragma unroll
            for (int j = 0; j < 8; j++)
                if (largest[j] == i * SIDE + k) total[j] += values[j];
        }
    }
    place.eight.store(dx + size_t(place.pixel) * c, total);
}

template <typename T> DEVICE void mean_pool(T *y, const T *x, unsigned b, unsigned area, unsigned c) {
    Place place(c, are_aligned(y, x));
    if (place.pixel >= b) return;
    float total[8] = {}, values[8];
    for (unsigned i = 0; i < area; i++) {
        place.eight.load(x + (size_t(place.pixel) * area + i) * c, values);
#pragma unroll
        for (int j = 0; j < 8; j++) total[j] += values[j];
    }
#pragma unroll
    for (int j = 0; j < 8; j++) total[j] /= float(area);
    place.eight.store(y + size_t(place.pixel) * c, total);
}

template <typename T> DEVICE void mean_pool_backward(T *dx, const T *dy, unsigned b, unsigned area, unsigned c) {
    Place place(c, are_aligned(dx, dy));
    if (place.pixel >= b * area) return;
    float values[8], share = 1.0f / float(area);
    place.eight.load(dy + size_t(place.pixel / area) * c, values);
#pragma unroll
    for (int j = 0; j < 8; j++) values[j] *= share;
    place.eight.store(dx + size_t(place.pixel) * c, values);
}

} // namespace

#define ENTRIES(T, suffix)                                                                                             \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        max_pool_##suffix(T *y, uint8_t *places, const T *x, unsigned b, unsigned lines, unsigned pixels, unsigned h,  \
                          unsigned w, unsigned c) {                                                                    \
        max_pool<T>(y, places, x, b, lines, pixels, h, w, c);                                                          \
    }                                                                                                                  \
    EXPORT(max_pool_##suffix)                                                                                          \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        max_pool_backward_##suffix(T *dx, const T *dy, const uint8_t *places, unsigned b, unsigned lines,              \
                                   unsigned pixels, unsigned h, unsigned w, unsigned c) {                              \
        max_pool_backward<T>(dx, dy, places, b, lines, pixels, h, w, c);                                               \
    }                                                                                                                  \
    EXPORT(max_pool_backward_##suffix)                                                                                 \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        mean_pool_##suffix(T *y, const T *x, unsigned b, unsigned area, unsigned c) {                                  \
        mean_pool<T>(y, x, b, area, c);                                                                                \
    }                                                                                                                  \
    EXPORT(mean_pool_##suffix)                                                                                         \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        mean_pool_backward_##suffix(T *dx, const T *dy, unsigned b, unsigned area, unsigned c) {                       \
        mean_pool_backward<T>(dx, dy, b, area, c);                                                                     \
    }                                                                                                                  \
    EXPORT(mean_pool_backward_##suffix)

FOR_ALL_FORMATS(ENTRIES)
