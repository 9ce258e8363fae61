// Pictures mixed with others, value by value: Mixup's sums and CutMix's rectangles.
//
// mix_f32(y, x, places, shares, height, width, values), launch::images(b, values), a thread eight values of one result
//   x [n,c,height,width], values = c·height·width; result i of y [b,…] is made of two pictures of x as places[6·i…] u32 say:
//   its own, its partner, and the rectangle (left, top, right, bottom; the last two not in it) in which the partner's
//   values stand. Elsewhere it is own·share + partner·(1 - share), each product and the sum rounded; share 1: its own.

#include "device.h"

extern "C" __global__ void __launch_bounds__(256)
    mix_f32(float *y, const float *x, const unsigned *places, const float *shares, unsigned height, unsigned width,
            unsigned values) {
    const unsigned *place = places + 6 * size_t(blockIdx.y);
    const float *own = x + size_t(place[0]) * values, *partner = x + size_t(place[1]) * values;
    unsigned left = place[2], top = place[3], right = place[4], bottom = place[5];
    float share = shares[blockIdx.y], rest = 1.0f - share;
    unsigned start = (blockIdx.x * blockDim.x + threadIdx.x) * 8;
    for (unsigned at = start; at < values && at < start + 8; at++) {
        unsigned pixel = at % (height * width), row = pixel / width, column = pixel % width;
        bool cut = row >= top && row < bottom && column >= left && column < right;
        float value = own[at];
        if (cut) value = partner[at];
        else if (share != 1.0f) value = value * share + partner[at] * rest;
        y[size_t(blockIdx.y) * values + at] = value;
    }
}
EXPORT(mix_f32)
